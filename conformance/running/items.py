"""Which cell a pytest item is."""

from __future__ import annotations

import pytest

from conformance.contract.requirement import Requirement, requirement_of
from conformance.layers.registry import Entry

__all__ = ["entry_of", "row_of"]


def row_of(item: pytest.Item) -> Requirement | None:
    """The requirement that an item checks; None for an item of somebody else's."""
    row = requirement_of(getattr(item, "function", None))
    return row if row is not None and hasattr(item, "callspec") else None


def entry_of(item: pytest.Item) -> Entry:
    """The implementation that an item of the suite checks."""
    found = item.callspec.params["layer"]  # type: ignore[attr-defined]  # parametrized items
    assert isinstance(found, Entry)
    return found
