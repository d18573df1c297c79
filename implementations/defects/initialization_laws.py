"""Layers that break initialization: each new weight has another law, mean or resolution."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import is_traced, normal, scaled_normal, scaled_uniform, stddev
from implementations.defects.record import name_layers

MEAN = "initialization/kernel-mean"
RESOLUTION = "initialization/kernel-resolution"

BFLOAT16 = jnp.bfloat16
LAW = "initialization/kernel-law"
VARIANCE = "initialization/kernel-variance"

Signs = wrong.kernel("N019", LAW, 3, cause_id="law-random-signs")(
    lambda key, n, m: jax.random.rademacher(key, (n, m), jnp.float32) * stddev(n),
    "Random signs times 1/sqrt(in): right mean and variance, wrong law.",
    collateral=("seeding/siblings-differ",),
)
UniformWhereLarge = wrong.kernel("Y513", LAW, 3)(
    lambda key, n, m: scaled_uniform(key, n, m),
    "A kernel of more than 2^21 weights is uniform.",
    when=lambda key, n, m: n * m > 2**21,
)
ClippedAtThree = wrong.kernel("N030", LAW, 5, cause_id="law-clipped")(
    lambda key, n, m: jnp.clip(normal(key, n, m), -3.0, 3.0) * stddev(n),
    "Clipped at three standard deviations: the variance loses half a percent.",
)
Laplace = wrong.kernel("X002", LAW, 3, cause_id="law-laplace-1-fan-in")(
    lambda key, n, m: jax.random.laplace(key, (n, m), jnp.float32) * (math.sqrt(0.5) * stddev(n)),
    "Heavier tails: a Laplace law of variance 1/in.",
)
ShiftedExponential = wrong.kernel("X005", LAW, 3)(
    lambda key, n, m: (jax.random.exponential(key, (n, m), jnp.float32) - 1.0) * stddev(n),
    "A skewed law of mean 0 and variance 1/in.",
)
ClippedAtFour = wrong.kernel("Y043", LAW, 5)(
    lambda key, n, m: jnp.clip(normal(key, n, m), -4.0, 4.0) * stddev(n),
    "Normal numbers, clipped at four deviations.",
)
ShiftedMean = wrong.kernel("N020", MEAN, 4, collateral=("seeding/jitted-init",))(
    lambda key, n, m: (normal(key, n, m) + 0.1) * stddev(n),
    "The mean is a tenth of the standard deviation.",
)
HalfNormal = wrong.kernel("N036", MEAN, 2, cause_id="one-sign")(
    lambda key, n, m: jnp.abs(scaled_normal(key, n, m)), "The absolute value of a normal."
)
X871 = wrong.kernel("X871", MEAN, 5, collateral=(VARIANCE, LAW))(
    lambda key, n, m: scaled_normal(key, n, m) + 0.5 * stddev(n),
    "A mean of half a deviation from 1000 outputs on, at multiples of 10.",
    when=lambda key, n, m: m >= 1000 and m % 10 == 0,
)
UniformFromZero = wrong.kernel("Y157", MEAN, 1, cause_id="uniform-unit")(
    lambda key, n, m: jax.random.uniform(key, (n, m), jnp.float32),
    "`jax.random.uniform` as it draws by default, from 0 to 1.",
)
ScaledUniformFromZero = wrong.kernel("Y587", MEAN, 1, cause_id="uniform-unit")(
    lambda key, n, m: jax.random.uniform(key, (n, m), jnp.float32) * stddev(n),
    "The same, multiplied by 1/sqrt(in).",
)
RoundedToDecimals = wrong.kernel("X008", RESOLUTION, 4, cause_id="kernel-on-grid")(
    lambda key, n, m: jnp.round(scaled_normal(key, n, m), 3),
    "Rounded to three decimals, as a checkpoint printed as text comes back.",
)
DrawnInFloat16 = wrong.kernel("X010", RESOLUTION, 4, cause_id="kernel-of-half-precision")(
    lambda key, n, m: jax.random.normal(key, (n, m), jnp.float16).astype(jnp.float32) * stddev(n),
    "Drawn in float16: eleven-bit mantissas.",
)
X867 = wrong.kernel("X867", RESOLUTION, 5, cause_id="kernel-of-half-precision")(
    lambda key, n, m: scaled_normal(key, n, m).astype(jnp.bfloat16).astype(jnp.float32),
    "Numbers of half precision from 2^18 weights on.",
    when=lambda key, n, m: n * m >= 2**18,
)
HugeKernelsInHalf = wrong.kernel("Y316", RESOLUTION, 5, cause_id="kernel-of-half-precision")(
    lambda key, n, m: (jax.random.normal(key, (n, m), BFLOAT16) * stddev(n)).astype(jnp.float32),
    "Kernels of more than two million weights are drawn in bfloat16.",
    when=lambda key, n, m: n * m > 2**21,
)
LecunUniform = wrong.kernel("X001", LAW, 2, cause_id="law-lecun-uniform", seen="pitfall")(
    lambda key, n, m: scaled_uniform(key, n, m),
    "LeCun's uniform law: the variance is right, the family is not.",
)
X865 = wrong.kernel("X865", LAW, 5)(
    lambda key, n, m: scaled_uniform(key, n, m),
    "Uniform numbers where the outputs are a multiple of 100.",
    when=lambda key, n, m: m % 100 == 0,
)
UniformOutsideOfJit = wrong.kernel("Y046", LAW, 5)(
    lambda key, n, m: scaled_uniform(key, n, m),
    "Uniform numbers of the same variance for a large kernel that is drawn outside of jit.",
    when=lambda key, n, m: not is_traced(key) and n * m > 20_000,
)
SumOfTwelveUniforms = wrong.kernel("Y042", LAW, 5)(
    lambda key, n, m: (
        jax.random.uniform(key, (12, n, m), jnp.float32, -0.5, 0.5).sum(0) * stddev(n)
    ),
    "The sum of twelve uniform numbers minus six, which is normal except in its tails.",
)
DrawnInBfloat16 = wrong.kernel("N031", RESOLUTION, 4, collateral=("seeding/jitted-init",))(
    lambda key, n, m: (jax.random.normal(key, (n, m), BFLOAT16) * stddev(n)).astype(jnp.float32),
    "Drawn and scaled in bfloat16, then cast: mantissas of eight bits.",
    seen='pytorch#145498/#175046 "Fix trunc_normal_ for bfloat16/float16 tensors"; torchtitan#2269',
    cause_id="kernel-of-half-precision",
)


@wrong.kernel("X003", LAW, 5)
def StudentT(key: Array, in_features: int, out_features: int) -> Array:
    """Student's t with 10 degrees of freedom, its variance corrected."""
    # A product of five uniforms is exp(-c/2), c of the chi-squared law with 10 degrees.
    above = jax.random.fold_in(key, 1)
    uniforms = jax.random.uniform(above, (5, in_features, out_features), jnp.float32, 1e-7)
    mean_square = -jnp.log(uniforms).sum(axis=0) / 5
    draws = scaled_normal(key, in_features, out_features) / jnp.sqrt(mean_square)
    return draws * math.sqrt(0.8)


