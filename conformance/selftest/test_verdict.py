"""Faults and consequences: any set of failures has at least one to blame."""

from __future__ import annotations

from itertools import product

from conformance.contract.catalogue import chosen
from conformance.layers.registry import Entry
from conformance.results.cell import Cell
from conformance.results.decision import NONCONFORMING
from conformance.results.outcome import Outcome
from conformance.results.verdict import Verdict, account

ENTRY = Entry(id="layer", name="layer", spec="module:Layer")


ROWS = chosen(["construction/builds", "construction/bias-shape", "forward/output-shape"])


def verdict(*failed: tuple[str, bool]) -> Verdict:
    """Return the account of a run in which these requirements failed, as obstacles or not."""
    found = dict(failed)
    cells = [
        Cell("layer", r.id, "MUST", Outcome.FAILED, obstacle=found[r.id])
        if r.id in found
        else Cell("layer", r.id, "MUST", Outcome.PASSED)
        for r in ROWS
    ]
    return account([ENTRY], ROWS, cells)


def test_a_fault_met_at_construction_is_blamed_on_its_own_requirement() -> None:
    """Linen runs the forward during construction, and meets the wrong bias there."""
    found = verdict(("construction/builds", True), ("construction/bias-shape", False))
    assert [c.requirement for c in found.failures()] == ["construction/bias-shape"]
    assert found.exit_code == NONCONFORMING


def test_no_failure_is_ever_blocked_away() -> None:
    """Any mix of faults and obstacles leaves a failure to blame."""
    states = (None, False, True)
    for drawn in product(states, repeat=len(ROWS)):
        failed = [(r.id, s) for r, s in zip(ROWS, drawn, strict=True) if s is not None]
        found = verdict(*failed)
        assert bool(failed) == (found.exit_code == NONCONFORMING), failed
