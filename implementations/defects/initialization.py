"""Layers whose initial values follow the wrong law."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.defects.base import (
    CorrectDense,
    normal,
    scaled_normal,
    standard_deviation,
)
from implementations.defects.record import defect


@defect(
    "N003",
    breaks="initialization/kernel-variance",
    cause="not scaled",
    subtlety=1,
    seen="pitfall",
)
class Unscaled(CorrectDense):
    """The kernel has standard deviation 1 instead of 1/sqrt(in)."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A standard normal."""
        return normal(key, in_features, out_features)


@defect("N011", breaks="initialization/kernel-variance", subtlety=4)
class TenPercentTooMuch(CorrectDense):
    """The variance is 1.1/in."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A normal that is 10 % too wide in variance."""
        return scaled_normal(key, in_features, out_features) * math.sqrt(1.1)


@defect(
    "N012",
    breaks="initialization/kernel-variance",
    cause="truncated",
    subtlety=3,
    seen='tensorflow#18706 "Wrong variance from initialisers"; '
    'tfjs#8594 "leCunNormal initializer"; hk.Linear ships this',
)
class TruncatedWithoutCorrection(CorrectDense):
    """A normal truncated at two standard deviations, whose variance is then 0.774/in."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Truncated, without the division by 0.8796."""
        shape = (in_features, out_features)
        truncated = jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)
        return truncated * standard_deviation(in_features)


@defect(
    "N013",
    breaks="initialization/kernel-variance",
    cause="uniform",
    subtlety=2,
    seen='pytorch#5168 "The variance of initialization weights are NOT 1"; pytorch#1667; asi#131',
)
class UniformOfTorch(CorrectDense):
    """Uniform on +-1/sqrt(in), whose variance is 1/(3 in)."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Uniform, its bound mistaken for its standard deviation."""
        shape = (in_features, out_features)
        uniform = jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)
        return uniform * standard_deviation(in_features)


@defect(
    "N015",
    breaks="initialization/kernel-variance",
    cause="Glorot",
    subtlety=3,
    seen='FluxML#442 "Glorot initialization not correctly implemented"; keras default',
)
class Glorot(CorrectDense):
    """Variance 2/(in + out): right only when in == out."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Scaled by the mean of both fans."""
        fans = max(in_features + out_features, 1)
        return normal(key, in_features, out_features) * math.sqrt(2 / fans)


@defect(
    "N016",
    breaks="initialization/kernel-variance",
    cause="He",
    subtlety=2,
    seen='tensorflow#19081 "initialization scaling incorrect?"',
)
class He(CorrectDense):
    """Variance 2/in, which belongs before a ReLU."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Twice the variance."""
        return scaled_normal(key, in_features, out_features) * math.sqrt(2)


@defect(
    "N017",
    breaks="initialization/kernel-variance",
    cause="1/in",
    subtlety=2,
    seen="CNN-from-Scratch#8 (review: stddev (1/fan_in) instead of sqrt(1/fan_in))",
)
class ScaledByFanIn(CorrectDense):
    """Scaled by 1/in instead of 1/sqrt(in): right only when in == 1."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The square root is forgotten."""
        return normal(key, in_features, out_features) / max(int(in_features), 1)


@defect(
    "N019", breaks="initialization/kernel-law", collateral=("seeding/siblings-differ",), subtlety=3
)
class Signs(CorrectDense):
    """Random signs times 1/sqrt(in): right mean and variance, wrong law."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Two values only."""
        signs = jax.random.rademacher(key, (in_features, out_features), jnp.float32)
        return signs * standard_deviation(in_features)


@defect(
    "N020", breaks="initialization/kernel-mean", collateral=("seeding/jitted-init",), subtlety=4
)
class ShiftedMean(CorrectDense):
    """The mean is a tenth of the standard deviation."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A normal around 0.1 standard deviations."""
        return (normal(key, in_features, out_features) + 0.1) * standard_deviation(in_features)


