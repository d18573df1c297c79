"""Tests whether a sample follows a law: distribution function, family, sign symmetry, atoms.

`z` is any float64 array of weights rescaled to variance 1; its shape does not matter here.
"""

import math
import sys
from collections.abc import Sequence

import numpy as np

from conformance.statistics.evidence import (
    LOG_ALPHA,
    Array,
    Evidence,
    between,
    linear_log_p,
    nothing,
    threshold,
    weights,
)
from conformance.statistics.laws import LAPLACE, NORMAL, TRUNCATED_NORMAL, UNIFORM, Family

LATTICE = 2.0**-22
"""The distance of the float32 lattice of `jax.random` from the continuous law, in probability."""

NAMED = (NORMAL, TRUNCATED_NORMAL, UNIFORM, LAPLACE)
"""The families that some ten thousand weights can distinguish."""

_ROUNDING = 3e-4
"""Relative slack at the ends of a support. A variance that is declared with four digits is off by
5e-4 of itself at most, and so its root, the unit of z, by 2.5e-4; the weights are rounded as well.
"""


def distribution(z: Array, family: Family) -> Evidence:
    """Check that the sample follows the distribution function F of `family`.

    p <= 3 min(2 exp(-2 n D^2), 2 n exp(-n max_i KL(i/n, F(z_i))), support): Dvoretzky-Kiefer-
    Wolfowitz with Massart's constant (1990), and Berk and Jones (1979) with the Chernoff bound of
    each order statistic. Both are taken to the nearest point within `LATTICE` of F, because the
    float32 law is discrete. The support bound is `support_log_p`.
    """
    values = np.sort(z, axis=None)
    count = values.size
    if count < 8:
        return nothing("distribution", "", "fewer than 8 weights")
    largest = max(-values[0], values[-1])
    if family.largest < largest <= family.largest * (1 + _ROUNDING):
        # A declared scale may be rounded down; with the exact one, nothing is beyond the end.
        values = values * (family.largest / largest)
    expected = family.cdf(values)
    above, below = np.arange(1, count + 1) / count, np.arange(count) / count
    # The empirical function jumps from `below` to `above` at each value. Equal values have one
    # jump, but one of the two numbers is still the true one-sided value.
    over = np.clip(above - expected - LATTICE, 0.0, None)
    under = np.clip(expected - below - LATTICE, 0.0, None)
    distance = float(max(over.max(), under.max()))
    kolmogorov = math.log(2) - 2 * count * distance * distance
    divergence = max(
        float(_bernoulli_kl(above, np.minimum(expected + LATTICE, above)).max()),
        float(_bernoulli_kl(below, np.maximum(expected - LATTICE, below)).max()),
    )
    berk_jones = math.log(2 * count) - count * divergence
    support = support_log_p(values, family)
    log_p = min(0.0, math.log(3) + min(kolmogorov, berk_jones, support))
    limit = math.sqrt((math.log(6) - LOG_ALPHA) / (2 * count)) + LATTICE
    kurtosis = float(np.mean(values**4)) / max(float(np.mean(values**2)) ** 2, 1e-300)
    shape = f"kurtosis {kurtosis:.4g}, {family.name} {family.kurtosis:.4g} ({weights(count)})"
    if distance <= limit and log_p <= LOG_ALPHA:
        # The gap alone would be accepted, so name the part that is not.
        if support <= min(kolmogorov, berk_jones):
            return _of_support(largest, family, log_p, count, shape)
        return Evidence(
            "distribution",
            log_p,
            log_p,
            (LOG_ALPHA, 0.0),
            count,
            f"the tails are not {family.name}: ln p of the order statistics {log_p:.4g}",
            limit=f"above {LOG_ALPHA:.4g}; {shape}",
        )
    return Evidence(
        "distribution",
        log_p,
        distance,
        (0.0, limit),
        count,
        f"the largest gap between the sample's and the {family.name} distribution function is "
        f"{distance:.4g}",
        limit=f"0 .. {limit:.4g}; {shape}",
    )


def _of_support(largest: float, family: Family, log_p: float, count: int, shape: str) -> Evidence:
    """Return the evidence of the largest |z|, beyond the family or too small for the count."""
    if largest > family.largest:
        accepted, words = (0.0, family.largest), f"up to {family.largest:.4g}"
    else:
        least = _least_largest(family, count)
        accepted, words = (least, sys.float_info.max), f"above {least:.4g}"
    found = f"the largest weight is {largest:.4g} standard deviations"
    limit = f"{words} for a {family.name} law; {shape}"
    return Evidence("distribution", log_p, largest, accepted, count, found, limit=limit)


def _least_largest(family: Family, count: int) -> float:
    """Return m such that `count` weights are all within m with probability ALPHA / 3."""
    share = math.exp((LOG_ALPHA - math.log(3)) / count)
    low, high = 0.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        inside = family.cdf(np.array([-middle, middle]))
        low, high = (middle, high) if inside[1] - inside[0] < share else (low, middle)
    return low


