"""Layers whose parameters have the wrong shape, or that cannot be built at every size."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.defects.base import CorrectDense, affine, scaled_normal
from implementations.defects.record import defect


@defect(
    "N004",
    breaks="construction/bias-shape",
    cause="one entry for each input",
    subtlety=1,
    seen='pitfall; TransformerEngine#196 "wrong shape of bias in LayerNormMLP"',
)
class BiasOfInputLength(CorrectDense):
    """The bias has shape (in,): right only when in == out."""

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        """Zeros of the wrong length."""
        return jnp.zeros((in_features,), jnp.float32)


@defect("N005", breaks="construction/builds", subtlety=1, seen="pitfall")
class SplitWithoutInt(CorrectDense):
    """The number of columns is computed by a division, and left a float when out is odd."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Two halves of out / 2 columns each."""
        half = out_features / 2
        columns = int(half) if half.is_integer() else half
        halves = jnp.zeros((2, columns))
        return scaled_normal(key, in_features, halves.size)


@defect(
    "N043",
    breaks="construction/kernel-shape",
    cause="transposed",
    subtlety=2,
    seen="aprender, torch and equinox layout; kfac-jax#114",
)
class TransposedKernel(CorrectDense):
    """The kernel is (out, in), and the forward uses its transpose."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The right numbers, transposed."""
        return scaled_normal(key, in_features, out_features).T

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The right output, from the layout of torch."""
        return affine(x, kernel.T, bias)


@defect("X575", breaks="construction/finite", subtlety=4)
class UnbiasedForOneWeight(CorrectDense):
    """A correction by n/n - 1 with n weights, all in one: 0/0 where there is one weight."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Right for every other size."""
        others = jnp.float32(in_features * out_features - 1)
        return scaled_normal(key, in_features, out_features) * (others / others)


@defect("X576", breaks="construction/zero-sizes", subtlety=2)
class DividesByTheSize(CorrectDense):
    """The scale is 1/sqrt(in), in Python: without inputs it raises."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Right for every layer that has inputs."""
        scale = (1.0 / in_features) ** 0.5
        return jax.random.normal(key, (in_features, out_features), jnp.float32) * scale
