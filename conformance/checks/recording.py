"""Records the current case, remarks, numbers and plots of a check for its cell.

One :class:`Recording` belongs to one cell. The process that runs the cell starts it, checks write
to the current one, and the cell reads it once. Only binned numbers are kept, which
:mod:`conformance.checks.areas.plot_data` makes, and only the largest error of each size.
"""

from __future__ import annotations

import contextvars
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conformance.checks.cases import Case

# A plot shows this at its edge, because JSON has no infinity.
_LARGEST = 1e9


@dataclass
class Recording:
    """The record of one cell while its check runs.

    Parameters
    ----------
    case
        The current case; Hypothesis runs the smallest failing one last.
    examples
        The number of cases tried.
    notes
        Remarks for the result, for any outcome.
    numbers
        Figures for the result, for any outcome.
    plots
        Binned numbers for plots, as in the results file.
    """

    case: Case | None = None
    examples: int = 0
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, float | int | str] = field(default_factory=dict)
    plots: list[dict[str, Any]] = field(default_factory=list)
    _ratios: dict[int, float] = field(default_factory=dict)

    def draw(self, case: Case) -> Case:
        """Record the current case, and return it."""
        self.case = case
        self.examples += 1
        return case

    def note(self, text: str) -> None:
        """Keep a remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    def error_over_bound(self, ratio: float) -> None:
        """Keep the largest error / bound, in total and for the current case's in_features."""
        self.numbers["ratio"] = max(ratio, float(self.numbers.get("ratio", 0.0)))
        if self.case is not None:
            size = self.case.in_features
            self._ratios[size] = max(plain(ratio), self._ratios.get(size, 0.0))

    def all_plots(self) -> list[dict[str, Any]]:
        """Return the plots, including one of error / bound against in_features."""
        if not self._ratios:
            return self.plots
        sizes = sorted(self._ratios)
        ratios = [self._ratios[size] for size in sizes]
        return [*self.plots, {"kind": "error-over-bound", "in_features": sizes, "ratio": ratios}]


def plain(number: float) -> float:
    """Return a finite number with four digits."""
    bounded = _LARGEST if math.isnan(number) else min(max(number, -_LARGEST), _LARGEST)
    return float(f"{bounded:.4g}")


_current: contextvars.ContextVar[Recording | None] = contextvars.ContextVar(
    "recording", default=None
)


def start() -> Recording:
    """Start the recording of one cell, which becomes the current one."""
    recording = Recording()
    _current.set(recording)
    return recording


def current() -> Recording:
    """Return the recording of the current cell; outside of a run, an unused one."""
    return _current.get() or start()
