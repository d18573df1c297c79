"""The laws of new parameters, judged by rigorous bounds on p-values: no false alarm in practice.

Every check rejects a correct layer with probability 1e-15 at most, at any sample size. The notes of
``initialization/kernel-variance`` state what a run can detect. Each requirement looks at the
profile's designed experiment (`conformance.statistics.design`); those on mean and variance also
look at each kernel of the sizes and seeds that Hypothesis draws.
"""

from __future__ import annotations

import math

import numpy as np

from conformance.checks import recording, require
from conformance.checks.areas import biases, composition, input_dtypes, plot_data
from conformance.checks.areas.kernels import (
    LARGE_KERNEL,
    beyond_the_experiment,
    declared,
    judge,
    kernel_of,
    kernels_of,
    large_kernel,
    law_evidence,
    of_zeros,
    repeated_lines,
    require_distinct_rows,
    samples,
    structure_evidence,
    why_of_variance,
)
from conformance.checks.areas.levels import require_levels, require_resolution_at_edges
from conformance.checks.areas.mapped_draws import cost_of_a_draw, describable, drawn_at_once
from conformance.checks.areas.seeds import require_each_scaled, require_no_rare_structure
from conformance.checks.arrays import as_jax
from conformance.checks.cases import BATCH, TALL, WIDE, Case, every_case, over
from conformance.checks.description import bias_law_line, law_line
from conformance.checks.layer import Layer
from conformance.checks.once import once_per_layer
from conformance.checks.programs import HALF
from conformance.checks.scan.edges import NEW, at_edges
from conformance.contract.requirement import (
    LINEN,
    MUST,
    PARAMETERS,
    SHOULD,
    idle_because,
    requirement,
    rests_on,
)
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax, jnp
from conformance.layers.implementation import existing
from conformance.statistics import (
    by_requirement,
    causes,
    identify_law,
    power,
    strongest,
)
from conformance.statistics.by_requirement import pooled
from conformance.statistics.dispersion import under_dispersion
from conformance.statistics.moments import mean, variance
from conformance.statistics.shape import coarsely_follows, follows

INDEPENDENT = (
    "seeding/seeds-differ",
    "construction/kernel-shape",
    "construction/finite",
    "initialization/data-free-init",
)


@requirement("initialization/bias-zero", MUST, PARAMETERS, declared=True, order=-110)
@rests_on("construction/bias-shape", "state/instances-independent")
@over()
@at_edges(NEW)
def test_bias_zero(layer: Layer, case: Case) -> None:
    """Every entry of a new bias equals 0; -0.0 equals 0.

    If a layer declares another constant, every entry equals that. If it declares another law for
    its bias, the bias must follow that law and be independent of the kernel.
    """
    if not layer.convention.use_bias:
        require.not_applicable("the layer declares that it has no bias")
    bias, law = layer.of(case).bias, layer.convention.bias
    if not law.is_constant(*case.kernel_shape):
        deviation = math.sqrt(law.variance(*case.kernel_shape))
        judge([variance(bias / deviation, "E[b^2] / variance"), mean(bias)])
        biases.require_law(layer)
        biases.require_independent_of_kernels(layer)
        return
    wanted = np.full_like(bias, biases.start(layer))
    if not np.array_equal(bias, wanted):
        cause = "" if law.constant else causes.bias(biases.new(layer))
        line = bias_law_line(layer)
        require.equal(bias, wanted, "the new bias", cause=cause, declare=line)
    _require_constant_biases(layer)


