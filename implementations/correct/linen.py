"""Unusual Linen layers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import hooks
from implementations.defects.base import affine, stddev


class PlainNormal(nn.Module):
    """The plain normal law, types written out, more fields with defaults."""

    features: int
    param_dtype: Any = jnp.float32
    precision: Any = None

    @nn.compact
    def __call__(self, x: ArrayLike, *, train: bool = False) -> Array:
        x = jnp.asarray(x)

        def draw(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return jax.random.normal(key, shape, dtype) * stddev(shape[0])

        kernel = self.param("kernel", draw, (x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        return jnp.matmul(x, kernel, precision=self.precision) + bias


@hooks.linen_call
def BiasFirst(self: Any, x: ArrayLike) -> Array:
    """The bias is made before the kernel."""
    x = jnp.asarray(x)
    bias = self.param("bias", self.draw_bias, x)
    return affine(x, self.param("kernel", self.draw_kernel, x), bias)


class SetupLater(nn.Module):
    """`setup` prepares; the sizes of the parameters are known only in the call."""

    features: int

    def setup(self) -> None:
        self.kernel_init = nn.initializers.lecun_normal()
        self.bias_init = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        return affine(x, kernel, self.param("bias", self.bias_init, (self.features,)))


class DenseSubclass(nn.Dense):
    """`linen.Dense` under another name."""


class DenseWithOptions(nn.Dense):
    """`linen.Dense` with other defaults that have the same meaning."""

    param_dtype: Any = jnp.float32
    precision: Any = "highest"
    kernel_init: Any = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class DenseInside(nn.Module):
    """Another layer's Dense, made in `setup` under a name that parents use as well."""

    features: int

    def setup(self) -> None:
        self.inner = nn.Dense(self.features)

    def __call__(self, x: ArrayLike) -> Array:
        return self.inner(x)


class GeneralDense(nn.DenseGeneral):
    """`DenseGeneral` over the last axis is a Dense."""


@hooks.linen_forward
def Rematerialized(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """The formula rematerialized in the backward pass."""
    return jax.checkpoint(affine)(x, kernel, bias)
