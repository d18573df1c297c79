"""The function that a solution of the exercise defines."""

from __future__ import annotations

import jax
from flax import nnx

from implementations.my_dense import MyDense


def dense_forward(seed: float, x: jax.Array, features: float) -> jax.Array:
    """Return the output of a new :class:`MyDense` for ``x``.

    Parameters
    ----------
    seed, features
        Integers that may arrive as floats (``3.0``).
    x
        A vector ``(in_features,)``.

    Returns
    -------
    jax.Array
        A vector ``(features,)``.
    """
    layer = MyDense(x.shape[-1], int(features), rngs=nnx.Rngs(int(seed)))
    return layer(x)
