"""Other deterministic ways to get the key of the kernel from `rngs`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from implementations.defects import hooks
from implementations.defects.base import scaled_normal
from implementations.defects.record import name_layers

SplitKey = hooks.key(
    lambda rngs: jax.random.split(rngs.params())[1],
    "The kernel from the second of two keys split from the stream's.",
)
FoldedKey = hooks.key(
    lambda rngs: jax.random.fold_in(rngs.params(), 0xDE45E),
    "The kernel from the stream's key with a constant folded in.",
)
RawKey = hooks.key(
    lambda rngs: jax.random.key_data(rngs.params())[:2],
    "The key as an array of two integers, as before typed keys.",
)
BiasKeyUnused = hooks.bias(
    lambda rngs, n, m: nnx.initializers.zeros_init()(rngs.params(), (m,), jnp.float32),
    "A key is drawn for the bias too, by an initializer that does not look at it.",
)


@hooks.init
def KeyForEachParameter(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """The bias is set first, and takes the first key."""
    _, kernel_key = rngs.params(), rngs.params()
    self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))
    self.kernel = nnx.Param(scaled_normal(kernel_key, in_features, out_features))


name_layers(globals())
