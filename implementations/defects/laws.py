"""Kernels of the right mean and variance whose entries follow another law, or a coarser one."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.defects.base import CorrectDense, normal, scaled_normal, standard_deviation
from implementations.defects.record import defect


@defect("X001", breaks="initialization/kernel-law", cause="uniform", subtlety=2, seen="pitfall")
class LecunUniform(CorrectDense):
    """LeCun's uniform law: the variance is right, the family is not."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Uniform on +-sqrt(3/in)."""
        end = math.sqrt(3.0) * standard_deviation(in_features)
        shape = (in_features, out_features)
        return jax.random.uniform(key, shape, jnp.float32, minval=-end, maxval=end)


@defect("X002", breaks="initialization/kernel-law", subtlety=3)
class Laplace(CorrectDense):
    """Heavier tails: a Laplace law of variance 1/in."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Laplace entries."""
        draws = jax.random.laplace(key, (in_features, out_features), jnp.float32)
        return draws * (math.sqrt(0.5) * standard_deviation(in_features))


@defect("X003", breaks="initialization/kernel-law", subtlety=5)
class StudentT(CorrectDense):
    """Student's t with 10 degrees of freedom, its variance corrected."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Student entries."""
        # A product of five uniforms is exp(-c/2), c of the chi-squared law with 10 degrees.
        above = jax.random.fold_in(key, 1)
        uniforms = jax.random.uniform(above, (5, in_features, out_features), jnp.float32, 1e-7)
        mean_square = -jnp.log(uniforms).sum(axis=0) / 5
        draws = scaled_normal(key, in_features, out_features) / jnp.sqrt(mean_square)
        return draws * math.sqrt(0.8)


@defect("X004", breaks="initialization/kernel-law", subtlety=4)
class Mixture(CorrectDense):
    """One entry in ten is drawn three times wider than the others."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A mixture of two normals, variance 1/in."""
        which, value = jax.random.split(key)
        wide = jax.random.bernoulli(which, 0.1, (in_features, out_features))
        return (
            jnp.where(wide, 3.0, 1.0)
            * scaled_normal(value, in_features, out_features)
            * (1.0 / math.sqrt(0.9 + 0.1 * 9.0))
        )


@defect("X005", breaks="initialization/kernel-law", subtlety=3)
class ShiftedExponential(CorrectDense):
    """A skewed law of mean 0 and variance 1/in."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Exponential entries minus one."""
        draws = jax.random.exponential(key, (in_features, out_features), jnp.float32)
        return (draws - 1.0) * standard_deviation(in_features)


@defect("X006", breaks="initialization/kernel-law", subtlety=5)
class TruncatedAtThree(CorrectDense):
    """Truncated at three standard deviations instead of two, the scale corrected for that."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Neither the normal nor Flax's truncated normal."""
        shape = (in_features, out_features)
        density = math.exp(-4.5) / math.sqrt(2.0 * math.pi)
        left = math.sqrt(1.0 - 6.0 * density / math.erf(3.0 / math.sqrt(2.0)))
        draws = jax.random.truncated_normal(key, -3.0, 3.0, shape, jnp.float32)
        return draws * (standard_deviation(in_features) / left)


@defect("X007", breaks="initialization/kernel-law", subtlety=3)
class SparseRescaled(CorrectDense):
    """One entry in ten is zero and the others are larger for it."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Dropout applied to the kernel at construction."""
        which, value = jax.random.split(key)
        kept = jax.random.bernoulli(which, 0.9, (in_features, out_features))
        return jnp.where(kept, scaled_normal(value, in_features, out_features) / 0.9**0.5, 0.0)


@defect("X008", breaks="initialization/kernel-resolution", subtlety=4)
class RoundedToDecimals(CorrectDense):
    """Rounded to three decimals, as a checkpoint printed as text comes back."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A grid of 1/1000."""
        return jnp.round(scaled_normal(key, in_features, out_features), 3)


@defect("X009", breaks="initialization/kernel-resolution", subtlety=5)
class SixteenBitUniform(CorrectDense):
    """The normal is made from uniforms of 16 bits: 65536 values and no far tails."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Inverse error function of a coarse uniform."""
        bits = jax.random.bits(key, (in_features, out_features), jnp.uint16)
        uniform = (bits.astype(jnp.float32) + 0.5) * 2.0**-15 - 1.0
        return jax.lax.erf_inv(uniform) * (math.sqrt(2.0) * standard_deviation(in_features))


@defect("X010", breaks="initialization/kernel-resolution", subtlety=4)
class DrawnInFloat16(CorrectDense):
    """Drawn in float16: eleven-bit mantissas."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Half precision, widened."""
        draws = jax.random.normal(key, (in_features, out_features), jnp.float16)
        return draws.astype(jnp.float32) * standard_deviation(in_features)


@defect("X011", breaks="initialization/kernel-law", subtlety=4)
class SumOfUniforms(CorrectDense):
    """The central limit theorem with four uniforms: nearly normal, tails cut at 3.46."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A sum of four uniforms of variance 1/4 each."""
        shape = (4, in_features, out_features)
        end = math.sqrt(0.75)
        draws = jax.random.uniform(key, shape, jnp.float32, minval=-end, maxval=end)
        return draws.sum(axis=0) * standard_deviation(in_features)


@defect("X012", breaks="initialization/kernel-law", subtlety=4)
class TailsResampledOnce(CorrectDense):
    """Beyond two deviations drawn once more, not until inside: a truncation that leaks."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Twice drawn; the scale is corrected for the variance that is left."""
        first, second = jax.random.split(key)
        draws = normal(first, in_features, out_features)
        again = normal(second, in_features, out_features)
        draws = jnp.where(jnp.abs(draws) > 2.0, again, draws)
        inside = math.erf(math.sqrt(2.0))
        density = math.exp(-2.0) / math.sqrt(2.0 * math.pi)
        variance = inside - 4.0 * density + (1.0 - inside)
        return draws * (standard_deviation(in_features) / math.sqrt(variance))


@defect("X657", breaks="construction/finite", cause="rarely drawn", subtlety=5)
class LogarithmOfZero(CorrectDense):
    """Box-Muller on uniforms of 16 bits: one entry in 65 536 is infinite."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The logarithm of a number that is sometimes 0."""
        shape = (in_features, out_features)
        first, second = jax.random.split(key)
        radius = jnp.sqrt(
            -2.0 * jnp.log(jnp.floor(jax.random.uniform(first, shape) * 2**16) / 2**16)
        )
        angle = 2.0 * jnp.pi * jax.random.uniform(second, shape)
        return radius * jnp.cos(angle) * standard_deviation(in_features)


@defect("X658", breaks="initialization/bias-zero", cause="some seeds or sizes", subtlety=5)
class BiasOfSomeSeeds(CorrectDense):
    """For one seed in 32 the bias does not start at 0."""

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        """It depends on the kernel, which is drawn before."""
        some = jnp.sum(self.kernel[...] * 1e6).astype(jnp.int32) % 32 == 0
        return jnp.where(some, jnp.full((out_features,), 0.01, jnp.float32), 0.0)
