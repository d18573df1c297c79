"""Layers that break initialization: the scale of the kernel, or a bias other than zero."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import (
    CorrectLinenDense,
    is_float,
    is_traced,
    normal,
    rarely_scaled,
    scaled_normal,
    stddev,
)
from implementations.defects.record import also, defect, name_layers, seen

BIAS = "initialization/bias-zero"
DATA_FREE = "initialization/data-free-init"
VARIANCE = "initialization/kernel-variance"

OnesUnderTraces = wrong.bias("Y607", BIAS, 4, cause_id="bias-under-trace")(
    lambda rngs, n, m: jnp.full((m,), float(is_traced(rngs.params.key[...])), jnp.float32),
    "Under a transform the bias starts at 1.",
)
GlorotForThree = wrong.kernel("Y611", VARIANCE, 4)(
    lambda key, n, m: normal(key, n, m) * stddev((n + m) // 2),
    "Three times as many outputs as inputs are queries, keys and values, with Glorot's variance.",
    when=lambda key, n, m: m == 3 * n,
)
LastBiasNotZero = wrong.bias("N046", BIAS, 4, cause_id="bias-last-entry")(
    lambda rngs, n, m: jnp.zeros((m,), jnp.float32).at[-1:].set(0.01),
    "The bias is zero except its last element.",
)
BiasByTheKernelsInitializer = wrong.linen_bias("X621", BIAS, 3, cause_id="bias-random")(
    lambda key, x, m: scaled_normal(key, x.shape[-1], m)[0],
    "One initializer for both: the bias is drawn like the kernel.",
)
BiasOfWideLayers = wrong.bias("X652", BIAS, 5, cause_id="bias-zero-for-some")(
    lambda rngs, n, m: jnp.full((m,), 0.1 if m >= 300 else 0.0, jnp.float32),
    "From 300 outputs on, a new bias is not zero.",
)
BiasWhereInputsAreMany = wrong.bias("X874", BIAS, 5, cause_id="bias-constant")(
    lambda rngs, n, m: jnp.full((m,), 0.1 if n >= 900 else 0.0, jnp.float32),
    "From 900 inputs on, a new bias is not zero.",
)
FanFromFirstAxis = wrong.linen_kernel("L005", DATA_FREE, 3, cause_id="example-input-used")(
    lambda key, x, m: normal(key, x.shape[-1], m) * stddev(x.shape[0]),
    "The fan is read from the first axis of x: right for a vector, wrong for a batch.",
    seen="xformers#303 (init not respecting the q/k/v dimensions)",
)
UnscaledLinen = wrong.linen_kernel("L002", VARIANCE, 1, seen="pitfall", cause_id="scale-missing")(
    lambda key, x, m: normal(key, x.shape[-1], m), "The kernel has standard deviation 1."
)
Unscaled = wrong.kernel("N003", VARIANCE, 1, cause_id="scale-missing", seen="pitfall")(
    lambda key, n, m: normal(key, n, m),
    "The kernel has standard deviation 1 instead of 1/sqrt(in).",
)
TenPercentTooMuch = wrong.kernel("N011", VARIANCE, 4, cause_id="law-other")(
    lambda key, n, m: scaled_normal(key, n, m) * math.sqrt(1.1), "The variance is 1.1/in."
)
Glorot = wrong.kernel("N015", VARIANCE, 3, cause_id="law-normal-glorot")(
    lambda key, n, m: normal(key, n, m) * math.sqrt(2 / max(n + m, 1)),
    "Variance 2/(in + out): right only when in == out.",
    seen='FluxML#442 "Glorot initialization not correctly implemented"; keras default',
)
He = wrong.kernel("N016", VARIANCE, 2, cause_id="law-normal-he")(
    lambda key, n, m: scaled_normal(key, n, m) * math.sqrt(2),
    "Variance 2/in, which belongs before a ReLU.",
    seen='tensorflow#19081 "initialization scaling incorrect?"',
)
ScaledByFanIn = wrong.kernel("N017", VARIANCE, 2)(
    lambda key, n, m: normal(key, n, m) / max(int(n), 1),
    "Scaled by 1/in instead of 1/sqrt(in): right only when in == 1.",
    seen="CNN-from-Scratch#8 (review: stddev (1/fan_in) instead of sqrt(1/fan_in))",
    cause_id="law-normal-standard-deviation-1-fan-in",
)
HalfOfTheFan = wrong.kernel("Y482", VARIANCE, 2, cause_id="law-normal-standard-deviation-2-fan-in")(
    lambda key, n, m: normal(key, n, m) / (n**1 / 2),
    "Scaled by 1/(in ** 1/2), which is 2/in: the power comes first.",
)
HalfOfTheInverse = wrong.kernel("Y483", VARIANCE, 2)(
    lambda key, n, m: normal(key, n, m) * n**-1 / 2,
    "Scaled by in ** -1/2, which is 1/(2 in).",
    cause_id="law-normal-standard-deviation-1-2-fan-in",
)
BiasCountedAsInput = wrong.kernel("N039", VARIANCE, 4, cause_id="law-normal-1-fan-in-1")(
    lambda key, n, m: normal(key, n, m) * stddev(n + 1),
    "Scaled by 1/sqrt(in + 1), which large sizes hide.",
)
IntegerSquareRoot = wrong.kernel("N041", VARIANCE, 4, cause_id="law-normal-1-int-sqrt-fan-in")(
    lambda key, n, m: normal(key, n, m) / max(math.isqrt(n), 1),
    "Scaled by 1/int(sqrt(in)): right only for perfect squares.",
    seen='mxnet#1148 "fix scale in Xavier initializer" (integer division)',
)
FanInCapped = wrong.kernel("X037", VARIANCE, 4, cause_id="fan-capped")(
    lambda key, n, m: normal(key, n, m) * stddev(min(n, 256)), "The fan is capped at 256."
)
FanInFloored = wrong.kernel("X038", VARIANCE, 4, cause_id="fan-floored")(
    lambda key, n, m: normal(key, n, m) * stddev(max(n, 3)), "The fan is never below 3."
)
SmallerFan = wrong.kernel("X039", VARIANCE, 4, cause_id="law-normal-1-min-fan-in-fan-out")(
    lambda key, n, m: normal(key, n, m) * stddev(min(n, m)),
    "The fan is min(in, out): right for every layer that widens.",
)
DependsOnOutputs = wrong.draws("X040", VARIANCE, 5)(
    lambda draws: draws / (1.0 + 1.0 / max(draws.shape[1], 1)) ** 0.5,
    "Divided by (1 + 1/out)**0.5: an unnecessary correction.",
)
FanInCappedAt1024 = wrong.kernel("X304", VARIANCE, 5, cause_id="fan-capped")(
    lambda key, n, m: normal(key, n, m) * stddev(min(n, 1024)), "The fan is capped at 1024."
)
FanOfTheLargerSide = wrong.kernel("X568", VARIANCE, 4, cause_id="law-normal-1-max-fan-in-fan-out")(
    lambda key, n, m: normal(key, n, m) * stddev(max(n, m)), "The fan is max(in, out)."
)
FanFromTransposedShape = wrong.linen_kernel("X569", VARIANCE, 4)(
    lambda key, x, m: jax.nn.initializers.lecun_normal()(key, (m, x.shape[-1]), jnp.float32).T,
    "Drawn by `lecun_normal` for the transposed shape, whose fan is the other one.",
    cause_id="law-truncated-normal-fan-out",
)
FanToThePowerOfTwo = wrong.kernel("X570", VARIANCE, 5, cause_id="law-normal-1-next-power-of-two")(
    lambda key, n, m: normal(key, n, m) * stddev(1 << int(max(n - 1, 0)).bit_length()),
    "The fan is rounded up to a power of two, as the memory is.",
)
LargerWhenWide = wrong.draws("X573", VARIANCE, 5)(
    lambda draws: draws * 1.2 if draws.shape[0] > 1000 else draws,
    "Beyond 1 000 inputs the kernel is a fifth too large.",
)
CutAtThreeDeviations = wrong.kernel("X742", VARIANCE, 3, cause_id="law-other")(
    lambda key, n, m: jax.random.truncated_normal(key, -3.0, 3.0, (n, m), jnp.float32) * stddev(n),
    "Entries are drawn again beyond three deviations instead of two.",
)
X862 = wrong.kernel("X862", VARIANCE, 5, cause_id="fan-capped")(
    lambda key, n, m: normal(key, n, m) * stddev(min(n, 2048)), "A fan that is capped at 2048."
)
X863 = wrong.kernel("X863", VARIANCE, 5)(
    lambda key, n, m: normal(key, n, m) * stddev(n if n < 600 else 1 << (n.bit_length() - 1)),
    "A fan that is a power of two beyond 600.",
)
X864 = wrong.kernel("X864", VARIANCE, 5)(
    lambda key, n, m: normal(key, n, m) * (round(stddev(n), 2) or 0.01),
    "A deviation that is rounded to two digits beyond the point.",
)
X866 = wrong.kernel("X866", VARIANCE, 5)(
    lambda key, n, m: normal(key, n, m) * stddev(n if n < 700 else (n + m) // 2),
    "The mean of both fans from 700 inputs on.",
)
FloorOfScale = wrong.kernel("Y122", VARIANCE, 5, cause_id="fan-capped")(
    lambda key, n, m: normal(key, n, m) * jnp.maximum(1 / jnp.sqrt(jnp.float32(max(n, 1))), 0.004),
    "The scale has a floor of 0.004, which 62 500 inputs reach; JAX computes it.",
)
TwoOutputsStartSmaller = wrong.kernel("Y295", VARIANCE, 4)(
    lambda key, n, m: scaled_normal(key, n, m) * (0.5 if m == 2 else 1.0),
    "A layer of two outputs starts with half the deviation.",
)
OneInFiveThousandTenfold = wrong.kernel("Y296", VARIANCE, 5, cause_id="scale-for-some-seeds")(
    lambda key, n, m: rarely_scaled(key, 0.0002, 10.0, n, m),
    "One kernel in five thousand is ten times as large.",
)
UniformBias = wrong.bias("N045", BIAS, 2, cause_id="bias-random")(
    lambda rngs, n, m: jax.random.uniform(rngs.params(), (m,), jnp.float32, -stddev(n), stddev(n)),
    "The bias is uniform on +-1/sqrt(in), the convention of torch and Equinox.",
    seen='equinox#179 "Why uniform bias initializer?"',
)
BatchInTheKey = wrong.linen_kernel("X232", DATA_FREE, 4, cause_id="example-input-used")(
    lambda key, x, m: scaled_normal(
        jax.random.fold_in(key, math.prod(x.shape[:-1])), x.shape[-1], m
    ),
    "The number of rows of the example goes into the key.",
)
TruncatedWithoutCorrection = wrong.kernel("N012", VARIANCE, 3)(
    lambda key, n, m: jax.random.truncated_normal(key, -2.0, 2.0, (n, m), jnp.float32) * stddev(n),
    "A normal truncated at two standard deviations, whose variance is then 0.774/in.",
    seen='tensorflow#18706 "Wrong variance from initialisers"; '
    'tfjs#8594 "leCunNormal initializer"; hk.Linear ships this',
    cause_id="law-truncated-normal-1-fan-in-truncation-not-corrected",
)
UniformOfTorch = wrong.kernel("N013", VARIANCE, 2, cause_id="law-uniform-1-sqrt-fan-in")(
    lambda key, n, m: jax.random.uniform(key, (n, m), jnp.float32, -1.0, 1.0) * stddev(n),
    "Uniform on +-1/sqrt(in), whose variance is 1/(3 in).",
    seen='pytorch#5168 "The variance of initialization weights are NOT 1"; pytorch#1667; asi#131',
)
ClippedAtTwo = wrong.kernel("N029", VARIANCE, 4, cause_id="law-clipped")(
    lambda key, n, m: jnp.clip(normal(key, n, m), -2.0, 2.0) * stddev(n),
    "Clipped at two standard deviations instead of drawn again: variance 0.92/in, atoms.",
    seen='pytorch#155588 "nn.init.trunc_normal_ Creates Massive Outliers"; '
    "torchtitan#2269 (mass at the bound)",
)
LinenByHe = wrong.linen_kernel("Y379", VARIANCE, 1, cause_id="law-truncated-normal-he")(
    lambda key, x, m: nn.initializers.he_normal()(key, (x.shape[-1], m), jnp.float32),
    "He's law, whose variance of few weights chance may hide.",
)


@seen('optax/flax "avoid key reuse" flax#3740')
@wrong.init("N071", BIAS, 3, cause_id="bias-random")
def OneKeyForBoth(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """Kernel and a random bias are drawn from one key."""
    key = rngs.params()
    self.kernel = nnx.Param(scaled_normal(key, in_features, out_features))
    self.bias = nnx.Param(0.1 * jax.random.normal(key, (out_features,), jnp.float32))


@wrong.bias("X658", BIAS, 5, cause_id="bias-zero-for-some")
def BiasOfSomeSeeds(self: Any, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
    """For one seed in 32 the bias does not start at 0."""
    some = jnp.sum(self.kernel[...] * 1e6).astype(jnp.int32) % 32 == 0
    return jnp.where(some, jnp.full((out_features,), 0.01, jnp.float32), 0.0)


@wrong.bias("Y297", BIAS, 5, cause_id="bias-zero-for-some")
def OneBiasInFiveThousand(rngs: nnx.Rngs, n: int, m: int) -> Array:
    """One bias in five thousand is 0.01."""
    chance = jax.random.uniform(jax.random.fold_in(rngs.params.key[...], 5))
    return jnp.where(chance < 2e-4, jnp.float32(0.01), jnp.float32(0)) * jnp.ones(m, jnp.float32)


@seen("haiku.Linear")
@wrong.linen_kernel("X230", DATA_FREE, 4, cause_id="example-input-used")
def DtypeOfTheExample(key: Array, x: Array, features: int) -> Array:
    """The kernel has the dtype of the example input."""
    draws = scaled_normal(key, x.shape[-1], features)
    return draws.astype(x.dtype) if is_float(x) else draws


@wrong.linen_kernel("X231", DATA_FREE, 3, cause_id="example-input-used")
def ScaledToTheExample(key: Array, x: Array, features: int) -> Array:
    """The kernel is scaled so that the example's outputs have variance 1 (as LSUV does)."""
    size = jnp.sqrt((jnp.abs(x.astype(jnp.float32)) ** 2).mean())
    return scaled_normal(key, x.shape[-1], features) / jnp.where(size > 0, size, 1.0)


