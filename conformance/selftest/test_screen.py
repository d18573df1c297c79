"""The failures of a layer with several faults fit on a screen of 24 lines and 80 columns."""

from __future__ import annotations

import os
import sys

import pytest

from conformance.contract.requirement import MUST, SHOULD, Requirement
from conformance.layers.registry import Entry
from conformance.report.terminal import Progress, console_for, write_verdict
from conformance.results.cell import Cell
from conformance.results.failure import NOT_TRIED_AGAIN
from conformance.results.file import Results
from conformance.results.outcome import Outcome
from conformance.results.verdict import account
from conformance.selftest.synthetic import FACTS, requirement

LINES, COLUMNS = 24, 80

ENTRY = Entry("acme:mine.py:MyDense", "mine.py:MyDense", "mine.py:MyDense")
_FAULTS = (
    "state/exact-state",
    "purity/globals-untouched",
    "forward/integer-exact",
    "initialization/kernel-variance",
)
_ROWS = (*_FAULTS, "models/inspected", "dtypes/half-precision", "dtypes/x64", "sharding/meshes")
_ENDS = (Outcome.FAILED, Outcome.NOT_OFFERED, Outcome.NOT_APPLICABLE)
"""How the last three end; the first of them is blocked by state/exact-state."""


def _row(id: str) -> Requirement:
    level = SHOULD if id.startswith("models") else MUST
    below = ("state/exact-state",) if id == "dtypes/half-precision" else ()
    text = "The random generators, the environment and logging are as before, after the "
    return requirement(id, level, *below, statement=f"{text}construction and the call alike.")


def _failure(row: Requirement, cause: str) -> Cell:
    return Cell(
        ENTRY.id,
        row.id,
        str(row.level),
        Outcome.FAILED,
        message="f(x) differs in 8 of 8 entries; at [0, 0] it is 0.0175781253, not 0.017518578, as "
        f"it is of {row.id}",
        accepted="bitwise equality",
        cause=cause,
        case={"in_features": 3, "out_features": 10, "seed": 0, "values": 0},
        notes=["what chance gives, and how much a run of this profile detects"],
        reproduction=f"dense-conformance run mine.py:MyDense --requirement {row.slug}",
    )


def _show(
    capsys: pytest.CaptureFixture[str], causes: list[str], *, verbose: bool = False
) -> list[str]:
    """Return the lines of a run with these failures, as wide as the screen."""
    rows = [_row(id) for id in _ROWS]
    cells = [_failure(row, cause) for row, cause in zip(rows, causes, strict=False)]
    rest = [Cell(ENTRY.id, row.id, "MUST", end) for row, end in zip(rows[5:], _ENDS, strict=True)]
    verdict = account([ENTRY], rows, [*cells, *rest])
    progress = Progress(
        len(rows), {ENTRY.id: ENTRY.name}, {row.id: row.statement for row in rows}, verbose=verbose
    )
    for cell in cells:
        progress.pytest_conformance_fault(cell)
    progress.pytest_sessionfinish()
    shown = {cell.key for cell in cells}
    write_verdict(Results(verdict, FACTS), sys.stdout, verbose=verbose, shown=shown)
    lines = capsys.readouterr().out.splitlines()
    return [line[i : i + COLUMNS] for line in lines for i in range(0, max(len(line), 1), COLUMNS)]


@pytest.fixture(autouse=True)
def _columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    # A terminal without colours.
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


CAUSES = [f"{word}: " + "the layer does what it should not do, and it does so often" * 2
          for word in ("first", "second", "third", "fourth", "fifth")]  # fmt: skip


def test_five_faults_fit_on_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _show(capsys, CAUSES)
    assert len(lines) <= LINES, "\n".join(lines)
    heads = [line.split() for line in lines if line.startswith(("FAILED", "NOT"))]
    assert [words[0] for words in heads] == ["FAILED"] * 4 + ["NOT"]
    assert heads[-1][2] == _ROWS[4]
    for word in ("first", "second", "third", "fourth", "fifth"):
        assert sum(f"cause     {word}: the layer" in line for line in lines) == 1
    assert "5 requirements do not hold, 1 more could not be checked; -v shows all of each" in lines
    assert lines[-1] == "does not conform: MUST 0/6; 1 recommendation does not hold"
    # Notes, and the names of what is blocked, are for -v.
    assert not [line for line in lines if line.startswith(("  note", "  blocked"))]
    assert _ROWS[5] not in "\n".join(lines)


def test_a_second_fault_of_the_same_cause_refers_to_the_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = _show(capsys, [CAUSES[0], CAUSES[1], CAUSES[0]])
    assert sum("cause     first: the layer" in line for line in lines) == 1
    assert f"  cause     that of {_ROWS[0]}" in lines


def test_nothing_is_cut_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.setenv("TERM", "xterm-256color")
    text = "\n".join(_show(capsys, CAUSES))
    assert "\x1b" not in text
    assert "..." not in text
    words = " ".join(text.split())
    assert all(cause in words for cause in CAUSES)


def test_a_reader_that_leaves_ends_nothing() -> None:
    """The rest of the output is discarded, as after ``head``; the run goes on."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        for line in ("one", "two"):
            console_for(stream).print(line)
            stream.flush()


def test_all_of_each_fault_is_shown_with_v(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(_show(capsys, CAUSES, verbose=True))
    assert text.count("  reproduce ") == 5
    assert text.count("  smallest  ") == text.count("  note      ") == 5
    assert f"  blocked   {_ROWS[5]}" in text


def test_a_layer_that_ends_its_process_is_told_once_without_a_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    why = "the process died while checking it: it ended itself with exit code 3"
    rows = [_row(id) for id in _ROWS]
    reasons = [NOT_TRIED_AGAIN + why, *[why] * 3, *[NOT_TRIED_AGAIN + why] * 4]
    cells = [
        Cell(ENTRY.id, row.id, str(row.level), Outcome.CRASHED, reason=reason)
        for row, reason in zip(rows, reasons, strict=True)
    ]
    write_verdict(Results(account([ENTRY], rows, cells), FACTS), sys.stdout)
    lines = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("area ") for line in lines)
    told = [" ".join(line.split()) for line in lines if "it ended itself" in line]
    assert told == [f"why {why}"]
    assert "  and so are 7 more requirements" in lines
