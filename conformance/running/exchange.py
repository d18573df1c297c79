"""How a cell comes from the process that decides it to the one that controls the run."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from conformance.checks import profiles
from conformance.contract.requirement import Requirement
from conformance.layers.registry import Entry
from conformance.results.cell import Cell, Outcome, cell_of
from conformance.running import reproduction
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
            cell.outcome, cell.reason = Outcome(error.outcome), str(error)
        expected = self.run.expectations.of(entry, row.id)
        if expected is not None:
            hold_to(expected, cell)
        if cell.outcome not in (Outcome.PASSED, Outcome.NOT_APPLICABLE):
            cell.reproduction = reproduction.command(entry, row)
        if cell.outcome in (Outcome.FAILED, Outcome.EXPECTED_FAILURE):
            layer = self.run.layers.get(entry.id)
            cell.script = reproduction.script(cell, entry, layer)
        # As text: a value that is not plain would end the whole distributed run.
        report.conformance = json.dumps(  # type: ignore[attr-defined]  # travels with the report
            {
                "cell": cell.as_dict(),
                "environment": self._environment_once(),
                "versions": {entry.id: self._version(entry) | self._observed(entry, row, call)},
            }
        )
        report.sections = [(title, text[-_MOST_OUTPUT:]) for title, text in report.sections]
        if report.failed:
            report.longrepr = reproduction.text_of(cell)
        if cell.outcome == Outcome.UNEXPECTED_PASS:
            report.outcome, report.longrepr = "failed", reproduction.text_of(cell)
        if cell.outcome == Outcome.EXPECTED_FAILURE:
            report.outcome = "skipped"
            report.wasxfail = cell.reason
        return report

    def _environment_once(self) -> dict[str, Any]:
        if self._told_environment:
            return {}
        from conformance.results.environment import describe

        self._told_environment = True
        return describe(self.run.config.getoption("conformance_profile"), profiles.active().seed)

    def _version(self, entry: Entry) -> dict[str, Any]:
        from conformance.results.environment import library_of

        layer = self.run.layers.get(entry.id)
        told = library_of(getattr(layer, "implementation", None), entry)
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
        if found is None or not self.run.controls:
            return
        found = json.loads(found)
        cell = Cell.from_dict(found["cell"])
        if hasattr(report, "node"):
            looks_after: Any = self.run.config.pluginmanager.get_plugin("conformance-workers")
            why = looks_after.stranger(report.node, self.run.environment, found["environment"])
            if why:
                cell.outcome, cell.reason = Outcome.ERROR, why
                found["environment"] = {}
        self.run.environment.update(found["environment"])
        for id, facts in found["versions"].items():
            self.run.versions.setdefault(id, {}).update(facts)
        self.run.take(cell)