def _bernoulli_kl(observed: Array, expected: Array) -> Array:
    """Return KL(observed || expected) of two Bernoulli laws, with `expected` kept inside (0, 1)."""
    inside = np.clip(expected, LATTICE / 4, 1 - LATTICE / 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.where(observed > 0, observed * np.log(observed / inside), 0.0)
        second = np.where(observed < 1, (1 - observed) * np.log((1 - observed) / (1 - inside)), 0.0)
    return np.where((observed == expected) | (inside == observed), 0.0, first + second)


def support_log_p(z: Array, family: Family) -> float:
    """Return ln of a bound on the probability of the largest |z|, which may be too large or small.

    No weight of a bounded family exceeds its end. For another family, n weights are all within m
    with probability P(|z| <= m)^n: 1 486 weights distinguish a normal law from one truncated at two
    deviations, at 1e-15.
    """
    if z.size == 0:
        return 0.0
    largest = float(np.max(np.abs(z)))
    if largest > family.largest * (1 + _ROUNDING):
        return -math.inf
    if math.isinf(family.largest):
        inside = family.cdf(np.array([-largest, largest]))
        return z.size * math.log(max(float(inside[1] - inside[0]), sys.float_info.min))
    return 0.0


def follows(z: Array, families: Sequence[Family]) -> Evidence:
    """Check that the sample follows one of the families; the best one gives the p-value."""
    return max((distribution(z, family) for family in families), key=lambda piece: piece.log_p)


LEVELS = 2.0**-6
"""The distance of a half-precision draw from the continuous law, in probability.

A bfloat16 in [-1, 1), as a normal is made of, has steps of 2^-7 near its ends, each of a
probability of 2^-8; the draw and the scale are rounded as well, by 2^-8 of z phi(z) < 1/4 each.
"""


def coarsely_follows(z: Array, families: Sequence[Family]) -> Evidence:
    """Check that a sample of few levels follows one of the families, up to `LEVELS`.

    A level counts by the middle of its step. p <= 2 exp(-2 n D^2) for the distance D of the
    distribution functions minus `LEVELS` (Dvoretzky, Kiefer and Wolfowitz; Massart 1990).
    """
    values, counts = np.unique(z, return_counts=True)
    middle = (np.cumsum(counts) - counts / 2) / z.size
    limit = LEVELS + math.sqrt((math.log(2) - LOG_ALPHA) / (2 * z.size))

    def of(family: Family) -> Evidence:
        distance = float(np.abs(middle - family.cdf(values)).max())
        gap = max(distance - LEVELS, 0.0)
        log_p = min(0.0, math.log(2) - 2 * z.size * gap * gap)
        found = f"the largest gap to the {family.name} distribution function is {distance:.4g}"
        return Evidence("distribution", log_p, distance, (0.0, limit), z.size, found)

    return max(map(of, families), key=lambda piece: piece.log_p)


def family_of(z: Array, scale_count: int | None = None) -> Family | None:
    """Return the only family that is consistent with the sample, else None.

    z is rescaled by its own root mean square first, so that the scale cannot mislead. If parts of
    it were rescaled before, `scale_count` is the size of the smallest part.
    """
    scale = math.sqrt(float(np.mean(np.square(z)))) if z.size else 0.0
    if scale == 0.0 or not math.isfinite(scale):
        return None
    rescaled = z / scale
    # The measured scale moves the end of a bounded support by the error of a variance.
    slack = 1 + 6 / math.sqrt(scale_count or z.size)
    accepted = []
    for family in NAMED:
        shrunk = rescaled / slack if math.isfinite(family.largest) else rescaled
        inside = support_log_p(shrunk, family) > LOG_ALPHA
        if inside and _close(rescaled, family):
            accepted.append(family)
    return accepted[0] if len(accepted) == 1 else None


def _close(z: Array, family: Family) -> bool:
    values = np.sort(z, axis=None)
    expected = family.cdf(values)
    steps = np.arange(values.size + 1) / values.size
    distance = max(float((steps[1:] - expected).max()), float((expected - steps[:-1]).max()))
    return math.log(2) - 2 * values.size * distance * distance > LOG_ALPHA


def sign_symmetry(z: Array) -> Evidence:
    """Check that both signs are equally frequent: |sum of signs| <= T sqrt(n) (Hoeffding 1963)."""
    signs = np.sign(z)
    count = int(np.count_nonzero(signs))
    if count == 0:
        return nothing("sign symmetry", "", "every weight is 0")
    statistic = float(signs.sum()) / math.sqrt(count)
    share, limit = 0.5 + statistic / math.sqrt(count) / 2, threshold() / math.sqrt(count) / 2
    found = f"{100 * share:.4g} % of the weights are positive"
    accepted_text = f"{between(100 * (0.5 - limit), 100 * (0.5 + limit))} % ({weights(count)})"
    accepted = (0.5 - limit, 0.5 + limit)
    return Evidence(
        "sign symmetry", linear_log_p(statistic), share, accepted, count, found, limit=accepted_text
    )


_VALUES = 2.0**23
"""Equally likely values of a float32 normal from `jax.random`."""


def atoms(w: Array) -> Evidence:
    """Check that no value repeats too often, as after clipping, by the largest multiplicity.

    With M = 2^23 equally likely values, P(some value occurs c times) <= M (n/M)^c / c! (union
    bound over values and c-subsets). `w` may have any scale. Each kernel must be free of copies,
    which the independence checks find. Exact zeros do not count, because a dead weight is not a
    wrong law, and a law with many zeros is far from every distribution function.
    """
    values, counts = np.unique(w[w != 0], return_counts=True)
    if counts.size == 0:
        return nothing("atoms", "", "there are no weights")
    worst = int(np.argmax(counts))
    repeats, count = int(counts[worst]), w.size

    def log_p(times: int) -> float:
        return math.log(_VALUES) + times * math.log(count / _VALUES) - math.lgamma(times + 1)

    limit = 1
    while log_p(limit) > LOG_ALPHA:
        limit += 1
    bound = 0.0 if repeats < 2 else min(0.0, log_p(repeats))
    found = f"the value {values[worst]:.6g} occurs {repeats} times"
    accepted_text = f"up to {limit - 1} ({weights(count)})"
    return Evidence(
        "atoms", bound, float(repeats), (0.0, limit - 1.0), count, found, limit=accepted_text
    )
