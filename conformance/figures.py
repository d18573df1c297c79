"""Numbers for plots, and digests of kernels, that a property attaches to the cell in hand.

Nothing raw is kept: a histogram is binned here, and of many errors the largest for each size
stays. What was attached travels with the cell into the results file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from conformance.cases import recorder

__all__ = [
    "error_over_bound",
    "fingerprint",
    "kernel_histogram",
    "kernel_variance",
    "take",
]

# Beyond four standard deviations of a normal lie 6e-5 of its entries: the two outer bins have them.
_EDGES = tuple(round(-4.0 + 0.2 * i, 1) for i in range(41))

# What a plot shows at its edge; JSON has no infinity.
_LARGEST_RATIO = 1e9

_ratios: dict[int, float] = {}
_plots: list[dict[str, Any]] = []
_fingerprints: dict[str, dict[str, str]] = {}


def error_over_bound(ratio: float) -> None:
    """Remember the largest error / bound for the in_features of the case in hand."""
    if recorder.last is None:
        return
    size = recorder.last.in_features
    ratio = _LARGEST_RATIO if math.isnan(ratio) else min(ratio, _LARGEST_RATIO)
    _ratios[size] = max(ratio, _ratios.get(size, 0.0))


def kernel_histogram(kernel: Any, variance: float, law: str) -> None:
    """Attach the histogram of a kernel's entries in units of the declared standard deviation.

    Parameters
    ----------
    kernel
        Entries of one kernel or of several, in any shape.
    variance
        The declared variance of an entry.
    law
        ``"normal"``, ``"truncated-normal"`` (at two standard deviations of the underlying
        normal) or ``"uniform"``.
    """
    entries = np.asarray(kernel, np.float64).ravel() / math.sqrt(variance)
    entries = entries[np.isfinite(entries)]
    inside = np.clip(entries, _EDGES[0], np.nextafter(_EDGES[-1], 0.0))
    counts, _ = np.histogram(inside, _EDGES)
    below = [0.0, *(_below(edge, law) for edge in _EDGES[1:-1]), 1.0]
    _plots.append(
        {
            "kind": "kernel-histogram",
            "law": law,
            "edges": list(_EDGES),
            "counts": [int(n) for n in counts],
            "expected": [round(entries.size * p, 3) for p in np.diff(below)],
        }
    )


def _below(z: float, law: str) -> float:
    """The probability of an entry below z of its own standard deviations."""
    if law == "uniform":
        return min(1.0, max(0.0, 0.5 + z / math.sqrt(12.0)))
    if law == "truncated-normal":
        # The standard deviation of a standard normal that is truncated at 2.
        z = min(2.0, max(-2.0, z * 0.87962566103423978))
        return (_normal_below(z) - _normal_below(-2.0)) / (1.0 - 2.0 * _normal_below(-2.0))
    if law == "normal":
        return _normal_below(z)
    raise ValueError(f"law is normal, truncated-normal or uniform, found {law!r}")


def _normal_below(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def kernel_variance(
    fan_in: Sequence[int], value: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> None:
    """Attach measured variance / declared variance against fan_in, with the accepted band."""
    columns = {"fan_in": fan_in, "value": value, "low": low, "high": high}
    if len({len(column) for column in columns.values()}) != 1:
        raise ValueError(f"lists of one length, found {[len(c) for c in columns.values()]}")
    plain = {name: [float(number) for number in column] for name, column in columns.items()}
    if all(math.isfinite(number) for column in plain.values() for number in column):
        _plots.append({"kind": "kernel-variance", **plain})


def fingerprint(label: str, exact: str, rounded: str) -> None:
    """Attach a digest of a kernel's bits, and one that forgives the last of them."""
    _fingerprints[label] = {"exact": exact, "rounded": rounded}


def take() -> tuple[list[dict[str, Any]], dict[str, dict[str, str]]]:
    """What was attached since the last call: plots and fingerprints."""
    plots = _plots.copy()
    if _ratios:
        sizes = sorted(_ratios)
        ratios = [float(f"{_ratios[size]:.4g}") for size in sizes]
        plots.append({"kind": "error-over-bound", "in_features": sizes, "ratio": ratios})
    fingerprints = _fingerprints.copy()
    _plots.clear()
    _ratios.clear()
    _fingerprints.clear()
    return plots, fingerprints
