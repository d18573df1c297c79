"""Other ways to come from `rngs` to the key of the kernel, all of them deterministic."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.defects.base import CorrectDense, scaled_normal

__all__ = ["BiasKeyUnused", "FoldedKey", "KeyForEachParameter", "RawKey", "SplitKey"]


class SplitKey(CorrectDense):
    """The kernel from the second of two keys split from the stream's."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """The key from which the kernel is drawn."""
        return jax.random.split(rngs.params())[1]


class FoldedKey(CorrectDense):
    """The kernel from the stream's key with a constant folded in."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """The key from which the kernel is drawn."""
        return jax.random.fold_in(rngs.params(), 0xDE45E)


class RawKey(CorrectDense):
    """The key as an array of two integers, as before typed keys."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """The key from which the kernel is drawn."""
        return jax.random.key_data(rngs.params())


class BiasKeyUnused(CorrectDense):
    """A key is drawn for the bias too, by an initializer that does not look at it."""

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        """The initial bias (out,)."""
        return nnx.initializers.zeros_init()(rngs.params(), (out_features,), jnp.float32)


class KeyForEachParameter(CorrectDense):
    """The bias is set first, and takes the first key."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        _, kernel_key = rngs.params(), rngs.params()
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))
        self.kernel = nnx.Param(scaled_normal(kernel_key, in_features, out_features))
