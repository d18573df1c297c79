"""The covering array of circumstances in which a layer is called."""

from __future__ import annotations

import itertools

import pytest

from conformance.checks.areas.combinations import covering

FACTORS = [range(6), range(2), range(5), range(5), range(3), range(6)]


@pytest.mark.parametrize(("strength", "most"), [(2, 40), (3, 260)])
def test_every_combination_is_in_a_row(strength: int, most: int) -> None:
    rows = [*covering(FACTORS, strength)]
    for places in itertools.combinations(range(len(FACTORS)), strength):
        wanted = {*itertools.product(*(FACTORS[i] for i in places))}
        assert wanted == {tuple(row[i] for i in places) for row in rows}
    assert len(rows) <= most


def test_rows_are_the_same_in_each_run() -> None:
    """A verdict does not depend on the run."""
    assert [*covering(FACTORS, 2)] == [*covering(FACTORS, 2)]
