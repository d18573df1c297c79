"""Tests of means and variances, of all weights and of every row, column, entry and seed.

`z` is a float64 array (seeds, in, out) of weights divided by the declared standard deviation; the
global checks accept any shape.
"""

import math

import numpy as np

from conformance.statistics.evidence import (
    LOG_ALPHA,
    Array,
    Evidence,
    at,
    between,
    linear_log_p,
    nothing,
    of_weights,
    self_normalised,
    size_of,
    threshold,
    weights,
)

AXES = {"row": (0, 2), "column": (0, 1), "entry": (0,), "seed": (1, 2)}
"""The axes that are summed over for each kind of group of a (seeds, in, out) array."""


def chernoff(ratio: float, count: int) -> float:
    """Return ln of exp(-n/2 (r - 1 - ln r)), the one-sided Chernoff bound of a chi-square mean.

    It also holds for the truncated normal and the uniform law rescaled to variance 1: their z^2 is
    smaller in convex order than chi^2_1, so E exp(t z^2) <= (1 - 2t)^(-1/2) for t of either sign.
    """
    if ratio <= 0:
        return -math.inf
    return -count / 2 * (ratio - 1 - math.log(ratio))


def _solve(count: int, log_p: float, low: float, high: float) -> float:
    """Return the ratio between `low` and `high` at which the Chernoff bound equals `log_p`."""
    outer, inner = (high, low) if high > 1 else (low, high)
    for _ in range(200):
        middle = (outer + inner) / 2
        if chernoff(middle, count) < log_p:
            outer = middle
        else:
            inner = middle
    return outer


def variance_limits(count: int, log_alpha: float = LOG_ALPHA) -> tuple[float, float]:
    """Return the two-sided accepted interval of mean(z^2) for `count` weights.

    Fewer than four weights have no lower limit: the float32 lattice of the truncated normal holds
    an exact zero, so one small kernel in 2^23 is 0.
    """
    if count < 1:
        return 0.0, math.inf
    one_sided = log_alpha - math.log(2)
    high = 2.0
    while chernoff(high, count) > one_sided:
        high *= 2
    low = _solve(count, one_sided, 0.0, 1.0) if count >= 4 else 0.0
    return low, _solve(count, one_sided, 1.0, high)


DECLARED = "mean(K**2) / declared variance"


def variance(z: Array, quantity: str = DECLARED, slack: float = 0.0) -> Evidence:
    """Check that mean(z^2) is 1: p <= 2 exp(-n/2 (r - 1 - ln r)) (Chernoff; see `chernoff`).

    `quantity` names that mean for readers, as `in_features * mean(K**2)` if the variance is
    1/fan_in. `slack` is its shift by the lattice of a half-precision dtype.
    """
    count = z.size
    if count == 0:
        return nothing("variance", at(size_of(z)), "there are no weights")
    with np.errstate(over="ignore"):
        ratio = float(np.mean(np.square(z)))
    low, high = variance_limits(count)
    low, high = low - slack, high + slack
    nearest = min(max(1.0, ratio - slack), ratio + slack)
    log_p = math.log(2) + (chernoff(nearest, count) if math.isfinite(ratio) else -math.inf)
    if ratio < 1 and count < 4:
        log_p = 0.0
    found = f"{quantity} = {ratio:.4g}"
    accepted_text = f"{between(low, high)} ({weights(count)})"
    return of_weights("variance", z, min(0.0, log_p), ratio, (low, high), found, accepted_text)


def mean(z: Array, slack: float = 0.0) -> Evidence:
    """Check that E[z] = 0 by the self-normalised sum (see `linear_log_p`), at any scale of z.

    `slack` is the shift of the mean by the lattice of a half-precision dtype, in deviations.
    """
    count = z.size
    scale = math.sqrt(float(np.mean(np.square(z)))) if count else 0.0
    if scale == 0.0:
        return nothing("mean", at(size_of(z)), "every weight is 0")
    shift = float(np.mean(z)) / scale
    statistic = max(0.0, abs(shift) - slack) * math.sqrt(count)
    limit = threshold() / math.sqrt(count) + slack
    found = f"the mean is {shift:.4g} standard deviations"
    accepted_text = f"{between(-limit, limit)} ({weights(count)})"
    log_p = linear_log_p(statistic)
    return of_weights("mean", z, log_p, shift, (-limit, limit), found, accepted_text)


def group_mean(z: Array, group: str) -> Evidence:
    """Check that the mean of every row, column or entry is 0, by the largest of m sums."""
    check = f"{group} means"
    sums, squares = z.sum(axis=AXES[group]).ravel(), np.square(z).sum(axis=AXES[group]).ravel()
    if sums.size == 0 or not squares.any():
        return nothing(check, at(size_of(z)), "every weight is 0")
    ratios = self_normalised(sums, squares)
    worst = int(np.argmax(ratios))
    members, statistic, limit = z.size // ratios.size, float(ratios[worst]), threshold(ratios.size)
    found = (
        f"the mean of {_place(z, group, worst)} is {sums[worst] / members:.3g} "
        f"({statistic:.3g} standard errors)"
    )
    accepted_text = f"up to {limit:.3g} ({ratios.size} groups of {weights(members)})"
    log_p = linear_log_p(statistic, ratios.size)
    return of_weights(check, z, log_p, statistic, (0.0, limit), found, accepted_text)


