"""The suite's own events, for pytest plugins that follow a run; called where it is controlled."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conformance.results.cell import Cell


def pytest_conformance_cell(cell: Cell) -> None:
    """Take a cell as soon as it is decided; one that failed may yet be blocked by another."""


def pytest_conformance_fault(cell: Cell) -> None:
    """Take a failure that no other one explains, as soon as nothing can change that."""


def pytest_conformance_round(number: int, seed: int) -> None:
    """Take the beginning of a further round of a run that goes on: its number and its seed."""
