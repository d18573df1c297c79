"""Layers that pass an option on to some of its places only."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.correct.options import LECUN, AllOptions
from implementations.defects.options import product
from implementations.defects.record import defect, name_layers

Product = tuple[Callable[..., Array], Any]
"""A function such as ``jax.lax.dot_general``, and the precision that it gets."""


def _times(x: Array, kernel: Array, by: Product) -> Array:
    return by[0](x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision=by[1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _multiplied(x: Array, kernel: Array, by: Product, of_tangents: Product) -> Array:
    return _times(x, kernel, by)


@_multiplied.defjvp
def _rule(by: Product, of_tangents: Product, primals: Any, tangents: Any) -> Any:
    (x, kernel), (dx, dkernel) = primals, tangents
    tangent = _times(dx, kernel, of_tangents) + _times(x, dkernel, of_tangents)
    return _multiplied(x, kernel, by, of_tangents), tangent


def _affine(self: Any, x: Array, kernel: Array, bias: Array | None, *of_tangents: Any) -> Array:
    y = _multiplied(x, kernel, (self.dot_general, self.precision), of_tangents)
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


PrecisionOfTheCall = product("Y239", "options/precision", 5, cause_id="option-of-call-only")(
    lambda self, x, k, b: _affine(self, x, k, b, self.dot_general, None),
    "The rule of the derivative multiplies in the default precision.",
)
ProductOfTheCall = product("Y411", "options/dot-general", 5, cause_id="option-of-call-only")(
    lambda self, x, k, b: _affine(self, x, k, b, jax.lax.dot_general, self.precision),
    "The rule of the derivative multiplies by JAX's product, and the given one is ignored.",
)


def _of_one_deviation(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
    if dtype == jnp.float32:
        return LECUN(key, shape, dtype)
    wide = jax.random.truncated_normal(key, -2, 2, shape) * shape[0] ** -0.5
    return wide.astype(dtype)


@defect("Y412", "options/param-dtype", 5, cause_id="law-by-option")
class HalfWithoutCorrection(nnx.Linear):
    """Kernels of half precision miss the correction for the truncation; the constructor takes
    options that it passes on.
    """

    def __init__(self, in_features: int, out_features: int, **options: Any) -> None:
        super().__init__(in_features, out_features, **{"kernel_init": _of_one_deviation, **options})


@product("Y416", "options/precision", 4, cause_id="option-by-branch")
def PrecisionOfHalvesForgotten(self: Any, x: Array, kernel: Array, bias: Array | None) -> Array:
    """From 1024 inputs on, the product is split in two, which do not get the precision."""
    if kernel.shape[0] < 1024 or x.shape[-1] != kernel.shape[0]:
        return AllOptions.affine(self, x, kernel, bias)
    half = kernel.shape[0] // 2
    parts = ((x[..., :half], kernel[:half]), (x[..., half:], kernel[half:]))
    wide = jnp.promote_types(x.dtype, jnp.float32)
    first, second = (jnp.matmul(*part, preferred_element_type=wide) for part in parts)
    y = (first + second).astype(x.dtype)
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


XAloneIsCast = product("Y484", "options/dtype", 2, cause_id="dtype-for-x-alone")(
    lambda self, x, k, b: x @ self.kernel[...] + (0 if b is None else self.bias[...]),
    "x is cast to the `dtype` that is given, and the parameters are not.",
    collateral=("options/dot-general", "options/precision", "options/promote-dtype"),
)


name_layers(globals())