@once_per_layer()
def _require_constant_biases(layer: Layer) -> None:
    """Require a bias of zeros, or of another constant, for many seeds, and for 1024 outputs."""
    start = biases.start(layer)
    words = f"{start:.9g}" if start else "zero"
    wanted = [((4, 1024), range(256)), ((2, 4), range(2**16))]
    # Built one by one, so many layers take too long.
    found = drawn_at_once(layer, wanted, "bias") or kernels_of(layer, wanted[:1], "bias")
    for ((n, m), _), drawn in zip(wanted, found, strict=False):
        wrong = np.flatnonzero((drawn != start).any((1, 2)))
        if not wrong.size:
            continue
        first = int(wrong[0])
        cause = Cause("bias-zero-for-some", f"the bias is {words} for some seeds or sizes only")
        if np.all(layer.build(n, m, first).bias == start):
            of_trace = f"the bias is not {words} where construction is traced"
            cause = Cause("bias-under-trace", of_trace)
        require.fail(
            f"with in_features={n}, out_features={m} the new bias is not {words} for "
            f"{wrong.size} of {len(drawn)} seeds, first {first}",
            accepted=f"{words} for every seed and size",
            cause=cause,
        )


@requirement("initialization/data-free-init", MUST, LINEN)
@rests_on("construction/only-two-parameters", "construction/builds")
@over(every_size=False)
def test_data_free_init(layer: Layer, case: Case) -> None:
    """New parameters do not depend on the values, the batch, the rank or the dtype of the example.

    Linen initializes from an example input; only its last dimension may matter.
    """
    width, lead, ranks = case.in_features, layer.convention.lead(1), layer.convention.ranks
    plain = np.zeros((*lead, width), np.float32)
    values = case.normal("example", *lead, width) + np.float32(1)
    examples: dict[str, np.ndarray] = {
        "other values": values,
        "their negatives": -values,
        "half precision": plain.astype(np.float16),
        "bfloat16": plain.astype(jnp.bfloat16),
    }
    if "integer" in layer.convention.inputs and "integer" not in input_dtypes.refused(layer):
        examples["integers"] = plain.astype(np.int32)
    if input_dtypes.works_with(layer, np.complex64):
        examples["complex numbers"] = plain.astype(np.complex64)
    if lead:
        examples["a batch of 4"] = np.zeros((*lead[:-1], 4, width), np.float32)
    if 1 in ranks:
        examples["a vector"] = np.zeros(width, np.float32)
    if 3 in ranks:
        examples["rank 3"] = np.zeros((2, 3, width), np.float32)
    expected = _from_example(layer, case, plain)
    for what, example in examples.items():
        found = _from_example(layer, case, example)
        differs = [
            name
            for name in sorted(expected.keys() | found.keys())
            if name not in expected
            or name not in found
            or expected[name].dtype != found[name].dtype
            or not np.array_equal(expected[name], found[name], equal_nan=True)
        ]
        require.that(
            not differs,
            f"with {what} as the example input, {', '.join(differs)} has other values",
            accepted="the same parameters for every example input of that width",
            cause=Cause(
                "example-input-used",
                f"initialization depends on the example input: {_dependence(what)}",
            ),
        )
    composition.require_forgotten_width(layer, case, expected)


def _dependence(what: str) -> str:
    if what in ("a batch of 4", "a vector", "rank 3"):
        return "on its batch or rank, not on its width alone"
    return "on its values" if what in ("other values", "their negatives") else "on its dtype"


def _from_example(layer: Layer, case: Case, example: np.ndarray) -> dict[str, np.ndarray]:
    linen = existing(layer.implementation.linen)
    with require.during(f"init with an example input of shape {example.shape}, {example.dtype}"):
        variables = linen(*case.kernel_shape).init(jax.random.key(case.seed), as_jax(example))
    return composition.by_path(variables)


