"""Unusual solutions of the exercise: functions ``(seed, x, features)``."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import CorrectDense, affine, layer_output, scaled_normal


def plain_jax(seed: float, x: ArrayLike, features: float) -> Array:
    """A plain function without a module; the bias is zero, and left out."""
    x = jnp.asarray(x)
    return x @ scaled_normal(jax.random.key(int(seed)), x.shape[-1], int(features))


def nnx_linear_inside(seed: float, x: ArrayLike, features: float) -> Array:
    """`nnx.Linear`, whose kernel has another law of the same variance."""
    x = jnp.asarray(x)
    return nnx.Linear(x.shape[-1], int(features), rngs=nnx.Rngs(int(seed)))(x)


def linen_inside(seed: float, x: ArrayLike, features: float) -> Array:
    """`linen.Dense`, initialized and applied at once."""
    x = jnp.asarray(x)
    output, _ = nn.Dense(int(features)).init_with_output(jax.random.key(int(seed)), x)
    return output


def split_and_merge(seed: float, x: ArrayLike, features: float) -> Array:
    """The layer is split and merged before it is called."""
    x = jnp.asarray(x)
    layer = CorrectDense(x.shape[-1], int(features), rngs=nnx.Rngs(params=int(seed)))
    return nnx.merge(*nnx.split(layer))(x)


@functools.partial(jax.jit, static_argnums=2)
def _compiled(key: Array, x: Array, features: int) -> Array:
    """Draw and apply in one program."""
    bias = jnp.zeros((features,), jnp.float32)
    return affine(x, scaled_normal(key, x.shape[-1], features), bias)


def compiled_inside(seed: float, x: ArrayLike, features: float) -> Array:
    """One compiled program for each length and each number of features."""
    return _compiled(jax.random.key(int(seed)), jnp.asarray(x), int(features))


def annotated_with_other_names(seed: float, inputs: ArrayLike, out: float) -> Array:
    """Other names for the last two arguments; integers by `operator.index` after truncation."""
    return layer_output(operator.index(int(seed)), inputs, operator.index(int(out)))


def one_expression(seed: float, x: ArrayLike, features: float) -> Array:
    """Sizes as keyword arguments, in one expression."""
    return CorrectDense(
        in_features=jnp.shape(x)[-1], out_features=int(features), rngs=nnx.Rngs(int(seed))
    )(x)
