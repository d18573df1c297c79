"""No requirement is idle: without it a defect survives, or its decorator says why none does."""

from __future__ import annotations

import pytest

from conformance.contract.catalogue import catalogue
from conformance.contract.requirement import Requirement
from conformance.errors import UsageError
from conformance.running.pytest_call import call
from conformance.zoo import necessity


@pytest.mark.parametrize("row", catalogue(), ids=lambda row: row.id)
def test_every_requirement_has_a_candidate_or_a_reason(row: Requirement) -> None:
    assert necessity.candidates(row) or row.idle_because


@pytest.mark.parametrize(
    ("slug", "defect"),
    [("scalar-raises", "X081"), ("rngs-forms", "X589"), ("bad-arguments-raise", "X258")],
)
def test_a_defect_lives_without_its_requirement(slug: str, defect: str) -> None:
    """All other requirements let it pass."""
    row = necessity.one(slug)
    judgements = necessity.without(row, call(workers="2"), [defect])
    assert [necessity.lives(judgement, row) for judgement in judgements] == [True]
    assert necessity.lines(row, judgements)[-1].startswith(f"{row.id} is needed: 1 of 1")


def test_one_requirement_is_meant() -> None:
    """An area names several."""
    with pytest.raises(UsageError, match=r"names \d+ requirements"):
        necessity.one("numerics")
