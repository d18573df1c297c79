"""A library of one layer, as a third party would publish it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class Dense(nnx.Module):
    """``x @ kernel + bias``, initialized as in LeCun et al. (1998)."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        initial = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(initial(rngs.params(), (in_features, out_features), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the layer's output for ``x``."""
        return jnp.asarray(x) @ self.kernel[...] + self.bias[...]
