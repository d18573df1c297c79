"""Finds whether a requirement is needed: which defects would survive without it."""

from __future__ import annotations

from collections.abc import Sequence

from conformance.contract.catalogue import chosen
from conformance.contract.requirement import Requirement
from conformance.zoo.judge import Judgement, Subject
from conformance.zoo.run import check, subjects

_MOST = 4
"""Each candidate is checked in full, which takes ten times as long as the plan of the zoo."""


def one(pattern: str) -> Requirement:
    """Return the one requirement that a pattern names.

    Raises
    ------
    UsageError
        If it names none or several.
    """
    from conformance.errors import UsageError

    rows = chosen([pattern])
    if len(rows) > 1:
        raise UsageError(f"{pattern!r} names {len(rows)} requirements; name one of them")
    return rows[0]


def candidates(requirement: Requirement, names: Sequence[str] = ()) -> list[Subject]:
    """Return the defects that only it may catch: those that break it, of few consequences first."""
    found = [s for s in subjects(names) if s.defect and s.defect.breaks == requirement.id]
    found.sort(key=lambda s: len(s.defect.collateral) if s.defect else 0)
    return found if names else found[:_MOST]


def without(
    requirement: Requirement, arguments: Sequence[str], names: Sequence[str] = ()
) -> list[Judgement]:
    """Return how the rest of the suite judges the candidates.

    ``arguments`` is the call of pytest, without the layers; ``names`` are candidates by id or
    class, by default up to four.
    """
    zoo = candidates(requirement, names)
    if not zoo:
        return []
    return list(check(zoo, arguments, full=True, without=requirement.id).judgements)


def lives(judgement: Judgement, requirement: Requirement) -> bool:
    """Return whether no other requirement has caught the defect."""
    return bool(judgement.checked) and not (
        {*judgement.failed, *judgement.blocked} - {requirement.id}
    )


def lines(requirement: Requirement, judgements: Sequence[Judgement]) -> list[str]:
    """Return the result in words."""
    listed = []
    for judgement in judgements:
        by = "lives" if lives(judgement, requirement) else f"is caught by {judgement.blamed}"
        listed.append(f"  {judgement.subject.name}  {by}")
    living = sum(lives(judgement, requirement) for judgement in judgements)
    if living:
        verdict = f"{requirement.id} is needed: {living} of {len(judgements)} live without it"
    elif requirement.idle_because:
        verdict = f"{requirement.id} is not any defect's only killer: {requirement.idle_because}"
    else:
        verdict = f"{requirement.id} is idle: everything that breaks it is caught without it"
    return [f"without {requirement.id}", *listed, verdict]
