"""Tests of structure that correlations do not show: sorted lines, low rank, shared lines."""

import math

import numpy as np

from conformance.statistics.dispersion import log_ball
from conformance.statistics.evidence import (
    LOG_ALPHA,
    Array,
    Evidence,
    at,
    linear_log_p,
    nothing,
    of_weights,
    threshold,
    weights,
)

_RUN, _LONG = 16, 24
"""The length of a run, and of a line compared in any order; two are equal by chance as rarely as
two rows of `shared_line`."""

_DENSITY = 2 * math.sqrt(2)
"""A generous bound on the density of a normalised sum, for weights of density at most 2 (in units
of 1/sigma), five times the normal law's. Exact deficiencies are far below it under any law."""


def order(z: Array, along: str) -> Evidence:
    """Check that neighbours increase as often as they decrease.

    Disjoint neighbours of independent symmetric weights increase or decrease with equal
    probability, so |ups - downs| <= T sqrt(pairs) (Hoeffding 1963) at any scales. Ties count as
    neither.
    """
    check = f"order along the {along}s"
    lines = z if along == "row" else z.swapaxes(1, 2)
    even = lines.shape[2] // 2 * 2
    steps = np.sign(lines[..., 1:even:2] - lines[..., :even:2])
    number = int(np.count_nonzero(steps))
    if number == 0:
        return nothing(check, at(z.shape[1:]), "there are no two different neighbours")
    statistic, limit = abs(float(steps.sum())) / math.sqrt(number), threshold()
    share, slack = 50 + 50 * statistic / math.sqrt(number), 50 * limit / math.sqrt(number)
    found = f"{share:.4g} % of the neighbours along the {along}s are ordered alike"
    accepted_text = f"up to {50 + slack:.4g} % ({number} pairs)"
    log_p = linear_log_p(statistic)
    return of_weights(check, z, log_p, statistic, (0.0, limit), found, accepted_text)


def rank(z: Array) -> Evidence:
    """Check that no kernel has a rank below min(in, out), by its smallest singular value.

    With k = min, d = |in - out| + 1 and the density bound M of a normalised sum, the distance of
    each line from the span of the others is the norm of a d-dimensional projection, whose density
    is at most M^d (Livshyts, Paouris and Pivovarov 2016), and sigma_min >= distance / sqrt(k), so
    P(sigma_min <= s) <= k M^d V_d (s sqrt(k))^d. As d must be 8 or more, a nearly square kernel is
    judged by the first three quarters of its lines, which are independent unless the rank is lower
    than that. Lines of zeros are left out; other checks find them.
    """
    rows, columns = z.shape[1:]
    short = z if rows < columns else z.swapaxes(1, 2)
    if short.shape[2] - short.shape[1] < 8:
        short = short[:, : 3 * short.shape[2] // 4]
    if short.shape[2] - short.shape[1] < 7 or min(rows, columns) < 2 or not z.any():
        return nothing("rank", at(z.shape[1:]), "the kernel is small and nearly square")
    kept = [kernel[kernel.any(axis=1)] for kernel in short]
    scale = math.sqrt(float(np.mean(np.square(z[z != 0]))))
    smallest = math.inf
    for kernel in kept:
        if len(kernel) > 1:
            lowest = float(np.linalg.eigvalsh(kernel @ kernel.T)[0])
            smallest = min(smallest, math.sqrt(max(lowest, 0.0)) / scale)
    if math.isinf(smallest):
        return nothing("rank", at(z.shape[1:]), "fewer than two lines are not 0")
    number, codimension = short.shape[1], short.shape[2] - short.shape[1] + 1
    constant = (
        math.log(len(z) * number)
        + codimension * math.log(_DENSITY)
        + log_ball(codimension, float(number))
    )
    log_p = min(0.0, constant + codimension * math.log(max(smallest, 1e-300)))
    limit = math.exp((LOG_ALPHA - constant) / codimension)
    found = f"the smallest singular value is {smallest:.3g} standard deviations"
    accepted_text = f"from {limit:.3g} ({weights(z.size)})"
    return of_weights("rank", z, log_p, smallest, (limit, math.inf), found, accepted_text)


def permutations(z: Array) -> Evidence:
    """Check that no two lines of a kernel have the same magnitudes, in any order.

    For 24 weights with eight magnitudes or more, even from 128 levels, the probability for two
    lines is below 24! 128^-24, and far lower for float32 numbers.
    """
    check = "permuted lines"
    for group, lines in (("row", z), ("column", z.swapaxes(1, 2))):
        if lines.shape[1] < 2 or lines.shape[2] < _LONG:
            continue
        for kernel in np.sort(np.abs(lines), axis=2):
            varied = kernel[(np.diff(kernel, axis=1) > 0).sum(axis=1) >= _RUN // 2]
            distinct = len({line.tobytes() for line in varied})
            if distinct < len(varied):
                copies = len(varied) - distinct
                which = f"{group} holds" if copies == 1 else f"{group}s hold"
                found = f"{copies} {which} the magnitudes of another"
                limit = f"none ({weights(z.size)})"
                return of_weights(check, z, -math.inf, 1.0, (0.0, 0.0), found, limit)
    return Evidence(
        check, 0.0, 0.0, (0.0, 0.0), z.size, f"no line is another's order{at(z.shape[1:])}"
    )


def shared_line(kernels: Array) -> tuple[int, int] | None:
    """Return the first two kernels (by index) that share a row up to its sign, or None.

    Only rows of at least 16 weights and 8 magnitudes count: two of them are equal by chance with
    a probability below 1e-14 even if they are drawn from 128 levels, and for a million pairs.
    """
    width = kernels.shape[2]
    if width < _RUN:
        return None
    rows = kernels.reshape(-1, width)
    leading = np.argmax(rows != 0, axis=1)
    signs = np.sign(rows[np.arange(len(rows)), leading])
    seen: dict[bytes, int] = {}
    # Adding zero turns -0.0 into 0.0.
    for i, row in enumerate(rows * signs[:, None] + 0.0):
        index = i // kernels.shape[1]
        other = seen.setdefault(row.tobytes(), index)
        if other != index and np.unique(np.abs(row)).size >= _RUN // 2:
            return other, index
    return None


def shared_run(kernels: np.ndarray) -> tuple[int, int] | None:
    """Return the first two kernels (by index) that share 16 weights in a row anywhere, or None.

    They are windows into one stream of numbers. As in `shared_line`, only runs with eight
    magnitudes count; equal hashes of 64 bits are compared weight by weight.
    """
    flat = np.ascontiguousarray(kernels.reshape(len(kernels), -1), np.float32).view(np.uint32)
    starts = flat.shape[1] - _RUN + 1
    if starts < 1:
        return None
    hashes = np.zeros((len(flat), starts), np.uint64)
    for i in range(_RUN):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + flat[:, i : i + starts]
        hashes ^= hashes >> np.uint64(29)
    order = np.argsort(hashes, axis=None, kind="stable")
    ordered = hashes.ravel()[order]
    for place in np.flatnonzero(ordered[1:] == ordered[:-1]):
        (first, a), (second, b) = (divmod(int(order[place + k]), starts) for k in (0, 1))
        run, other = flat[first, a : a + _RUN], flat[second, b : b + _RUN]
        varied = np.unique(run & np.uint32(0x7FFFFFFF)).size >= _RUN // 2
        if first != second and varied and np.array_equal(run, other):
            return first, second
    return None
