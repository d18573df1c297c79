"""Decides which requirements are not checked because a prerequisite does not hold.

The rule considers only failures, and all direct and indirect prerequisites. So the results do not
depend on the order in which workers check the cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from conformance.contract.catalogue import rests_on
from conformance.contract.requirement import MUST, Requirement
from conformance.results.cell import Cell
from conformance.results.outcome import Outcome


@dataclass(frozen=True)
class Prerequisites:
    """The prerequisites of the requirements of a run, direct and indirect.

    Parameters
    ----------
    rows
        The requirements by id, each after its prerequisites.
    below
        For each id, the ids of its prerequisites.
    explaining
        The ids that explain an obstacle, with their prerequisites.
    """

    rows: Mapping[str, Requirement]
    below: Mapping[str, tuple[str, ...]]
    explaining: frozenset[str]

    def failed(self, row: Requirement, obstacle: Callable[[str], bool | None]) -> str | None:
        """Return the first failed requirement that keeps one from being checked, or None.

        A recommendation never keeps a MUST from being checked. If a check only met an obstacle,
        another requirement may be at fault, so those that can explain it are checked.

        Parameters
        ----------
        row
            The requirement.
        obstacle
            Takes an id, and returns None if no failure of its check is known, else whether the
            check met an obstacle.
        """
        for id in self.below[row.id]:
            if row.level == MUST != self.rows[id].level:
                continue
            met = obstacle(id)
            if met is False or (met and row.id not in self.explaining):
                return id
        return None

    def stopped(self, cells: Mapping[str, Cell]) -> dict[str, str]:
        """Return the requirements that are not checked, each with the one that failed."""
        found: dict[str, str] = {}

        def obstacle(id: str) -> bool | None:
            failed = id not in found and id in cells and cells[id].outcome == Outcome.FAILED
            return cells[id].obstacle if failed and not cells[id].declare else None

        for row in self.rows.values():
            below = self.failed(row, obstacle)
            if below is not None:
                found[row.id] = below
        return found

    def settled(self, id: str, cells: Mapping[str, Cell], waiting: Callable[[str], bool]) -> bool:
        """Return whether the missing cells can no longer change which requirement is at fault.

        Parameters
        ----------
        id
            The requirement that failed.
        cells
            The known cells of its implementation, by requirement.
        waiting
            Takes an id, and returns whether its cell is still missing.
        """
        around = {id, *self.below[id]}
        if any(cells[each].obstacle for each in around if each in cells):
            around |= self.explaining
        return not any(waiting(each) for each in around)


@lru_cache(maxsize=4)
def prerequisites(rows: Sequence[Requirement]) -> Prerequisites:
    """Return the prerequisites of each requirement within these requirements."""
    known = {row.id: row for row in rows}
    ordered: dict[str, Requirement] = {}
    below: dict[str, tuple[str, ...]] = {}

    def place(row: Requirement) -> None:
        if row.id in ordered:
            return
        direct = [known[id] for id in rests_on(row, rows) if id in known]
        for other in direct:
            place(other)
        every = {id for other in direct for id in (*below[other.id], other.id)}
        below[row.id] = tuple(id for id in ordered if id in every)
        ordered[row.id] = row

    for row in rows:
        place(row)
    explaining = {row.id for row in rows if row.foundation or row.every_seed}
    explaining.update(*(below[id] for id in explaining))
    return Prerequisites(ordered, below, frozenset(explaining))
