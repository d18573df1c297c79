"""The order of checking, and the time to the first failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.checks.profiles import PROFILES
from conformance.contract.catalogue import catalogue, in_order
from conformance.selftest.processes import RIGHT, python

WRONG = RIGHT.replace("zeros((out_", "ones((in_")


def test_every_requirement_is_checked_in_order() -> None:
    rows = catalogue()
    ordered = in_order(rows)
    assert sorted(row.id for row in ordered) == sorted(row.id for row in rows)
    assert ordered[0].id == "construction/builds"
    assert ordered[-1].order > 0
    assert [row for row in ordered if not row.order] == [row for row in rows if not row.order]


PYTEST = ["-m", "pytest", "--pyargs", "conformance", "--conformance-impl=wrong.py:MyDense",
          "-p", "no:cacheprovider", "-n0"]  # fmt: skip


@pytest.mark.parametrize(
    "command", [["-m", "conformance", "run", "wrong.py:MyDense", "-n2"], PYTEST]
)
def test_a_fault_is_written_once_when_it_is_known(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    done = python(tmp_path, *command)
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if line.upper().startswith("FAILED ")]
    # pytest also names the test of each.
    heads = [line for line in lines if "::" not in line]
    # pytest's own reporter shows the table and the failure in full at the end.
    names = ["construction/bias-shape"] * (2 if "pytest" in command else 1)
    assert [line.split()[1] for line in heads] == names
    assert [line.startswith("FAILED    ") for line in heads] == [False, True][-len(names) :]
    assert "does not conform" in done.stdout


SUBTRACTS = """
from flax import nnx

class Wrong(nnx.Linear):
    def __call__(self, x):
        with open("calls", "a") as log:
            log.write("x")
        return super().__call__(x) - 2 * self.bias[...]
"""


def test_what_rests_on_a_failure_is_not_run(tmp_path: Path) -> None:
    """The layer is called as often as for the requirement that fails, alone."""
    (tmp_path / "wrong.py").write_text(SUBTRACTS, encoding="utf-8")
    calls = []
    for above in ([], ["forward/integer-exact", "forward/affine-value", "numerics/inf-confined"]):
        (tmp_path / "calls").write_text("")
        asked = [f"--requirement={id}" for id in ("forward/zero-input", *above)]
        done = python(tmp_path, "-m", "conformance", "run", "wrong.py:Wrong", "-n0", *asked)
        assert done.returncode == 1, done.stdout + done.stderr
        calls.append(len((tmp_path / "calls").read_text()))
    assert calls[0] == calls[1] > 0


def test_a_profile_says_what_it_can_detect() -> None:
    """More examples detect rarer faults, and more weights smaller errors."""
    assert PROFILES["quick"].statement() == (
        "8 sizes up to 130, 6 more cases a property: detects what shows in 1 of 5 cases, "
        "a variance 5 % off"
    )
    rarest = [PROFILES[name].rarest for name in ("quick", "standard", "thorough")]
    assert rarest == sorted(rarest)
