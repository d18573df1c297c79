"""The benchmark: arguments, output and the measured commands, without any times."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.bench import measure, parts
from conformance.bench.table import HEADINGS, Row, by, line, markdown, text
from conformance.cli import bench
from conformance.cli.main import main
from conformance.contract.catalogue import catalogue
from conformance.errors import UsageError
from conformance.selftest.pages import needs_extra
from conformance.selftest.processes import python


def test_parts_are_measured_in_a_fixed_order() -> None:
    assert bench.chosen(()) == parts.DEFAULT
    assert bench.chosen(["naive", "one"]) == ("one", "naive")
    assert bench.chosen(["all"]) == tuple(parts.PARTS)


def test_what_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [
        {"implementation": "a", "requirement": "forward/x", "seconds": 1.5, "examples": 3},
        {"implementation": "b", "requirement": "forward/x", "seconds": 0.5, "examples": 2},
    ]

    def part(bench: parts.Bench) -> Iterator[Row]:
        found = measure.Measured(9.0, 12.5, 2**30, None, "", {"cells": cells})
        bench.full = bench.keep("a run", found)
        yield Row("a run", 9.0, "s", "<= 6 s", 12.5, "on a machine of straw")

    monkeypatch.setitem(parts.PARTS, "one", ("", part))
    results = tmp_path / "new" / "bench.json"
    table = tmp_path / "bench.md"
    assert main(["bench", "one", "--results", str(results), "--markdown", str(table)]) == 0
    assert "| a run | <= 6 s | 9.0 s | 12.5 s |\n" in table.read_text(encoding="utf-8")
    said = capsys.readouterr().out
    assert line(HEADINGS) in said
    assert "<= 6 s" in said
    assert "on a machine of straw" in said
    found = json.loads(results.read_text(encoding="utf-8"))
    assert found["rows"] == [
        {"what": "a run", "value": 9.0, "unit": "s", "target": "<= 6 s", "computing": 12.5,
         "note": "on a machine of straw"}
    ]  # fmt: skip
    assert found["seconds_by_layer"] == {"a": 1.5, "b": 0.5}
    assert found["seconds_by_requirement"] == {"forward/x": 2.0}
    assert found["runs"]["a run"]["examples"] == 5
    assert found["machine"]["cores"] >= 1
    assert found["parts"] == ["one"]


def test_the_table_shows_the_target_beside_what_was_measured() -> None:
    rows = [
        Row("one layer", 6.04, "s", "<= 6 s", 7.36),
        Row("an example", 2.345, "ms", "<= 3 ms"),
        Row("faster", 123.4, "x"),
    ]
    assert [text(row).split()[-2:] for row in rows] == [["7.4", "s"], ["2.35", "ms"], ["123", "x"]]
    assert markdown(rows).splitlines() == [
        "| what | target | measured | of a core |",
        "| --- | --- | --- | --- |",
        "| one layer | <= 6 s | 6.0 s | 7.4 s |",
        "| an example | <= 3 ms | 2.35 ms |  |",
        "| faster |  | 123 x |  |",
    ]


def test_the_picture_has_every_run_of_its_parts() -> None:
    """One panel each for layers, examples and workers; other runs are left out."""
    needs_extra()
    from conformance.bench.picture import growth

    counts = {"layers": (1, 16), "examples": (25, 400), "workers": (0, 8)}
    runs = {
        f"{count} {over}": {"seconds": count + 1, "computing": 2 * count + 1}
        for over, ends in counts.items()
        for count in ends
    }
    drawn = growth({**runs, "five warm": {"seconds": 1, "computing": 1}})
    words = re.findall(r">([^<>]+)</text>", drawn)
    assert {"layers", "workers", "examples of each property"} <= {*words}
    assert all({str(count) for count in ends} <= {*words} for ends in counts.values())


def test_the_floor_is_a_number_of_milliseconds(tmp_path: Path) -> None:
    done = python(tmp_path, "-m", "conformance.bench.floor", "3")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0


def test_seconds_are_added_up() -> None:
    cells = [{"requirement": name, "seconds": s} for name, s in (("a", 1), ("b", 3), ("a", 1))]
    assert list(by("requirement", cells).items()) == [("b", 3), ("a", 2)]


def test_a_command_is_measured(tmp_path: Path) -> None:
    code = "print('FAILED    forward/x   mine   MUST'); x = bytearray(200_000_000)"
    found = measure.measured([sys.executable, "-c", code], {})
    assert found.first_failure is not None
    assert 0 < found.first_failure <= found.seconds
    assert found.peak > 200_000_000
    assert found.output.startswith("FAILED")
    with pytest.raises(UsageError, match="ended with 2: unfortunately"):
        measure.measured([sys.executable, "-c", "print('unfortunately'); exit(2)"], {})
    with pytest.raises(UsageError, match="ended with 0"):
        measure.measured([sys.executable, "-c", ""], {}, tmp_path / "none.json")


def test_the_naive_suite_has_the_properties_that_it_is_compared_by() -> None:
    naive = Path(measure.__file__).with_name("naive.py")
    asked = ("-p", "no:conformance", "--collect-only", "-q", str(naive))
    done = python(Path.cwd(), "-m", "pytest", *asked)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("::test_") == len(parts.SAME) == len(set(parts.SAME)) == 15
    assert set(parts.SAME) <= {row.id for row in catalogue()}
