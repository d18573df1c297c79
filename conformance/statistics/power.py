"""The error that a sample of n weights detects, and the weights that an error needs.

Both sides are finite-sample inequalities: the false alarm is at most ALPHA and the miss at most
`miss`, for normal, truncated normal and uniform weights alike.
"""

import math

from conformance.statistics.evidence import LOG_ALPHA, MISS, weights
from conformance.statistics.moments import chernoff, variance_limits


def variance_miss(count: int, error: float) -> float:
    """Return ln of a bound on P(a variance of 1 + error is accepted) with `count` weights.

    The accepted interval is (low, high); if the variance is 1 + d, mean(z^2)/(1 + d) has to fall
    below high/(1 + d) (or above low/(1 + d)): again the Chernoff bound.
    """
    low, high = variance_limits(count)
    edge = (high if error > 0 else low) / (1 + error)
    undetected = edge >= 1 if error > 0 else edge <= 1
    return 0.0 if undetected else chernoff(edge, count)


def detectable_variance(count: int, miss: float = MISS) -> float:
    """Return the smallest relative variance error d with +d and -d both missed with P <= `miss`.

    About sqrt(373 / n) at the default miss; `inf` if no error below 100 % qualifies.
    """
    log_miss = math.log(miss)

    def found(error: float) -> bool:
        return all(variance_miss(count, sign * error) <= log_miss for sign in (1, -1))

    low, high = 0.0, 0.999
    if count < 4 or not found(high):
        return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def weights_for_variance(error: float, miss: float = MISS) -> int:
    """Return the number of weights that detects a relative variance error: about 373 / error^2."""
    low, high = 4, 8
    while detectable_variance(high, miss) > error:
        high *= 2
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        if detectable_variance(middle, miss) > error:
            low = middle
        else:
            high = middle
    return high


def detectable_shift(count: int, miss: float = MISS, comparisons: int = 1) -> float:
    """Return the smallest mean (in standard deviations) or correlation that `count` weights detect.

    The sum is sub-Gaussian about n d as well, so d sqrt(n) = T + sqrt(2 ln(1/miss)): about
    sqrt(186 / n). (The exact normal tail instead of the bound gives 173.)
    """
    limit = math.sqrt(2 * (math.log(2 * comparisons) - LOG_ALPHA))
    return (limit + math.sqrt(-2 * math.log(miss))) / math.sqrt(count)


def statement(profile: str, count: int, promised: float) -> str:
    """Return in words what `count` weights detect, and whether the profile's promise holds."""
    error, shift = detectable_variance(count), detectable_shift(count)
    if error > promised:
        reach = "none below 100 %" if math.isinf(error) else f"only {100 * error:.2g} %"
        return (
            f"{profile}: a variance error of {100 * promised:.2g} % was promised, but "
            f"{weights(count)} detect {reach} with a miss probability of {MISS:.0e}"
        )
    return (
        f"{profile}: a variance error of {100 * promised:.2g} % is missed with probability "
        f"<= {MISS:.0e} (alpha {math.exp(LOG_ALPHA):.0e}); {weights(count)} detect "
        f"{100 * error:.2g} % and a mean shift of {shift:.2g} standard deviations"
    )