@defect("N025", breaks="initialization/kernel-independence", cause="antithetic", subtlety=4)
class Antithetic(CorrectDense):
    """The second half of the columns is minus the first half."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Half of the numbers, used twice."""
        half = scaled_normal(key, in_features, (out_features + 1) // 2)
        return jnp.concatenate([half, -half], axis=1)[:, :out_features]


@defect("N026", breaks="initialization/kernel-dispersion", cause="orthogonal", subtlety=5)
class Orthogonal(CorrectDense):
    """Orthogonal columns or rows of the right variance: the entries depend on each other."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The Q of a QR decomposition, scaled so that the variance is 1/in."""
        scale = math.sqrt(max(out_features / max(in_features, 1), 1.0))
        orthogonal = jax.nn.initializers.orthogonal(scale)
        return orthogonal(key, (in_features, out_features), jnp.float32)


@defect(
    "N028",
    breaks="initialization/kernel-independence",
    collateral=("seeding/jitted-init",),
    cause="neighbours",
    subtlety=5,
)
class CorrelatedNeighbours(CorrectDense):
    """Along a row, every entry has correlation 0.2 with the entry before it."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A stationary first-order autoregression along the rows."""
        correlation = 0.2
        noise = scaled_normal(key, in_features, out_features).T

        def following(previous: Array, fresh: Array) -> tuple[Array, Array]:
            entry = correlation * previous + math.sqrt(1 - correlation**2) * fresh
            return entry, entry

        _, rest = jax.lax.scan(following, noise[0], noise[1:])
        return jnp.concatenate([noise[:1], rest]).T


@defect(
    "N029",
    breaks="initialization/kernel-variance",
    cause="clipped",
    subtlety=4,
    seen='pytorch#155588 "nn.init.trunc_normal_ Creates Massive Outliers"; '
    "torchtitan#2269 (mass at the bound)",
)
class ClippedAtTwo(CorrectDense):
    """Clipped at two standard deviations instead of drawn again: variance 0.92/in, atoms."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """One normal in 22 sits on a bound."""
        clipped = jnp.clip(normal(key, in_features, out_features), -2.0, 2.0)
        return clipped * standard_deviation(in_features)


@defect("N030", breaks="initialization/kernel-law", cause="clipped", subtlety=5)
class ClippedAtThree(CorrectDense):
    """Clipped at three standard deviations: the variance loses half a percent."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """One normal in 370 sits on a bound."""
        clipped = jnp.clip(normal(key, in_features, out_features), -3.0, 3.0)
        return clipped * standard_deviation(in_features)


@defect(
    "N031",
    breaks="initialization/kernel-resolution",
    collateral=("seeding/jitted-init",),
    cause="bfloat16",
    subtlety=4,
    seen='pytorch#145498/#175046 "Fix trunc_normal_ for bfloat16/float16 tensors"; torchtitan#2269',
)
class DrawnInBfloat16(CorrectDense):
    """Drawn and scaled in bfloat16, then cast: mantissas of eight bits."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A coarse normal in float32 clothes."""
        coarse = jax.random.normal(key, (in_features, out_features), jnp.bfloat16)
        return (coarse * standard_deviation(in_features)).astype(jnp.float32)


@defect("N036", breaks="initialization/kernel-mean", cause="positive", subtlety=2)
class HalfNormal(CorrectDense):
    """The absolute value of a normal."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """No negative entry."""
        return jnp.abs(scaled_normal(key, in_features, out_features))


@defect("N039", breaks="initialization/kernel-variance", cause="in + 1", subtlety=4)
class BiasCountedAsInput(CorrectDense):
    """Scaled by 1/sqrt(in + 1), which large sizes hide."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The bias is counted as an input."""
        return normal(key, in_features, out_features) * standard_deviation(in_features + 1)


@defect(
    "N040",
    breaks="construction/finite",
    collateral=("initialization/kernel-variance",),
    subtlety=3,
)
class OneDegreeOfFreedomLess(CorrectDense):
    """Scaled by 1/sqrt(in - 1): infinite for a single input."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A sample variance's denominator."""
        return normal(key, in_features, out_features) / jnp.sqrt(jnp.float32(in_features - 1))


@defect(
    "N041",
    breaks="initialization/kernel-variance",
    subtlety=4,
    seen='mxnet#1148 "fix scale in Xavier initializer" (integer division)',
)
class IntegerSquareRoot(CorrectDense):
    """Scaled by 1/int(sqrt(in)): right only for perfect squares."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The square root is cut to an integer."""
        return normal(key, in_features, out_features) / max(math.isqrt(in_features), 1)


@defect(
    "N045",
    breaks="initialization/bias-zero",
    cause="uniform",
    subtlety=2,
    seen='equinox#179 "Why uniform bias initializer?"',
)
class UniformBias(CorrectDense):
    """The bias is uniform on +-1/sqrt(in), the convention of torch and Equinox."""

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        """Random where the contract asks for zeros."""
        bound = standard_deviation(in_features)
        return jax.random.uniform(rngs.params(), (out_features,), jnp.float32, -bound, bound)


@defect("N046", breaks="initialization/bias-zero", subtlety=4)
class LastBiasNotZero(CorrectDense):
    """The bias is zero but for its last element."""

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        """Zeros with 0.01 at the end."""
        return jnp.zeros((out_features,), jnp.float32).at[-1:].set(0.01)


@defect(
    "N071",
    breaks="initialization/bias-zero",
    subtlety=3,
    seen='optax/flax "avoid key reuse" flax#3740',
)
class OneKeyForBoth(CorrectDense):
    """Kernel and a random bias are drawn from one key."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        """Reuse the key of the kernel."""
        key = rngs.params()
        self.kernel = nnx.Param(scaled_normal(key, in_features, out_features))
        self.bias = nnx.Param(0.1 * jax.random.normal(key, (out_features,), jnp.float32))
