"""Compares the suite's result for a layer of the zoo with the layer's declaration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conformance.results.cell import Cell
from conformance.results.outcome import Outcome

if TYPE_CHECKING:
    from implementations.defects.record import Defect


@dataclass(frozen=True)
class Subject:
    """A layer of the zoo.

    Parameters
    ----------
    spec
        The ``module:attribute`` under which it is run.
    defect
        Its declaration; None for a correct layer, which must pass everything.
    """

    spec: str
    defect: Defect | None = None

    @property
    def name(self) -> str:
        """Return a defect's id, or the short form of a correct layer's place."""
        return self.defect.id if self.defect is not None else self.spec.rpartition(".")[2]


@dataclass(frozen=True)
class Judgement:
    """The result of one layer of the zoo.

    Parameters
    ----------
    subject
        The layer.
    failed
        The requirements that failed, faults before their consequences.
    blocked
        The requirements that failed because one of these did.
    problems
        The suite's errors, in words; empty if it made none.
    checked
        All requirements that were checked on it.
    """

    subject: Subject
    failed: tuple[str, ...]
    blocked: tuple[str, ...]
    problems: tuple[str, ...]
    checked: frozenset[str] = frozenset()

    @property
    def killed(self) -> bool:
        """Return whether the suite found a failure."""
        return bool(self.failed)

    @property
    def blamed(self) -> str:
        """Return the requirement that failed first, or an empty text."""
        return self.failed[0] if self.failed else ""


def judge(subject: Subject, cells: Sequence[Cell]) -> Judgement:
    """Compare the cells of one layer, in reading order, with its declaration.

    A MAY requirement counts if the defect is declared to break or touch it; otherwise it is only
    reported, as for any layer.
    """
    undecided: dict[tuple[str, str], list[str]] = defaultdict(list)
    for cell in cells:
        if not cell.outcome.decided:
            undecided[cell.outcome, cell.reason].append(cell.requirement)
    problems = [
        f"{ids[0] if len(ids) == 1 else f'{len(ids)} requirements'} {outcome}: {reason}"
        for (outcome, reason), ids in undecided.items()
    ]
    if not cells:
        problems.append("nothing was checked on it")
    declared = subject.defect
    weighing = [
        cell
        for cell in cells
        if cell.outcome == Outcome.FAILED
        or (cell.outcome.violated and declared is not None and declared.allows(cell.requirement))
    ]
    # MAY cells come last in reading order, but the one that the defect is declared to break is a
    # fault.
    weighing.sort(key=lambda cell: cell.outcome == Outcome.NOT_OFFERED)
    blocked = tuple(cell.requirement for cell in cells if cell.outcome == Outcome.BLOCKED)
    failed = tuple(cell.requirement for cell in weighing)
    if declared is None:
        problems += [f"false alarm: {_in_words(cell)}" for cell in weighing]
    elif weighing or not any(declared.breaks in ids for ids in undecided.values()):
        problems += _wrong_blame(declared, weighing, blocked)
    checked = frozenset(cell.requirement for cell in cells)
    return Judgement(subject, failed, blocked, tuple(problems), checked)


def _wrong_blame(declared: Defect, weighing: Sequence[Cell], blocked: Sequence[str]) -> list[str]:
    if not weighing:
        return [f"survived: {declared.breaks} holds, and so does everything else"]
    first, *others = weighing
    problems = []
    if first.requirement != declared.breaks:
        problems.append(f"the first to fail is {_in_words(first)}, not {declared.breaks}")
    elif declared.cause_id != first.cause_id or bool(first.cause) != bool(first.cause_id):
        said = f"{first.cause_id!r} ({first.cause})" if first.cause else "nothing"
        wanted = repr(declared.cause_id) if declared.cause_id else "nothing"
        problems.append(f"{first.requirement} names the cause {said}, not {wanted}")
    if declared.breaks not in (*blocked, *(cell.requirement for cell in weighing)):
        problems.append(f"{declared.breaks} holds")
    problems += [
        f"{cell.requirement} prints an object: {cell.message}"
        for cell in weighing
        if "GraphDef(" in cell.message
    ]
    problems += [
        f"{_in_words(cell)} fails, too" for cell in others if not declared.allows(cell.requirement)
    ]
    return problems


def _in_words(cell: Cell) -> str:
    return f"{cell.requirement} ({cell.cause or cell.message or cell.reason})"


def sole_killers(judgements: Iterable[Judgement]) -> dict[str, list[str]]:
    """Return for each requirement the defects that would survive without it.

    A blocked requirement also kills: it would fail on its own if the one that blocks it were
    removed.
    """
    found: dict[str, list[str]] = {}
    for judgement in judgements:
        killers = {*judgement.failed, *judgement.blocked}
        if judgement.subject.defect is not None and len(killers) == 1:
            found.setdefault(killers.pop(), []).append(judgement.subject.name)
    return found
