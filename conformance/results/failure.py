"""Describes a failure as labelled lines, which every report lays out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from conformance.contract.requirement import SHOULD
from conformance.results.cell import Cell
from conformance.results.decision import plural
from conformance.results.outcome import Outcome

# The default batch of a case, and the default source of its numbers, which reports omit.
_USUAL = (("lead", [8]), ("values", 0))


def described(cell: Cell, statement: str = "", blocked: int = 0) -> list[tuple[str, str]]:
    """Return a failure as pairs of a label and a text, in reading order.

    Parameters
    ----------
    cell
        A cell that failed, or was lost.
    statement
        The text of the requirement; it comes first, and has no label.
    blocked
        How many requirements could not be checked because of this one.
    """
    lines = [
        ("", statement),
        ("cause", cell.cause),
        ("found", cell.message),
        ("why", cell.reason),
        ("accepted", cell.accepted),
        ("smallest", case_in_words(cell)),
        *(("note", note) for note in cell.notes),
        ("also", consequences(blocked)),
        ("reproduce", cell.reproduction),
    ]
    return [(label, text) for label, text in lines if text]


def word(cell: Cell, *, strict: bool = False) -> str:
    """Return the outcome for a heading; a SHOULD that does not hold is ``not met``."""
    return "not met" if is_recommendation(cell, strict=strict) else cell.outcome.replace("-", " ")


def is_recommendation(cell: Cell, *, strict: bool = False) -> bool:
    """Return whether the cell is a recommendation that does not hold, and does not fail the run."""
    return cell.outcome == Outcome.FAILED and cell.level == SHOULD and not strict


def consequences(blocked: int) -> str:
    """Return how many requirements could not be checked, in words; empty for 0."""
    if not blocked:
        return ""
    return f"{plural(blocked, 'more requirement')} could not be checked because of this"


_NAMES = {"values": "seed of x and of written parameters"}
"""The words for fields of a case that a reader cannot guess."""


def case_in_words(cell: Cell) -> str:
    """Return the smallest case on one line, and which of its values do not matter."""
    case = cell.case or {}
    shown = ", ".join(
        f"{_NAMES.get(name, name)}={tuple(value) if isinstance(value, list) else value}"
        for name, value in case.items()
        if (name, value) not in _USUAL
    )
    return f"{shown}; any {' and any '.join(cell.free)} will do" if shown and cell.free else shown


NOT_TRIED_AGAIN = "not tried again: "
"""Before the reason of a cell that was lost without a process, because others had ended theirs."""


def alike(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Return cells in groups: those lost for the same reason together, each failure alone.

    A cell that has ended its process comes before those that were not tried because of it.
    """
    groups: dict[Sequence[str], list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.reason.startswith(NOT_TRIED_AGAIN)):
        # A wrong registration gives the same message in each of its cells.
        reason = cell.reason.removeprefix(NOT_TRIED_AGAIN)
        alone = cell.requirement if cell.outcome == Outcome.FAILED else reason
        groups.setdefault((cell.implementation, cell.outcome, alone), []).append(cell)
    return list(groups.values())
