"""Binned numbers for plots that a property attaches to the cell in hand.

Nothing raw is kept: a histogram is binned here, and of many errors the largest for each size
stays. What was attached travels with the cell into the results file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from conformance.checks.cases import recorder

if TYPE_CHECKING:
    from conformance.statistics import Evidence
    from conformance.statistics.by_requirement import Samples, VarianceLaw
    from conformance.statistics.laws import Family

__all__ = ["error_over_bound", "kernel_histogram", "kernel_variance", "take"]

# Beyond four standard deviations of a normal lie 6e-5 of its entries: the two outer bins have them.
_EDGES = tuple(round(-4.0 + 0.2 * i, 1) for i in range(41))

# What a plot shows at its edge; JSON has no infinity.
_LARGEST = 1e9

_ratios: dict[int, float] = {}
_plots: list[dict[str, Any]] = []


def error_over_bound(ratio: float) -> None:
    """Remember the largest error / bound for the in_features of the case in hand."""
    if recorder.last is not None:
        size = recorder.last.in_features
        _ratios[size] = max(_plain(ratio), _ratios.get(size, 0.0))


def kernel_histogram(samples: Samples, variance: VarianceLaw, families: Sequence[Family]) -> None:
    """Attach the histogram of all entries in units of their declared standard deviation.

    Parameters
    ----------
    samples
        Kernels by size, (seeds, in, out).
    variance
        The declared variance of an entry.
    families
        The laws that are declared; of several, the one that is nearest is shown.
    """
    counts = np.zeros(len(_EDGES) - 1)
    for size, kernels in samples.items():
        entries = np.asarray(kernels, np.float64).ravel() / math.sqrt(variance(*size))
        inside = np.clip(entries, _EDGES[0], np.nextafter(_EDGES[-1], 0.0))
        counts += np.histogram(inside, _EDGES)[0]
    laws = {family.name: np.diff(_below(family)) * counts.sum() for family in families}
    if laws:
        law = min(laws, key=lambda name: float(np.abs(laws[name] - counts).sum()))
        _plots.append(
            {
                "kind": "kernel-histogram",
                "law": law,
                "edges": list(_EDGES),
                "counts": [int(n) for n in counts],
                "expected": [round(float(n), 1) for n in laws[law]],
            }
        )


def _below(family: Family) -> np.ndarray:
    below = np.array(family.cdf(np.array(_EDGES)), np.float64)
    below[0], below[-1] = 0.0, 1.0
    return below


def kernel_variance(fan_in: Iterable[int], evidence: Iterable[Evidence]) -> None:
    """Attach measured / declared variance against fan_in, with the interval that is accepted.

    Of several sizes with the same fan_in, the one with the most weights says most.
    """
    best: dict[int, Evidence] = {}
    # Behind the pieces of the sizes stands that of all sizes together.
    for size, piece in zip(fan_in, evidence, strict=False):
        if size not in best or piece.count > best[size].count:
            best[size] = piece
    sizes = sorted(size for size, piece in best.items() if piece.count)
    _plots.append(
        {
            "kind": "kernel-variance",
            "fan_in": sizes,
            "value": [_plain(best[size].statistic) for size in sizes],
            "low": [_plain(best[size].accepted[0]) for size in sizes],
            "high": [_plain(best[size].accepted[1]) for size in sizes],
        }
    )


def take() -> list[dict[str, Any]]:
    """What was attached since the last call."""
    plots = _plots.copy()
    if _ratios:
        sizes = sorted(_ratios)
        ratios = [_ratios[size] for size in sizes]
        plots.append({"kind": "error-over-bound", "in_features": sizes, "ratio": ratios})
    _plots.clear()
    _ratios.clear()
    return plots


def _plain(number: float) -> float:
    """A finite number of four digits."""
    bounded = _LARGEST if math.isnan(number) else min(max(number, -_LARGEST), _LARGEST)
    return float(f"{bounded:.4g}")
