"""Layers that take x of three or four axes only, as models of sequences and images have them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax import Array
from jax.typing import ArrayLike

from conformance.layers.adapters import adapt
from implementations.correct.options import AllOptions
from implementations.defects.base import CorrectDense, scaled_normal

__all__ = ["images", "linen_sequences", "sequences_of_a_function", "sequences_with_options"]


class OptionsOfSequences(AllOptions):
    """A layer of sequences with all options of Flax."""

    def __call__(self, x: ArrayLike) -> Array:
        if jnp.ndim(x) != 3:
            raise ValueError(f"x has {jnp.ndim(x)} axes, expected (batch, length, in)")
        return super().__call__(x)


class LinenSequences(linen.Module):
    """A Linen layer of sequences, which is initialized with one, too."""

    features: int

    @linen.compact
    def __call__(self, x: ArrayLike) -> Array:
        shape = (jnp.shape(x)[-1], self.features)
        kernel = self.param("kernel", linen.initializers.lecun_normal(), shape)
        bias = self.param("bias", linen.initializers.zeros, shape[1:])
        return jnp.einsum("btd,df->btf", jnp.asarray(x), kernel) + bias


class _Images(CorrectDense):
    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        b, h, w, channels = x.shape
        y = x.reshape(b * h * w, channels) @ kernel + bias
        return y.reshape(b, h, w, len(bias))


def _function(seed: Any, x: ArrayLike, features: Any) -> Array:
    kernel = scaled_normal(jax.random.key(int(seed)), jnp.shape(x)[-1], int(features))
    return jnp.einsum("btd,df->btf", jnp.asarray(x), kernel)


sequences_with_options = adapt(OptionsOfSequences, name="sequences, options", ranks=[3])
linen_sequences = adapt(LinenSequences, name="sequences, linen", ranks=[3])
images = adapt(_Images, name="images", ranks=[4])
sequences_of_a_function = adapt(_function, name="sequences, a function", ranks=[3])
