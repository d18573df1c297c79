"""The result of one statistical check, and the error budget of a run.

A check returns a *rigorous upper bound* on its p-value, never an estimate: it holds for every
sample size, so small samples can only make a check weaker, not wrong. One check may raise a false
alarm with probability `ALPHA`. By the union bound, a run of a million checks, even dependent ones,
then raises one with probability at most 1e-9.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ALPHA = 1e-15
LOG_ALPHA = math.log(ALPHA)

FEWEST = 71
"""The least number of products that can reach the threshold, because |S|/sqrt(Q) <= sqrt(count)."""
MISS = 1e-6
"""The probability that a run misses an error that its profile promises to detect."""


@dataclass(frozen=True)
class Evidence:
    """One check on one sample: how unlikely the sample is for a correct layer.

    `log_p` is the natural logarithm of an upper bound on the p-value, `accepted` the interval of
    `statistic` that a run accepts at `ALPHA`, `count` the number of weights that took part, and
    `found` the same in words. `limit` says in words what is accepted; `shape` is the size of the
    kernels that were looked at, None if several were pooled; `place` names the line, the entry or
    the neighbours at which they differ, where there is one.
    """

    check: str
    log_p: float
    statistic: float
    accepted: tuple[float, float]
    count: int
    found: str
    limit: str = ""
    shape: tuple[int, ...] | None = None
    place: str = ""

    @property
    def rejected(self) -> bool:
        """Return whether chance produces this for at most one of 1 / ALPHA correct layers."""
        return self.log_p <= LOG_ALPHA


def strongest(evidence: Iterable[Evidence]) -> Evidence:
    """Return the strongest piece of evidence against the layer."""
    return min(evidence, key=lambda piece: piece.log_p)


def rejections(evidence: Iterable[Evidence]) -> list[Evidence]:
    """Return the rejected evidence, the strongest first."""
    return sorted((piece for piece in evidence if piece.rejected), key=lambda piece: piece.log_p)


def nothing(check: str, where: str, why: str) -> Evidence:
    """Return the evidence of a sample that is too small for a check, which rejects nothing."""
    return Evidence(
        check, 0.0, 0.0, (-math.inf, math.inf), 0, f"{check} not measured{where}: {why}"
    )


def threshold(comparisons: int = 1) -> float:
    """Return T with 2 m exp(-T^2/2) = ALPHA, the limit of |S| / ||a|| for m comparisons."""
    return math.sqrt(2 * (math.log(2 * max(comparisons, 1)) - LOG_ALPHA))


def linear_log_p(statistic: float, comparisons: int = 1) -> float:
    """Return ln of 2 m exp(-statistic^2 / 2), the bound for the largest of m self-normalised sums.

    For independent symmetric X_i, conditionally on the magnitudes the signs are fair coins, so
    P(|sum X_i| >= t sqrt(sum X_i^2)) <= 2 exp(-t^2/2) (Hoeffding 1963; Efron 1969). It needs no
    scale, no variance and no law beyond symmetry, and holds for every n.
    """
    return min(0.0, math.log(2 * max(comparisons, 1)) - statistic * statistic / 2)


def chernoff_log_p(times: float, expected: float) -> float:
    """Return ln of Chernoff's bound of P(N >= times), for a sum N of independent rare events.

    ``expected`` is an upper bound of the mean of N. The bound also holds if each event has this
    probability at most given the earlier ones, as for draws that repeat an earlier one.
    """
    if times <= expected or expected == 0.0:
        return 0.0
    return -(times * math.log(times / expected) - times + expected)


def size_of(z: Array) -> tuple[int, ...] | None:
    """Return the size of kernels (seeds, in, out), or None for weights of several sizes."""
    return z.shape[-2:] if z.ndim > 1 else None


def of_weights(
    check: str,
    z: Array,
    log_p: float,
    statistic: float,
    accepted: tuple[float, float],
    found: str,
    limit: str,
    place: str = "",
) -> Evidence:
    """Return the evidence of all weights of z, with their size after the words of `found`."""
    size = size_of(z)
    words = f"{found}{at(size)}"
    return Evidence(
        check, log_p, statistic, accepted, z.size, words, limit=limit, shape=size, place=place
    )


def of_coins(
    check: str, z: Array, statistic: float, found: str, comparisons: int = 1, sample: str = ""
) -> Evidence:
    """Return the evidence of the largest self-normalised sum, by :func:`linear_log_p`.

    `found` says in words what the sum shows; `sample` names the weights that took part, by default
    all of z.
    """
    limit, log_p = threshold(comparisons), linear_log_p(statistic, comparisons)
    words = f"{found}: {statistic:.3g} standard errors"
    accepted = f"up to {limit:.3g} ({sample or weights(z.size)})"
    return of_weights(check, z, log_p, statistic, (0.0, limit), words, accepted)


def at(shape: tuple[int, ...] | None) -> str:
    """Return `` at (64, 256)``, or "" if the sample has no single size."""
    return f" at {tuple(int(n) for n in shape)}" if shape is not None else ""


def weights(count: int) -> str:
    """Return a number of weights as text, such as `131 072 weights`."""
    return f"{count:,} weights".replace(",", " ")


def between(low: float, high: float) -> str:
    """Return an accepted interval as text, such as `0.97 .. 1.03`."""
    return f"{low:.4g} .. {high:.4g}"


def self_normalised(sums: Array, squares: Array) -> Array:
    """Return |S| / sqrt(Q) for Q > 0, and 0 if every term is 0."""
    positive = squares > 0
    return np.where(positive, np.abs(sums) / np.sqrt(np.where(positive, squares, 1.0)), 0.0)
