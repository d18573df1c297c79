"""Many environments: missing ones are named, and differences are found."""

from __future__ import annotations

import argparse
import io
import struct
from pathlib import Path
from typing import Any

import pytest

from conformance.cli.matrix import collect, expected_by_tox, matrix, show
from conformance.cli.run_modes import _without_modes
from conformance.errors import UsageError
from conformance.jax_setup.modes import MODES, chosen_modes, under_mode, variables
from conformance.report.findings import changes, costs, kernels, newest, titles, warned
from conformance.report.markdown import markdown
from conformance.report.summary import Summary
from conformance.results.file import Results, text_of
from conformance.selftest.pages import NEWER, loaded
from conformance.selftest.synthetic import cell_at, results


def packed(*numbers: float) -> str:
    """Return entries of a kernel in the format of a results file."""
    return struct.pack(f"<{len(numbers)}f", *numbers).hex()


def run(measured: dict[str, Any] | None = None, **environment: Any) -> Results:
    """Return a run of two implementations, with recorded kernels of the first."""
    found = results(2, 12, wrong=0.0, **environment)
    for cell in found["cells"]:
        cell.pop("measured", None)
    if measured is not None:
        cell_at(found, 0, 0)["measured"] = measured
    (only,) = loaded(found)
    return only


def test_the_newest_environment_is_the_measure() -> None:
    assert newest([run(jax="0.9.2"), run(jax="0.12.0.1"), run(jax="0.10.2")]) == 1
    assert newest([run(mode="default"), run(mode="x64")]) == 0


def test_environments_are_called_by_what_tells_them_apart() -> None:
    assert titles([run(mode="default"), run(mode="x64", x64=True)]) == ("default", "x64")
    assert titles([run(), run(**NEWER)])[1] == "flax 0.12.12, jax 0.12.0.1"


def test_kernels_are_the_same_nearly_the_same_or_others() -> None:
    """A is the newest; kernels within two ulp share its letter, marked."""
    near = 1.0 + 2.0**-22
    runs = [
        run({"fingerprint": "old", "entries": packed(0.5, 2.0)}, jax="0.4.38"),
        run({"fingerprint": "near", "entries": packed(near, 2.0)}, jax="0.7.2"),
        run(None, jax="0.8.0"),
        run({"fingerprint": "new", "entries": packed(1.0, 2.0)}, jax="0.10.2"),
    ]
    (found,) = kernels(runs)
    assert found.kinds == ("B", "A", "", "A")
    assert found.exact == (True, False, True, True)
    assert found.change


def test_a_kernel_with_nothing_to_compare_it_with_has_no_letter() -> None:
    """The newest environment did not record one."""
    runs = [
        run({"fingerprint": "old", "entries": packed(0.5)}, jax="0.4.38"),
        run({"fingerprint": "new", "entries": packed(1.0)}, jax="0.7.2"),
        run(None, jax="0.10.2"),
    ]
    (found,) = kernels(runs)
    assert found.kinds == ("?", "?", "")
    assert "? a kernel that cannot be compared" in " ".join(Summary(tuple(runs)).explanation())


def test_requirements_that_changed_alike_share_a_line() -> None:
    """The rare outcome is named with its environments, the usual one last."""
    found = results(2, 12, wrong=0.0, **NEWER)
    for place in (0, 1):
        cell_at(found, place, 3).update(outcome="failed")
        cell_at(found, place, 5).update(outcome="failed")
    found["exit_code"] = 1
    runs = [run(), run(jax="0.11.1"), *loaded(found)]
    (change,) = changes(runs)
    assert list(change.places.items()) == [("failed", (2,)), ("passed", (0, 1))]
    assert [len(rows) for rows in change.rows.values()] == [2, 2]


def test_an_implementation_that_a_run_does_not_have_is_named_once() -> None:
    (fewer,) = loaded(results(1, 12, wrong=0.0, **NEWER))
    assert changes([run(), fewer]) == []
    (line,) = Summary((run(), fewer)).changed()
    assert line == ("nnx.Linear: not checked in flax 0.12.12, jax 0.12.0.1", [])


def test_warnings_and_costs_are_of_implementation_and_environment() -> None:
    old, new = run(), run(**NEWER)
    id = new.verdict.entries[0].id
    new.facts["versions"][id].update(warnings=["DeprecationWarning: x"], cost={"call": 0.002})
    assert [(w.text, w.places) for w in warned([old, new])] == [("DeprecationWarning: x", (1,))]
    assert costs([old, new]) == [(id, "call", [None, 0.002])]


