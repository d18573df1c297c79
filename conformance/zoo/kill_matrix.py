"""The kill matrix, defects x requirements, and its sums."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from conformance.contract.requirement import AREAS, Requirement
from conformance.zoo.judge import Judgement, sole_killers

_SHOWN = 6

LEGEND = "# blamed first   x failed, too   o blocked   . holds   (blank) not checked"


def matrix(judgements: Sequence[Judgement], rows: Sequence[Requirement]) -> list[str]:
    """Return one line for each defect, one column for each requirement, by area."""
    rows = sorted(rows, key=lambda row: AREAS.index(row.area))
    defects = [judgement for judgement in judgements if judgement.subject.defect is not None]
    width = max((len(judgement.subject.name) for judgement in defects), default=0)
    lines = [LEGEND, " " * (width + 2) + _header(rows)]
    for judgement in defects:
        marks = "".join(_mark(judgement, row.id) for row in rows)
        lines.append(f"{judgement.subject.name:{width}}  {marks}".rstrip())
    return lines


def _header(rows: Sequence[Requirement]) -> str:
    """Return the areas, each above its columns, cut to their width."""
    parts = []
    for area, group in groupby(rows, key=lambda row: row.area):
        count = len(list(group))
        parts.append(f"|{area[: count - 1]:{count - 1}}")
    return "".join(parts)


def _mark(judgement: Judgement, requirement: str) -> str:
    if requirement == judgement.blamed:
        return "#"
    if requirement in judgement.failed:
        return "x"
    if requirement in judgement.blocked:
        return "o"
    return "." if requirement in judgement.checked else " "


def kill_rate(judgements: Sequence[Judgement]) -> dict[str, int]:
    """Return the number of defects, of those that were caught, and of those rightly blamed."""
    defects = [j for j in judgements if j.subject.defect is not None]
    correct = [j for j in judgements if j.subject.defect is None]
    return {
        "defects": len(defects),
        "killed": sum(j.killed for j in defects),
        "rightly_blamed": sum(j.killed and not j.problems for j in defects),
        "correct_layers": len(correct),
        "correct_layers_passed": sum(not j.problems for j in correct),
    }


def summary(judgements: Sequence[Judgement], rows: Sequence[Requirement]) -> list[str]:
    """Return killed / total by area and subtlety, and the requirements that no defect needs."""
    defects = [(j, j.subject.defect) for j in judgements if j.subject.defect is not None]
    levels = sorted({defect.subtlety for _, defect in defects})
    lines = [
        f"{'killed by area, subtlety':26}" + "".join(f"{n:>8}" for n in levels) + f"{'all':>8}"
    ]

    def counted(name: str, members: list[Judgement]) -> str:
        cells = [
            _fraction([j for j in members if j.subject.defect and j.subject.defect.subtlety == n])
            for n in levels
        ]
        return f"{name:26}" + "".join(f"{c:>8}" for c in [*cells, _fraction(members)])

    for area in AREAS:
        members = [j for j, defect in defects if defect.area == area]
        if members:
            lines.append(counted(area, members))
    lines.append(counted("all", [j for j, _ in defects]))
    if any(len(j.checked) < len(rows) for j, _ in defects):
        # A requirement that was not checked might kill as well.
        return lines
    alone = sole_killers(judgements)
    lines.append("")
    lines.append(f"{len(alone)} of {len(rows)} requirements are the only killer of some defect")
    longest = max((len(row.id) for row in rows), default=0)
    for row in rows:
        own = alone.get(row.id, [])
        caught = ", ".join(own[:_SHOWN]) + (f" and {len(own) - _SHOWN} more" * (len(own) > _SHOWN))
        lines.append(f"{row.id:{longest}}  {caught or '(none)'}")
    return lines


def _fraction(members: Sequence[Judgement]) -> str:
    return f"{sum(j.killed for j in members)}/{len(members)}" if members else "-"
