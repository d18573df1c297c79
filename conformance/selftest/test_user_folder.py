"""What lies beside a layer is found by its import, and never stands for a library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conformance.selftest.test_first_use import RIGHT

SHADOWS = ("types", "random", "token", "pytest", "calendar", "queue", "numpy", "jax", "flax")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as its script does: the current folder is not on Python's path."""
    call = "import sys; from conformance.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-P", "-c", call, "run", *arguments, "--requirement=builds"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


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
