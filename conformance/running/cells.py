"""Makes the cell of each pytest item, and sends it to the controller."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from conformance.checks import profiles, recording
from conformance.checks.cases import BATCH, Case, free_parts
from conformance.checks.require import NotApplicable
from conformance.contract.catalogue import catalogue, rests_on
from conformance.contract.requirement import MAY, Requirement, requirement_of
from conformance.errors import (
    LoadError,
    Violation,
    described,
    places_of_libraries,
    printable_values,
    raised_by_layer,
    safe_text,
)
from conformance.layers.expected_failure import Expected
from conformance.layers.registry import Entry
from conformance.results.cell import Cell, plain
from conformance.results.failure import is_recommendation, word
from conformance.results.outcome import Outcome
from conformance.results.verdict import blocked
from conformance.running import reproduction

if TYPE_CHECKING:
    from conformance.running.run import Run


def row_of(item: pytest.Item) -> Requirement | None:
    """Return the requirement that an item checks; None if the item is not the suite's."""
    row = requirement_of(getattr(item, "function", None))
    return row if row is not None and hasattr(item, "callspec") else None


def entry_of(item: pytest.Item) -> Entry:
    """Return the implementation that an item of the suite checks."""
    found = item.callspec.params["layer"]  # type: ignore[attr-defined]  # parametrized items
    assert isinstance(found, Entry)
    return found


def with_expectation(expected: Expected, cell: Cell) -> Cell:
    """Return a cell whose failure was expected: failed as expected, passed as unexpected."""
    if cell.outcome.violated:
        return replace(cell, outcome=Outcome.EXPECTED_FAILURE, reason=expected.text)
    if cell.outcome.held:
        held = "the witness passes" if expected.witness is not None else "it holds"
        reason = f"{held} now: remove the expectation of this failure ({expected.text})"
        return replace(cell, outcome=Outcome.UNEXPECTED_PASS, reason=reason)
    return cell


def try_witness(item: pytest.Function, witness: Mapping[str, Any]) -> bool:
    """Run the property test on the one case; return True, so that pytest does not run it again.

    Raises
    ------
    LoadError
        If the test draws no cases.
    """
    inner = getattr(getattr(item.obj, "hypothesis", None), "inner_test", None)
    if inner is None:
        raise LoadError("a witness is expected to fail, and this requirement's check has no cases")
    lead = tuple(witness.get("lead", BATCH))
    inner(layer=item.funcargs["layer"], case=Case(**{**witness, "lead": lead}))
    return True


class Prevented(pytest.skip.Exception):  # type: ignore[name-defined,misc]  # set on a function
    """Raised if a requirement is not checked because one that it rests on has failed."""

    def __init__(self, below: str) -> None:
        super().__init__(f"blocked by {below}")
        self.below = below


def _violations(error: BaseException) -> Iterator[Violation]:
    if isinstance(error, Violation):
        yield error
    elif isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _violations(inner)


