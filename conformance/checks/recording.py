"""What a check leaves for its cell: the case in hand, remarks, numbers and plots.

One :class:`Recording` belongs to one cell. The process that runs the cell starts it, the checks
write to the current one, and the cell reads it once. Only binned numbers are kept: a histogram is
binned by :mod:`conformance.checks.plot_data`, and of many errors the largest for each size stays.
"""

from __future__ import annotations

import contextvars
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conformance.checks.cases import Case

__all__ = ["Recording", "current", "start"]

# What a plot shows at its edge; JSON has no infinity.
_LARGEST = 1e9


@dataclass
class Recording:
    """What is known of one cell while its check runs.

    Parameters
    ----------
    case
        The case in hand; Hypothesis runs the smallest failing one last.
    examples
        How many cases have been tried.
    notes
        Remarks for the result, whatever the outcome.
    numbers
        Figures for the result, whatever the outcome.
    plots
        Binned numbers for plots, as the results file has them.
    """

    case: Case | None = None
    examples: int = 0
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, float | int | str] = field(default_factory=dict)
    plots: list[dict[str, Any]] = field(default_factory=list)
    _ratios: dict[int, float] = field(default_factory=dict)

    def draw(self, case: Case) -> Case:
        """Remember the case in hand, and return it."""
        self.case = case
        self.examples += 1
        return case

    def note(self, text: str) -> None:
        """Keep a remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    def error_over_bound(self, ratio: float) -> None:
        """Keep the largest error / bound, also by the in_features of the case in hand."""
        self.numbers["ratio"] = max(ratio, float(self.numbers.get("ratio", 0.0)))
        if self.case is not None:
            size = self.case.in_features
            self._ratios[size] = max(plain(ratio), self._ratios.get(size, 0.0))

    def all_plots(self) -> list[dict[str, Any]]:
        """Return the plots, that of error / bound against in_features included."""
        if not self._ratios:
            return self.plots
        sizes = sorted(self._ratios)
        ratios = [self._ratios[size] for size in sizes]
        return [*self.plots, {"kind": "error-over-bound", "in_features": sizes, "ratio": ratios}]


def plain(number: float) -> float:
    """Return a finite number of four digits."""
    bounded = _LARGEST if math.isnan(number) else min(max(number, -_LARGEST), _LARGEST)
    return float(f"{bounded:.4g}")


_current: contextvars.ContextVar[Recording | None] = contextvars.ContextVar(
    "recording", default=None
)


def start() -> Recording:
    """Begin the recording of one cell, which is the current one from now on."""
    recording = Recording()
    _current.set(recording)
    return recording


def current() -> Recording:
    """Return the recording of the cell in hand; outside of a run, one that nobody reads."""
    return _current.get() or start()
