"""The statistical requirements as lists of checks on the kernels of a designed experiment.

`samples` maps a size (in, out) to kernels (seeds, in, out) of independent seeds; `variance` is the
declared variance as a function of fan_in and fan_out. Requirements that do not concern the scale
use the declared variance unless it is rejected, and then the measured one, so that a wrong scale
fails one requirement only. With a correct scale, the measured one is used with probability 1e-15 at
most.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.statistics import (
    correlation,
    dispersion,
    moments,
    resolution,
    shape,
    sign_products,
    structure,
)
from conformance.statistics.evidence import Array, Evidence
from conformance.statistics.laws import Family

Shape = tuple[int, int]
Samples = Mapping[Shape, NDArray[Any]]
VarianceLaw = Callable[[int, int], float]


def standardised(samples: Samples, variance: VarianceLaw) -> dict[Shape, Array]:
    """Return every size divided by its declared standard deviation, as float64."""
    return {
        size: np.asarray(w, np.float64) / math.sqrt(variance(*size)) for size, w in samples.items()
    }


def rescaled(samples: Samples, variance: VarianceLaw) -> dict[Shape, Array]:
    """Return `standardised`, with the measured scale at each size whose variance is rejected."""
    result = {}
    wrong = any(piece.rejected for piece in variance_row(samples, variance))
    for size, z in standardised(samples, variance).items():
        scale = math.sqrt(float(np.mean(np.square(z))))
        result[size] = z / scale if wrong and 0 < scale < math.inf else z
    return result


def pooled(standard: Samples) -> Array:
    """Return all weights in one vector; different seeds make them independent."""
    return np.concatenate([z.ravel() for z in standard.values()])


def variance_row(samples: Samples, variance: VarianceLaw, slack: float = 0.0) -> list[Evidence]:
    """Check the second moment of each size, and of all sizes together."""
    standard = standardised(samples, variance)
    by_fan_in = all(math.isclose(variance(*size) * size[0], 1.0) for size in samples)
    quantity = "in_features * mean(K**2)" if by_fan_in else moments.DECLARED
    return [
        *(moments.variance(z, quantity, slack) for z in standard.values()),
        _over_all(moments.variance(pooled(standard), quantity, slack), standard),
    ]


def _over_all(evidence: Evidence, standard: Samples) -> Evidence:
    """Return the evidence of all sizes together, if there are several."""
    if len(standard) == 1:
        return replace(evidence, shape=next(iter(standard)))
    return replace(evidence, found=f"{evidence.found} over all sizes")


def mean_row(standard: Samples, slack: float = 0.0) -> list[Evidence]:
    """Check the mean of all weights together, and of each size."""
    return [
        _over_all(moments.mean(pooled(standard), slack), standard),
        *(moments.mean(z, slack) for z in standard.values()),
    ]


def centred(standard: Samples) -> dict[Shape, Array]:
    """Return the samples, minus the measured mean of each size if the mean is rejected.

    The other requirements use these, so that a wrong mean fails one requirement only.
    """
    wrong = any(piece.rejected for piece in mean_row(standard))
    return {size: z - z.mean() if wrong else z for size, z in standard.items()}


def law_row(standard: Samples, families: Sequence[Family]) -> list[Evidence]:
    """Check the distribution and its support, if a family is declared, symmetry and atoms."""
    evidence = [shape.sign_symmetry(pooled(standard))]
    evidence += [shape.atoms(z) for z in standard.values()]
    if families:
        evidence += _together_follow(standard, families)
        evidence += [shape.follows(z, families) for z in standard.values()]
    return evidence


def _together_follow(standard: Samples, families: Sequence[Family]) -> list[Evidence]:
    """Check the weights of all sizes as one sample, or as one for each family in use.

    A layer may draw one legal law at small sizes and another at large ones, whose mixture is
    neither. A size belongs to a family if it is accepted and every other one is rejected; only if
    the sizes belong to several families is each family judged by its own sizes.
    """
    together = shape.follows(pooled(standard), families)
    if not together.rejected:
        return [together]
    sizes_of: dict[str, dict[Shape, Array]] = {}
    for size, z in standard.items():
        accepted = [family for family in families if not shape.distribution(z, family).rejected]
        if len(accepted) == 1:
            sizes_of.setdefault(accepted[0].name, {})[size] = z
    if len(sizes_of) < 2:
        return [together]
    return [
        shape.follows(pooled(sizes_of[family.name]), [family])
        for family in families
        if family.name in sizes_of
    ]


def independence_row(standard: Samples) -> list[Evidence]:
    """Check lags, pairs, reflections, order and rank, in values and in magnitudes."""
    return [*structure_row(standard), *magnitude_row(standard)]


def magnitude_row(standard: Samples) -> list[Evidence]:
    """Check the independence of the magnitudes, from the differences of two seeds."""
    evidence = []
    for z in standard.values():
        evidence += _correlations(correlation.magnitudes_between_seeds(z), "magnitudes")
    return evidence


def structure_row(standard: Samples) -> list[Evidence]:
    """Check the values of single kernels, without comparing seeds."""
    evidence = []
    # Under a skewed law products of three signs are biased; kernel-law reports that.
    symmetric = not shape.sign_symmetry(pooled(standard)).rejected
    for z in standard.values():
        evidence += _correlations(z, "weights")
        evidence += [structure.order(z, "row"), structure.order(z, "column")]
        # The bound needs a density: matrices of random signs sometimes have low rank.
        if not shape.atoms(z).rejected:
            evidence.append(structure.rank(z))
        evidence.append(structure.permutations(z))
        evidence.append(sign_products.signs_by_magnitudes(z, moments.magnitude_ranks(z)))
        if symmetric:
            evidence.append(sign_products.sign_products(z))
    return evidence


def _correlations(values: Array, what: str) -> list[Evidence]:
    return [
        correlation.lags(values, what),
        correlation.pairs(values, "row", what),
        correlation.pairs(values, "column", what),
        correlation.reflections(values, what),
    ]


def homogeneity_row(standard: Samples, law_accepted: bool) -> list[Evidence]:
    """Check that every row, column and entry has mean 0 and the magnitude of the others.

    Magnitudes are compared by ranks, which works for any law, and by sums of squares, which detect
    more but need a law no wider than the normal.
    """
    evidence = []
    for z in standard.values():
        for group in ("row", "column", "entry"):
            evidence += [
                moments.dead(z, group),
                moments.group_mean(z, group),
                moments.group_magnitude(z, group),
            ]
            if law_accepted:
                evidence.append(moments.group_variance(z, group))
    return evidence


def dispersion_row(standard: Samples, rounding: float = 0.0) -> list[Evidence]:
    """Check that norms, sums and products vary neither too much nor too little.

    Too much is not checked of weights that are rounded, whose law has levels.
    """
    evidence = []
    for z in standard.values():
        if not rounding:
            evidence.append(moments.group_variance(z, "seed"))
        for group in ("row", "column", "seed"):
            evidence.append(dispersion.under_dispersion(z, group, rounding=rounding))
            evidence.append(dispersion.centred(z, group, rounding))
            evidence.append(dispersion.balanced_signs(z, group))
        for group in ("row", "column"):
            evidence.append(dispersion.orthogonality(z, group, rounding))
    return evidence


def resolution_row(samples: Samples) -> list[Evidence]:
    """Check the levels and mantissas of the unscaled weights."""
    evidence = []
    for w in samples.values():
        evidence += [resolution.resolution(w), resolution.trailing_zeros(w)]
    return evidence


def seeds_row(standard: Samples) -> list[Evidence]:
    """Check that kernels of different seeds are uncorrelated, even if shifted."""
    evidence = []
    for z in standard.values():
        evidence += [correlation.seed_pairs(z), correlation.seed_shifts(z)]
    return evidence
