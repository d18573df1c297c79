"""pytest's items, last line and exit code agree with the verdict."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from conformance.selftest.processes import python

LAYERS = """
from flax import nnx


class Loud(nnx.Linear):
    '''Its kernel is too wide, so that neither variance nor law hold.'''

    def __init__(self, in_features, out_features, rngs):
        super().__init__(in_features, out_features, rngs=rngs)
        self.kernel[...] = 2 * self.kernel[...]


class Unpicklable(nnx.Linear):
    def __reduce_ex__(self, protocol):
        raise TypeError("this layer cannot be pickled")


class Forgetful(nnx.Linear):
    def __setstate__(self, state):
        self.__dict__.update(state)
        self.bias = nnx.Param(0 * self.bias[...])


class FloatsOnly(nnx.Linear):
    def __call__(self, x):
        if x.dtype.kind not in "fV":
            raise TypeError("floats only")
        return super().__call__(x)
"""

EXPECTED = """
[[tool.dense-conformance.expect]]
implementation = "layers.py:Loud"
requirement = "initialization/kernel-variance"
reason = "on purpose"
"""


def run(folder: Path, layer: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on the suite, in a folder with layers and no other tests."""
    (folder / "layers.py").write_text(LAYERS, encoding="utf-8")
    command = ["-m", "pytest", "--pyargs", "conformance.suite", "-n", "0"]
    command += [f"--rootdir={folder}", f"--conformance-impl=layers.py:{layer}"]
    return python(folder, *command, *arguments)


def test_what_follows_from_an_expected_failure_is_expected(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(EXPECTED, encoding="utf-8")
    done = run(tmp_path, "Loud", "-k", "kernel_variance or kernel_law")
    assert done.returncode == 0, done.stdout
    assert "conforms: MUST 0/2; 2 expected failures" in done.stdout.splitlines()
    assert "FAILED" not in done.stdout
    assert "could not be checked because of this" in done.stdout
    (tmp_path / "pyproject.toml").write_text("", encoding="utf-8")
    done = run(tmp_path, "Loud", "-k", "kernel_variance or kernel_law")
    assert done.returncode == 1
    assert "does not conform: MUST 0/2" in done.stdout.splitlines()


@pytest.mark.parametrize("strict", ["", "option", "project"])
def test_a_recommendation_fails_a_strict_run_only(tmp_path: Path, strict: str) -> None:
    if strict == "project":
        text = "[tool.dense-conformance]\nstrict = true\n"
        (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    options = ["--conformance-strict"] if strict == "option" else []
    done = run(tmp_path, "Unpicklable", "-k", "pickles or zero_input", *options)
    assert done.returncode == (1 if strict else 0), done.stdout
    assert ("FAILED" in done.stdout) == bool(strict)
    assert ("NOT MET   state/pickles" in done.stdout) == (not strict)
    sentence = (
        "does not conform: MUST 1/1, SHOULD 0/1; "
        "strict: a recommendation that does not hold is a failure"
        if strict
        else "conforms: MUST 1/1; 1 recommendation does not hold"
    )
    assert sentence in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("layer", "chosen", "code", "sentence"),
    [
        # A layer that cannot be pickled raises; one that comes back as another is wrong in silence.
        ("Forgetful", "-kpickles or zero_input", 1, "does not conform: MUST 1/2"),
        # What the layer raises is not a wrong registration.
        (
            "FloatsOnly",
            "-kx64 or integer_input",
            0,
            "conforms: SHOULD 0/1; 1 recommendation does not hold",
        ),
        # Everything is deselected, or nothing applies.
        ("Loud", "-kno_such_requirement", 2, "nothing was checked"),
        ("Loud", "--conformance-requirement=exercise/vector-out", 2, "nothing was checked"),
        # What is deselected is not missing.
        ("Loud", "-kzero_input", 0, "conforms: MUST 1/1"),
    ],
)
def test_the_last_line_and_the_exit_code_agree(
    layer: str, chosen: str, code: int, sentence: str, tmp_path: Path
) -> None:
    done = run(tmp_path, layer, chosen)
    assert done.returncode == code, done.stdout
    assert sentence in done.stdout.splitlines()
    assert "ERROR" not in done.stdout
    assert ("FAILED    state/pickles   layers.py:Forgetful   MUST" in done.stdout) == (code == 1)
