"""Completes the cells that workers sent to the full results of a run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from conformance.contract.catalogue import rests_on
from conformance.contract.requirement import AREAS, MUST, Requirement
from conformance.layers.registry import Entry
from conformance.results.cell import Cell
from conformance.results.decision import Decision, decide
from conformance.results.outcome import Outcome
from conformance.results.prerequisites import prerequisites


@dataclass(frozen=True)
class Verdict:
    """The cells of a run in reading order, none of them missing.

    Parameters
    ----------
    entries
        The implementations, in the order of the run.
    rows
        The requirements, in the order of the contract.
    cells
        One for each pair, by implementation, and within one a fault before its consequences.
    strict
        Whether a SHOULD that does not hold fails the run.
    stopped
        Why the run ended early; empty if it did not.
    """

    entries: tuple[Entry, ...]
    rows: tuple[Requirement, ...]
    cells: tuple[Cell, ...]
    strict: bool = False
    stopped: str = ""

    @cached_property
    def decision(self) -> Decision:
        """Return the verdict on the run, as every report shows it."""
        return decide(self.cells, strict=self.strict, stopped=bool(self.stopped))

    def decision_on(self, entry: Entry) -> Decision:
        """Return the verdict on one implementation."""
        return decide(self.of(entry), strict=self.strict, stopped=bool(self.stopped))

    @property
    def exit_code(self) -> int:
        """Return the exit code of the run."""
        return self.decision.exit_code

    @property
    def complete(self) -> bool:
        """Return whether every MUST cell was decided."""
        return not any(c.level == MUST and c.outcome.lost for c in self.own)

    @cached_property
    def names(self) -> dict[str, str]:
        """Return the names of the implementations by id."""
        return {entry.id: entry.name for entry in self.entries}

    @cached_property
    def statements(self) -> dict[str, str]:
        """Return the texts of the requirements by id."""
        return {row.id: row.statement for row in self.rows}

    @property
    def own(self) -> list[Cell]:
        """Return the cells that this run decides, without other shards and deselected ones."""
        return [cell for cell in self.cells if not cell.elsewhere]

    def of(self, entry: Entry, area: str = "") -> list[Cell]:
        """Return the cells of one implementation, of an area or all, that this run decides."""
        own = [cell for cell in self.own if cell.implementation == entry.id]
        return [cell for cell in own if cell.requirement.startswith(f"{area}/")] if area else own

    def failures(self) -> list[Cell]:
        """Return the cells that a reader has to look at, in order."""
        return [cell for cell in self.own if cell.outcome.worth_reading]

    def blocked_by(self, cell: Cell) -> list[Cell]:
        """Return the cells that could not be checked because this one does not hold."""
        return [
            other
            for other in self.own
            if other.implementation == cell.implementation and other.blocked_by == cell.requirement
        ]


def account(
    entries: Sequence[Entry],
    rows: Sequence[Requirement],
    received: Iterable[Cell],
    shard: Collection[tuple[str, str]] | None = None,
    *,
    strict: bool = False,
    stopped: str = "",
    left: str = "it belongs to another shard",
    all_ran: bool = False,
) -> Verdict:
    """Return the verdict: all cells in order, with consequences separated from faults.

    A cell is *blocked* if a requirement that it rests on has failed. The result of a worker that
    did not know of that failure is dropped, so that the verdict does not depend on how cells were
    distributed over workers. With ``all_ran``, only a cell that failed is blocked.

    ``shard`` has the cells of this part of the run, by implementation and requirement; ``left`` is
    the reason given for all others. ``strict`` and ``stopped`` are those of the :class:`Verdict`.
    """
    by_key = {cell.key: cell for cell in received}
    cells: list[Cell] = []
    for entry in entries:
        own = {
            row.id: by_key.get((entry.id, row.id)) or _missing(entry, row, shard, stopped, left)
            for row in rows
        }
        above = prerequisites(tuple(rows)).stopped(own)
        stopped_by = {} if all_ran else above
        own.update({id: _dropped(own[id]) for id in stopped_by})
        roots = [row for row in rows if row.id not in above]
        _mark_blocked(own, rows, stopped_by, _fault_behind_obstacles(own, roots))
        _count_once(own)
        cells.extend(sorted(own.values(), key=_reading_order))
    return Verdict(tuple(entries), tuple(rows), tuple(cells), strict, stopped)


def _missing(
    entry: Entry,
    row: Requirement,
    shard: Collection[tuple[str, str]] | None,
    stopped: str,
    left: str,
) -> Cell:
    elsewhere = shard is not None and (entry.id, row.id) not in shard
    why = f"the run was stopped before: {stopped}" if stopped else "no result of it came back"
    return Cell(
        implementation=entry.id,
        requirement=row.id,
        level=str(row.level),
        outcome=Outcome.NOT_RUN,
        reason=left if elsewhere else why,
        elsewhere=elsewhere,
    )


def _dropped(cell: Cell) -> Cell:
    """Return the cell as blocked, without its findings, if it applies at all."""
    if cell.elsewhere or (not cell.outcome.applies and not cell.obstacle):
        return cell
    return Cell(cell.implementation, cell.requirement, cell.level, Outcome.BLOCKED)


def _count_once(own: dict[str, Cell]) -> None:
    """Block all cells but the first of an implementation that cannot be loaded."""
    errors = [c for c in own.values() if c.outcome == Outcome.ERROR and not c.obstacle]
    for cell in errors[1:]:
        if cell.reason == errors[0].reason:
            own[cell.requirement] = replace(blocked(cell, errors[0].requirement), reproduction="")


def _mark_blocked(
    own: dict[str, Cell],
    rows: Sequence[Requirement],
    stopped_by: Mapping[str, str],
    root: Cell | None,
) -> None:
    """Block the cells that are not checked, failures that others explain, and obstacles."""
    # Each cell follows its prerequisites, so one pass finds whole chains.
    for row in prerequisites(tuple(rows)).rows.values():
        cell = own[row.id]
        if row.id in stopped_by:
            if cell.outcome == Outcome.BLOCKED:
                own[row.id] = blocked(cell, _origin(own[stopped_by[row.id]]))
            continue
        stumbled = cell.outcome == Outcome.ERROR and cell.obstacle and root is not None
        failed = cell.outcome in (Outcome.FAILED, Outcome.NOT_OFFERED)
        if not failed and not stumbled:
            continue
        below = [own[id] for id in rests_on(row, rows) if id in own]
        below = [other for other in below if other.outcome.explains and not other.declare]
        if row.level == MUST:
            # A recommendation never hides a MUST, not even through another requirement. What
            # follows from an expected failure is expected.
            below = [other for other in below if _hides_a_must(own[_origin(other)])]
        if cell is root:
            # An obstacle is blocked by this failure, and never blocks it.
            below = [other for other in below if not other.obstacle]
        if cell.obstacle and root is not None and cell is not root:
            own[row.id] = blocked(cell, _origin(own[root.requirement]))
        elif below:
            own[row.id] = blocked(cell, _origin(below[0]))


def _hides_a_must(root: Cell) -> bool:
    return root.level == MUST or root.outcome == Outcome.EXPECTED_FAILURE


def _fault_behind_obstacles(own: Mapping[str, Cell], rows: Sequence[Requirement]) -> Cell | None:
    """Return the first fault in the foundation, or the first obstacle if it has no fault.

    It may be a seed that raises, which every check may draw. A recommendation hides no obstacle.
    """
    failed = [row for row in rows if own[row.id].outcome == Outcome.FAILED]
    for row in failed:
        fault = row.foundation and not own[row.id].obstacle and not own[row.id].declare
        if fault and row.level == MUST:
            return own[row.id]
    obstacles = [row for row in failed if own[row.id].obstacle]
    obstacles = [row for row in obstacles if row.level == MUST] or obstacles
    # A seed that raises makes every check fail.
    roots = sorted(
        (row for row in obstacles if row.foundation or row.every_seed), key=_first_to_blame
    )
    return own[roots[0].id] if roots else None


def _first_to_blame(row: Requirement) -> tuple[bool, int, int]:
    """Return the rank of a cause: checks run in this order, and a seed is blamed last."""
    return row.every_seed, row.order, AREAS.index(row.area)


def _origin(cell: Cell) -> str:
    """Return the requirement to blame, which blocks all that rest on it, directly or not."""
    return cell.blocked_by or cell.requirement


def blocked(cell: Cell, root: str) -> Cell:
    """Return the cell as blocked by the failure of the requirement ``root``."""
    return replace(cell, outcome=Outcome.BLOCKED, blocked_by=root, reason=f"blocked by {root}")


def _reading_order(cell: Cell) -> tuple[int, bool]:
    """Return a sort key: failures first, those of a MUST before others, in the contract's order.

    If neither of two failures explains the other, the MUST comes first.
    """
    order = _ORDER.get(cell.outcome, 4)
    return order, order == 0 and cell.level != MUST


_ORDER = {
    Outcome.FAILED: 0,
    Outcome.UNEXPECTED_PASS: 0,
    Outcome.CRASHED: 0,
    Outcome.TIMED_OUT: 0,
    Outcome.ERROR: 1,
    Outcome.NOT_RUN: 2,
    Outcome.BLOCKED: 3,
}
