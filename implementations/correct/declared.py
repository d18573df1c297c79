"""Layers as people write them, with what they declare: other names, orders, dtypes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import Array
from jax.typing import ArrayLike

from conformance.layers.adapters import adapt
from implementations.defects.base import scaled_normal

__all__ = [
    "HalfByItsWords",
    "KeyAndFeatures",
    "PlainAttributes",
    "both_sizes",
    "outputs_first",
    "without_activation",
]


class KeyAndFeatures(nnx.Module):
    """Sizes in the other order, and a key."""

    def __init__(self, features: int, d_in: int, key: Array) -> None:
        self.kernel = nnx.Param(scaled_normal(key, d_in, features))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        """The layer's output."""
        return jnp.asarray(x) @ self.kernel[...] + self.bias[...]


class HalfByItsWords(nnx.Module):
    """All in bfloat16, as its arguments say in Flax's words."""

    def __init__(
        self, d_in: int, d_out: int, *, dtype: Any = jnp.bfloat16,
        param_dtype: Any = jnp.bfloat16, use_bias: bool = False, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        draw = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(draw(rngs.params(), (d_in, d_out), param_dtype))
        self.dtype = dtype

    def __call__(self, x: ArrayLike) -> Array:
        """The product."""
        return jnp.asarray(x).astype(self.dtype) @ self.kernel[...].astype(self.dtype)


class PlainAttributes:
    """A class of no framework, whose arrays are attributes of what it holds."""

    def __init__(self, in_size: int, out_size: int, key: Array) -> None:
        self.parameters = {
            "kernel": scaled_normal(key, in_size, out_size),
            "bias": jnp.zeros(out_size, jnp.float32),
        }

    def __call__(self, x: ArrayLike) -> Array:
        """The layer's output."""
        return jnp.asarray(x) @ self.parameters["kernel"] + self.parameters["bias"]


class _OutputsFirst(nnx.Module):
    def __init__(self, units: int, in_units: int, *, rng: nnx.Rngs) -> None:
        self.weight = nnx.Param(scaled_normal(rng.params(), in_units, units).T)
        self.bias = nnx.Param(jnp.zeros(units, jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        return jnp.asarray(x) @ self.weight[...].T + self.bias[...]


class _WithActivation(nnx.Module):
    def __init__(
        self, n_in: int, n_out: int, rngs: nnx.Rngs, activation: Any = jax.nn.relu
    ) -> None:
        self.kernel = nnx.Param(scaled_normal(rngs.params(), n_in, n_out))
        self.bias = nnx.Param(jnp.zeros(n_out, jnp.float32))
        self.activation = activation

    def __call__(self, x: ArrayLike) -> Array:
        y = jnp.asarray(x) @ self.kernel[...] + self.bias[...]
        return y if self.activation is None else self.activation(y)


class _BothSizes(linen.Module):
    in_dim: int
    units: int

    def setup(self) -> None:
        draw = linen.initializers.lecun_normal()
        self.kernel = self.param("kernel", draw, (self.in_dim, self.units))
        self.bias = self.param("bias", linen.initializers.zeros, (self.units,))

    def __call__(self, x: ArrayLike) -> Array:
        return jnp.asarray(x) @ self.kernel + self.bias


outputs_first = adapt(_OutputsFirst, layout="out, in", names={"kernel": "weight"})
without_activation = adapt(_WithActivation, arguments={"activation": "none"})
both_sizes = adapt(_BothSizes)
