"""The laws that the entries of a new parameter may follow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

NORMAL = "normal"
TRUNCATED_NORMAL = "truncated-normal"
UNIFORM = "uniform"

Variance = Callable[[int, int], float]
"""The variance of an entry as a function of ``(fan_in, fan_out)``."""


def _zero(fan_in: int, fan_out: int) -> float:
    return 0.0


def _lecun(fan_in: int, fan_out: int) -> float:
    return 1.0 / fan_in


def _he(fan_in: int, fan_out: int) -> float:
    return 2.0 / fan_in


def _glorot(fan_in: int, fan_out: int) -> float:
    return 2.0 / (fan_in + fan_out)


@dataclass(frozen=True)
class Law:
    """The law that the entries of a new parameter follow; their mean is 0.

    The class methods make the usual ones.

    Parameters
    ----------
    families
        The families that count as this law: any of ``"normal"``, ``"truncated-normal"`` (at two
        standard deviations of the underlying normal), ``"uniform"``. An empty tuple declares only
        the variance.
    variance
        The variance of an entry as a function of ``(fan_in, fan_out)``. Constantly 0 declares
        that the parameter starts at zero.
    description
        The law in a formula, for reports.
    constant
        The value of every entry, if the variance is constantly 0.
    """

    families: tuple[str, ...]
    variance: Variance
    description: str
    constant: float = 0.0

    @classmethod
    def zero(cls) -> Law:
        """Return the law of a parameter that starts at 0."""
        return cls.of_constant(0.0)

    @classmethod
    def of_constant(cls, value: float) -> Law:
        """Return the law of a bias that starts at this value."""
        return cls((), _zero, f"{value:.9g}", value)

    @classmethod
    def normal(cls, variance: Variance, formula: str) -> Law:
        """Return the normal law of this variance, which reports show as `formula`."""
        return cls((NORMAL,), variance, f"normal, variance {formula}")

    @classmethod
    def truncated_normal(cls, variance: Variance, formula: str) -> Law:
        """Return the normal law truncated at two deviations; `variance` includes the truncation."""
        return cls((TRUNCATED_NORMAL,), variance, f"truncated normal, variance {formula}")

    @classmethod
    def uniform(cls, variance: Variance, formula: str) -> Law:
        """Return the uniform law of this variance; its bounds are sqrt(3 variance)."""
        return cls((UNIFORM,), variance, f"uniform, variance {formula}")

    @classmethod
    def lecun(cls) -> Law:
        """Return Flax's default: variance 1/fan_in (LeCun et al., 1998), truncated or not."""
        words = "normal or truncated normal, variance 1/fan_in"
        return cls((NORMAL, TRUNCATED_NORMAL), _lecun, words)

    @classmethod
    def lecun_normal(cls) -> Law:
        """Return the normal law of variance 1/fan_in (LeCun et al., 1998)."""
        return cls.normal(_lecun, "1/fan_in")

    @classmethod
    def lecun_truncated_normal(cls) -> Law:
        """Return the law of ``jax.nn.initializers.lecun_normal``, which truncates."""
        return cls.truncated_normal(_lecun, "1/fan_in")

    @classmethod
    def lecun_uniform(cls) -> Law:
        """Return the uniform law of variance 1/fan_in (LeCun et al., 1998)."""
        return cls.uniform(_lecun, "1/fan_in")

    @classmethod
    def he_normal(cls) -> Law:
        """Return the law of ``jax.nn.initializers.he_normal``: truncated (He et al., 2015)."""
        return cls.truncated_normal(_he, "2/fan_in")

    @classmethod
    def he_uniform(cls) -> Law:
        """Return the uniform law of variance 2/fan_in (He et al., 2015)."""
        return cls.uniform(_he, "2/fan_in")

    @classmethod
    def glorot_normal(cls) -> Law:
        """Return the law of ``jax.nn.initializers.glorot_normal`` (Glorot & Bengio, 2010)."""
        return cls.truncated_normal(_glorot, "2/(fan_in + fan_out)")

    @classmethod
    def glorot_uniform(cls) -> Law:
        """Return the uniform law of variance 2/(fan_in + fan_out) (Glorot & Bengio, 2010)."""
        return cls.uniform(_glorot, "2/(fan_in + fan_out)")

    def is_constant(self, fan_in: int = 4, fan_out: int = 2) -> bool:
        """Return whether nothing is drawn: a kernel is 0, and a bias the law's constant."""
        return self.variance(fan_in, fan_out) == 0.0

    def within(self, other: Law) -> bool:
        """Return whether every parameter that follows this law also follows the other."""
        same = all(
            math.isclose(self.variance(*fans), other.variance(*fans))
            for fans in ((1, 1), (3, 10), (10, 3), (64, 64))
        )
        named = bool(self.families) or not other.families or self.is_constant()
        same = same and self.constant == other.constant
        return same and named and set(self.families) <= set(other.families or self.families)
