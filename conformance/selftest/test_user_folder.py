"""A layer can import files beside it, but they never replace a library."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from conformance.selftest.processes import RIGHT, python

SHADOWS = ("types", "random", "token", "pytest", "calendar", "queue", "numpy", "jax", "flax")


COMMAND = "import sys; from conformance.cli.main import main; sys.exit(main())"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as its script does, without the current folder on the path."""
    return python(folder, "-P", "-c", COMMAND, "run", *arguments, "--requirement=builds")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_files_beside_a_layer_shadow_no_library(tmp_path: Path, workers: str) -> None:
    (tmp_path / "mine.py").write_text("from helper import MyDense\nimport calendar, random\n")
    (tmp_path / "helper.py").write_text(RIGHT)
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')\n")
    done = run(tmp_path, "mine.py:MyDense", "-n", workers)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("spec", ["acme/layers/dense.py:Dense", "acme.layers.dense:Dense"])
def test_a_file_of_a_package_is_imported_as_its_module(tmp_path: Path, spec: str) -> None:
    folder = tmp_path / "acme" / "layers"
    folder.mkdir(parents=True)
    for place in (folder, folder.parent):
        (place / "__init__.py").write_text("")
    (folder / "base.py").write_text(RIGHT)
    (folder / "dense.py").write_text("from .base import MyDense as Dense\n")
    done = run(tmp_path, spec, "-n", "1")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_package_of_the_same_name_is_not_taken_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "json"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "mine.py").write_text(RIGHT)
    done = run(tmp_path, "json/mine.py:MyDense", "-n", "1")
    assert done.returncode == 2
    assert "another package of that name" in done.stderr


TWICE = """\
from flax import nnx
from helper import SCALE

class MyDense(nnx.Linear):
    def __call__(self, x):
        return super().__call__(x) * SCALE
"""
SPEC = "../a/mine.py:MyDense"
CHECK = f"""
import conformance
print("passed:", conformance.check({SPEC!r}, requirement=["zero-input"], workers=0).passed)
"""
WAYS = {
    "run": ["-c", COMMAND, "run", SPEC, "--requirement=zero-input", "-n0"],
    "python -m": ["-m", "conformance", "run", SPEC, "--requirement=zero-input", "-n0"],
    "explain": ["-c", COMMAND, "explain", SPEC, "zero-input"],
    "check": ["-c", CHECK],
    "grade": ["-c", COMMAND, "grade", "../a/mine.py"],
}


@pytest.mark.parametrize(("way", "own", "other"), [("run", 1, 2), *((way, 2, 1) for way in WAYS)])
def test_a_layer_finds_its_own_helper(tmp_path: Path, way: str, own: int, other: int) -> None:
    for name, scale in (("a", own), ("b", other)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "mine.py").write_text(TWICE)
        (folder / "helper.py").write_text(f"SCALE = {scale}\n")
    done = python(tmp_path / "b", "-P", *WAYS[way])
    if way == "check":
        assert done.stdout == f"passed: {own == 1}\n", done.stderr
    else:
        assert done.returncode == (0 if own == 1 else 1), done.stdout + done.stderr
