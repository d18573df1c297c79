"""The rows of a benchmark's table, and their JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One number of a benchmark.

    Parameters
    ----------
    what
        What was measured.
    value, unit
        The number, and what it counts: ``s``, ``ms``, ``x``, ``MB`` or ``%``.
    target
        The value to aim at, in words; empty if nothing is promised. It decides nothing, because
        times depend on the machine and its load.
    computing
        Processor seconds of all processes, if they differ from the value.
    note
        What a reader needs to know about it.
    """

    what: str
    value: float
    unit: str
    target: str = ""
    computing: float | None = None
    note: str = ""

    def record(self) -> dict[str, Any]:
        """Return the row as plain JSON values."""
        return {key: value for key, value in asdict(self).items() if value not in ("", None)}


HEADINGS = ("what", "target", "measured", "of a core")
_WIDTHS = (58, 12, 10, 10)


def _cells(row: Row) -> tuple[str, str, str, str]:
    digits = 0 if row.unit == "MB" or row.value >= 100 else 2 if row.unit == "ms" else 1
    core = "" if row.computing is None else f"{row.computing:.1f} s"
    return row.what, row.target, f"{row.value:.{digits}f} {row.unit}", core


def line(cells: Sequence[str]) -> str:
    """Return one line of the table on a terminal."""
    padded = [cells[0].ljust(_WIDTHS[0])]
    padded += [text.rjust(width) for text, width in zip(cells[1:], _WIDTHS[1:], strict=True)]
    return " ".join(padded).rstrip()


def text(row: Row) -> str:
    """Return a row as it is shown on a terminal, with its note."""
    return line(_cells(row)) + (f"\n    {row.note}" if row.note else "")


def markdown(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [f"| {' | '.join(HEADINGS)} |", "| --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
    return "\n".join(lines)


def by(key: str, cells: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return seconds in cells by ``requirement`` or ``implementation``, the largest first."""
    found: defaultdict[str, float] = defaultdict(float)
    for cell in cells:
        found[cell[key]] += cell["seconds"]
    return {name: round(s, 3) for name, s in sorted(found.items(), key=lambda item: -item[1])}