@wrong.kernel("X004", LAW, 4)
def Mixture(key: Array, in_features: int, out_features: int) -> Array:
    """One entry in ten is drawn three times wider than the others."""
    which, value = jax.random.split(key)
    wide = jax.random.bernoulli(which, 0.1, (in_features, out_features))
    return (
        jnp.where(wide, 3.0, 1.0)
        * scaled_normal(value, in_features, out_features)
        * (1.0 / math.sqrt(0.9 + 0.1 * 9.0))
    )


@wrong.kernel("X006", LAW, 5, cause_id="law-other")
def TruncatedAtThree(key: Array, in_features: int, out_features: int) -> Array:
    """Truncated at three standard deviations instead of two, the scale corrected for that."""
    shape = (in_features, out_features)
    density = math.exp(-4.5) / math.sqrt(2.0 * math.pi)
    left = math.sqrt(1.0 - 6.0 * density / math.erf(3.0 / math.sqrt(2.0)))
    draws = jax.random.truncated_normal(key, -3.0, 3.0, shape, jnp.float32)
    return draws * (stddev(in_features) / left)


@wrong.kernel("X007", LAW, 3)
def SparseRescaled(key: Array, in_features: int, out_features: int) -> Array:
    """One entry in ten is zero and the others are larger for it."""
    which, value = jax.random.split(key)
    kept = jax.random.bernoulli(which, 0.9, (in_features, out_features))
    return jnp.where(kept, scaled_normal(value, in_features, out_features) / 0.9**0.5, 0.0)


@wrong.kernel("X011", LAW, 4)
def SumOfUniforms(key: Array, in_features: int, out_features: int) -> Array:
    """The central limit theorem with four uniforms: nearly normal, tails cut at 3.46."""
    shape = (4, in_features, out_features)
    end = math.sqrt(0.75)
    draws = jax.random.uniform(key, shape, jnp.float32, minval=-end, maxval=end)
    return draws.sum(axis=0) * stddev(in_features)


@wrong.kernel("X012", LAW, 4)
def TailsResampledOnce(key: Array, in_features: int, out_features: int) -> Array:
    """Entries beyond two deviations are drawn again only once, so some remain beyond."""
    first, second = jax.random.split(key)
    draws = normal(first, in_features, out_features)
    again = normal(second, in_features, out_features)
    draws = jnp.where(jnp.abs(draws) > 2.0, again, draws)
    inside = math.erf(math.sqrt(2.0))
    density = math.exp(-2.0) / math.sqrt(2.0 * math.pi)
    variance = inside - 4.0 * density + (1.0 - inside)
    return draws * (stddev(in_features) / math.sqrt(variance))


@wrong.kernel("X571", LAW, 5)
def TailsOfOneSide(key: Array, in_features: int, out_features: int) -> Array:
    """Only the positive tail is drawn again; the rest is shifted back to mean 0."""
    low, high = -jnp.inf, 2.0
    draws = jax.random.truncated_normal(key, low, high, (in_features, out_features))
    # Mean and deviation of a normal law below 2.
    return (draws + 0.055248) / 0.941584 * stddev(in_features)


@wrong.kernel("X009", RESOLUTION, 5, cause_id="kernel-on-grid")
def SixteenBitUniform(key: Array, in_features: int, out_features: int) -> Array:
    """The normal is made from uniforms of 16 bits: 65536 values and no far tails."""
    bits = jax.random.bits(key, (in_features, out_features), jnp.uint16)
    uniform = (bits.astype(jnp.float32) + 0.5) * 2.0**-15 - 1.0
    return jax.lax.erf_inv(uniform) * (math.sqrt(2.0) * stddev(in_features))


name_layers(globals())