@requirement("initialization/kernel-independence", MUST, PARAMETERS, seconds=0.9)
@rests_on(*INDEPENDENT)
def test_kernel_independence(layer: Layer) -> None:
    """Entries, rows, columns and neighbours of a new kernel are independent.

    There is no correlation at any lag along rows or columns, between two rows, two columns or
    mirror images, in values or in magnitudes, and no repeated, antithetic, sorted or low-rank
    structure. The bounds hold conditionally on the magnitudes (Hoeffding 1963), so they need no
    scale.
    """
    evidence = [*structure_evidence(layer), *by_requirement.magnitude_row(declared(layer).centred)]
    drawn = samples(layer)
    judge(evidence, lambda: causes.independence(drawn, strongest(evidence)), drawn)
    _no_column_repeats(layer)
    _no_value_repeats(layer)
    if layer.convention.parameter_dtype == "float32" and _is_affordable(layer, _VERY_TALL[0]):
        require_distinct_rows(kernel_of(layer, Case(*_VERY_TALL[0])))


def _no_value_repeats(layer: Layer) -> None:
    """Require distinct runs of four weights: among 2^18, two are equal with P < 1e-20."""
    if layer.convention.parameter_dtype != "float32" or layer.convention.kernel.is_constant():
        return
    small, kernel = layer.build(*WIDE).kernel, large_kernel(layer)
    if np.unique(small).size < small.size / 2 or not kernel.any():
        return  # kernel-resolution, kernel-law and kernel-variance report these
    # A rounded kernel repeats single values, but not runs of neighbours. Signs are ignored, because
    # a row that repeats with the other sign is the same row.
    words = np.abs(kernel, dtype=np.float32).view(np.uint64).reshape(-1, 2)
    distinct = np.unique(words[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ words[:, 1]).size
    require.that(
        distinct > len(words) / 2,
        f"of {len(words)} runs of four weights of a kernel of {kernel.shape}, {distinct} differ",
        accepted=f"more than {len(words) // 2} different runs",
        cause=Cause("runs-repeat", "runs of weights repeat in large kernels"),
    )
    for size, beyond in beyond_the_experiment(layer):
        require.that(
            not beyond.repeated,
            f"{beyond.repeated} rows and columns of a kernel of {size} repeat another",
            accepted="different rows and columns",
            cause=Cause("lines-copied", "lines repeat in large kernels"),
        )


VOCABULARY = (4, 65_600)


def _no_column_repeats(layer: Layer) -> None:
    """Require distinct columns of four weights: among 65 600, two are equal with P < 1e-17.

    A vocabulary has as many outputs, whose numbers a type of 16 bits does not hold.
    """
    if layer.convention.parameter_dtype != "float32":
        return
    size = VOCABULARY if describable(layer) > max(VOCABULARY) else WIDE
    kernel = layer.build(*size).kernel
    if np.unique(np.abs(kernel)).size < kernel.size / 4:
        return  # kernel-resolution and kernel-law report a kernel of few magnitudes
    # Columns of zeros are equal; kernel-law reports them.
    repeated = repeated_lines(kernel.T)
    require.that(
        not repeated,
        f"{repeated} of the {size[1]} columns of a kernel of {size} repeat another",
        accepted="different columns",
        cause=Cause("lines-copied", "columns repeat in wide kernels"),
    )


@requirement("initialization/kernel-resolution", SHOULD, PARAMETERS)
@rests_on(*INDEPENDENT, "construction/parameter-dtype")
def test_kernel_resolution(layer: Layer) -> None:
    """The entries of a new kernel carry full float32 mantissas.

    They are neither drawn in half precision nor rounded. float32 draws repeat by chance, but not
    more often than their 2^22 equally likely magnitudes explain (Chernoff bound).
    """
    dtype = layer.convention.parameter_dtype
    if dtype not in ("float32", "float64"):
        require.not_applicable(
            f"the layer declares {dtype} parameters, whose few levels have a law of their own"
        )
    drawn = declared(layer).finite
    judge(by_requirement.resolution_row(drawn), lambda: causes.resolution(drawn), drawn)
    require_resolution_at_edges(layer)


MOMENTS = ("initialization/kernel-independence", "initialization/kernel-resolution", *INDEPENDENT)


@requirement("initialization/kernel-mean", MUST, PARAMETERS)
@idle_because("a wrong mean also makes the law wrong; this one names the fault.")
@rests_on(*MOMENTS)
def test_kernel_mean(layer: Layer) -> None:
    """The entries of a new kernel have mean 0.

    The sum of n independent symmetric entries exceeds T times the root of their sum of squares
    with probability 2 exp(-T^2/2) at most (Hoeffding 1963, Efron 1969).
    """
    law = declared(layer)
    evidence = by_requirement.mean_row(law.rescaled, law.mean_slack)
    judge(evidence, lambda: causes.mean(law.finite), law.finite)
    every_case(_each_mean, layer)


@over(every_size=False)
def _each_mean(layer: Layer, case: Case) -> None:
    kernel = kernel_of(layer, case)
    if np.isfinite(kernel).all():
        judge([mean(kernel, declared(layer).mean_slack)])


@requirement("initialization/kernel-homogeneity", MUST, PARAMETERS)
@rests_on("initialization/kernel-independence", *INDEPENDENT)
def test_kernel_homogeneity(layer: Layer) -> None:
    """Every row, column and position of a new kernel has mean 0 and the same variance.

    For any law, this is tested by sums and by the ranks of magnitudes; for a kernel that follows
    its declared law, also by shares of the sum of squares (Chernoff bound of a Beta variable).
    """
    law = declared(layer)
    accepted = not strongest(law_evidence(layer)).rejected
    evidence = by_requirement.homogeneity_row(law.centred, accepted and bool(law.families))
    judge(evidence, lambda: causes.homogeneity(strongest(evidence)), law.finite)


@requirement("initialization/kernel-variance", MUST, PARAMETERS, declared=True, order=-60)
@rests_on("initialization/kernel-homogeneity", "initialization/kernel-mean", *MOMENTS)
def test_kernel_variance(layer: Layer) -> None:
    """The variance of the entries of a new kernel is 1/fan_in.

    in_features * mean(K**2) = 1 at wide, tall and square sizes and at in = 1, 2, 3: it depends on
    in alone.
    P <= 2 exp(-n/2 (r - 1 - ln r)) bounds the p-value of the mean r of n squares (Chernoff) for
    normal, truncated normal and uniform entries. No seed of a quarter of a million has a kernel of
    another scale. A layer that declares another variance must have that one.
    """
    law = declared(layer)
    require.note(power.statement(law.plan.profile, law.count, law.plan.promised))
    evidence = by_requirement.variance_row(law.finite, law.variance, law.variance_slack)
    plot_data.kernel_variance((in_features for in_features, _ in law.finite), evidence)
    judge(
        evidence,
        lambda: of_zeros(law.finite) or causes.law(law.finite, law.names, law.variance),
        law.finite,
        lambda: law_line(layer),
    )
    every_case(_each_variance, layer)
    _require_variance(layer, large_kernel(layer), LARGE_KERNEL)
    _require_variance_of_very_tall(layer)
    require_each_scaled(layer)


_VERY_TALL = ((10**5, 1), (10**6, 1))
_ROOM = 2**28
"""Bytes of the largest array in drawing one of these: a kernel may be cut from a larger block."""


def _require_variance_of_very_tall(layer: Layer) -> None:
    """A scale that has a floor, or is rounded, is wrong where it is small."""
    for size in _VERY_TALL:
        if _is_affordable(layer, size):
            case = recording.current().draw(Case(*size))
            _require_variance(layer, kernel_of(layer, case), size)


def _is_affordable(layer: Layer, size: tuple[int, int]) -> bool:
    """Return whether a kernel of the size is drawn, and takes little time and memory."""
    if not declared(layer).variance(*size):
        return False
    # What loops over its inputs in Python is not traced: that would take hours.
    return size[0] <= describable(layer) and cost_of_a_draw(layer, size) <= _ROOM


def _require_variance(layer: Layer, kernel: np.ndarray, size: tuple[int, int]) -> None:
    """Require the declared variance of one kernel (in, out), unless construction/finite fails."""
    law = declared(layer)
    if np.isfinite(kernel).all():
        deviation = math.sqrt(law.variance(*size))
        evidence = [variance(kernel.astype(np.float64) / deviation, slack=law.variance_slack)]
        judge(evidence, lambda: why_of_variance(layer, kernel, size))


# A fan_in that is capped at some size is wrong beyond it.
@over(also=[(TALL, BATCH)])
@at_edges(NEW)
def _each_variance(layer: Layer, case: Case) -> None:
    _require_variance(layer, kernel_of(layer, case), case.kernel_shape)


@requirement("initialization/kernel-law", MUST, PARAMETERS, declared=True, order=-50)
@rests_on(
    "initialization/kernel-homogeneity",
    "initialization/kernel-variance",
    "initialization/kernel-mean",
    *MOMENTS,
)
def test_kernel_law(layer: Layer) -> None:
    """The entries of a new kernel are normal, or normal truncated at two standard deviations.

    The check distinguishes the two. It tests the distribution function (Dvoretzky, Kiefer and
    Wolfowitz with Massart's constant; Berk and Jones), the support, the symmetry of signs and
    repeated values. No seed of a quarter of a million has dead or repeated weights. A layer that
    declares another law must follow that one. In half precision the distribution function is
    tested, as far as the few levels allow, and that weights are neither clipped nor of fewer levels
    than JAX draws.
    """
    law = declared(layer)
    if not law.families:
        require.not_applicable("the layer declares the variance of its kernel, but no family")
    if layer.convention.parameter_dtype in HALF:
        judge([coarsely_follows(pooled(law.rescaled), law.families)])
        require_levels(layer)
        return
    found = identify_law(law.finite)
    if found.verdict == "known":
        require.note(f"the law found: {found.name}")
    plot_data.kernel_histogram(law.finite, law.variance, law.families)
    judge(
        law_evidence(layer),
        lambda: causes.law(law.finite, law.names, law.variance),
        law.finite,
        lambda: law_line(layer),
    )
    kernel = large_kernel(layer).astype(np.float64)
    if np.isfinite(kernel).all() and kernel.any():
        # A million weights show the tails: 6 in 100 000 normal draws exceed four deviations.
        judge([follows(kernel[None] / math.sqrt(law.variance(*LARGE_KERNEL)), law.families)])
    for size, beyond in beyond_the_experiment(layer):
        if np.isfinite(beyond.rows).all():
            weights = by_requirement.rescaled({size: beyond.rows[:1]}, law.variance)
            judge(by_requirement.law_row(weights, law.families))
    require_no_rare_structure(layer)


@requirement("initialization/kernel-dispersion", SHOULD, PARAMETERS)
@rests_on("initialization/kernel-law", "initialization/kernel-homogeneity", *MOMENTS)
def test_kernel_dispersion(layer: Layer) -> None:
    """The sample variance of a new kernel varies from seed to seed, row and column as it should.

    The norms, sums or products of standardised, orthogonalised or centred kernels spread less than
    those of random ones. The probability that many independent numbers of bounded density lie in a
    small ball bounds the p-value. In half precision the ball is larger by the error of rounding.
    """
    law = declared(layer)
    evidence = by_requirement.dispersion_row(law.centred, law.rounding)
    judge(evidence, lambda: causes.dispersion(law.finite), law.finite)
    kernel = large_kernel(layer).astype(np.float64)
    if np.isfinite(kernel).all() and kernel.any():
        scaled = kernel[None] / math.sqrt(law.variance(*LARGE_KERNEL))
        # Norms vary by the fourth moment of the law: of the declared one, where that was found.
        fourth = min((family.kurtosis - 1 for family in law.families), default=0.0)
        if strongest(law_evidence(layer)).rejected:
            fourth = 0.0
        groups = ("row", "column", "seed")
        judge([under_dispersion(scaled, group, fourth, law.rounding) for group in groups])
