"""Values that every script defines at its top, under the names that its check uses."""

from __future__ import annotations

from typing import Any

Layer: Any = None
IN, OUT = 3, 10
SEED = 0
VALUES = 0
LEAD: tuple[int, ...] = (8,)

# Two seeds that give the same kernel.
FIRST, SECOND = 0, 1
