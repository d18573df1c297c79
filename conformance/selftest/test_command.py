"""The command and the plugin as their users meet them: exit codes, messages, silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conformance.checks.profiles import PROFILES
from conformance.cli.main import main
from conformance.contract.catalogue import catalogue, chosen
from conformance.selftest.processes import RIGHT, cells_in, command, python

LAYERS = f"""{RIGHT}

class BiasIgnored(MyDense):
    def __call__(self, x):
        return x @ self.kernel[...]

class Kills(MyDense):
    def __call__(self, x):
        import os
        os._exit(3)
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Return a directory with the file ``mine.py``."""
    (tmp_path / "mine.py").write_text(LAYERS, encoding="utf-8")
    return tmp_path


def test_a_correct_layer_conforms(mine: Path) -> None:
    done = command(
        mine, "run", "mine.py:MyDense", "--requirement", "forward", "--results", "r.json"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((mine / "r.json").read_text(encoding="utf-8"))
    assert results["format"] == 2
    assert results["complete"] is True
    assert {cell["outcome"] for cell in results["cells"]} == {"passed"}
    assert f"{len(results['cells'])} cells: {len(results['cells'])} passed, 0 failed" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_profile_is_explored_wherever_it_runs(workers: str, mine: Path) -> None:
    chosen = ["mine.py:MyDense", "-n", workers, "--requirement", "forward/additive"]
    command(mine, "run", *chosen, "--profile", "standard", "--results", "r.json")
    (cell,) = cells_in(mine / "r.json")
    assert cell["examples"] >= PROFILES["standard"].examples


def test_a_wrong_layer_is_named(mine: Path) -> None:
    done = command(
        mine, "run", "mine.py:BiasIgnored", "--requirement", "forward", "--results", "r.json"
    )
    assert done.returncode == 1
    cells = cells_in(mine / "r.json")
    assert cells[0]["requirement"] == "forward/zero-input"
    assert cells[0]["outcome"] == "failed"
    assert cells[0]["cause"] == "the bias is not added: f(x) is x @ K"
    assert {cell["outcome"] for cell in cells} <= {"failed", "blocked", "passed", "not-applicable"}
    assert [cell["outcome"] for cell in cells].count("failed") == 1
    assert "more requirements could not be checked because of this" in done.stdout


def test_a_layer_that_ends_its_process(mine: Path) -> None:
    done = command(
        mine, "run", "mine.py:Kills", "mine.py:MyDense", "--requirement", "construction/finite",
        "--requirement", "forward/zero-input", "-n", "1", "--results", "r.json",
    )  # fmt: skip
    assert done.returncode == 3, done.stdout + done.stderr
    cells = cells_in(mine / "r.json")
    found = {(cell["implementation"], cell["requirement"]): cell["outcome"] for cell in cells}
    assert found == {
        # The layer is called once before it is judged.
        ("mine.py:Kills", "construction/finite"): "crashed",
        ("mine.py:Kills", "forward/zero-input"): "crashed",
        ("mine.py:MyDense", "construction/finite"): "passed",
        ("mine.py:MyDense", "forward/zero-input"): "passed",
    }


def test_a_wrong_registration_exits_with_2(mine: Path) -> None:
    done = command(mine, "run", "mine.py:nothing", "--requirement", "forward", "-n", "1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("has no attribute 'nothing'") == 1


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["list"], ["--version"], ["bench", "--help"]]
)
def test_help_and_lists_do_not_import_jax(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from conformance.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert 'jax' not in sys.modules and 'flax' not in sys.modules"
    )
    done = python(tmp_path, "-c", code, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--pyargs", "conformance", "--collect-only", "-q"]]
)
def test_pytest_does_not_import_jax_before_it_checks(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys, pytest\n"
        "code = pytest.main([*sys.argv[1:], '-p', 'no:cacheprovider'])\n"
        "assert 'jax' not in sys.modules and 'flax' not in sys.modules\n"
        "sys.exit(code)"
    )
    done = python(tmp_path, "-c", code, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


def test_other_peoples_runs_of_pytest_see_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(
        "import sys\ndef test_own():\n"
        "    assert not {'jax', 'flax', 'conformance.running.run'} & set(sys.modules)\n",
        encoding="utf-8",
    )
    done = python(tmp_path, "-m", "pytest", "-p", "no:cacheprovider", "test_own.py")
    assert done.returncode == 0, done.stdout
    assert "conformance:" not in done.stdout
    assert "requirements x" not in done.stdout


def test_pytest_runs_the_suite_anywhere(mine: Path) -> None:
    (mine / "pytest.ini").write_text(
        "[pytest]\npython_files = check_*.py\nfilterwarnings = error\n", encoding="utf-8"
    )
    done = python(
        mine, "-m", "pytest", "--pyargs", "conformance", "-p", "no:cacheprovider",
        "--conformance-impl", "mine.py:MyDense", "--conformance-requirement", "numerics", "-q",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "conforms: MUST 4/4" in done.stdout
    assert f"{len(chosen(['numerics']))} passed" in done.stdout


def test_the_list_is_data_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["id"] for row in found["requirements"]} == {row.id for row in catalogue()}
    assert {row["level"] for row in found["requirements"]} == {"MUST", "SHOULD", "MAY"}
    assert "nnx.Linear" in [entry["name"] for entry in found["implementations"]]
    assert set(found["profiles"]) == set(PROFILES)
    assert main(["list"]) == 0
    assert found["profiles"]["quick"] in " ".join(capsys.readouterr().out.split())


def test_the_list_fits_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "keras.layers.EinsumDense  " in text
