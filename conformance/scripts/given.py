"""What every script defines at its top; the checks of scripts are written with these names."""

from __future__ import annotations

from typing import Any

__all__ = ["FIRST", "IN", "LEAD", "OUT", "SECOND", "SEED", "VALUES", "Layer"]

Layer: Any = None
IN, OUT = 3, 10
SEED = 0
VALUES = 0
LEAD: tuple[int, ...] = (8,)

# Two seeds that give the same numbers.
FIRST, SECOND = 0, 1
