"""Layers with an unusual structure, which meet the whole contract."""

from __future__ import annotations

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import hooks
from implementations.defects.base import (
    CorrectDense,
    CorrectLinenDense,
    affine,
    layer_output,
    normal,
    scaled_normal,
    stddev,
)
from implementations.defects.record import name_layers


class PartOfAList(nnx.Module):
    """The layer is the only element of a list."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        parts: Any = getattr(nnx, "List", list)
        self.parts = parts([CorrectDense(in_features, out_features, rngs=rngs)])

    def __call__(self, x: ArrayLike) -> Array:
        y: Array = self.parts[0](x)
        return y


@hooks.kernel
def SizesInTheKey(key: Array, in_features: int, out_features: int) -> Array:
    """The sizes go into the key, so kernels of one seed and two sizes are unrelated.

    Sizes that are traced or huge are folded in all the same.
    """
    for size in (in_features, out_features):
        key = jax.random.fold_in(key, int(size))
    return scaled_normal(key, in_features, out_features)


@hooks.kernel
def ColumnByColumn(key: Array, in_features: int, out_features: int) -> Array:
    """Every column has its own key, and is drawn under vmap."""
    keys = jax.random.split(key, out_features)

    def column(key: Array) -> Array:
        return jax.random.normal(key, (in_features,), jnp.float32)

    return jax.vmap(column, out_axes=1)(keys) * stddev(in_features)


DrawnFlat = hooks.kernel(
    lambda key, n, m: normal(key, 1, n * m).reshape(n, m) * stddev(n),
    "As many numbers as the product of the sizes, reshaped afterwards.",
)
DrawnBackwards = hooks.kernel(
    lambda key, n, m: normal(key, m, n)[::-1, ::-1].T * stddev(n),
    "Drawn as (out, in), from the last weight to the first, and turned.",
)


@functools.cache
def _scale_of(in_features: int) -> float:
    """Return the scale from a cache of numbers."""
    return stddev(in_features)


@hooks.kernel
def CachedScale(key: Array, in_features: int, out_features: int) -> Array:
    """The scale is computed once for each size in a process, and logged."""
    logging.getLogger(__name__).debug("a kernel of %s x %s", in_features, out_features)
    return normal(key, in_features, out_features) * _scale_of(in_features)


@hooks.linen_call
def Partitioned(self: Any, x: ArrayLike) -> Array:
    """The parameters are in boxes with sharding annotations."""
    x = jnp.asarray(x)
    kernel: Any = self.param("kernel", nn.with_partitioning(self.draw_kernel, (None, "x")), x)
    bias: Any = self.param("bias", nn.with_partitioning(self.draw_bias, ("x",)), x)
    return self.forward(x, kernel, bias)


@hooks.linen_forward
def SownForInspection(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """The output is sown into `intermediates`, where callers who ask for them find it."""
    y = affine(x, kernel, bias)
    self.sow("intermediates", "y", y)
    return y


@hooks.kernel
def NumpySizes(key: Array, in_features: int, out_features: int) -> Array:
    """Shapes and scales go through NumPy, and come back unchanged."""
    shape = tuple(np.asarray([in_features, out_features]).tolist())
    scale = float(np.float64(1.0) / np.sqrt(max(shape[0], 1)))
    return jax.random.normal(key, shape, jnp.float32) * scale


def by_truncation(seed: float, x: ArrayLike, features: float, *, unused: str = "") -> Array:
    """Casts by NumPy's truncation, and has an unused argument."""
    return layer_output(int(np.trunc(float(seed))), x, int(np.trunc(float(features))))


class PartOfADict(nnx.Module):
    """The Params are items of a dictionary."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        whole = CorrectDense(in_features, out_features, rngs=rngs)
        parts: Any = getattr(nnx, "Dict", dict)
        self.parts = parts({"kernel": whole.kernel, "bias": whole.bias})

    def __call__(self, x: ArrayLike) -> Array:
        return affine(jnp.asarray(x), self.parts["kernel"][...], self.parts["bias"][...])


class InSequential(nnx.Module):
    """A model of one layer."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.model = nnx.Sequential(CorrectDense(in_features, out_features, rngs=rngs))

    def __call__(self, x: ArrayLike) -> Array:
        y: Array = self.model(x)
        return y


@hooks.forward
def PromotedLikeFlax(x: Array, kernel: Array, bias: Array) -> Array:
    """The operands are promoted by Flax's own rule first."""
    x, kernel, bias = nnx.nn.dtypes.promote_dtype((x, kernel, bias), dtype=None)
    return affine(x, kernel, bias)


class NestedLinen(nn.Module):
    """The parameters belong to a part of a part."""

    features: int

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        return nn.Sequential([CorrectLinenDense(self.features)])(x)


class RematLinen(nn.Module):
    """A layer under `nn.remat`."""

    features: int

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        y: Array = nn.remat(CorrectLinenDense)(self.features)(x)
        return y


def by_a_class(seed: float, x: ArrayLike, features: float) -> Array:
    """A class is defined in every call, built, split and called."""

    class Layer(CorrectDense):
        """An ordinary layer."""

    layer = Layer(jnp.shape(x)[-1], int(features), rngs=nnx.Rngs(int(seed)))
    return nnx.merge(*nnx.split(layer))(x)


name_layers(globals())