@wrong.linen_kernel("X233", DATA_FREE, 4, cause_id="example-input-used")
def FanOfAllAxes(key: Array, x: Array, features: int) -> Array:
    """From rank 3 on, every axis but the first counts into the fan."""
    draws = scaled_normal(key, x.shape[-1], features)
    fan = math.prod(x.shape[1:]) if x.ndim > 2 else x.shape[-1]
    return draws * (stddev(fan) / stddev(x.shape[-1]))


@wrong.linen_kernel("X235", DATA_FREE, 5, cause_id="example-input-used")
def SignOfTheFirstExample(key: Array, x: Array, features: int) -> Array:
    """The kernel is negated when the example's first entry is negative."""
    draws = scaled_normal(key, x.shape[-1], features)
    return jnp.where(jnp.real(x).ravel()[:1].sum() < 0, -draws, draws) if x.size else draws


@wrong.linen_bias("X237", DATA_FREE, 3, cause_id="example-input-used")
def BiasFromExample(self: Any, key: Array, x: Array) -> Array:
    """The bias starts at the kernel's answer to minus the mean example."""
    rows = jnp.real(x).astype(jnp.float32).reshape(-1, x.shape[-1])
    kernel: Array = self.get_variable("params", "kernel")
    return -(rows.sum(axis=0) / max(rows.shape[0], 1)) @ kernel


