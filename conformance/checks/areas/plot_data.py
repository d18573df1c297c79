"""Attaches binned numbers for plots to the recording of a cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from conformance.checks import recording

if TYPE_CHECKING:
    from conformance.statistics import Evidence
    from conformance.statistics.by_requirement import Samples, VarianceLaw
    from conformance.statistics.laws import Family

# The two outer bins take the 6e-5 of a normal's entries beyond four standard deviations.
_EDGES = tuple(round(-4.0 + 0.2 * i, 1) for i in range(41))


def kernel_histogram(samples: Samples, variance: VarianceLaw, families: Sequence[Family]) -> None:
    """Attach the histogram of all entries in units of their declared standard deviation.

    Parameters
    ----------
    samples
        Kernels by size, (seeds, in, out).
    variance
        The declared variance of an entry.
    families
        The declared laws; of several, the nearest one is shown.
    """
    counts = np.zeros(len(_EDGES) - 1)
    for size, kernels in samples.items():
        entries = np.asarray(kernels, np.float64).ravel() / math.sqrt(variance(*size))
        inside = np.clip(entries, _EDGES[0], np.nextafter(_EDGES[-1], 0.0))
        counts += np.histogram(inside, _EDGES)[0]
    laws = {family.name: np.diff(_below(family)) * counts.sum() for family in families}
    if laws:
        law = min(laws, key=lambda name: float(np.abs(laws[name] - counts).sum()))
        recording.current().plots.append(
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
    """Attach measured / declared variance against fan_in, with the accepted interval.

    Of several sizes with the same fan_in, the one with the most weights is shown.
    """
    best: dict[int, Evidence] = {}
    # The last piece covers all sizes together.
    for size, piece in zip(fan_in, evidence, strict=False):
        if size not in best or piece.count > best[size].count:
            best[size] = piece
    sizes = sorted(size for size, piece in best.items() if piece.count)
    recording.current().plots.append(
        {
            "kind": "kernel-variance",
            "fan_in": sizes,
            "value": [recording.plain(best[size].statistic) for size in sizes],
            "low": [recording.plain(best[size].accepted[0]) for size in sizes],
            "high": [recording.plain(best[size].accepted[1]) for size in sizes],
        }
    )
