"""The statistical tests are calibrated, have the stated power, and kill their mutants."""

import math
from collections.abc import Callable

import jax
import numpy as np
import pytest

from conformance.selftest.mutants import (
    MUTANTS,
    Draw,
    drawn,
    drawn_by,
    edited,
    normal,
    scaled_by,
    truncated,
)
from conformance.statistics import (
    ALPHA,
    Evidence,
    by_requirement,
    design,
    moments,
    power,
    rejections,
    shape,
    strongest,
)
from conformance.statistics.by_requirement import Samples
from conformance.statistics.dispersion import under_dispersion
from conformance.statistics.evidence import LOG_ALPHA
from conformance.statistics.laws import NORMAL, TRUNCATED_NORMAL, UNIFORM, Family
from conformance.statistics.structure import rank, shared_run

FAMILIES = (NORMAL, TRUNCATED_NORMAL)


def _fan_in(in_features: int, features: int) -> float:
    return 1 / in_features


def _homogeneity(standard: Samples) -> list[Evidence]:
    accepted = not strongest(by_requirement.law_row(standard, FAMILIES)).rejected
    return by_requirement.homogeneity_row(by_requirement.centred(standard), accepted)


STANDARDISED: dict[str, Callable[[Samples], list[Evidence]]] = {
    "mean": by_requirement.mean_row,
    "law": lambda standard: by_requirement.law_row(standard, FAMILIES),
    "independence": lambda standard: by_requirement.independence_row(
        by_requirement.centred(standard)
    ),
    "homogeneity": _homogeneity,
    "dispersion": by_requirement.dispersion_row,
    "seeds": by_requirement.seeds_row,
}


def _evidence(samples: Samples, row: str) -> list[Evidence]:
    if row == "variance":
        return by_requirement.variance_row(samples, _fan_in)
    if row == "resolution":
        return by_requirement.resolution_row(samples)
    return STANDARDISED[row](by_requirement.rescaled(samples, _fan_in))


ROWS = ("variance", "resolution", *STANDARDISED)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_fails_its_requirement(name: str) -> None:
    row, draw = MUTANTS[name]
    rejected = rejections(_evidence(drawn(draw), row))
    assert rejected
    for piece in rejected:
        low, high = piece.accepted
        assert not low < piece.statistic < high, piece


@pytest.mark.parametrize("name", ["unscaled", "fan_out", "Glorot"])
def test_a_wrong_scale_fails_the_variance_alone(name: str) -> None:
    """The other requirements then use the measured scale."""
    samples = drawn(MUTANTS[name][1])
    failing = [row for row in ROWS if strongest(_evidence(samples, row)).rejected]
    assert failing == ["variance"]


def _by_size(generator: np.random.Generator, seeds: int, rows: int, columns: int) -> np.ndarray:
    """Draw from the normal law up to 4 inputs, and from the truncated one above."""
    return (normal if rows <= 4 else truncated)(generator, seeds, rows, columns)


@pytest.mark.parametrize("draw", [normal, truncated, _by_size])
def test_the_right_laws_pass(draw: Draw) -> None:
    samples = drawn(draw)
    assert min(strongest(_evidence(samples, row)).log_p for row in ROWS) > -12


@pytest.mark.parametrize("profile", ["quick", "standard", "thorough"])
def test_a_profile_keeps_its_promise(profile: str) -> None:
    experiment = design(profile)
    assert power.detectable_variance(experiment.count) <= experiment.promised
    assert experiment.count >= power.weights_for_variance(experiment.promised)
    assert "missed with probability" in power.statement(
        profile, experiment.count, experiment.promised
    )
    assert "was promised" in power.statement(profile, 1_000, experiment.promised)


def test_windows_into_one_stream_share_a_run() -> None:
    generator = np.random.default_rng(0)
    kernels = generator.standard_normal((5, 6, 40)).astype(np.float32)
    assert shared_run(kernels) is None
    kernels[3].flat[100:116] = kernels[1].flat[7:23]
    assert shared_run(kernels) == (1, 3)
    assert shared_run(np.zeros((5, 6, 40), np.float32)) is None
    assert shared_run(kernels[:, :1, :4]) is None


def test_no_two_sizes_share_a_seed() -> None:
    seeds = [seed for cell in design("thorough").cells for seed in cell.seeds]
    assert len(seeds) == len(set(seeds))


@pytest.mark.parametrize("draw", [normal, truncated])
def test_two_per_cent_and_a_fiftieth_of_sigma_are_caught_in_standard(draw: Draw) -> None:
    """This is the power that the standard profile states."""
    right = drawn(draw, "standard")
    for factor in (0.98, 1.02):
        samples = {size: w * np.float32(math.sqrt(factor)) for size, w in right.items()}
        assert strongest(by_requirement.variance_row(samples, _fan_in)).rejected
    shifted = {size: z + 0.02 for size, z in by_requirement.standardised(right, _fan_in).items()}
    assert strongest(by_requirement.mean_row(shifted)).rejected


def test_the_power_bound_is_kept_by_simulation() -> None:
    count = power.weights_for_variance(0.1, miss=0.01)
    generator = np.random.default_rng(11)
    for factor in (0.9, 1.1):
        ratios = factor * generator.chisquare(count, 4_000) / count
        low, high = moments.variance_limits(count)
        missed = int(np.sum((ratios > low) & (ratios < high)))
        assert missed <= 40 + 5 * math.sqrt(40)


