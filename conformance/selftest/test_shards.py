"""Shards: each cell is in one of them, they are balanced, and they merge to the whole run."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conformance.contract.catalogue import catalogue
from conformance.contract.requirement import Requirement
from conformance.layers.registry import Entry
from conformance.report.merge import merge
from conformance.results.cell import Cell
from conformance.results.decision import INCOMPLETE, OK
from conformance.results.file import Results, parse, text_of_runs
from conformance.results.outcome import Outcome
from conformance.results.verdict import account
from conformance.running.schedule import Shard, expected_seconds
from conformance.selftest.processes import SEARCHED, command, python
from conformance.selftest.synthetic import FACTS
from conformance.selftest.test_expected import LAYERS

ENTRIES = tuple(Entry(f"acme:{name}", name, f"acme:{name}", "acme") for name in "ABCDEFG")


def parts(
    count: int, entries: tuple[Entry, ...] = ENTRIES, seconds: Any = None
) -> list[frozenset[tuple[str, str]]]:
    """Return the cells of each of so many shards."""
    return [Shard(i, count).cells(entries, catalogue(), seconds or {}) for i in range(1, count + 1)]


@pytest.mark.parametrize("count", [1, 2, 5, 11])
def test_each_cell_is_in_one_part(count: int) -> None:
    dealt = Counter(key for part in parts(count) for key in part)
    assert set(dealt) == {(e.id, row.id) for e in ENTRIES for row in catalogue()}
    assert set(dealt.values()) == {1}


def test_parts_depend_on_nothing_but_what_is_asked_for() -> None:
    assert parts(5) == parts(5, tuple(reversed(ENTRIES)))
    code = (
        "from conformance.selftest.test_shards import parts; import hashlib; "
        "print(hashlib.sha256(repr([sorted(p) for p in parts(5)]).encode()).hexdigest())"
    )
    found = {
        python(Path.cwd(), "-c", code, PYTHONHASHSEED=seed, PYTHONPATH=SEARCHED).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert "" not in found


def test_parts_are_balanced_by_measured_seconds() -> None:
    rows = catalogue()
    seconds = {
        (e.id, row.id): 0.1 + (7 * i + 3 * j) % 13
        for i, e in enumerate(ENTRIES)
        for j, row in enumerate(rows)
    }
    loads = [sum(seconds[key] for key in part) for part in parts(5, ENTRIES, seconds)]
    assert max(loads) - min(loads) <= 13.1 + 2.0 * len(ENTRIES)


@pytest.mark.parametrize("text", ["0/5", "6/5", "2", "a/b", "2/5/1", "-1/5", ""])
def test_a_part_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="a shard such as 2/5"):
        Shard.parse(text)


def results(
    cells: list[Cell], rows: tuple[Requirement, ...], shard: Shard | None = None
) -> Results:
    """Return the results of a run of all entries, or of a shard, as read from its file."""
    own = shard.cells(ENTRIES, rows, {}) if shard is not None else None
    mine = [replace(c) for c in cells if own is None or (c.implementation, c.requirement) in own]
    verdict = account(ENTRIES, rows, mine, own)
    facts = {**FACTS, "shard": str(shard or "")}
    (read,) = parse(text_of_runs([Results(verdict, facts)]), f"shard {shard}")
    return read


def cells_of(rows: tuple[Requirement, ...]) -> list[Cell]:
    """Draw cells with many failures, which block requirements in other shards as well."""
    found = []
    for i, entry in enumerate(ENTRIES):
        for j, row in enumerate(rows):
            failed = (i + 2 * j) % 3 == 0
            cell = Cell(entry.id, row.id, str(row.level), Outcome.PASSED, seconds=0.5)
            if failed and i < 5:
                cell = replace(cell, outcome=Outcome.FAILED, message="it differs")
            found.append(cell)
    return found


def test_merged_parts_are_the_whole_run() -> None:
    """Every cell is the same, even if another shard's requirement blocks it."""
    rows = catalogue()
    cells = cells_of(rows)
    whole = results(cells, rows)
    assert any(cell.outcome == Outcome.BLOCKED for cell in whole.verdict.cells)
    for count in (2, 5):
        shards = [results(cells, rows, Shard(i, count)) for i in range(1, count + 1)]
        (merged,) = merge(list(reversed(shards)))
        assert [c.as_dict() for c in merged.verdict.cells] == [
            c.as_dict() for c in whole.verdict.cells
        ]
        assert merged.verdict.exit_code == whole.verdict.exit_code
        assert not merged.facts.get("shard")


def test_a_part_is_judged_by_its_own_cells() -> None:
    rows = catalogue()
    passed = [replace(c, outcome=Outcome.PASSED, message="") for c in cells_of(rows)]
    part = results(passed, rows, Shard(2, 5))
    assert part.facts["shard"] == "2/5"
    assert part.verdict.exit_code == OK
    assert 0 < len(part.verdict.own) < len(part.verdict.cells)
    assert not part.verdict.failures()


def test_a_merge_that_lacks_a_part_is_incomplete() -> None:
    rows = catalogue()
    passed = [replace(c, outcome=Outcome.PASSED, message="") for c in cells_of(rows)]
    shards = [results(passed, rows, Shard(i, 5)) for i in (1, 2, 4)]
    for given, said in ((shards, "3/5 or 5/5"), (shards[:1], "2/5 or 3/5 or 4/5 or 5/5")):
        (merged,) = merge(given)
        assert merged.verdict.exit_code == INCOMPLETE
        reasons = {c.reason for c in merged.verdict.cells if c.outcome == Outcome.NOT_RUN}
        assert reasons == {f"it belongs to a missing shard: {said}"}


def test_seconds_are_those_of_a_results_file(tmp_path: Path) -> None:
    rows = catalogue()
    path = tmp_path / "r.json"
    whole = results(cells_of(rows), rows)
    path.write_text(text_of_runs([whole]))
    assert expected_seconds(path)[ENTRIES[0].id, rows[0].id] == 0.5
    assert expected_seconds(None) == {}


def test_a_run_in_two_parts(tmp_path: Path) -> None:
    (tmp_path / "layer.py").write_text(LAYERS, encoding="utf-8")
    asked = ["layer.py:Bad", "-n0", "--requirement=zero-input", "--requirement=finite"]
    asked += ["--requirement=bias-zero", "--requirement=kernel-shape"]
    codes = []
    for i in (1, 2):
        done = command(tmp_path, "run", *asked, f"--shard={i}/2", f"--results={i}.json")
        assert f" of 4 cells (shard {i}/2):" in done.stdout, done.stdout + done.stderr
        codes.append(done.returncode)
    assert sorted(codes) == [0, 1]
    assert command(tmp_path, "merge", "1.json", "2.json", "-o", "both.json").returncode == 0
    found = json.loads((tmp_path / "both.json").read_text())
    assert found["complete"]
    assert found["exit_code"] == 1
    assert "shard" not in found
    outcomes = {cell["requirement"]: cell["outcome"] for cell in found["cells"]}
    assert outcomes.pop("forward/zero-input") == "failed"
    assert set(outcomes.values()) == {"passed"}
