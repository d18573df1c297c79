"""How a cell comes from the process that decides it to the one that controls the run."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from conformance.checks import profiles
from conformance.contract.catalogue import catalogue, rests_on
from conformance.contract.requirement import Requirement
from conformance.errors import printable_values
from conformance.layers.registry import Entry
from conformance.results.cell import Cell
from conformance.results.failure import is_recommendation, word
from conformance.results.outcome import Outcome
from conformance.running import reproduction
from conformance.running.cells import cell_of
from conformance.running.items import entry_of, row_of
from conformance.running.strictness import hold_to

if TYPE_CHECKING:
    from conformance.running.run import Run

__all__ = ["Exchange"]

# Of what a layer prints, a report takes this many characters: it may be megabytes.
_MOST_OUTPUT = 4000


class Exchange:
    """Attaches the cell to pytest's report, and takes it out: a plugin, in each process of a run.

    Parameters
    ----------
    run
        The run as this process knows it.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._told_environment = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach the cell to the report, which travels between processes."""
        row = row_of(item)
        if row is not None:
            # The cell is what is shown; pytest's traceback takes 0.2 s for each failure.
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
            cell = hold_to(expected, cell)
        if cell.outcome == Outcome.FAILED:
            self.run.failures.add(entry.id, row.id, obstacle=cell.obstacle)
        if cell.outcome not in (Outcome.PASSED, Outcome.NOT_APPLICABLE, Outcome.BLOCKED):
            like = self.run.config.getoption("conformance_like")
            cell = replace(cell, reproduction=reproduction.command(entry, row, like))
        if cell.outcome.violated:
            layer = self.run.layers.get(entry.id)
            cell = replace(cell, script=reproduction.script(cell, entry, layer))
        # As text: a value that is not plain would end the whole distributed run.
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
            # Of pytest's own outcomes this is the one for what does not hold and fails nothing.
            report.outcome, report.wasxfail = "skipped", spared
            named = word(cell, strict=self.run.strict)
            report.conformance_word = "blocked" if named == Outcome.FAILED else named  # type: ignore[attr-defined]  # travels with the report
        return report

    def _spared(self, entry: Entry, row: Requirement, cell: Cell) -> str:
        """Return why a cell that does not hold fails nothing; empty if it does fail the run."""
        if cell.outcome == Outcome.EXPECTED_FAILURE:
            return cell.reason
        if cell.outcome == Outcome.NOT_OFFERED:
            return f"not offered: {cell.cause or cell.message}"
        if is_recommendation(cell, strict=self.run.strict):
            return f"a recommendation: {cell.cause or cell.message}"
        below = self._expected_below(entry, row) if cell.outcome == Outcome.FAILED else ""
        return f"rests on {below}, which is expected to fail" if below else ""

    def _expected_below(self, entry: Entry, row: Requirement) -> str:
        """Return a requirement that this one rests on and whose failure is expected."""
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
        """Name in pytest's own words what does not hold and fails nothing."""
        name = getattr(report, "conformance_word", "")
        return (name, name[:1], (name.upper(), {"yellow": True})) if name else None

    def _environment_once(self) -> dict[str, Any]:
        if self._told_environment:
            return {}
        from conformance.results.environment import describe

        self._told_environment = True
        return describe(self.run.config.getoption("conformance_profile"), profiles.active().seed)

    def _version(self, entry: Entry) -> dict[str, Any]:
        from conformance.results.environment import library_of

        layer = self.run.layers.get(entry.id)
        told = library_of(getattr(layer, "registered", None), entry)
        effects = self.run.containment.side_effects.get(entry.id)
        return {**told, "side_effects": effects} if effects else told

    def _observed(self, entry: Entry, row: Requirement, call: Any) -> dict[str, Any]:
        """Once for each layer, where it was called anyway, if a file is to be written."""
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
            looks_after: Any = self.run.config.pluginmanager.get_plugin("conformance-workers")
            why = looks_after.stranger(report.node, self.run.environment, found["environment"])
            if why:
                cell = replace(cell, outcome=Outcome.ERROR, reason=why)
                found["environment"] = {}
        self.run.environment.update(found["environment"])
        for id, facts in found["versions"].items():
            self.run.versions.setdefault(id, {}).update(facts)
        self.run.take(cell)
