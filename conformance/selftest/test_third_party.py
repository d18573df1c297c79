"""A third party's package, installed with the suite's wheel, and checked in its environment.

It is outside of the checkout, under a pytest configuration that would hide the suite's tests and
turns every warning into an error.
"""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

from conformance.selftest.processes import ended

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "implementations" / "example_distribution"

HOSTILE = """
[pytest]
python_files = check_*.py
python_functions = must_*
filterwarnings = error
addopts = --strict-markers --strict-config
"""

TOOLS = ("build", "hatchling", "ensurepip")
needed = [name for name in TOOLS if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(
        not (ROOT / "pyproject.toml").is_file(), reason="the suite's wheel is built of a checkout"
    ),
    pytest.mark.skipif(bool(needed), reason=f"needs {', '.join(needed)}: the extra 'dev'"),
]


def run(command: Sequence[str | Path], where: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a separate environment, and return its result."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    return ended([str(part) for part in command], where, clean)


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a user's folder with an environment of both wheels and their dependencies."""
    folder = tmp_path_factory.mktemp("user")
    for source in (ROOT, EXAMPLE):
        built = run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder, source],
            folder,
        )
        assert built.returncode == 0, built.stdout + built.stderr
    made = run([sys.executable, "-m", "venv", folder / "venv"], folder)
    assert made.returncode == 0, made.stderr
    python = folder / "venv" / "bin" / "python"
    wheels = sorted(folder.glob("*.whl"))
    installed = run(
        [python, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", *wheels], folder
    )
    assert installed.returncode == 0, installed.stderr
    # The dependencies come from this environment, so nothing is downloaded. They come after the
    # wheels, so that the built suite is used even if it is also installed here.
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (folder / "pytest.ini").write_text(HOSTILE)
    return folder


def check(user: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``pytest --pyargs conformance`` in that environment."""
    pytest = ("venv/bin/python", "-m", "pytest", "-p", "no:cacheprovider")
    return run([*pytest, "--pyargs", "conformance", *arguments], user)


def test_the_wheels_are_what_is_checked(user: Path) -> None:
    code = "import conformance, conformance.layers.registry as r; print(conformance.__file__); "
    code += "print([e.id for e in r.registered()])"
    found = run(["venv/bin/python", "-c", code], user)
    place, names = found.stdout.splitlines()
    assert place.startswith(str(user)), found
    assert "acme-layers:acme.Dense" in names
    assert names.count("nnx.MyDense") == 1


def test_a_registered_layer_is_checked_where_its_author_is(user: Path) -> None:
    row = "--conformance-requirement=serialization/stable-names"
    found = check(user, "--conformance-impl", "acme.Dense", row, "-W", "error")
    assert found.returncode == 0, found.stdout + found.stderr
    text = " ".join(found.stdout.split())
    assert "1 requirements x acme.Dense = 1 cells" in text
    assert "acme.Dense 1.2.0" in text
    assert "serialization 1/1" in text
    assert "conforms" in text


def test_a_library_is_known_wherever_it_is_installed(user: Path) -> None:
    """Exceptions of the suite pass through files of JAX in another place."""
    rows = ("options/use-bias", "transforms/jit")
    chosen = [f"--conformance-requirement={row}" for row in rows]
    found = check(user, "--conformance-impl", "nnx.MyDense", *chosen)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "1 passed, 0 failed, 1 not applicable" in " ".join(found.stdout.split())


def test_a_broken_layer_names_itself(user: Path) -> None:
    (site,) = (user / "venv").glob("lib/python*/site-packages")
    metadata = site / "broken_layers-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-layers\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text(
        "[conformance.implementations]\nbroken.Dense = broken_layers:Dense\n"
    )
    (site / "broken_layers.py").write_text("import what_does_not_exist\n")
    row = "--conformance-requirement=serialization/stable-names"
    both = ("--conformance-impl", "acme.Dense", "--conformance-impl", "broken.Dense")
    found = check(user, *both, row)
    assert found.returncode == 2, found.stdout + found.stderr
    text = " ".join(found.stdout.split())
    assert "ERROR serialization/stable-names broken.Dense" in text
    assert "cannot be used: ModuleNotFoundError" in text
    assert "2 cells: 1 passed, 0 failed, 1 error" in text
