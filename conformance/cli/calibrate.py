"""``dense-conformance calibrate``: measures false alarms and power of the statistical checks.

A bound on a p-value is valid if the probability that it is below a level is at most the level. The
same kernels with a planted error show the observed power, next to the stated one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from conformance.checks.areas.kernels import kernels
from conformance.checks.layer import Layer
from conformance.errors import UsageError
from conformance.layers.loading import load
from conformance.layers.registry import resolve
from conformance.statistics import Evidence, by_requirement, correlation, power
from conformance.statistics.laws import families_named
from conformance.statistics.moments import variance, variance_limits

LEVELS = (0.1, 0.01, 0.001)
CONFIDENCE = 0.999
"""The miss probability of each binomial interval, because about a hundred rates are compared."""

_SIZES = ((24, 13), (6, 40))
_SEEDS = 16
_MISS = 0.01
"""The miss probability of the power experiment, small but measurable."""


@dataclass(frozen=True)
class Calibration:
    """The number of times that the bound of one check was at or below each of `LEVELS`."""

    check: str
    groups: int
    alarms: tuple[int, ...]
    smallest_log_p: float

    @property
    def holds(self) -> bool:
        """Return whether no interval lies above its level."""
        return all(
            interval(alarms, self.groups)[0] <= level
            for alarms, level in zip(self.alarms, LEVELS, strict=True)
        )


@dataclass(frozen=True)
class Power:
    """How often a planted error was found, and the stated probability."""

    error: str
    weights: int
    runs: int
    found: int
    stated: float

    @property
    def holds(self) -> bool:
        """Return whether the interval of the observed power does not lie below the stated power."""
        return interval(self.found, self.runs)[1] >= self.stated


def interval(count: int, trials: int) -> tuple[float, float]:
    """Return the exact binomial interval of a rate (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv  # imported late because it loads slowly; JAX depends on it

    tail = (1 - CONFIDENCE) / 2
    low = betaincinv(count, trials - count + 1, tail) if count else 0.0
    high = betaincinv(count + 1, trials - count, 1 - tail) if count < trials else 1.0
    return float(low), float(high)


def _groups(
    layer: Layer, runs: int, first_seed: int
) -> Iterator[dict[tuple[int, int], np.ndarray]]:
    """Yield a small sample of each size in turn; no seed is used twice."""
    block = 64 * _SEEDS
    for start in range(0, runs, 64):
        number = min(64, runs - start)
        drawn = {}
        for i, size in enumerate(_SIZES):
            begin = first_seed + (start // 64 * len(_SIZES) + i) * block
            drawn[size] = kernels(layer, *size, range(begin, begin + block), again=True)
        for j in range(number):
            yield {size: w[j * _SEEDS : (j + 1) * _SEEDS] for size, w in drawn.items()}


def _evidence(
    layer: Layer, samples: dict[tuple[int, int], np.ndarray]
) -> dict[str, list[Evidence]]:
    law = layer.convention.kernel
    families = families_named(law.families)
    standard = by_requirement.standardised(samples, law.variance)
    found = {
        "kernel-mean": by_requirement.mean_row(standard),
        "kernel-variance": by_requirement.variance_row(samples, law.variance),
        "kernel-independence": by_requirement.independence_row(standard),
        "kernel-homogeneity": by_requirement.homogeneity_row(standard, bool(families)),
        "kernel-dispersion": by_requirement.dispersion_row(standard),
        "kernel-resolution": by_requirement.resolution_row(samples),
        "seeds-differ": by_requirement.seeds_row(standard),
    }
    if families:
        found["kernel-law"] = by_requirement.law_row(standard, families)
    return found


def calibrate(layer: Layer, runs: int, first_seed: int) -> list[Calibration]:
    """Run every statistical check on `runs` groups of each size, from fresh seeds."""
    bounds: dict[str, list[float]] = {}
    for samples in _groups(layer, runs, first_seed):
        for row, evidence in _evidence(layer, samples).items():
            for piece in evidence:
                bounds.setdefault(f"{row}: {piece.check}", []).append(piece.log_p)
    return [
        Calibration(
            check,
            len(log_p),
            tuple(int(np.sum(np.asarray(log_p) <= math.log(level))) for level in LEVELS),
            min(log_p),
        )
        for check, log_p in sorted(bounds.items())
    ]


_POWER_SIZE = (64, 128)


def _repeated(
    layer: Layer, weights: int, runs: int, first_seed: int, found: Callable[[np.ndarray], bool]
) -> int:
    seeds = math.ceil(weights / math.prod(_POWER_SIZE))
    deviation = math.sqrt(layer.convention.kernel.variance(*_POWER_SIZE))
    total = 0
    for i in range(runs):
        begin = first_seed + i * seeds
        drawn = kernels(layer, *_POWER_SIZE, range(begin, begin + seeds), again=True)
        total += found(drawn.astype(np.float64) / deviation)
    return total


def variance_power(layer: Layer, error: float, runs: int, first_seed: int) -> Power:
    """Measure how often a relative variance error is found, at a stated miss rate of 1 %."""
    weights = power.weights_for_variance(abs(error), miss=_MISS)

    def found(z: np.ndarray) -> bool:
        return variance(z.ravel()[:weights] * math.sqrt(1 + error)).rejected

    count = _repeated(layer, weights, runs, first_seed, found)
    return Power(f"variance {error:+.3g}", weights, runs, count, 1 - _MISS)


def correlation_power(layer: Layer, error: float, runs: int, first_seed: int) -> Power:
    """Measure how often the lag check finds a correlation of neighbours along the rows.

    The products of neighbours have variance 1 + error^2 at most, and the scale is measured; both
    are covered by the upper limit of the variance.
    """
    lags = 2 * (math.prod(_POWER_SIZE) - 2)
    weights = math.ceil((power.detectable_shift(1, miss=_MISS, comparisons=lags) / error) ** 2)
    weights = math.ceil(weights * variance_limits(weights)[1] ** 2 * (1 + error**2))

    def found(z: np.ndarray) -> bool:
        for column in range(1, z.shape[2]):
            own = math.sqrt(1 - error**2) * z[:, :, column]
            z[:, :, column] = error * z[:, :, column - 1] + own
        return correlation.lags(z).rejected

    count = _repeated(layer, weights, runs, first_seed, found)
    return Power(f"correlation {error:+.3g}", weights, runs, count, 1 - _MISS)


def run(options: argparse.Namespace) -> int:
    """Print the observed rates; return 0 if none is above its level and no power is too low."""
    if options.runs < 1 or not 0 <= options.seed < 2**31:
        raise UsageError("calibrate needs --runs of at least 1 and a --seed in [0, 2**31)")
    if options.scale_error is not None and not 0 < abs(options.scale_error) < 1:
        raise UsageError("--scale-error is a relative error between -1 and 1, such as 0.05")
    if options.correlation is not None and not 0 < options.correlation < 1:
        raise UsageError("--correlation is between 0 and 1, such as 0.1")
    holds = True
    for entry in resolve(options.specs):
        layer = Layer(load(entry))
        if layer.implementation.init is None:
            print(f"{entry.name}: does not show its parameters, which calibrate measures")
            continue
        with layer.registered.surroundings():
            holds = _measured(entry.name, layer, options) and holds
    return 0 if holds else 1


def _measured(name: str, layer: Layer, options: argparse.Namespace) -> bool:
    """Print the observed rates of one layer; return whether all of them are as stated."""
    print(f"{name}: {options.runs} groups of {_SEEDS} kernels at each of {_SIZES}")
    calibrations = calibrate(layer, options.runs, options.seed)
    for line in _table(calibrations):
        print(line)
    powers = []
    if options.scale_error is not None:
        powers.append(variance_power(layer, options.scale_error, options.runs, options.seed))
    if options.correlation is not None:
        powers.append(correlation_power(layer, options.correlation, options.runs, options.seed))
    for found in powers:
        low, high = interval(found.found, found.runs)
        print(
            f"  {found.error}: found in {found.found} of {found.runs} runs of {found.weights} "
            f"weights\n    ({low:.3f} .. {high:.3f}); stated at least {found.stated:.2f}"
            f"{'' if found.holds else '  BELOW'}"
        )
    return all(item.holds for item in calibrations) and all(item.holds for item in powers)


def _table(calibrations: Sequence[Calibration]) -> Iterator[str]:
    """Yield the share of groups at or below each level, and intervals that lie above theirs."""
    width = max(len(item.check) for item in calibrations)
    yield f"  {'':{width}}" + "".join(f"{f'p<={level:g}':>8}" for level in LEVELS)
    for item in calibrations:
        rates = "".join(f"{alarms / item.groups:8.4f}" for alarms in item.alarms)
        yield f"  {item.check:{width}}{rates}"
        for alarms, level in zip(item.alarms, LEVELS, strict=True):
            low, high = interval(alarms, item.groups)
            if low > level:
                yield (
                    f"    ABOVE {level:g}: the interval is {low:.4f} .. {high:.4f}; "
                    f"the smallest ln p is {item.smallest_log_p:.2f}"
                )
