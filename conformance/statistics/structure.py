"""Structure that correlations do not see: sorted lines, deficient rank."""

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
    threshold,
    weights,
)

_DENSITY = 2 * math.sqrt(2)
"""A generous bound on the density of a normalised sum: weights of density at most 2 (in units of
1/sigma), five times the normal law's. Exact deficiencies are far below it, whatever the law."""


def order(z: Array, along: str) -> Evidence:
    """Neighbours go up as often as down, in value and in magnitude.

    Disjoint neighbours of an independent sample go up or down with equal probability, so
    |ups - downs| <= T sqrt(pairs) (Hoeffding 1963) under any law. Ties count as neither.
    """
    check = f"order along the {along}s"
    lines = z if along == "row" else z.swapaxes(1, 2)
    even = lines.shape[2] // 2 * 2
    worst, what, number = 0.0, "weights", 0
    for label, values in (("weights", lines), ("magnitudes", np.abs(lines))):
        steps = np.sign(values[..., 1:even:2] - values[..., :even:2])
        pairs = int(np.count_nonzero(steps))
        statistic = abs(float(steps.sum())) / math.sqrt(pairs) if pairs else 0.0
        if statistic > worst:
            worst, what, number = statistic, label, pairs
    if number == 0:
        return nothing(check, at(z.shape[1:]), "there are no two different neighbours")
    limit = threshold(2)
    share, slack = 50 + 50 * worst / math.sqrt(number), 50 * limit / math.sqrt(number)
    found = (
        f"{share:.4g} % of the {what} along the {along}s are ordered alike{at(z.shape[1:])}; "
        f"accepted up to {50 + slack:.4g} % ({number} pairs)"
    )
    return Evidence(check, linear_log_p(worst, 2), worst, (0.0, limit), z.size, found)


def rank(z: Array) -> Evidence:
    """No kernel is of lower rank than min(in, out): its smallest singular value.

    With k = min, d = |in - out| + 1 and the density bound M of a normalised sum, the distance of
    each line from the span of the others is the norm of a d-dimensional projection, whose density
    is at most M^d (Livshyts, Paouris and Pivovarov 2016), and sigma_min >= distance / sqrt(k), so
    P(sigma_min <= s) <= k M^d V_d (s sqrt(k))^d. A nearly square kernel cannot be tested: d must
    be 8 or more. Lines that are 0 throughout are left out; other checks see them.
    """
    rows, columns = z.shape[1:]
    if abs(rows - columns) < 8 or min(rows, columns) < 2 or not z.any():
        return nothing("rank", at(z.shape[1:]), "the kernel is too nearly square")
    short = z if rows < columns else z.swapaxes(1, 2)
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
    found = (
        f"the smallest singular value is {smallest:.3g} standard deviations{at(z.shape[1:])}; "
        f"accepted from {limit:.3g} ({weights(z.size)})"
    )
    return Evidence("rank", log_p, smallest, (limit, math.inf), z.size, found)
