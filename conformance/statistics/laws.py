"""The laws of initial weights, rescaled to mean 0 and variance 1."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from conformance.statistics.evidence import Array

_INSIDE = math.erf(math.sqrt(2.0))
"""The probability of a standard normal within two standard deviations."""

TRUNCATED_VARIANCE = 1 - 4 * math.exp(-2.0) / math.sqrt(2 * math.pi) / _INSIDE
"""The variance of a standard normal truncated at +-2, 0.7737."""

TRUNCATED_LARGEST = 2 / math.sqrt(TRUNCATED_VARIANCE)
"""The largest |z| of that law when it is rescaled to variance 1, 2.2737."""


@dataclass(frozen=True)
class Family:
    """A law of variance 1: its name, distribution function, largest |z| and kurtosis E[z^4].

    `strictly_subgaussian` says that the Chernoff bounds of the variance checks hold for it.
    """

    name: str
    cdf: Callable[[Array], Array]
    largest: float
    kurtosis: float
    strictly_subgaussian: bool = True


def standard_normal_cdf(z: Array) -> Array:
    """Return the distribution function of N(0, 1)."""
    from scipy.special import ndtr  # JAX depends on SciPy; imported late because it is slow to load

    return np.asarray(ndtr(z), np.float64)


def _truncated_cdf(z: Array) -> Array:
    clipped = np.clip(z * math.sqrt(TRUNCATED_VARIANCE), -2.0, 2.0)
    return (standard_normal_cdf(clipped) - (1 - _INSIDE) / 2) / _INSIDE


def _uniform_cdf(z: Array) -> Array:
    return np.clip(z / math.sqrt(12) + 0.5, 0.0, 1.0)


def _laplace_cdf(z: Array) -> Array:
    tail = 0.5 * np.exp(-math.sqrt(2) * np.abs(z))
    return np.where(z < 0, tail, 1 - tail)


def _logistic_cdf(z: Array) -> Array:
    return 0.5 * (1 + np.tanh(z * math.pi / math.sqrt(12)))


def _signs_cdf(z: Array) -> Array:
    return np.where(z < -1, 0.0, np.where(z < 1, 0.5, 1.0))


NORMAL = Family("normal", standard_normal_cdf, math.inf, 3.0)
TRUNCATED_NORMAL = Family("truncated normal", _truncated_cdf, TRUNCATED_LARGEST, 3 - 0.6344634753)
UNIFORM = Family("uniform", _uniform_cdf, math.sqrt(3), 1.8)
LAPLACE = Family("Laplace", _laplace_cdf, math.inf, 6.0, strictly_subgaussian=False)
LOGISTIC = Family("logistic", _logistic_cdf, math.inf, 4.2, strictly_subgaussian=False)
SIGNS = Family("random signs", _signs_cdf, 1.0, 1.0)

FAMILIES = (NORMAL, TRUNCATED_NORMAL, UNIFORM, LAPLACE, LOGISTIC, SIGNS)


def families_named(names: Iterable[str]) -> tuple[Family, ...]:
    """Return the known families of these names, with spaces, dashes or underscores."""
    plain = [name.replace("_", " ").replace("-", " ").lower() for name in names]
    return tuple(each for name in plain for each in FAMILIES if each.name.lower() == name)