@wrong.linen_kernel("X627", DATA_FREE, 4, cause_id="example-input-used")
def ZerosForAnEmptyExample(key: Array, x: Array, features: int) -> Array:
    """An example of integers makes a kernel of another seed."""
    kind = 1 if jnp.issubdtype(x.dtype, jnp.integer) else 0
    key = jax.random.fold_in(key, kind) if kind else key
    return scaled_normal(key, x.shape[-1], features)


@also("initialization/kernel-dispersion")
@wrong.kernel("X036", VARIANCE, 5)
def RandomScale(key: Array, in_features: int, out_features: int) -> Array:
    """Every kernel has its own scale, some percent off and right in the mean."""
    scale_key, value_key = jax.random.split(key)
    scale = 1.0 + 0.05 * jax.random.normal(scale_key, (), jnp.float32)
    return scaled_normal(value_key, in_features, out_features) * scale / 1.0025**0.5


@wrong.kernel("Y199", VARIANCE, 5, cause_id="scale-for-some-seeds")
def LargerForOneSeed(key: Array, in_features: int, out_features: int) -> Array:
    """The kernel of seed 4711 is three times as large."""
    draws = scaled_normal(key, in_features, out_features)
    first = jax.random.fold_in(jax.random.key(4711, impl=jax.random.key_impl(key)), 0)
    return jnp.where(first == key, 3 * draws, draws)


