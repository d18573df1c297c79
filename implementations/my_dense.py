"""The exercise's Dense in Flax NNX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class MyDense(nnx.Module):
    """``x @ kernel + bias``; the kernel is normal with variance 1/in_features, the bias 0.

    Parameters
    ----------
    in_features, out_features
        The sizes: ``x`` is ``(..., in_features)``, the result ``(..., out_features)``.
    rngs
        Its ``params`` stream gives the kernel's key.
    """

    def __init__(self, in_features: int, out_features: int, rngs: nnx.Rngs) -> None:
        shape = (in_features, out_features)
        scale = 1 / jnp.sqrt(in_features)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape) * scale)
        self.bias = nnx.Param(jnp.zeros((out_features,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the layer's output for ``x``."""
        return x @ self.kernel[...] + self.bias[...]