def cell_of(
    row: Requirement, implementation: str, call: pytest.CallInfo[None], report: pytest.TestReport
) -> Cell:
    """Return the cell of a finished phase of a test, in the process that ran it."""
    recorded = recording.current()
    cell = Cell(
        implementation=implementation,
        requirement=row.id,
        level=str(row.level),
        outcome=Outcome.PASSED,
        examples=recorded.examples,
        seconds=round(report.duration, 4),
        measured=plain(recorded.numbers),
        notes=recorded.notes,
        plots=recorded.all_plots(),
    )
    error = call.excinfo.value if call.excinfo is not None else None
    if error is None:
        return cell
    if isinstance(error, Prevented):
        return blocked(cell, error.below)
    if isinstance(error, pytest.skip.Exception):
        # Only the check itself finds out more, and it was not run.
        found = isinstance(error, NotApplicable)
        reason = safe_text(error.msg)
        return replace(cell, outcome=Outcome.NOT_APPLICABLE, obstacle=found, reason=reason)
    violation = next(_violations(error), None)
    flaky = violation is not None and violation is not error
    at_times = " (on the same case it passes at other times)" if flaky else ""
    if violation is None and call.when == "call" and raised_by_layer(error):
        violation = Violation(f"the layer raised {described(error)}", accepted="no exception")
        violation.obstacle = True
    if violation is None:
        known = isinstance(error, LoadError)
        return replace(
            cell,
            outcome=Outcome.ERROR,
            # A fault in the foundation explains an obstacle.
            obstacle=not known and call.when == "call",
            # The message of a LoadError shows the faulty line, with carets below it.
            reason=str(error) if known else described(error),
        )
    level = row.wrong_numbers if violation.wrong_numbers else None
    if level is not None:
        cell = replace(cell, level=str(level), notes=[*cell.notes, _LEVEL_OF_WRONG_NUMBERS])
    return replace(
        cell,
        # A MAY requirement is reported, and never fails a run.
        outcome=Outcome.NOT_OFFERED if row.level is MAY else Outcome.FAILED,
        obstacle=violation.obstacle,
        declare=violation.declare,
        message=violation.found + at_times,
        accepted=violation.accepted,
        cause=str(violation.cause),
        cause_id=violation.cause_id,
        measured=plain({**recorded.numbers, **violation.measured}),
        case=recorded.case.as_dict() if recorded.case is not None else None,
        free=free_parts(error),
    )


_LEVEL_OF_WRONG_NUMBERS = "a MUST, because the result is wrong without a word"


def _located(cell: Cell, row: Requirement, layer: Any, error: BaseException | None) -> Cell:
    """Return a failed cell that says on which side of an edge of the layer's program it lies."""
    violation, case = next(_violations(error), None) if error else None, recording.current().case
    if violation is None or violation.where or violation.obstacle or case is None or not layer:
        return cell
    from conformance.checks.scan.nearest import edge_before

    with contextlib.suppress(Exception), layer.registered.surroundings():
        where = edge_before(layer, row, case)
        if where:
            words = f"{cell.message}; {where}, the layer runs another program"
            return replace(cell, message=words)
    return cell


# A layer may print megabytes; a report takes this many characters.
_MOST_OUTPUT = 4000


