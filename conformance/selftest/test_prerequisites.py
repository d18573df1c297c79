"""Requirements above a failure are not checked, and the outcome does not depend on timing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import Array

from conformance.contract.catalogue import catalogue, chosen
from conformance.contract.requirement import MUST
from conformance.layers.registry import Entry
from conformance.results.cell import Cell
from conformance.results.decision import NONCONFORMING
from conformance.results.outcome import Outcome
from conformance.results.prerequisites import prerequisites
from conformance.results.verdict import Verdict, account
from conformance.running.schedule import dealt, in_order, workers_that_pay
from conformance.selftest.processes import Checked, failing
from implementations.defects.base import CorrectDense

ENTRY = Entry("x", "x", "x")
ROWS = catalogue()
KNOWN = prerequisites(ROWS)
IDS = [row.id for row in ROWS]
OUTCOMES = st.sampled_from(
    [
        (Outcome.PASSED, False),
        (Outcome.FAILED, False),
        (Outcome.FAILED, True),
        (Outcome.NOT_APPLICABLE, False),
        (Outcome.NOT_APPLICABLE, True),
        (Outcome.CRASHED, False),
    ]
)


def cell(id: str, outcome: Outcome, obstacle: bool = False) -> Cell:
    """Return a cell as a worker sends it."""
    return Cell("x", id, str(KNOWN.rows[id].level), outcome, obstacle=obstacle)


# Most pass: a few requirements of a layer fail by themselves.
FOUND = st.dictionaries(st.sampled_from(IDS), OUTCOMES, max_size=6)


def alone(found: dict[str, tuple[Outcome, bool]]) -> dict[str, Cell]:
    """Draw the result of each check by itself."""
    return {id: cell(id, *found.get(id, (Outcome.PASSED, False))) for id in IDS}


def run(cells: dict[str, Cell], order: list[str], late: list[int]) -> dict[str, Cell]:
    """Return the cells of a run in which workers know failures with a delay."""
    sent: dict[str, Cell] = {}
    for place, id in enumerate(order):
        seen = {earlier: sent[earlier] for earlier in order[: max(0, place - late[place])]}

        def obstacle(other: str, seen: dict[str, Cell] = seen) -> bool | None:
            failed = other in seen and seen[other].outcome == Outcome.FAILED
            return seen[other].obstacle if failed else None

        applies = cells[id].outcome != Outcome.NOT_APPLICABLE or cells[id].obstacle
        below = KNOWN.failed(KNOWN.rows[id], obstacle) if applies else None
        sent[id] = cells[id] if below is None else cell(id, Outcome.BLOCKED)
    return sent


@settings(max_examples=150, deadline=None)
@given(FOUND, st.data())
def test_the_account_does_not_depend_on_what_was_known_when(
    found: dict[str, tuple[Outcome, bool]], data: st.DataObject
) -> None:
    cells = alone(found)
    one = run(cells, [row.id for row in in_order(ROWS)], [0] * len(IDS))
    order = data.draw(st.permutations(IDS))
    late = data.draw(st.lists(st.integers(0, 9), min_size=len(IDS), max_size=len(IDS)))
    other = run(cells, order, late)
    assert account([ENTRY], ROWS, one.values()) == account([ENTRY], ROWS, other.values())


@settings(max_examples=150, deadline=None)
@given(FOUND)
@example(
    {
        "construction/ready-when-built": (Outcome.FAILED, True),
        "seeding/global-rng-ignored": (Outcome.FAILED, False),
        "serialization/stable-names": (Outcome.FAILED, False),
    }
)
@example(
    {
        "construction/builds": (Outcome.FAILED, True),
        "forward/zero-input": (Outcome.FAILED, False),
        "serialization/stable-names": (Outcome.FAILED, False),
    }
)
@example(
    {
        "seeding/siblings-differ": (Outcome.FAILED, False),
        "initialization/kernel-resolution": (Outcome.FAILED, False),
    }
)
def test_the_first_fault_is_the_one_that_is_found_where_all_is_checked(
    found: dict[str, tuple[Outcome, bool]],
) -> None:
    cells = alone(found).values()
    full = account([ENTRY], ROWS, cells, all_ran=True).failures()
    short = account([ENTRY], ROWS, cells).failures()
    failed = [c.requirement for c in full if c.level == MUST]
    also = [c.requirement for c in short if c.level == MUST]
    assert set(also) <= set(failed)
    assert bool(also) == bool(failed)


@settings(max_examples=150, deadline=None)
@given(FOUND, st.data())
def test_a_settled_fault_is_never_taken_back(
    found: dict[str, tuple[Outcome, bool]], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(IDS))
    late = data.draw(st.lists(st.integers(0, 9), min_size=len(IDS), max_size=len(IDS)))
    sent = run(alone(found), order, late)
    last = {c.requirement: c for c in account([ENTRY], ROWS, sent.values()).cells}
    known: dict[str, Cell] = {}
    for id in order:
        known[id] = sent[id]
        if not any(c.outcome == Outcome.FAILED for c in known.values()):
            continue
        now = {c.requirement: c for c in account([ENTRY], ROWS, known.values()).cells}
        for each in known:
            if sent[each].outcome == Outcome.FAILED and KNOWN.settled(
                each, known, lambda other: other not in known
            ):
                assert now[each].outcome == last[each].outcome


def test_a_recommendation_keeps_no_must_from_being_checked() -> None:
    cells = [cell(row.id, Outcome.PASSED if row.level == MUST else Outcome.FAILED) for row in ROWS]
    verdict = account([ENTRY], ROWS, cells)
    assert {c.outcome for c in verdict.cells if c.level == MUST} == {Outcome.PASSED}


def test_a_refused_empty_batch_hides_nothing() -> None:
    found = {"forward/empty-batch": (Outcome.FAILED, False)}
    cells = account([ENTRY], ROWS, alone(found).values()).cells
    assert [c.outcome for c in cells].count(Outcome.PASSED) == len(IDS) - 1


class RefusedAndTooWide(CorrectDense):
    """Two faults: a batch of no rows is refused, and the variance is twice as large."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        return 2**0.5 * super().draw_kernel(key, in_features, out_features)

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        if not x.size:
            raise ValueError("there are no rows")
        return super().forward(x, kernel, bias)


