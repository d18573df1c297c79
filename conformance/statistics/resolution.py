"""Tests whether weights have the mantissas of float32, or a few levels of a coarser grid.

`w` is an array (seeds, in, out) of weights, unscaled or times a factor.
"""

import math

import numpy as np

from conformance.statistics.evidence import (
    LOG_ALPHA,
    Array,
    Evidence,
    at,
    chernoff_log_p,
    nothing,
    weights,
)

MAGNITUDE_LEVELS = 2.0**22
"""Equally likely magnitudes: the truncated lattice is mirror symmetric."""

LATTICE_BITS = 3
"""The mantissa bits that may be 0 everywhere in a correct draw."""

FEW_LEVELS = 8
"""The magnitudes per kernel up to which a law (signs, ternary) is wrong, not a coarse grid."""


def resolution(w: Array) -> Evidence:
    """Check that magnitudes of *different* kernels are not equal too often, as on a coarse grid.

    Only the distinct magnitudes of each kernel count, without 0 and the largest, because copies
    inside a kernel, dead entries and clipping have their own checks. Identical kernels count once.
    """
    kernels: list[Array] = []
    seen: set[bytes] = set()
    for kernel in w:
        if kernel.tobytes() in seen:
            continue
        seen.add(kernel.tobytes())
        distinct = np.unique(np.abs(kernel))
        distinct = distinct[distinct > 0][:-1]
        if distinct.size > FEW_LEVELS or kernel.size <= FEW_LEVELS:
            kernels.append(distinct)
    if len(kernels) < 2:
        return nothing("resolution", at(w.shape[1:]), "fewer than two kernels of many values")
    pooled = np.concatenate(kernels)
    return _repeats(pooled, MAGNITUDE_LEVELS, "resolution", "magnitudes", at(w.shape[1:]))


def _repeats(values: Array, levels: float, check: str, what: str, where: str) -> Evidence:
    count = values.size
    repeated = count - np.unique(values).size
    expected = count * (count - 1) / (2 * levels)

    limit = max(expected, 1.0)
    step = max(1.0, math.sqrt(expected))
    while expected > 0 and chernoff_log_p(limit + step, expected) > LOG_ALPHA:
        limit += step
    found = (
        f"{repeated} of {count} {what} occurred before{where}; full float32 mantissas give "
        f"{expected:.3g}, accepted up to {limit:.0f} ({weights(count)})"
    )
    return Evidence(
        check, chernoff_log_p(repeated, expected), float(repeated), (0.0, limit), count, found
    )


def trailing_zeros(w: Array) -> Evidence:
    """Check for weights of lower precision, by the mantissa bits that are always 0.

    A full mantissa ends in j zero bits with probability 2^-j. The lattice explains `LATTICE_BITS`
    of them, because uniform draws are multiples of 2^-22. So n different magnitudes that all end in
    j zero bits have P <= (2^(3-j))^n. bfloat16 gives 16 zero bits, float16 13.
    """
    bits = np.ascontiguousarray(w, np.float32).view(np.uint32)
    bits = bits[(bits & 0x7FFFFFFF) != 0]
    if bits.size == 0:
        return nothing("trailing zeros", at(w.shape[1:]), "every weight is 0")
    together = int(np.bitwise_or.reduce(bits & 0x7FFFFF)) | 0x800000
    zeros = (together & -together).bit_length() - 1
    distinct = np.unique(bits & 0x7FFFFFFF).size
    log_p = -max(zeros - LATTICE_BITS, 0) * math.log(2) * distinct
    found = (
        f"the last {zeros} of 23 mantissa bits are 0 in all {distinct} magnitudes"
        f"{at(w.shape[1:])}; full float32 mantissas leave none ({weights(w.size)})"
    )
    allowed = LATTICE_BITS - LOG_ALPHA / math.log(2) / distinct
    return Evidence(
        "trailing zeros",
        min(0.0, log_p),
        float(zeros),
        (0, allowed),
        w.size,
        found,
        shape=w.shape[1:],
    )
