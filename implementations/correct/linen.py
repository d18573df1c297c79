"""Unusual Linen layers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import CorrectLinenDense, affine, stddev

__all__ = [
    "BiasFirst",
    "DenseSubclass",
    "DenseWithOptions",
    "GeneralDense",
    "PlainNormal",
    "Rematerialized",
    "SetupLater",
]


class PlainNormal(nn.Module):
    """The plain normal law, types written out, more fields with defaults."""

    features: int
    param_dtype: Any = jnp.float32
    precision: Any = None

    @nn.compact
    def __call__(self, x: ArrayLike, *, train: bool = False) -> Array:
        """The output (..., features) for x (..., in)."""
        x = jnp.asarray(x)

        def draw(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return jax.random.normal(key, shape, dtype) * stddev(shape[0])

        kernel = self.param("kernel", draw, (x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        return jnp.matmul(x, kernel, precision=self.precision) + bias


class BiasFirst(CorrectLinenDense):
    """The bias is made before the kernel."""

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., features) for x (..., in)."""
        x = jnp.asarray(x)
        bias = self.param("bias", self.draw_bias, x)
        return affine(x, self.param("kernel", self.draw_kernel, x), bias)


class SetupLater(nn.Module):
    """`setup` prepares; the sizes of the parameters are known only in the call."""

    features: int

    def setup(self) -> None:
        """Choose the initializers."""
        self.kernel_init = nn.initializers.lecun_normal()
        self.bias_init = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., features) for x (..., in)."""
        x = jnp.asarray(x)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        return affine(x, kernel, self.param("bias", self.bias_init, (self.features,)))


class DenseSubclass(nn.Dense):
    """`linen.Dense` under another name."""


class DenseWithOptions(nn.Dense):
    """`linen.Dense` with other defaults of the same meaning."""

    param_dtype: Any = jnp.float32
    precision: Any = "highest"
    kernel_init: Any = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class GeneralDense(nn.DenseGeneral):
    """`DenseGeneral` over the last axis is a Dense."""


class Rematerialized(CorrectLinenDense):
    """The formula rematerialized in the backward pass."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., features)."""
        return jax.checkpoint(affine)(x, kernel, bias)