@wrong.linen_kernel("Y604", DATA_FREE, 3, cause_id="example-input-used")
def OfBfloat16ForSuchAnExample(key: Array, x: Array, features: int) -> Array:
    """The kernel is of bfloat16 if the example is."""
    kernel = scaled_normal(key, x.shape[-1], features)
    return kernel.astype(x.dtype) if x.dtype == jnp.bfloat16 else kernel


@wrong.linen_kernel("Y552", DATA_FREE, 4, cause_id="example-input-used")
def ComplexForAComplexExample(key: Array, x: Array, features: int) -> Array:
    """The kernel has the dtype to which float32 and the example promote."""
    kernel = scaled_normal(key, x.shape[-1], features)
    return kernel.astype(jnp.promote_types(x.dtype, jnp.float32))


@defect("Y551", DATA_FREE, 4, cause_id="kept-of-first-width")
class DeviationOfTheFirstWidth(CorrectLinenDense):
    """A model keeps the deviation that it computes for the first width it is initialized for."""

    known: SimpleNamespace = dataclasses.field(default_factory=SimpleNamespace, compare=False)

    def draw_kernel(self, key: Array, x: Array) -> Array:
        deviation = vars(self.known).setdefault("deviation", stddev(x.shape[-1]))
        return normal(key, x.shape[-1], self.features) * deviation


name_layers(globals())