class Exchange:
    """A plugin that attaches the cell to pytest's report, and takes it out in the controller."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._environment: dict[str, Any] | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Describe the environment before any layer's code can change it."""
        if self._environment is None and row_of(item) is not None:
            from conformance.results.environment import describe

            profile = self.run.config.getoption("conformance_profile")
            self._environment = describe(profile, profiles.active().seed)
            places_of_libraries()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach the cell to the report, which travels between processes."""
        row = row_of(item)
        if row is not None:
            # We show the cell; pytest's own traceback would take 0.2 s for each failure.
            vars(item)["repr_failure"] = lambda error: ""
        report = yield
        if (
            row is None
            or (call.when == "setup" and call.excinfo is None)
            or call.when == "teardown"
        ):
            return report
        entry = entry_of(item)
        cell = cell_of(row, entry.id, call, report)
        error = call.excinfo.value if call.excinfo is not None else None
        if isinstance(error, self.run.breaker.Tripped):
            cell = replace(cell, outcome=Outcome(error.outcome), reason=str(error))
        expected = self.run.expectations.of(entry, row.id)
        if expected is not None:
            cell = with_expectation(expected, cell)
        if cell.outcome == Outcome.FAILED and not cell.declare:
            self.run.breaker.failed(entry.id, row.id, obstacle=cell.obstacle)
        if cell.outcome not in (Outcome.PASSED, Outcome.NOT_APPLICABLE, Outcome.BLOCKED):
            like = self.run.config.getoption("conformance_like")
            cell = replace(cell, reproduction=reproduction.command(entry, row, like))
        if cell.outcome.violated:
            layer = self.run.layers.get(entry.id)
            cell = _located(cell, row, layer, error)
            cell = replace(cell, script=reproduction.script(cell, entry, layer))
        # As text, because a value that cannot be sent would end the whole distributed run.
        report.conformance = json.dumps(  # type: ignore[attr-defined]  # travels with the report
            {
                "cell": cell.as_dict(),
                "environment": self._environment_once(),
                "versions": {entry.id: self._version(entry) | self._observed(entry, row, call)},
            }
        )
        report.sections = [(title, text[-_MOST_OUTPUT:]) for title, text in report.sections]
        if report.failed or cell.outcome == Outcome.UNEXPECTED_PASS:
            report.outcome, report.longrepr = "failed", reproduction.text_of(cell)
        spared = self._spared(entry, row, cell)
        if spared:
            # pytest's outcome for a failure that does not fail the run.
            report.outcome, report.wasxfail = "skipped", spared
            named = word(cell, strict=self.run.strict)
            report.conformance_word = "blocked" if named == Outcome.FAILED else named  # type: ignore[attr-defined]  # travels with the report
        return report

    def _spared(self, entry: Entry, row: Requirement, cell: Cell) -> str:
        """Return why a failed cell does not fail the run; empty if it does."""
        if cell.outcome == Outcome.EXPECTED_FAILURE:
            return cell.reason
        if cell.outcome == Outcome.NOT_OFFERED:
            return f"not offered: {cell.cause or cell.message}"
        if is_recommendation(cell, strict=self.run.strict):
            return f"a recommendation: {cell.cause or cell.message}"
        below = self._expected_below(entry, row) if cell.outcome == Outcome.FAILED else ""
        return f"rests on {below}, which is expected to fail" if below else ""

    def _expected_below(self, entry: Entry, row: Requirement) -> str:
        """Return a requirement below this one whose failure is expected."""
        rows = {other.id: other for other in catalogue()}
        waiting, seen = [*rests_on(row, catalogue())], {row.id}
        while waiting:
            id = waiting.pop(0)
            if id in seen or id not in rows:
                continue
            seen.add(id)
            if self.run.expectations.of(entry, id) is not None:
                return id
            waiting += rests_on(rows[id], catalogue())
        return ""

    def pytest_report_teststatus(
        self, report: pytest.TestReport
    ) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """Return pytest's own words for a failure that does not fail the run."""
        name = getattr(report, "conformance_word", "")
        return (name, name[:1], (name.upper(), {"yellow": True})) if name else None

    def _environment_once(self) -> dict[str, Any]:
        """Return the environment for the first report of this process, then nothing."""
        found, self._environment = self._environment or {}, {}
        return found

    def _version(self, entry: Entry) -> dict[str, Any]:
        from conformance.results.environment import library_of

        layer = self.run.layers.get(entry.id)
        library = library_of(getattr(layer, "registered", None), entry)
        effects = self.run.containment.side_effects.get(entry.id)
        return {**library, "side_effects": effects} if effects else library

    def _observed(self, entry: Entry, row: Requirement, call: Any) -> dict[str, Any]:
        """Return costs and warnings, once for each layer that was called, if a file is written."""
        layer: Any = self.run.layers.get(entry.id)
        first = row.id == "forward/output-shape" and call.when == "call"
        if not first or layer is None or not self.run.config.getoption("conformance_results"):
            return {}
        from conformance.running.costs import observe

        return observe(layer)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the cell out of a report."""
        found = getattr(report, "conformance", None)
        if not self.run.controls:
            return
        if found is None:
            self.run.others_failed |= report.failed
            return
        found = printable_values(json.loads(found))
        cell = Cell.from_dict(found["cell"])
        if hasattr(report, "node"):
            workers: Any = self.run.config.pluginmanager.get_plugin("conformance-workers")
            why = workers.why_rejected(report.node, self.run.environment, found["environment"])
            if why:
                cell = replace(cell, outcome=Outcome.ERROR, reason=why)
                found["environment"] = {}
        self.run.environment.update(found["environment"])
        for id, facts in found["versions"].items():
            self.run.versions.setdefault(id, {}).update(facts)
        self.run.take(cell)
