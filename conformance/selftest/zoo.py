"""Runs the suite on the zoo: known-wrong layers, each to be caught and rightly blamed, and
correct but unusual ones, of which every one must pass.

One run of pytest checks all of them: compiled programs are shared between layers that live in
one process, and one import of jax serves them all.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conformance import compile_cache
from conformance.cell import Cell
from conformance.plugin import RUN
from conformance.registry import UsageError
from conformance.requirement import Requirement
from conformance.selftest.judge import Judgement, Subject, judge
from conformance.selftest.matrix import kill_rate, matrix, summary

if TYPE_CHECKING:
    from conformance.run import Run

__all__ = ["Report", "check", "subjects"]


@dataclass(frozen=True)
class Report:
    """What the suite said about the zoo.

    Parameters
    ----------
    judgements
        One for each layer, defects first.
    rows
        The requirements that were checked.
    seconds
        How long it took.
    """

    judgements: tuple[Judgement, ...]
    rows: tuple[Requirement, ...]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether every defect was caught and rightly blamed, and no correct layer failed."""
        return not any(judgement.problems for judgement in self.judgements)

    def lines(self) -> list[str]:
        """The report as text: the matrix, its sums, and whatever went wrong."""
        rate = kill_rate(self.judgements)
        wrong = [
            f"{j.subject.name} ({j.subject.spec}): {problem}"
            for j in self.judgements
            for problem in j.problems
        ]
        return [
            *matrix(self.judgements, self.rows),
            "",
            *summary(self.judgements, self.rows),
            "",
            *wrong,
            f"{rate['killed']} of {rate['defects']} defects killed, "
            f"{rate['rightly_blamed']} rightly blamed; "
            f"{rate['correct_layers_passed']} of {rate['correct_layers']} correct layers pass; "
            f"{self.seconds:.0f} s",
        ]


def subjects(names: Sequence[str] = ()) -> list[Subject]:
    """The layers of the zoo, or those with these names: a defect's id, or an attribute.

    Raises
    ------
    UsageError
        If a name is that of no layer.
    """
    # The declarations stand beside the layers, so that reading them imports jax.
    compile_cache.prepare()
    from implementations.correct import all_correct
    from implementations.defects import all_defects

    zoo = [Subject(known.spec, known.defect) for known in all_defects()]
    zoo += [Subject(spec) for spec in all_correct()]
    if not names:
        return zoo
    chosen = [s for s in zoo if {s.name, s.spec, s.spec.rpartition(":")[2]} & set(names)]
    known = {text for s in chosen for text in (s.name, s.spec, s.spec.rpartition(":")[2])}
    unknown = sorted(set(names) - known)
    if unknown:
        raise UsageError(f"the zoo has no layer called {unknown[0]!r}")
    return chosen


class _Observer:
    """Registered with pytest for one run: keeps the run, and tells on a terminal how far it is.

    Failures are what is expected here, and so are not shown one by one.
    """

    def __init__(self) -> None:
        self.run: Run | None = None
        self.done = 0

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        self.run = config.stash.get(RUN, None)

    def conformance_cell(self, cell: Cell) -> None:
        """A cell came back."""
        self.done += 1
        if self.run is not None and sys.stderr.isatty() and self.done % 50 == 0:
            total = len(self.run.entries) * len(self.run.rows)
            print(f"\r{self.done}/{total} cells", end="", file=sys.stderr, flush=True)

    def pytest_unconfigure(self) -> None:
        """The run is over: clear the line."""
        if sys.stderr.isatty():
            print("\r" + " " * 40, end="\r", file=sys.stderr, flush=True)


def check(zoo: Sequence[Subject], arguments: Sequence[str], results: Path | None = None) -> Report:
    """Run the suite on these layers.

    Parameters
    ----------
    zoo
        The layers.
    arguments
        The call of pytest, without the layers.
    results
        Where to write the kill rate and every judgement, as JSON.

    Raises
    ------
    UsageError
        If pytest ended before there was a verdict.
    """
    started = time.monotonic()
    observer = _Observer()
    call = [*arguments, *(f"--conformance-impl={subject.spec}" for subject in zoo)]
    pytest.main(call, plugins=[observer])
    run = observer.run
    if run is None or run.verdict is None:
        raise UsageError("the suite ended before it had a verdict on the zoo")
    cells: dict[str, list[Cell]] = defaultdict(list)
    for cell in run.verdict.cells:
        cells[cell.implementation].append(cell)
    judgements = tuple(judge(subject, cells[subject.spec]) for subject in zoo)
    report = Report(judgements, run.verdict.rows, time.monotonic() - started)
    if results is not None:
        _write(results, report, run)
    return report


def _write(path: Path, report: Report, run: Run) -> None:
    document = {
        "environment": run.facts()["environment"],
        "seconds": round(report.seconds, 1),
        "kill_rate": kill_rate(report.judgements),
        "holds": report.holds,
        "judgements": [
            {
                "name": j.subject.name,
                "spec": j.subject.spec,
                "breaks": j.subject.defect.breaks if j.subject.defect is not None else None,
                "failed": list(j.failed),
                "blocked": list(j.blocked),
                "problems": list(j.problems),
            }
            for j in report.judgements
        ],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
