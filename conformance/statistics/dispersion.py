"""Tests of too little variation: standardised, orthogonal or centred kernels.

Each check bounds the probability that many independent numbers, each with a bounded density, fall
into a small ball: P <= (density bound)^G x (volume of the ball). It therefore sees kernels that are
*too good*, whose every mean and variance is right.

`z` is a float64 array (seeds, in, out) of weights divided by their standard deviation. Where the
weights are rounded by at most `rounding`, relative to each, the ball has that much larger a radius,
and the density is that within the distance that rounding moves a norm or sum. From 16 weights on,
it keeps to the same bounds, for numbers that JAX draws in half precision as well
(`selftest/test_statistics.py`).
"""

import math

import numpy as np

from conformance.statistics.evidence import LOG_ALPHA, Array, Evidence, at, nothing, weights
from conformance.statistics.moments import AXES, chernoff, variance_limits

SMALLEST_GROUP = 16
"""The least weights of a norm that is near enough to its limit law for `_NORM_DENSITY`."""

_UNIFORM_FOURTH = 0.8
"""Var z^2 of the uniform law, the smallest of the accepted families."""

_NORM_DENSITY = 1.25
"""Margin over the Gaussian peak for the density of ln r; the largest measured from 16 weights
on, for normal, truncated normal and uniform weights, is 1.02 (`selftest/test_statistics.py`)."""

_SUM_DENSITY = math.sqrt(2) / math.sqrt(2 * math.pi)
"""No normalised sum of independent weights has a larger density (Ball 1986; Bobkov, Chistyakov
2015): sqrt(2) times the largest density of one weight, 0.399 for the normal, less for others."""

_SCALE_BUDGET = LOG_ALPHA - math.log(1000)
"""The probability budget for an error of the measured scale: a thousandth of the check's budget."""


def log_ball(dimension: int, squared_radius: float) -> float:
    """Return ln of the volume of a ball, pi^(d/2) r^d / Gamma(d/2 + 1)."""
    if squared_radius <= 0:
        return -math.inf
    half = dimension / 2
    return half * math.log(math.pi * squared_radius) - math.lgamma(half + 1)


def _limit(dimension: int, log_density: float, extra: float) -> float:
    """Return the squared radius of the ball whose probability bound is ALPHA."""
    half = dimension / 2
    room = LOG_ALPHA - dimension * log_density - extra + math.lgamma(half + 1)
    return math.exp(room / half) / math.pi


def under_dispersion(z: Array, group: str, fourth: float = 0.0, rounding: float = 0.0) -> Evidence:
    """Check that norms of rows, columns or seeds vary as much as by chance.

    With r_g the mean square of group g, the logarithms ln r_g are independent with a density of at
    most M = 1.25 sqrt(k / (2 pi Var z^2)). The G - 1 differences from one of them lie in a set of
    volume sqrt(G) V_(G-1) s^((G-1)/2) when sum (ln r_g - mean)^2 <= s, so
    P <= M^(G-1) sqrt(G) V_(G-1) s^((G-1)/2). It needs no scale. The 1.25 is a heuristic constant.
    `fourth` is Var z^2 of the law if known; 0 means the smallest one. Rounding moves each ln r_g by
    at most twice its relative error, and so the root of the sum by sqrt(G) times that.
    """
    check = f"{group} norms"
    squares = np.square(z).mean(axis=AXES[group] if group == "seed" else _within(group)).ravel()
    members = z.size // max(squares.size, 1)
    if members < SMALLEST_GROUP or squares.size < 8:
        return nothing(check, at(z.shape[1:]), "too few or too small groups")
    if not (squares > 0).all():
        return nothing(check, at(z.shape[1:]), "a group is 0")
    free = squares.size - 1
    moved = 2 * math.log1p(rounding) * math.sqrt(squares.size)
    root = math.sqrt(np.sum(np.square(np.log(squares) - np.log(squares).mean()))) + moved
    spread = root * root
    spread_of_squares = fourth or _UNIFORM_FOURTH
    density = math.log(_NORM_DENSITY * math.sqrt(members / (2 * math.pi * spread_of_squares)))
    extra = math.log(squares.size) / 2
    log_p = min(0.0, free * density + extra + log_ball(free, spread))
    deviation = math.sqrt(spread / free)
    limit = math.sqrt(_limit(free, density, extra) / free)
    found = (
        f"the norms of the {squares.size} {group}s differ by {100 * deviation / 2:.3g} %"
        f"{at(z.shape[1:])}; chance makes them differ by more than {100 * limit / 2:.3g} % "
        f"({weights(members)} each)"
    )
    return Evidence(check, log_p, deviation, (limit, math.inf), z.size, found, shape=z.shape[1:])


def _within(group: str) -> tuple[int, ...]:
    """Return the axis to sum over so that every seed contributes its own rows or columns."""
    return (2,) if group == "row" else (1,)