def written(folder: Path, name: str, found: dict[str, Any]) -> None:
    """Write a results file into a folder."""
    (folder / f"{name}.json").write_text(text_of(found), encoding="utf-8")


def test_a_missing_environment_is_named_and_makes_the_matrix_incomplete(tmp_path: Path) -> None:
    written(tmp_path, "py311-a", results(2, 12, wrong=0.0))
    (tmp_path / "py311-b.json").write_text('{"format": 1', encoding="utf-8")
    runs, missing = collect(tmp_path, ["py311-a", "py311-b", "py399-c", "d"])
    assert len(runs) == 1
    assert missing[0].startswith("py311-b: ")
    assert "is truncated" in missing[0]
    assert collect(tmp_path, ["py311-a"])[1] == missing[:1]
    assert missing[1:] == (
        "py399-c: no results file, and no python3.99 starts here",
        "d: no results file",
    )
    options = {"directory": str(tmp_path), "expect": ["py311-a", "py399-c"], "output": []}
    (tmp_path / "py311-b.json").unlink()
    assert matrix(argparse.Namespace(**options), ()) == 3
    assert matrix(argparse.Namespace(**{**options, "expect": ["py311-a"]}), ()) == 0


def test_a_folder_without_results_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no results files"):
        collect(tmp_path, ["py311-a"])
    with pytest.raises(UsageError, match="no directory"):
        collect(tmp_path / "nowhere", [])


def test_the_environments_of_a_tox_file_are_expected(tmp_path: Path) -> None:
    path = tmp_path / "tox.ini"
    assert expected_by_tox(path) == []
    path.write_text(
        "[tox]\nenv_list =\n    clean\n    py311-a  # oldest\n    py313-b, matrix\n"
        "[testenv]\ncommands = x {posargs} %\n[testenv:clean]\n[testenv:matrix]\n"
    )
    assert expected_by_tox(path) == ["py311-a", "py313-b"]


def test_what_is_shown_names_verdict_differences_and_what_is_missing() -> None:
    runs = (
        run({"fingerprint": "old", "entries": packed(0.5)}, jax="0.4.38"),
        run({"fingerprint": "new", "entries": packed(0.25)}),
    )
    summary = Summary(runs, ("py313-x: no results file",))
    stream = io.StringIO()
    show(summary, stream)
    for text in (stream.getvalue(), markdown(runs, summary.missing)):
        assert "jax 0.4.38" in text
        assert "B in jax 0.4.38; elsewhere A" in text
        assert "py313-x: no results file" in text
        assert "2 of 3 environments conform, 1 missing" in text


def test_modes_are_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_force_host_platform_device_count=3")
    found = variables(MODES["eight-devices"])
    assert found["XLA_FLAGS"] == "--xla_a=1 --xla_force_host_platform_device_count=8"
    assert found["CONFORMANCE_MODE"] == "eight-devices"
    assert variables(MODES["x64"])["JAX_ENABLE_X64"] == "1"


def test_the_script_of_a_failure_has_its_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    script = '"""a/b: what.\n\nfound: x\n"""\n\nimport jax\n'
    assert under_mode(script) == script
    monkeypatch.setenv("CONFORMANCE_MODE", "x64")
    lines = under_mode(script).splitlines()
    assert lines[3:8] == ['"""', "", "import os", "", "os.environ.update({'JAX_ENABLE_X64': '1'})"]
    assert lines[-1] == "import jax"
    monkeypatch.setenv("CONFORMANCE_MODE", "default")
    assert under_mode(script) == script


def test_modes_are_chosen_by_name() -> None:
    assert [mode.name for mode in chosen_modes(["rbg", "x64", "rbg"])] == ["rbg", "x64"]
    assert len(chosen_modes(["all"])) == len(MODES)
    with pytest.raises(UsageError, match="there is no mode 'x65'"):
        chosen_modes(["x65"])


def test_the_run_of_a_mode_gets_the_other_arguments() -> None:
    given = ["a.py:B", "--mode", "x64", "--mode=rbg", "-n", "2", "--results", "r.json"]
    assert _without_modes(given) == ["a.py:B", "-n", "2"]