def group_variance(z: Array, group: str) -> Evidence:
    """Check that every row, column, entry or seed has its share of the sum of squares.

    A group of k among n weights has the share c, expected p = k/n. For chi-square sums G and R,
    P(G >= c (G + R)) <= min_t (1 - 2t(1-c))^(-k/2) (1 + 2tc)^(-(n-k)/2) = exp(-n/2 KL(p || c)),
    the Chernoff bound of a Beta(k/2, (n-k)/2) share; by convex order it holds for truncated normal
    and uniform weights too. It needs no scale. Bonferroni covers groups and sides.
    """
    check = f"{group} variances"
    squares = np.square(z).sum(axis=AXES[group]).ravel()
    total, count = float(squares.sum()), z.size
    if squares.size < 2 or total == 0.0:
        return nothing(check, at(size_of(z)), "fewer than two groups")
    members = count // squares.size
    expected = members / count
    share = squares / total
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = expected * np.log(expected / share) + (1 - expected) * np.log(
            (1 - expected) / (1 - share)
        )
    divergence = np.nan_to_num(divergence, nan=0.0, posinf=np.inf)
    if members < 4:
        divergence = np.where(share < expected, 0.0, divergence)
    worst = int(np.argmax(divergence))
    bonferroni = math.log(2 * squares.size)
    log_p = min(0.0, bonferroni - count / 2 * float(divergence[worst]))
    ratio = float(share[worst] / expected)
    low, high = _share_limits(expected, 2 * (bonferroni - LOG_ALPHA) / count)
    low = low if members >= 4 else 0.0
    found = f"the variance of {_place(z, group, worst)} is {ratio:.4g} of the average"
    accepted_text = f"{between(low, high)} ({squares.size} groups of {weights(members)})"
    return of_weights(check, z, log_p, ratio, (low, high), found, accepted_text)


def _share_limits(expected: float, limit: float) -> tuple[float, float]:
    """Return the ratios c/p between which KL(p || c) stays below `limit`."""

    def divergence(share: float) -> float:
        return expected * math.log(expected / share) + (1 - expected) * math.log(
            (1 - expected) / (1 - share)
        )

    sides = []
    for end in (0.0, 1.0):
        inner, outer = expected, end
        for _ in range(100):
            middle = (inner + outer) / 2
            if middle in (0.0, 1.0) or divergence(middle) > limit:
                outer = middle
            else:
                inner = middle
        sides.append(inner / expected)
    return sides[0], sides[1]


def group_magnitude(z: Array, group: str) -> Evidence:
    """Check by ranks of |z|, for any law, that no row, column or entry is larger than others.

    The ranks of a group are a sample without replacement of {1..n}; its sum is smaller in convex
    order than with replacement (Hoeffding 1963, theorem 4), and a uniform variable is strictly
    sub-Gaussian, so P(|mean score| >= e) <= 2 exp(-6 k e^2) for scores in [-1/2, 1/2].
    """
    check = f"{group} magnitudes"
    scores = magnitude_ranks(z)
    sums = scores.sum(axis=AXES[group]).ravel()
    if sums.size < 2 or not z.any():
        return nothing(check, at(size_of(z)), "fewer than two groups")
    members = z.size // sums.size
    worst = int(np.argmax(np.abs(sums)))
    limit = threshold(sums.size) / math.sqrt(12 * members)
    value = float(sums[worst]) / members
    found = f"the magnitudes of {_place(z, group, worst)} rank at {value + 0.5:.3g} on average"
    accepted_text = (
        f"{between(0.5 - limit, 0.5 + limit)} ({sums.size} groups of {weights(members)})"
    )
    log_p = linear_log_p(value * math.sqrt(12 * members), sums.size)
    return of_weights(check, z, log_p, value, (-limit, limit), found, accepted_text)


def dead(z: Array, group: str) -> Evidence:
    """Check that no row, column or entry is 0 in every kernel, unless zeros are everywhere.

    Given Z zeros among n independent weights, their places are a random subset, so a given group
    of k is all 0 with probability at most (Z/n)^k; the union bound is over the groups.
    """
    check = f"dead {group}"
    zeros = (z == 0).all(axis=AXES[group]).ravel()
    share = 1 - np.count_nonzero(z) / max(z.size, 1)
    if zeros.size < 2 or share == 1.0 or z.size == 0:
        return nothing(check, at(size_of(z)), "fewer than two groups, or every weight is 0")
    members, count = z.size // zeros.size, int(zeros.sum())
    log_p = min(0.0, math.log(zeros.size) + members * math.log(share)) if count else 0.0
    place = _place(z, group, int(np.argmax(zeros))) if count else ""
    where = f": {place}" if count else ""
    plural = {"entry": "entries"}.get(group, f"{group}s")
    found = f"{count} of {zeros.size} {plural} are 0 in every kernel{where}"
    accepted_text = f"0 ({weights(z.size)})"
    return of_weights(check, z, log_p, float(count), (0.0, 0.0), found, accepted_text, place)


def magnitude_ranks(z: Array) -> Array:
    """Return the mid-ranks of |z| among all weights, scaled to [-1/2, 1/2], in the shape of z."""
    values, place, counts = np.unique(np.abs(z), return_inverse=True, return_counts=True)
    del values
    middle = np.cumsum(counts) - (counts + 1) / 2
    return ((middle + 0.5) / z.size - 0.5)[place].reshape(z.shape)


def _place(z: Array, group: str, index: int) -> str:
    if group == "entry":
        row, column = np.unravel_index(index, z.shape[1:])
        return f"entry ({int(row)}, {int(column)})"
    return f"{group} {index}"