def centred(z: Array, group: str, rounding: float = 0.0) -> Evidence:
    """Check that sums of rows, columns or kernels are as far from 0 as by chance.

    The G normalised sums are independent, each with a density of at most sqrt(2) 0.399, so
    P(sum S_g^2 <= s) <= (sqrt(2) 0.399)^G V_G s^(G/2). The measured scale replaces the true one;
    the probability that it is far off is added. Rounding moves a sum by `rounding` sum |z| at most,
    and so the root of the sum of squares by `rounding` sqrt(members G) scales (Cauchy, Schwarz).
    """
    check = f"{group} sums"
    sums = z.sum(axis=AXES[group] if group == "seed" else _within(group)).ravel()
    members = z.size // max(sums.size, 1)
    if members < (SMALLEST_GROUP if rounding else 2):
        return nothing(check, at(z.shape[1:]), "too small groups")
    moved = rounding * math.sqrt(members)
    return _near_zero(z, sums / math.sqrt(members), check, f"the sums of the {group}s", moved)


def orthogonality(z: Array, group: str, rounding: float = 0.0) -> Evidence:
    """Check that disjoint pairs of rows (columns) are as far from orthogonal as by chance.

    Given a, the normalised product <a, b>/|a| is a weighted sum of independent weights with unit
    sum of squares: the density bound of `centred` holds for it. Rounding of both moves it by three
    times as much.
    """
    check = f"{group} orthogonality"
    lines = z if group == "row" else z.swapaxes(1, 2)
    pairs = lines.shape[1] // 2
    first, second = lines[:, : 2 * pairs : 2], lines[:, 1 : 2 * pairs : 2]
    norms = np.sqrt(np.square(first).sum(axis=2))
    products = (first * second).sum(axis=2)[norms > 0] / norms[norms > 0]
    if lines.shape[2] < (SMALLEST_GROUP if rounding else 2) or products.size == 0:
        return nothing(check, at(z.shape[1:]), "there are no pairs")
    moved = 3 * rounding * math.sqrt(lines.shape[2])
    what = f"the products of neighbouring {group}s"
    return _near_zero(z, products.ravel(), check, what, moved)


def balanced_signs(z: Array, group: str) -> Evidence:
    """Check that groups with as many positive as negative weights are as rare as for fair coins.

    For n weights without zeros the probability is at most p = C(n, n/2) / 2^n, for odd n with one
    more of either: P(k of G groups) <= exp(-G KL(k/G || p)) (Chernoff).
    """
    check = f"{group} signs"
    signs = np.sign(z).sum(axis=(1, 2) if group == "seed" else _within(group)).ravel()
    members, groups = z.size // max(signs.size, 1), signs.size
    if members < 3 or not z.all():
        return nothing(check, at(z.shape[1:]), "too small groups, or weights that are 0")
    half = members // 2
    ways = math.lgamma(members + 1) - math.lgamma(half + 1) - math.lgamma(members - half + 1)
    chance = math.exp(ways - members * math.log(2)) * (1 + members % 2)
    share = float(np.mean(np.abs(signs) <= members % 2))

    def log_p(share: float) -> float:
        if share <= chance:
            return 0.0
        rest = (1 - share) * math.log((1 - share) / (1 - chance)) if share < 1 else 0.0
        return float(-groups * (share * math.log(share / chance) + rest))

    low, high = chance, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if log_p(middle) <= LOG_ALPHA else (middle, high)
    found = (
        f"in {100 * share:.3g} % of the {group}s as many weights are positive as negative"
        f"{at(z.shape[1:])}; chance gives less than {100 * high:.3g} % ({groups} {group}s)"
    )
    return Evidence(check, log_p(share), share, (0.0, high), z.size, found, shape=z.shape[1:])


def _near_zero(z: Array, normalised: Array, check: str, what: str, moved: float = 0.0) -> Evidence:
    scale = float(np.mean(np.square(z)))
    groups = normalised.size
    if scale == 0.0 or groups < 8:
        return nothing(check, at(z.shape[1:]), "fewer than 8 groups, or every weight is 0")
    # With probability 1 - 1e-18 the mean square of the sample is below `largest` times the truth.
    largest = variance_limits(z.size, _SCALE_BUDGET)[1]
    root = math.sqrt(np.sum(np.square(normalised)) / scale) + moved * math.sqrt(groups)
    squared = root * root
    density = math.log(_SUM_DENSITY)
    volume = groups * density + log_ball(groups, squared * largest)
    log_p = min(0.0, float(np.logaddexp(volume, chernoff(largest, z.size))))
    ratio = math.sqrt(squared / groups)
    limit = math.sqrt(_limit(groups, density, 0.0) / largest / groups)
    found = (
        f"{what} have {ratio:.3g} of the expected standard deviation{at(z.shape[1:])}; "
        f"chance gives more than {limit:.3g} ({groups} of them, {weights(z.size)})"
    )
    return Evidence(check, log_p, ratio, (limit, math.inf), z.size, found, shape=z.shape[1:])
