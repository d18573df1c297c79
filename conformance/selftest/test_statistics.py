"""The statistical tests: calibrated, with the stated power, and each with a mutant that it kills."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from conformance.statistics import ALPHA, Evidence, design, moments, power, rows, shape, strongest
from conformance.statistics.dispersion import under_dispersion
from conformance.statistics.evidence import LOG_ALPHA
from conformance.statistics.laws import NORMAL, TRUNCATED_NORMAL, TRUNCATED_VARIANCE, UNIFORM
from conformance.statistics.rows import Samples
from conformance.statistics.structure import rank

Draw = Callable[[np.random.Generator, int, int, int], np.ndarray]
FAMILIES = (NORMAL, TRUNCATED_NORMAL)


def fan_in(in_features: int, features: int) -> float:
    return 1 / in_features


def evidence_by_row(samples: Samples) -> dict[str, list[Evidence]]:
    standard = rows.rescaled(samples, fan_in)
    law = rows.law_row(standard, FAMILIES)
    accepted = not strongest(law).rejected
    return {
        "variance": rows.variance_row(samples, fan_in),
        "mean": rows.mean_row(standard),
        "law": law,
        "independence": rows.independence_row(standard),
        "homogeneity": rows.homogeneity_row(standard, accepted),
        "dispersion": rows.dispersion_row(standard),
        "resolution": rows.resolution_row(samples),
        "seeds": rows.seeds_row(standard),
    }


def failing(samples: Samples) -> set[str]:
    return {
        row for row, evidence in evidence_by_row(samples).items() if strongest(evidence).rejected
    }


def drawn(draw: Draw, profile: str = "quick", seed: int = 0) -> dict[tuple[int, int], np.ndarray]:
    generator = np.random.default_rng(seed)
    samples = {}
    for cell in design(profile).cells:
        z = draw(generator, len(cell.seeds), *cell.shape)
        samples[cell.shape] = (z / math.sqrt(cell.shape[0])).astype(np.float32)
    return samples


def normal(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    return g.standard_normal((seeds, rows_, columns)).astype(np.float32)


def truncated(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    z = g.standard_normal((seeds, rows_, columns))
    while (np.abs(z) > 2).any():
        outside = np.abs(z) > 2
        z[outside] = g.standard_normal(int(outside.sum()))
    return (z / math.sqrt(TRUNCATED_VARIANCE)).astype(np.float32)


def bfloat16(z: np.ndarray) -> np.ndarray:
    return (np.asarray(z, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def standardise(z: np.ndarray) -> np.ndarray:
    centred = z - z.mean(axis=(1, 2), keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(axis=(1, 2), keepdims=True))


def orthogonal(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    z = g.standard_normal((seeds, max(rows_, columns), min(rows_, columns)))
    q, r = np.linalg.qr(z)
    q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    return (q if rows_ >= columns else q.swapaxes(1, 2)) * math.sqrt(max(rows_, columns))


def autoregressive(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    z = g.standard_normal((seeds, rows_ * columns))
    for i in range(1, z.shape[1]):
        z[:, i] = 0.1 * z[:, i - 1] + math.sqrt(0.99) * z[:, i]
    return z.reshape(seeds, rows_, columns)


def paired_columns(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    z = g.standard_normal((seeds, rows_, columns))
    z[:, :, 1::2] = z[:, :, : columns // 2 * 2 : 2]
    return z


def antithetic(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    z = g.standard_normal((seeds, rows_, columns))
    half = columns // 2
    z[:, :, half : 2 * half] = -z[:, :, :half]
    return z


def antithetic_rows(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    return antithetic(g, seeds, columns, rows_).swapaxes(1, 2)


def scrambled_copies(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    z = g.standard_normal((seeds, 1, columns)) * np.ones((1, rows_, 1))
    return np.abs(z) * g.choice([-1.0, 1.0], size=(seeds, rows_, columns))


def low_rank(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    left = g.standard_normal((seeds, rows_, 4))
    return left @ g.standard_normal((seeds, 4, columns)) / 2


def symmetric(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    z = g.standard_normal((seeds, rows_, columns))
    if rows_ == columns:
        upper = np.triu(z)
        z = upper + np.triu(z, 1).swapaxes(1, 2)
    return z


def stream_offset(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
    stream = g.standard_normal(rows_ * columns + seeds)
    return np.stack([stream[s : s + rows_ * columns].reshape(rows_, columns) for s in range(seeds)])


def edited(edit: Callable[[np.ndarray], object], base: Draw = normal) -> Draw:
    """A draw whose weights are then changed in place, or replaced by what `edit` returns."""

    def draw(g: np.random.Generator, seeds: int, rows_: int, columns: int) -> np.ndarray:
        z = base(g, seeds, rows_, columns).astype(np.float64)
        result = edit(z)
        return result if isinstance(result, np.ndarray) else z

    return draw


def drawn_by(method: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]) -> Draw:
    return lambda g, seeds, rows_, columns: method(g, (seeds, rows_, columns))


def scaled_by(variance: Callable[[int, int], float], base: Draw = normal) -> Draw:
    """The draw whose variance is `variance(fan_in, fan_out)` instead of 1/fan_in."""
    return lambda g, seeds, rows_, columns: (
        base(g, seeds, rows_, columns) * math.sqrt(variance(rows_, columns) * rows_)
    )


def _scale_row(z: np.ndarray) -> None:
    z[:, z.shape[1] // 2] *= 1.5 if z.shape[1] > 4 else 1.0


def _kill_column(z: np.ndarray) -> None:
    z[:, :, z.shape[2] // 2] = 0


def _kill_entry(z: np.ndarray) -> None:
    z[:, 0, 0] = 0


def _correlate_seeds(z: np.ndarray) -> None:
    z[1] = 0.2 * z[0] + math.sqrt(0.96) * z[1]


def _nudge(z: np.ndarray) -> np.ndarray:
    return z * (1 + 0.2 * (np.arange(z.shape[2]) % 2 - 0.5))


MUTANTS: dict[str, tuple[str, Draw]] = {
    "variance +5 %": ("variance", scaled_by(lambda i, o: 1.05 / i)),
    "variance -5 %": ("variance", scaled_by(lambda i, o: 0.95 / i)),
    "unscaled": ("variance", scaled_by(lambda i, o: 1.0)),
    "fan_out": ("variance", scaled_by(lambda i, o: 1 / o)),
    "Glorot": ("variance", scaled_by(lambda i, o: 2 / (i + o))),
    "1/(in+1)": ("variance", scaled_by(lambda i, o: 1 / (i + 1))),
    "uncorrected truncation": (
        "variance",
        scaled_by(lambda i, o: TRUNCATED_VARIANCE / i, truncated),
    ),
    "mean +.05": ("mean", edited(lambda z: z + 0.05)),
    "half normal": ("mean", edited(np.abs)),
    "uniform": ("law", drawn_by(lambda g, s: g.uniform(-math.sqrt(3), math.sqrt(3), s))),
    "Laplace": ("law", drawn_by(lambda g, s: g.laplace(0, math.sqrt(0.5), s))),
    "Student t8": ("law", drawn_by(lambda g, s: g.standard_t(8, s) * math.sqrt(0.75))),
    "Rademacher": ("law", drawn_by(lambda g, s: g.choice([-1.0, 1.0], s))),
    "clipped at 3": ("law", edited(lambda z: np.clip(z, -3, 3))),
    "skewed": ("law", drawn_by(lambda g, s: (g.gamma(100, size=s) - 100) / 10)),
    "half of them 0": (
        "law",
        drawn_by(lambda g, s: g.standard_normal(s) * g.choice([0, math.sqrt(2)], s)),
    ),
    "drawn in bfloat16": ("resolution", edited(lambda z: bfloat16(z).astype(np.float64) * 1.003)),
    "rounded to 1e-3": ("resolution", edited(lambda z: np.round(z, 3))),
    "float16": ("resolution", edited(lambda z: z.astype(np.float16).astype(np.float64))),
    "orthogonal": ("dispersion", orthogonal),
    "standardised": ("dispersion", edited(standardise)),
    "centred columns": ("independence", edited(lambda z: z - z.mean(axis=1, keepdims=True))),
    "paired columns": ("independence", paired_columns),
    "antithetic columns": ("independence", antithetic),
    "antithetic rows": ("independence", antithetic_rows),
    "sorted columns": ("independence", edited(lambda z: z.sort(axis=1))),
    "sorted rows": ("independence", edited(lambda z: z.sort(axis=2))),
    "AR(1) of 0.1": ("independence", autoregressive),
    "one key for every row": (
        "independence",
        edited(lambda z: np.broadcast_to(z[:, :1], z.shape).copy()),
    ),
    "sign-scrambled copies": ("independence", scrambled_copies),
    "rank 4": ("independence", low_rank),
    "symmetric": ("independence", symmetric),
    "point symmetric": ("independence", edited(lambda z: (z - z[:, ::-1, ::-1]) / math.sqrt(2))),
    "one row x 1.5": ("homogeneity", edited(_scale_row)),
    "columns x 0.9 and 1.1": ("homogeneity", edited(_nudge)),
    "dead column": ("homogeneity", edited(_kill_column)),
    "dead entry": ("homogeneity", edited(_kill_entry)),
    "correlated seeds": ("seeds", edited(_correlate_seeds)),
    "one stream, offset by the seed": ("seeds", stream_offset),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_fails_its_row(name: str) -> None:
    row, draw = MUTANTS[name]
    assert row in failing(drawn(draw))


# What a kernel of a wrong scale, and of nothing else, fails: the rows must not fail in consequence.
@pytest.mark.parametrize("name", [name for name, (row, _) in MUTANTS.items() if row == "variance"])
def test_a_wrong_scale_fails_the_variance_alone(name: str) -> None:
    assert failing(drawn(MUTANTS[name][1])) == {"variance"}


@pytest.mark.parametrize("draw", [normal, truncated])
def test_the_right_laws_pass(draw: Draw) -> None:
    found = evidence_by_row(drawn(draw, "standard"))
    assert min(strongest(evidence).log_p for evidence in found.values()) > -12


@pytest.mark.parametrize("profile", ["quick", "standard", "thorough"])
def test_a_profile_keeps_its_promise(profile: str) -> None:
    experiment = design(profile)
    assert power.detectable_variance(experiment.count) <= experiment.promised
    assert experiment.count >= power.weights_for_variance(experiment.promised)


def test_no_two_sizes_share_a_seed() -> None:
    seeds = [seed for cell in design("thorough").cells for seed in cell.seeds]
    assert len(seeds) == len(set(seeds))


@pytest.mark.parametrize("draw", [normal, truncated])
def test_two_per_cent_and_a_fiftieth_of_sigma_are_caught_in_standard(draw: Draw) -> None:
    for factor in (0.98, 1.02):
        samples = drawn(scaled_by(lambda i, o, factor=factor: factor / i, draw), "standard")
        assert strongest(rows.variance_row(samples, fan_in)).rejected
    samples = drawn(edited(lambda z: z + 0.02, draw), "standard")
    assert strongest(rows.mean_row(rows.standardised(samples, fan_in))).rejected


def test_calibration_of_every_check() -> None:
    """Every bound is at or above the frequency of such a p-value, within 5 binomial deviations."""
    generator = np.random.default_rng(7)
    groups, log_ps = 150, {}
    for _ in range(groups):
        for draw, size in ((normal, (24, 13)), (truncated, (6, 40))):
            samples = {size: draw(generator, 8, *size) / np.float32(math.sqrt(size[0]))}
            for row, evidence in evidence_by_row(samples).items():
                for piece in evidence:
                    log_ps.setdefault((draw.__name__, row, piece.check), []).append(piece.log_p)
    for key, values in log_ps.items():
        for level in (0.1, 0.01):
            alarms = int(np.sum(np.exp(values) <= level))
            limit = len(values) * level + 5 * math.sqrt(len(values) * level)
            assert alarms <= limit, (key, level, alarms, len(values))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 3), (3, 3)])
@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_tiny_samples_are_accepted(size: tuple[int, int], seeds: int) -> None:
    generator = np.random.default_rng(1)
    assert failing({size: normal(generator, seeds, *size) / math.sqrt(size[0])}) == set()
    zero = np.zeros((seeds, *size))
    assert "mean" not in failing({size: zero})


def test_a_single_exact_zero_is_no_evidence_but_many_are() -> None:
    assert not moments.variance(np.zeros(1)).rejected
    assert moments.variance(np.zeros(100)).rejected


def test_the_stated_interval_is_where_the_bound_is_alpha() -> None:
    for count in (100, 100_000):
        low, high = moments.variance_limits(count)
        for ratio in (low, high):
            log_p = math.log(2) + moments.chernoff(ratio, count)
            assert log_p == pytest.approx(LOG_ALPHA, rel=1e-9)
    assert moments.variance_limits(100_000) == pytest.approx((0.9629, 1.0380), abs=1e-4)
    assert math.log(ALPHA) == LOG_ALPHA


@pytest.mark.parametrize("draw", [normal, truncated])
def test_the_density_of_norms_is_within_its_margin(draw: Draw) -> None:
    """The heuristic constant of `under_dispersion`, against half a million simulated norms."""
    generator = np.random.default_rng(3)
    z = draw(generator, 1, 100_000, 16).astype(np.float64)
    logarithms = np.log(np.square(z[0]).mean(axis=1))
    density = np.histogram(logarithms, bins=60, density=True)[0].max()
    assert density <= 1.25 * math.sqrt(16 / (2 * math.pi * 0.8))
    assert not under_dispersion(z[:, :, :], "row").rejected


def test_rank_needs_a_long_side_and_sees_one_missing_dimension() -> None:
    z = np.random.default_rng(0).standard_normal((4, 24, 80))
    assert not rank(z).rejected
    z[2, 23] = z[2, 3] - z[2, 7]
    assert rank(z).rejected
    assert rank(z[:, :, :24]).count == 0


@pytest.mark.parametrize("family", [NORMAL, TRUNCATED_NORMAL, UNIFORM])
def test_the_family_is_recognised_at_any_scale(family: object) -> None:
    draws = {
        NORMAL: normal,
        TRUNCATED_NORMAL: truncated,
        UNIFORM: drawn_by(lambda g, s: g.uniform(-1, 1, s)),
    }
    z = draws[family](np.random.default_rng(5), 4, 50, 100).astype(np.float64)
    assert shape.family_of(17.0 * z) is family
