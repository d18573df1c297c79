"""Reports each failure of a run once, when no other failure can still explain it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conformance.results.cell import Cell
from conformance.results.outcome import Outcome
from conformance.results.prerequisites import prerequisites

if TYPE_CHECKING:
    from conformance.running.run import Run


class Faults:
    """The failures of a run, as the controller receives them.

    Attributes
    ----------
    shown
        The failures that were shown, by implementation and requirement.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.shown: set[tuple[str, str]] = set()
        self._waiting: set[tuple[str, str]] = set()

    def take(self, cell: Cell) -> None:
        """Report the failures that are certain now that this cell is decided."""
        implementation = cell.implementation
        key = implementation, cell.requirement
        if cell.outcome == Outcome.FAILED and key not in self.shown:
            self._waiting.add(key)
        waiting = [row for id, row in self._waiting if id == implementation]
        if not waiting:
            return
        received, own = self.run.received, self.run.own_cells
        cells = {row: cell for (id, row), cell in received.items() if id == implementation}

        def is_to_come(row: str) -> bool:
            return row not in cells and (own is None or (implementation, row) in own)

        known = prerequisites(self.run.rows)
        settled = [id for id in waiting if known.settled(id, cells, is_to_come)]
        if settled:
            self._show(implementation, settled, list(cells.values()))

    def _show(self, implementation: str, settled: list[str], cells: list[Cell]) -> None:
        entries = [entry for entry in self.run.entries if entry.id == implementation]
        for cell in self.run.account_of(entries, self.run.rows, cells).cells:
            if cell.requirement in settled:
                self._waiting.discard((implementation, cell.requirement))
                if cell.outcome == Outcome.FAILED:
                    self.shown.add((implementation, cell.requirement))
                    self.run.config.hook.pytest_conformance_fault(cell=cell)
