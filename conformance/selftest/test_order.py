"""The order in which rows are checked, and how soon a failure is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conformance.checks.profiles import PROFILES
from conformance.contract.catalogue import catalogue, in_order

WRONG = """
import jax.numpy as jnp
from flax import nnx

class Wrong(nnx.Module):
    def __init__(self, in_features, out_features, *, rngs):
        self.kernel = nnx.Param(jnp.ones((in_features, out_features)))
        self.bias = nnx.Param(jnp.ones((in_features,)))

    def __call__(self, x):
        return x @ self.kernel[...] + self.bias[...]
"""


def test_every_row_is_checked_the_telling_ones_first() -> None:
    rows = catalogue()
    ordered = in_order(rows)
    assert sorted(row.id for row in ordered) == sorted(row.id for row in rows)
    assert ordered[0].id == "exercise/float-arguments"
    assert ordered[-1].order > 0
    assert [row for row in ordered if not row.order] == [row for row in rows if not row.order]


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "conformance", "run", "wrong.py:Wrong", "--requirement=forward"],
        ["-m", "pytest", "--pyargs", "conformance", "--conformance-impl=wrong.py:Wrong",
         "--conformance-requirement=forward", "-p", "no:cacheprovider"],
    ],
)  # fmt: skip
def test_a_failure_is_told_when_it_is_known(command: list[str], tmp_path: Path) -> None:
    """In a pipe, too: the run still goes on when its line is read."""
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    run = subprocess.Popen(
        [sys.executable, *command], cwd=tmp_path, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert run.stdout is not None
    first = next(line for line in run.stdout if line.startswith("failed "))
    assert run.poll() is None
    output, _ = run.communicate()
    assert run.returncode == 1
    assert first.startswith("failed forward/")
    assert "does not conform" in output


def test_a_profile_says_what_it_can_detect() -> None:
    """More examples find what is rarer, and more weights a smaller error."""
    assert PROFILES["quick"].statement() == (
        "8 sizes up to 130, 6 more cases a property: detects what shows in 1 of 5 cases, "
        "a variance 5 % off"
    )
    rarest = [PROFILES[name].rarest for name in ("quick", "standard", "thorough")]
    assert rarest == sorted(rarest)