def test_every_check_is_calibrated() -> None:
    """Bounds are at least the frequency of the p-value, within 5 binomial deviations."""
    generator = np.random.default_rng(7)
    bounds: dict[tuple[str, str, str], list[float]] = {}
    for _ in range(100):
        for draw, size in ((normal, (24, 13)), (truncated, (6, 40))):
            kernels = draw(generator, 8, *size) / np.float32(math.sqrt(size[0]))
            for row in ROWS:
                for piece in _evidence({size: kernels}, row):
                    key = (draw.__name__, row, piece.check)
                    bounds.setdefault(key, []).append(piece.log_p)
    for key, values in bounds.items():
        for level in (0.1, 0.01):
            alarms = int(np.sum(np.exp(values) <= level))
            limit = len(values) * level + 5 * math.sqrt(len(values) * level)
            assert alarms <= limit, (key, level, alarms, len(values))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 3), (3, 3)])
@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_tiny_samples_are_accepted(size: tuple[int, int], seeds: int) -> None:
    kernels = normal(np.random.default_rng(1), seeds, *size) / math.sqrt(size[0])
    for row in ROWS:
        assert not strongest(_evidence({size: kernels}, row)).rejected
        assert np.isfinite([p.statistic for p in _evidence({size: 0 * kernels}, row)]).all()


def test_a_single_exact_zero_is_no_evidence_but_many_are() -> None:
    """The truncated float32 lattice has one exact zero, drawn once in 2^23."""
    assert not moments.variance(np.zeros(1)).rejected
    assert moments.variance(np.zeros(100)).rejected


def test_the_stated_interval_is_where_the_bound_is_alpha() -> None:
    for count in (100, 100_000):
        low, high = moments.variance_limits(count)
        for ratio in (low, high):
            log_p = math.log(2) + moments.chernoff(ratio, count)
            assert abs(log_p - LOG_ALPHA) < 1e-6
    assert np.round(moments.variance_limits(100_000), 4).tolist() == [0.9629, 1.0380]
    assert math.log(ALPHA) == LOG_ALPHA


@pytest.mark.parametrize("draw", [normal, truncated])
def test_the_density_of_norms_is_within_its_margin(draw: Draw) -> None:
    """A simulation of a hundred thousand norms confirms the constant 1.25."""
    z = draw(np.random.default_rng(3), 1, 100_000, 16).astype(np.float64)
    logarithms = np.log(np.square(z[0]).mean(axis=1))
    density = np.histogram(logarithms, bins=60, density=True)[0].max()
    assert density <= 1.25 * math.sqrt(16 / (2 * math.pi * 0.8))
    assert not under_dispersion(z, "row").rejected


@pytest.mark.parametrize(("dtype", "rounding"), [("bfloat16", 2.0**-8), ("float16", 2.0**-10)])
@pytest.mark.parametrize("family", ["normal", "truncated_normal", "uniform"])
def test_what_jax_draws_in_half_precision_is_within_the_density(
    family: str, dtype: str, rounding: float
) -> None:
    """Norms and sums of 16 weights, within the distance by which rounding moves them."""
    ends = {"truncated_normal": (-2, 2)}.get(family, ())
    draw = getattr(jax.random, family)
    key, shape = jax.random.key(3), (100_000, 16)
    z = np.asarray(draw(key, *ends, shape=shape, dtype=dtype)).astype(np.float64)
    z /= z.std()

    def density(values: np.ndarray, moved: float) -> float:
        ordered = np.sort(values)
        inside = np.searchsorted(ordered, ordered + 2 * moved) - np.arange(len(ordered))
        return float(inside.max()) / len(ordered) / (2 * moved)

    norms, sums = np.log(np.square(z).mean(axis=1)), z.sum(axis=1) / 4
    assert density(norms, 2 * rounding) <= 1.25 * math.sqrt(16 / (2 * math.pi * 0.8))
    assert density(sums, 4 * rounding) <= math.sqrt(2) * 0.399
    assert not strongest(
        by_requirement.dispersion_row({(16, 100_000): z.T[None]}, rounding)
    ).rejected
    even = (z.T / np.sqrt(np.square(z).mean(axis=1)))[None].astype(dtype).astype(np.float64)
    assert under_dispersion(even, "column", rounding=rounding).rejected


def test_rank_needs_a_long_side_and_sees_one_missing_dimension() -> None:
    """In one of four kernels, a line depends on two others."""
    z = np.random.default_rng(0).standard_normal((4, 24, 80))
    assert not rank(z).rejected
    z[2, 23] = z[2, 3] - z[2, 7]
    assert rank(z).rejected
    assert rank(z[:, :, :24]).count == 0


@pytest.mark.parametrize("family", [NORMAL, TRUNCATED_NORMAL, UNIFORM], ids=lambda f: f.name)
def test_the_family_is_recognised_at_any_scale(family: Family) -> None:
    draws = {
        NORMAL: normal,
        TRUNCATED_NORMAL: truncated,
        UNIFORM: drawn_by(lambda g, s: g.uniform(-1, 1, s)),
    }
    z = draws[family](np.random.default_rng(5), 4, 50, 100).astype(np.float64)
    assert shape.family_of(17.0 * z) is family


def test_mutants_are_wrong_by_their_edit_alone() -> None:
    for draw in (edited(lambda z: None), scaled_by(lambda i, o: 1 / i)):
        assert not strongest(_evidence(drawn(draw), "variance")).rejected
