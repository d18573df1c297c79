"""Compares the bits of kernels of two runs, as ``seeding/fingerprint`` recorded them."""

from __future__ import annotations

import math
import struct

from conformance.results.cell import Cell

TOLERATED_ULP = 2
"""Units in the last place by which the same normals may differ between versions of JAX."""


def fingerprint(cell: Cell) -> str:
    """Return the exact digest of the cell's kernels; empty where it recorded none."""
    return str(cell.measured.get("fingerprint", ""))


def entries(cell: Cell) -> list[float]:
    """Return the entries of the kernels that the cell recorded; empty if they are unreadable."""
    try:
        if "entries" in cell.measured:
            packed = bytes.fromhex(cell.measured["entries"])
            return [number for (number,) in struct.iter_unpack("<f", packed)]
        # Files of older versions have fewer entries, one word for each.
        return [float.fromhex(word) for word in cell.measured.get("sample", "").split()]
    except (AttributeError, TypeError, ValueError, struct.error):
        return []


def beyond_tolerance(a: Cell, b: Cell) -> list[tuple[float, float]] | None:
    """Return the pairs of recorded entries that differ by more than the tolerance.

    Return None if the two cannot be compared entry by entry.
    """
    left, right = entries(a), entries(b)
    if not left or len(left) != len(right):
        return None
    return [
        (x, y)
        for x, y in zip(left, right, strict=True)
        if not abs(x - y) <= TOLERATED_ULP * _ulp(max(abs(x), abs(y)))
    ]


def _ulp(x: float) -> float:
    """Return the distance of float32 neighbours at x."""
    return math.ldexp(1.0, max(math.frexp(x)[1] - 24, -149))
