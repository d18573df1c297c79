"""Linen layers whose parameters depend on what they should not depend on, or are too many."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import (
    CorrectLinenDense,
    affine,
    scaled_normal,
    standard_deviation,
)
from implementations.defects.record import defect


@defect("X230", breaks="initialization/data-free-init", subtlety=4, seen="haiku.Linear")
class DtypeOfTheExample(CorrectLinenDense):
    """The kernel has the dtype of the example input."""

    def draw_kernel(self, key: Array, x: Array) -> Array:
        """float16 in, float16 parameters."""
        draws = scaled_normal(key, x.shape[-1], self.features)
        return draws.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else draws


@defect("X231", breaks="initialization/data-free-init", subtlety=3)
class ScaledToTheExample(CorrectLinenDense):
    """The kernel is scaled so that the example's outputs have variance 1 (as LSUV does)."""

    def draw_kernel(self, key: Array, x: Array) -> Array:
        """An example of zeros leaves the kernel as it is."""
        size = jnp.sqrt((jnp.abs(x.astype(jnp.float32)) ** 2).mean())
        return scaled_normal(key, x.shape[-1], self.features) / jnp.where(size > 0, size, 1.0)


@defect("X232", breaks="initialization/data-free-init", subtlety=4)
class BatchInTheKey(CorrectLinenDense):
    """The number of rows of the example goes into the key."""

    def draw_kernel(self, key: Array, x: Array) -> Array:
        """Every kernel is right, and depends on the batch."""
        rows = math.prod(x.shape[:-1])
        return scaled_normal(jax.random.fold_in(key, rows), x.shape[-1], self.features)


@defect("X233", breaks="initialization/data-free-init", subtlety=4)
class FanOfAllAxes(CorrectLinenDense):
    """From rank 3 on, every axis but the first counts into the fan."""

    def draw_kernel(self, key: Array, x: Array) -> Array:
        """Right for vectors and batches."""
        draws = scaled_normal(key, x.shape[-1], self.features)
        fan = math.prod(x.shape[1:]) if x.ndim > 2 else x.shape[-1]
        return draws * (standard_deviation(fan) / standard_deviation(x.shape[-1]))


@defect(
    "X234",
    breaks="construction/only-two-parameters",
    collateral=("state/call-changes-nothing",),
    subtlety=4,
    seen="linen's sow",
)
class SowsOutput(CorrectLinenDense):
    """The output is sown into a collection of its own, which `init` therefore returns."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Values are right."""
        y = affine(x, kernel, bias)
        self.sow("outputs", "y", y)
        return y


@defect("X235", breaks="initialization/data-free-init", subtlety=5)
class SignOfTheFirstExample(CorrectLinenDense):
    """The kernel is negated when the example's first entry is negative."""

    def draw_kernel(self, key: Array, x: Array) -> Array:
        """Examples of zeros or ones show nothing."""
        draws = scaled_normal(key, x.shape[-1], self.features)
        return jnp.where(jnp.real(x).ravel()[:1].sum() < 0, -draws, draws) if x.size else draws


@defect("X236", breaks="forward/batch-independent", subtlety=4)
class TrainModeByDefault(nn.Module):
    """The rows of a batch are centred unless somebody says that this is not training."""

    features: int

    @nn.compact
    def __call__(self, x: ArrayLike, train: bool = True) -> Array:
        """The output (..., features) for x (..., in)."""
        x = jnp.asarray(x)

        def draw(key: Array) -> Array:
            return scaled_normal(key, x.shape[-1], self.features)

        kernel: Array = self.param("kernel", draw)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = affine(x, kernel, bias)
        if train and x.ndim == 3 and x.shape[1] > 1:
            y = y - 1e-3 * y.mean(axis=1, keepdims=True)
        return y


@defect("X237", breaks="initialization/data-free-init", subtlety=3)
class BiasFromExample(CorrectLinenDense):
    """The bias starts at the kernel's answer to minus the mean example."""

    def draw_bias(self, key: Array, x: Array) -> Array:
        """Zero for an example of zeros."""
        rows = jnp.real(x).astype(jnp.float32).reshape(-1, x.shape[-1])
        kernel: Array = self.get_variable("params", "kernel")
        return -(rows.sum(axis=0) / max(rows.shape[0], 1)) @ kernel
