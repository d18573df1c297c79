"""The Dense of the exercise in Linen, and Flax's own."""

from __future__ import annotations

import jax
from flax import linen as nn
from flax.linen import Dense, DenseGeneral

__all__ = ["Dense", "DenseGeneral", "MyDense"]


class MyDense(nn.Module):
    """The exercise's layer; ``lecun_normal`` is a truncated normal of variance 1/in_features."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the layer's output for ``x``, of shape ``(..., features)``."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x @ kernel + bias
