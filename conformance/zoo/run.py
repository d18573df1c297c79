"""Runs the suite on the zoo, where each defect must be caught and each correct layer pass.

One run of pytest checks all layers, which share compiled programs and the import of jax.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conformance.contract.catalogue import foundations
from conformance.contract.requirement import MUST, Requirement
from conformance.errors import UsageError
from conformance.jax_setup import compile_cache
from conformance.results.cell import Cell
from conformance.results.file import save
from conformance.results.outcome import Outcome
from conformance.results.verdict import blocked
from conformance.running.places import RUN
from conformance.zoo.judge import Judgement, Subject, judge
from conformance.zoo.kill_matrix import kill_rate, matrix, summary
from conformance.zoo.plan import OPTION, PLUGIN, plan

if TYPE_CHECKING:
    from conformance.running.run import Run


@dataclass(frozen=True)
class Report:
    """The results of the suite on the zoo.

    Parameters
    ----------
    judgements
        One for each layer, defects first.
    rows
        The requirements that were checked.
    cells
        How many cells were checked, at most layers times requirements.
    seconds
        How long it took.
    """

    judgements: tuple[Judgement, ...]
    rows: tuple[Requirement, ...]
    cells: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Return whether every defect was rightly blamed and every correct layer passed."""
        return not any(judgement.problems for judgement in self.judgements)

    def lines(self) -> list[str]:
        """Return the report as text: the matrix, its sums, and the problems."""
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
            f"{self.cells} of {len(self.judgements) * len(self.rows)} cells, {self.seconds:.0f} s",
        ]


def subjects(names: Sequence[str] = ()) -> list[Subject]:
    """Return the layers of the zoo, or those with these names: a defect's id, or an attribute.

    Raises
    ------
    UsageError
        If a name is that of no layer.
    """
    # The declarations are in the modules of the layers, so reading them imports jax.
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


@dataclass(eq=False)
class _Observer:
    """A pytest plugin for one run that keeps the run and shows its progress on a terminal.

    Failures are expected here, so they are not shown one by one.
    """

    zoo: Sequence[Subject]
    plan_file: Path
    full: bool
    without: str
    run: Run | None = None
    planned: dict[str, list[str]] = field(default_factory=dict)
    done: int = 0

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Make the plan when the requirements are known, before the workers start."""
        self.run = config.stash.get(RUN, None)
        if self.run is not None:
            self.planned = plan(self.zoo, self.run.rows, full=self.full, without=self.without)
            self.plan_file.write_text(json.dumps(self.planned), encoding="utf-8")

    def pytest_conformance_cell(self, cell: Cell) -> None:
        """Count a cell."""
        self.done += 1
        if self.run is not None and sys.stderr.isatty() and self.done % 50 == 0:
            total = sum(map(len, self.planned.values()))
            print(f"\r{self.done}/{total} cells", end="", file=sys.stderr, flush=True)

    def pytest_unconfigure(self) -> None:
        """Clear the progress line."""
        if sys.stderr.isatty():
            print("\r" + " " * 40, end="\r", file=sys.stderr, flush=True)


def check(
    zoo: Sequence[Subject],
    arguments: Sequence[str],
    results: Path | None = None,
    *,
    full: bool = False,
    without: str = "",
) -> Report:
    """Run the suite on these layers.

    ``arguments`` is the call of pytest, without the layers. The kill rate and every judgement are
    written to ``results``, as JSON. With ``full`` every requirement is checked on every layer;
    otherwise see :mod:`conformance.zoo.plan`. The requirement of the id ``without`` is left out.

    Raises
    ------
    UsageError
        If the results cannot be written, or pytest ended without a verdict.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dense-conformance-zoo-") as directory:
        plan_file = Path(directory) / "plan.json"
        observer = _Observer(zoo, plan_file, full=full, without=without)
        call = [*arguments, "--conformance-check-all", "-p", PLUGIN, f"{OPTION}={plan_file}"]
        call += [f"--conformance-impl={subject.spec}" for subject in zoo]
        pytest.main(call, plugins=[observer])
    run = observer.run
    if run is None or run.verdict is None:
        raise UsageError("the suite ended without a verdict on the zoo")
    cells: dict[str, list[Cell]] = defaultdict(list)
    for cell in run.verdict.cells:
        if cell.requirement in observer.planned[cell.implementation]:
            cells[cell.implementation].append(cell)
    if not full:
        for spec, own in cells.items():
            cells[spec] = blocked_across_gaps(own, run.verdict.rows)
    judgements = tuple(judge(subject, cells[subject.spec]) for subject in zoo)
    report = Report(
        judgements,
        run.verdict.rows,
        sum(cell.outcome != Outcome.NOT_RUN for own in cells.values() for cell in own),
        time.monotonic() - started,
    )
    if results is not None:
        try:
            text = json.dumps(_document(report, run), indent=1, ensure_ascii=False)
            save(results, text + "\n")
        except OSError as error:
            raise UsageError(f"{results}: cannot be written: {error.strerror}") from None
    return report


def blocked_across_gaps(cells: Sequence[Cell], rows: Sequence[Requirement]) -> list[Cell]:
    """Block requirements that rest on a failure through others that the plan left out.

    In a full run every requirement of such a chain has its cell, and nothing changes here. As
    there, a recommendation never hides a MUST.
    """
    failed = {cell.requirement: cell for cell in cells if cell.outcome == Outcome.FAILED}
    musts = {id for id, cell in failed.items() if cell.level == MUST}

    def settled(cell: Cell) -> Cell:
        explaining = musts if cell.level == MUST else set(failed)
        below = (foundations([cell.requirement], rows) - {cell.requirement}) & explaining
        return blocked(cell, min(below)) if below and cell.outcome == Outcome.FAILED else cell

    return [settled(cell) for cell in cells]


def _document(report: Report, run: Run) -> dict[str, Any]:
    return {
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
