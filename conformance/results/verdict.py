"""From the cells that came back to a complete account of the run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from conformance.contract.catalogue import rests_on
from conformance.contract.requirement import MAY, MUST, Requirement
from conformance.layers.registry import Entry
from conformance.results.cell import Cell, Outcome

__all__ = ["ERROR", "INCOMPLETE", "NONCONFORMING", "OK", "USAGE", "Verdict", "account"]

OK, NONCONFORMING, USAGE, INCOMPLETE = 0, 1, 2, 3
ERROR = USAGE

_BAD = (Outcome.FAILED, Outcome.UNEXPECTED_PASS)
_ABSENT = (Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.NOT_RUN)


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
        One for each entry and row: by implementation, and within one a fault before its
        consequences.
    """

    entries: tuple[Entry, ...]
    rows: tuple[Requirement, ...]
    cells: tuple[Cell, ...]

    @property
    def complete(self) -> bool:
        """Whether every MUST cell was decided."""
        return not any(c.level == MUST and c.outcome in _ABSENT for c in self.own)

    @property
    def exit_code(self) -> int:
        """0 conforms, 1 does not, 2 a registration (or the suite) is wrong, 3 incomplete."""
        weighing = [c for c in self.cells if c.level != MAY]
        if any(c.outcome in _BAD for c in weighing) or self.outlived:
            return NONCONFORMING
        if any(c.outcome == Outcome.ERROR for c in self.cells):
            return ERROR
        return OK if self.complete else INCOMPLETE

    @property
    def outlived(self) -> bool:
        """Whether a failure was expected that is none: also of a MAY row, somebody said so."""
        return any(c.outcome == Outcome.UNEXPECTED_PASS for c in self.cells)

    @property
    def own(self) -> list[Cell]:
        """The cells that this run was to decide: all of them, or those of its shard."""
        return [cell for cell in self.cells if not cell.elsewhere]

    def of(self, entry: Entry) -> list[Cell]:
        """The cells of one implementation that this run was to decide."""
        return [cell for cell in self.own if cell.implementation == entry.id]

    def failures(self) -> list[Cell]:
        """What a reader has to look at, in order."""
        return [c for c in self.own if c.outcome in (*_BAD, *_ABSENT, Outcome.ERROR)]


def account(
    entries: Sequence[Entry],
    rows: Sequence[Requirement],
    received: Iterable[Cell],
    shard: Collection[tuple[str, str]] | None = None,
) -> Verdict:
    """Put the received cells in order, name what is missing, and tell faults from consequences.

    A failed cell of which a requirement that it rests on has failed, too, is *blocked*: what it
    found follows from that. All cells run in any case, so that the account does not depend on
    how they were spread over workers.

    ``shard`` has the cells of this part of the run, by implementation and requirement; the others
    are missing without anything having happened to them.
    """
    by_key = {(cell.implementation, cell.requirement): cell for cell in received}
    cells: list[Cell] = []
    for entry in entries:
        own = {
            row.id: by_key.get((entry.id, row.id)) or _missing(entry, row, shard) for row in rows
        }
        _mark_blocked(own, rows)
        cells.extend(sorted(own.values(), key=_reading_order))
    return Verdict(tuple(entries), tuple(rows), tuple(cells))


def _missing(entry: Entry, row: Requirement, shard: Collection[tuple[str, str]] | None) -> Cell:
    elsewhere = shard is not None and (entry.id, row.id) not in shard
    return Cell(
        implementation=entry.id,
        requirement=row.id,
        level=str(row.level),
        outcome=Outcome.NOT_RUN,
        reason="it is for another shard" if elsewhere else "no result of it came back",
        elsewhere=elsewhere,
    )


_EXPLAINS = (Outcome.FAILED, Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.BLOCKED)


def _explains(cell: Cell) -> bool:
    """Whether what rests on it cannot hold: also where its failure is expected by somebody."""
    expected = cell.outcome == Outcome.EXPECTED_FAILURE and cell.level != MAY
    return cell.outcome in _EXPLAINS or expected


def _mark_blocked(own: Mapping[str, Cell], rows: Sequence[Requirement]) -> None:
    """Rows come after those that they rest on, so that one pass finds whole chains."""
    root = _fault_behind_obstacles(own, rows)
    for row in rows:
        cell = own[row.id]
        stumbled = cell.outcome == Outcome.ERROR and cell.obstacle and root is not None
        may = cell.outcome == Outcome.EXPECTED_FAILURE and cell.level == MAY
        if cell.outcome != Outcome.FAILED and not stumbled and not may:
            continue
        below = [own[id] for id in rests_on(row, rows) if id in own]
        below = [other for other in below if _explains(other)]
        if cell is root:
            # An obstacle on the way to another row is blocked by this one, and never blocks it.
            below = [other for other in below if not other.obstacle]
        if cell.obstacle and root is not None and cell is not root:
            _block(cell, root)
        elif below:
            _block(cell, below[0])


def _fault_behind_obstacles(own: Mapping[str, Cell], rows: Sequence[Requirement]) -> Cell | None:
    """The first fault in the foundation; where there are only obstacles, the first of them.

    That may be a seed that raises, which every check may draw.
    """
    failed = [row for row in rows if own[row.id].outcome == Outcome.FAILED]
    for row in failed:
        if row.foundation and not own[row.id].obstacle:
            return own[row.id]
    obstacles = [row for row in failed if own[row.id].obstacle]
    # A seed that raises is met by every check, whatever it is about.
    roots = sorted((row for row in obstacles if row.foundation or row.every_seed), key=_seed_last)
    return own[roots[0].id] if roots else None


def _seed_last(row: Requirement) -> bool:
    return row.every_seed


def _block(cell: Cell, below: Cell) -> None:
    """Name the root: what blocks what a cell rests on blocks the cell, too."""
    blocked = below.outcome == Outcome.BLOCKED
    cell.reason = below.reason if blocked else f"blocked by {below.requirement}"
    cell.outcome = Outcome.BLOCKED


_ORDER = {
    Outcome.FAILED: 0,
    Outcome.UNEXPECTED_PASS: 0,
    Outcome.CRASHED: 0,
    Outcome.TIMED_OUT: 0,
    Outcome.ERROR: 1,
    Outcome.NOT_RUN: 2,
    Outcome.BLOCKED: 3,
}


def _reading_order(cell: Cell) -> tuple[int, bool]:
    """Failures first, of which those of a MUST; the contract's order decides the rest.

    Where neither of two failures explains the other, the one without which it is no Dense is
    read first.
    """
    order = _ORDER.get(Outcome(cell.outcome), 4)
    return order, order == 0 and cell.level != MUST
