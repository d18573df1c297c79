"""What becomes of a cell whose failure is expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from conformance.checks.cases import BATCH, Case
from conformance.errors import LoadError
from conformance.layers.expected_failure import Expected
from conformance.results.cell import Cell, Outcome

__all__ = ["hold_to", "try_witness"]


def hold_to(expected: Expected, cell: Cell) -> Cell:
    """Return a failure as an expected one, a pass as an unexpected one, all else as it is."""
    if cell.outcome.violated:
        return replace(cell, outcome=Outcome.EXPECTED_FAILURE, reason=expected.text)
    if cell.outcome.held:
        held = "the witness passes" if expected.witness is not None else "it holds"
        reason = f"{held} now: remove the expectation of this failure ({expected.text})"
        return replace(cell, outcome=Outcome.UNEXPECTED_PASS, reason=reason)
    return cell


def try_witness(item: pytest.Function, witness: Mapping[str, Any]) -> bool:
    """Run the property on the one case; True says to pytest that it was run.

    Raises
    ------
    LoadError
        If the property has no cases.
    """
    inner = getattr(getattr(item.obj, "hypothesis", None), "inner_test", None)
    if inner is None:
        raise LoadError("a witness is expected to fail, and this requirement's check has no cases")
    lead = tuple(witness.get("lead", BATCH))
    inner(layer=item.funcargs["layer"], case=Case(**{**witness, "lead": lead}))
    return True
