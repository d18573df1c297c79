"""The suite's own events, for pytest plugins that follow a run; called in the controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conformance.results.cell import Cell


def pytest_conformance_cell(cell: Cell) -> None:
    """Receive a cell as soon as it is decided; another failure may still block a failed one."""


def pytest_conformance_fault(cell: Cell) -> None:
    """Receive a failure that no other one explains, as soon as that is certain."""


def pytest_conformance_round(number: int, seed: int) -> None:
    """Receive the start of a further round: its number and its seed."""
