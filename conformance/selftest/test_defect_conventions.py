"""Defects with another declared convention are caught like those with Flax's."""

from __future__ import annotations

import pytest

from conformance.running.pytest_call import call, run_quietly
from implementations.defects.conventions import DECLARATIONS, sample

pytestmark = pytest.mark.slow

BREAKS = (
    *("forward/basis-input", "forward/batch-independent", "forward/affine-value"),
    *("transforms/gradients", "transforms/vmap", "seeding/seeds-differ"),
)

# Their fault exists only in float32, so a bfloat16 layer does not have it.
MADE_RIGHT = {"X122_halved", "X403_halved"}


def test_a_declaration_hides_no_fault() -> None:
    """Without bias, stored as (out, in), or in bfloat16, each defect fails its own requirement."""
    place = "implementations.defects.conventions"
    wanted = {
        f"{place}:{known.defect.id}_{how}": known.defect.breaks
        for known in sample(BREAKS)
        for how in DECLARATIONS
    }
    assert len(wanted) == len(BREAKS) * len(DECLARATIONS)
    specs = [f"--conformance-impl={spec}" for spec in wanted]
    verdict = run_quietly([*call(BREAKS, workers="1"), *specs])
    found = {(cell.implementation, cell.requirement): cell for cell in verdict.cells}
    alive = {
        spec.rpartition(":")[2]
        for spec, breaks in wanted.items()
        if not found[spec, breaks].outcome.violated
    }
    assert alive == MADE_RIGHT
