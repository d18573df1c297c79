"""The diagnosis of laws: the right name or "unknown", never a wrong name."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from conformance.selftest.mutants import Draw, drawn_by, normal, orthogonal, scaled_by, truncated
from conformance.statistics import causes, design, identify_law
from conformance.statistics.identify import SCALES, Scale
from conformance.statistics.laws import TRUNCATED_VARIANCE

Samples = dict[tuple[int, int], np.ndarray]

uniform = drawn_by(lambda g, s: g.uniform(-math.sqrt(3), math.sqrt(3), s))
BASES = {"normal": normal, "truncated normal": truncated, "uniform": uniform}


def _samples(draw: Draw, seed: int) -> Samples:
    """Return kernels of the quick design's sizes."""
    generator = np.random.default_rng(seed)
    return {
        cell.shape: (
            draw(generator, len(cell.seeds), *cell.shape) / math.sqrt(cell.shape[0])
        ).astype(np.float32)
        for cell in design("quick").cells
    }


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: scale.name)
def test_every_known_law_is_named(base: str, scale: Scale) -> None:
    samples = {
        size: w
        for size, w in _samples(scaled_by(_finite(scale.variance), BASES[base]), 1).items()
        if math.isfinite(scale.variance(*size))
    }
    found = identify_law(samples)
    assert found.verdict == "known"
    own = {"LeCun uniform", "Glorot uniform", "uniform +-1/sqrt(fan_in)"}
    assert found.name in own or found.name == f"{base}, {scale.name}"


def _finite(variance: Callable[[int, int], float]) -> Callable[[int, int], float]:
    return lambda i, o: variance(i, o) if math.isfinite(variance(i, o)) else 1.0


STRUCTURAL: dict[str, Draw] = {
    "zeros": drawn_by(lambda g, s: np.zeros(s)),
    "constant": drawn_by(lambda g, s: np.ones(s)),
    "random signs": drawn_by(lambda g, s: g.choice([-1.0, 1.0], s)),
    "not finite": drawn_by(lambda g, s: np.full(s, np.nan)),
    "orthogonal": orthogonal,
    "normal, 1/fan_in": normal,
    "truncated normal, 1/fan_in, truncation not corrected": scaled_by(
        lambda i, o: TRUNCATED_VARIANCE / i, truncated
    ),
}


@pytest.mark.parametrize("name", STRUCTURAL)
def test_structure_is_named(name: str) -> None:
    """These causes do not come from likelihood; a truncated normal has two spellings."""
    assert identify_law(_samples(STRUCTURAL[name], 2)).name == name


UNKNOWN: dict[str, Draw] = {
    "variance 1.5/in": scaled_by(lambda i, o: 1.5 / i),
    "variance in^-0.75": scaled_by(lambda i, o: i**-0.75),
    "logistic": drawn_by(lambda g, s: g.logistic(0, math.sqrt(3) / math.pi, s)),
    "half of them 0": drawn_by(lambda g, s: g.standard_normal(s) * g.choice([0, 1.4], s)),
    "Student t5": drawn_by(lambda g, s: g.standard_t(5, s) * math.sqrt(0.6)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_not_named(name: str) -> None:
    found = identify_law(_samples(UNKNOWN[name], 3))
    assert (found.verdict, found.name) == ("unknown", "")
    assert "variance" in found.sentence or "mean(K**2)" in found.sentence


def test_square_kernels_are_ambiguous() -> None:
    """If fan_in equals fan_out, LeCun and Glorot initialization are one law."""
    samples = {(48, 48): normal(np.random.default_rng(0), 16, 48, 48) / math.sqrt(48)}
    found = identify_law(samples)
    assert found.verdict == "ambiguous"
    assert "fan_out" in found.name


def test_the_sentence_says_what_to_do() -> None:
    found = identify_law(_samples(scaled_by(lambda i, o: 1.0), 4))
    assert found.sentence == "the kernel is not scaled: its standard deviation is 1 at every size."
    assert found.remedy == "Multiply by 1/sqrt(in_features)."
    half_again = identify_law(_samples(scaled_by(lambda i, o: 1.5 / i), 4))
    assert half_again.quantified
    assert half_again.remedy.startswith("Multiply by 0.81")


def test_the_remedy_is_that_of_the_declared_law() -> None:
    """A layer that declares Glorot's variance is not advised to use 1/fan_in."""
    samples = _samples(scaled_by(lambda i, o: 2 / (3 * (i + o))), 5)
    cause = causes.law(samples, (), lambda i, o: 2 / (i + o))
    assert "in_features" not in cause
    assert "Multiply by 1.7" in cause
    assert "in_features" in causes.law(_samples(scaled_by(lambda i, o: 1.0), 4))


def test_a_grid_is_named_only_for_a_kernel_that_lies_on_one() -> None:
    """A normalized row of one input has few values, which says nothing of larger kernels."""
    samples = {**_samples(normal, 2), (1, 1024): np.ones((4, 1, 1024), np.float32)}
    samples[1, 1024] -= np.float32(2**-20) * np.random.default_rng(0).integers(0, 64, (4, 1, 1024))
    assert not causes.resolution(samples)
    rounded = {size: np.round(w * 64) / 64 for size, w in _samples(normal, 2).items()}
    assert causes.resolution(rounded)
