"""Hostile plugins in one run with ordinary layers: each affects only its own cells."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from conformance.errors import LoadError
from conformance.layers.loading import load
from conformance.layers.registry import registered
from conformance.selftest.hostile import PLUGINS, Plugin, install
from conformance.selftest.processes import SEARCHED, command

pytestmark = pytest.mark.slow

BUILT_IN = ("nnx.MyDense", "nnx.Linear")
FILES = ("beside.py:Right", "beside.py:Wrong")
BESIDE = """
from flax import nnx


class Right(nnx.Linear):
    pass


class Wrong(nnx.Linear):
    def __call__(self, x):
        return super().__call__(x) + 1
"""
ROWS = ("forward/zero-input", "purity/globals-untouched")

# The time limit of a cell in seconds, a multiple of its time on a busy machine.
_TIME_LIMIT = 20


def run(folder: Path, *plugins: Plugin) -> dict[str, Any]:
    """Return the results of ordinary layers with these plugins in the run."""
    path = folder / f"results-{len(plugins)}.json"
    names = [*BUILT_IN, *FILES, *(plugin.id for plugin in plugins)]
    asked = [f"--requirement={row}" for row in ROWS]
    asked += [f"--time-limit={_TIME_LIMIT}", "--memory-limit=2", f"--results={path}"]
    search = os.pathsep.join([str(folder), SEARCHED])
    done = command(folder, "run", *names, "-n2", *asked, PYTHONPATH=search)
    assert path.is_file(), done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found["said"] = done.stdout
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which all plugins are installed."""
    path = tmp_path_factory.mktemp("hostile")
    install(path)
    (path / "beside.py").write_text(BESIDE)
    return path


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    """Return the results of the built-in layers alone."""
    return run(folder)


@pytest.fixture(scope="module")
def beside(folder: Path, alone: dict[str, Any]) -> dict[str, Any]:
    """Return the results of a run with all plugins and a warm cache."""
    return run(folder, *PLUGINS)


def cells_of(found: dict[str, Any], id: str) -> list[dict[str, Any]]:
    """Return the cells of an implementation, by requirement."""
    mine = [cell for cell in found["cells"] if cell["implementation"] == id]
    return sorted(mine, key=lambda cell: ROWS.index(cell["requirement"]))


def test_there_are_enough_of_them() -> None:
    assert len({plugin.id for plugin in PLUGINS}) == len(PLUGINS) >= 60


def test_the_others_are_as_without_them(alone: dict[str, Any], beside: dict[str, Any]) -> None:
    def decided(cell: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in cell.items() if key != "seconds"}

    for id in (*(f"dense-conformance:{name}" for name in BUILT_IN), *FILES):
        expected = [decided(cell) for cell in cells_of(alone, id)]
        assert "failed" in [cell["outcome"] for cell in expected] or id != FILES[1]
        assert [cell["outcome"] for cell in expected] == ["passed"] * len(ROWS) or id == FILES[1]
        assert [decided(cell) for cell in cells_of(beside, id)] == expected


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: ascii(plugin.id))
def test_each_is_reported_as_what_it_is(plugin: Plugin, beside: dict[str, Any]) -> None:
    """The worst cell, or the note on the import, names the offence."""
    cells = cells_of(beside, plugin.id)
    assert [cell["requirement"] for cell in cells] == list(ROWS)
    (record,) = (r for r in beside["implementations"] if r["id"] == plugin.id)
    told = [f"{cell.get('reason', '')} {cell.get('message', '')}" for cell in cells]
    told += [f"import {effect}" for effect in record.get("side_effects", ())]
    assert any(plugin.said in text for text in told), told
    outcomes = {cell["outcome"] for cell in cells}
    if plugin.outcome:
        assert plugin.outcome in outcomes, told
        assert outcomes <= {"passed", "blocked", plugin.outcome}, told


def test_what_nobody_decided_is_named(beside: dict[str, Any]) -> None:
    assert not [cell for cell in beside["cells"] if cell["outcome"] == "not-run"]
    assert not beside["complete"]
    assert beside["exit_code"] != 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_no_process_is_left(folder: Path, beside: dict[str, Any]) -> None:
    left = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's, or over
            if str(folder).encode() in (place / "environ").read_bytes():
                left.append((place / "cmdline").read_text())
    assert left == []


def test_what_an_import_changes_is_shown(beside: dict[str, Any]) -> None:
    said = " ".join(beside["said"].split())
    assert "importing x64 has side effects: jax.config.jax_enable_x64 became True" in said
    assert said.count("importing numpy-replaced has side effects") == 1


def test_wrong_metadata_is_an_error_of_that_entry(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    found = {entry.id: entry for entry in registered()}
    assert "dense-conformance:nnx.Linear" in found
    for name, said in (
        ("malformed", "its entry point is 'no module at all', expected module:attribute"),
        ("double", "it is registered as loud:Dense and as warns:Dense"),
    ):
        with pytest.raises(LoadError, match=said):
            load(found[f"hostile:{name}"])
