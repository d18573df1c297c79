"""Every option of Flax's Dense, written out by hand."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.linen import dtypes as linen_dtypes
from flax.nnx.nn import dtypes as nnx_dtypes
from jax import Array

__all__ = ["AllOptions", "AllOptionsLinen", "NamesItsAxes"]

LECUN = nnx.initializers.lecun_normal()
ZEROS = nnx.initializers.zeros_init()


class AllOptions(nnx.Module):
    """All options of `nnx.Linear`, each with its meaning there."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = True,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Any = None,
        kernel_init: Callable[..., Array] = LECUN,
        bias_init: Callable[..., Array] = ZEROS,
        dot_general: Callable[..., Array] = jax.lax.dot_general,
        promote_dtype: Callable[..., Any] = nnx_dtypes.promote_dtype,
        rngs: nnx.Rngs,
    ) -> None:
        shape = (in_features, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.use_bias = use_bias
        if use_bias:
            self.bias = nnx.Param(bias_init(rngs.params(), (out_features,), param_dtype))
        self.dtype = dtype
        self.precision = precision
        self.dot_general = dot_general
        self.promote_dtype = promote_dtype

    def __call__(self, x: Any) -> Array:
        values = (x, self.kernel[...], self.bias[...] if self.use_bias else None)
        x, kernel, bias = self.promote_dtype(values, dtype=self.computed_in(*values))
        return self.affine(x, kernel, bias)

    def computed_in(self, x: Any, kernel: Array, bias: Array | None) -> Any:
        """Return the dtype of the computation; None for the promoted one."""
        return self.dtype

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        """Return the output (..., out) from values of one dtype."""
        dimensions = (((x.ndim - 1,), (0,)), ((), ()))
        y = self.dot_general(x, kernel, dimensions, precision=self.precision)
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


class AllOptionsLinen(nn.Module):
    """All options of `linen.Dense`, each with its meaning there."""

    features: int
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Callable[..., Array] = LECUN
    bias_init: Callable[..., Array] = ZEROS
    promote_dtype: Callable[..., Any] = linen_dtypes.promote_dtype
    dot_general: Callable[..., Array] = jax.lax.dot_general

    @nn.compact
    def __call__(self, x: Any) -> Array:
        shape = (jnp.shape(x)[-1], self.features)
        kernel = self.made("kernel", self.kernel_init, shape)
        bias = None
        if self.use_bias:
            bias = self.made("bias", self.bias_init, (self.features,))
        x, kernel, bias = self.promote_dtype(x, kernel, bias, dtype=self.dtype)
        dimensions = (((x.ndim - 1,), (0,)), ((), ()))
        y = self.dot_general(x, kernel, dimensions, precision=self.precision)
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)

    def made(self, name: str, initializer: Any, shape: tuple[int, ...]) -> Any:
        """Return a parameter by its initializer."""
        return self.param(name, initializer, shape, self.param_dtype)


class NamesItsAxes(AllOptionsLinen):
    """The same, and the layer itself names the axes of what its initializers draw."""

    def made(self, name: str, initializer: Any, shape: tuple[int, ...]) -> Any:
        """Return a parameter, annotated from its last axis on."""
        axes = ("embed", "mlp")[-len(shape) :]
        return super().made(name, nn.with_partitioning(initializer, axes), shape)