def test_a_refused_empty_batch_and_a_wrong_variance_are_two_findings(
    checked: Checked,
) -> None:
    rows = ["output-shape", "empty-batch", "kernel-variance", "affine-value", "gradients"]
    _, text = checked(RefusedAndTooWide, rows=rows)
    assert failing(text) == {"forward/empty-batch", "initialization/kernel-variance"}
    assert "5 cells: 3 passed, 2 failed" in text


def test_nothing_of_a_blocked_cell_is_kept_but_that_it_is_blocked() -> None:
    found = replace(cell("forward/zero-input", Outcome.FAILED), message="f(0) is 1", seconds=2.0)
    cells = [cell("construction/builds", Outcome.FAILED), found]
    (blocked,) = (
        c for c in account([ENTRY], ROWS, cells).cells if c.requirement == "forward/zero-input"
    )
    assert blocked.outcome == Outcome.BLOCKED
    assert blocked.blocked_by == "construction/builds"
    assert (blocked.message, blocked.seconds) == ("", 0.0)


def test_an_implementation_that_cannot_be_loaded_is_one_error() -> None:
    cells = [replace(cell(id, Outcome.ERROR), reason="it cannot be used") for id in IDS]
    outcomes = [c.outcome for c in account([ENTRY], ROWS, cells).cells]
    assert outcomes.count(Outcome.ERROR) == 1
    assert outcomes.count(Outcome.BLOCKED) == len(IDS) - 1


def test_prerequisites_come_first() -> None:
    order = [row.id for row in in_order(ROWS)]
    assert sorted(order) == sorted(IDS)
    for place, id in enumerate(order):
        assert set(KNOWN.below[id]) <= set(order[:place])


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("layers", [1, 2, 5, 7])
def test_each_worker_begins_with_whole_layers_and_shares_the_rest(
    layers: int, workers: int
) -> None:
    cells = [[(layer, i) for i in range(20)] for layer in range(layers)]
    order = dealt(cells, workers, lambda cell: "state" if cell[1] % 2 else "forward")
    assert sorted(order) == sorted(each for layer in cells for each in layer)
    # pytest-xdist keeps the order of each layer within a worker.
    sizes = [(len(order) + i) // workers for i in range(workers)]
    for size in sizes:
        part, order = order[:size], order[size:]
        for layer in range(layers):
            places = [i for which, i in part if which == layer]
            assert places == sorted(places)
            if layers < workers and places:
                assert places[0] < workers
        if layers == 1 and workers == 2:
            late = [i for _, i in part if i >= 12]
            assert len({i % 2 for i in late}) == 1  # whole areas


def test_few_cells_are_not_worth_a_second_worker() -> None:
    assert workers_that_pay(1, 8) == 1
    assert 1 < workers_that_pay(len(ROWS), 8) < 8
    assert workers_that_pay(5 * len(ROWS), 8) == 8


def test_what_is_not_among_the_requirements_of_a_run_does_not_count() -> None:
    rows = ROWS[:5]
    for below in prerequisites(rows).below.values():
        assert set(below) <= {row.id for row in rows}


FEW = chosen(["construction/builds", "construction/bias-shape", "forward/output-shape"])


def verdict(failed: Mapping[str, bool]) -> Verdict:
    """Return the account of a run in which these requirements failed, as obstacles or not."""
    ended = {True: Outcome.FAILED, False: Outcome.PASSED}
    cells = [cell(row.id, ended[row.id in failed], failed.get(row.id, False)) for row in FEW]
    return account([ENTRY], FEW, cells)


def test_a_fault_met_at_construction_is_blamed_on_its_own_requirement() -> None:
    """Linen runs the forward during construction, and meets the wrong bias there."""
    found = verdict({"construction/builds": True, "construction/bias-shape": False})
    assert [c.requirement for c in found.failures()] == ["construction/bias-shape"]
    assert found.exit_code == NONCONFORMING


@pytest.mark.parametrize("drawn", [*itertools.product((None, False, True), repeat=len(FEW))])
def test_no_failure_is_ever_blocked_away(drawn: tuple[bool | None, ...]) -> None:
    failed = {row.id: state for row, state in zip(FEW, drawn, strict=True) if state is not None}
    assert bool(failed) == (verdict(failed).exit_code == NONCONFORMING)
