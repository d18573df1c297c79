"""Layers that nobody would write like this, and that keep the whole contract."""

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

from implementations.defects.base import (
    CorrectDense,
    CorrectLinenDense,
    affine,
    layer_output,
    normal,
    scaled_normal,
    stddev,
)

__all__ = [
    "CachedScale",
    "ColumnByColumn",
    "DrawnBackwards",
    "DrawnFlat",
    "InSequential",
    "NestedLinen",
    "NumpySizes",
    "PartOfADict",
    "PartOfAList",
    "Partitioned",
    "PromotedLikeFlax",
    "RematLinen",
    "SizesInTheKey",
    "SownForInspection",
    "by_a_class",
    "by_truncation",
]


class PartOfAList(nnx.Module):
    """The layer is the only element of a list."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        parts: Any = getattr(nnx, "List", list)
        self.parts = parts([CorrectDense(in_features, out_features, rngs=rngs)])

    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., out) for x (..., in)."""
        y: Array = self.parts[0](x)
        return y


class SizesInTheKey(CorrectDense):
    """The sizes go into the key, so that kernels of one seed and two sizes have nothing in common.

    Sizes that are traced or huge are folded in all the same.
    """

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The kernel (in, out)."""
        for size in (in_features, out_features):
            key = jax.random.fold_in(key, int(size))
        return scaled_normal(key, in_features, out_features)


class ColumnByColumn(CorrectDense):
    """Every column has a key of its own, and is drawn under vmap."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The kernel (in, out)."""
        keys = jax.random.split(key, out_features)

        def column(key: Array) -> Array:
            return jax.random.normal(key, (in_features,), jnp.float32)

        return jax.vmap(column, out_axes=1)(keys) * stddev(in_features)


class DrawnBackwards(CorrectDense):
    """Drawn as (out, in), from the last weight to the first, and turned."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The kernel (in, out)."""
        return normal(key, out_features, in_features)[::-1, ::-1].T * stddev(in_features)


@functools.cache
def scale_of(in_features: int) -> float:
    """A cache of numbers, which nothing can change."""
    return stddev(in_features)


class CachedScale(CorrectDense):
    """What depends on the sizes alone is computed once in a process, and logged."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The kernel (in, out)."""
        logging.getLogger(__name__).debug("a kernel of %s x %s", in_features, out_features)
        return normal(key, in_features, out_features) * scale_of(in_features)


class Partitioned(CorrectLinenDense):
    """The parameters come in boxes that say how they are to be laid out."""

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., features) for x (..., in)."""
        x = jnp.asarray(x)
        kernel: Any = self.param("kernel", nn.with_partitioning(self.draw_kernel, (None, "x")), x)
        bias: Any = self.param("bias", nn.with_partitioning(self.draw_bias, ("x",)), x)
        return self.forward(x, kernel, bias)


class SownForInspection(CorrectLinenDense):
    """The output is sown into `intermediates`, where whoever asks for them finds it."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., features)."""
        y = affine(x, kernel, bias)
        self.sow("intermediates", "y", y)
        return y


class NumpySizes(CorrectDense):
    """Shapes and scales go through NumPy, and come back as what they were."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The kernel (in, out)."""
        shape = tuple(np.asarray([in_features, out_features]).tolist())
        scale = float(np.float64(1.0) / np.sqrt(max(shape[0], 1)))
        return jax.random.normal(key, shape, jnp.float32) * scale


def by_truncation(seed: float, x: ArrayLike, features: float, *, unused: str = "") -> Array:
    """Casts by NumPy's truncation, and has an argument that nobody gives."""
    return layer_output(int(np.trunc(float(seed))), x, int(np.trunc(float(features))))


class DrawnFlat(CorrectDense):
    """As many numbers as the product of the sizes, reshaped afterwards."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The initial kernel (in, out)."""
        flat = normal(key, 1, in_features * out_features)
        return flat.reshape(in_features, out_features) * stddev(in_features)


class PartOfADict(nnx.Module):
    """The Params are items of a dictionary."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        whole = CorrectDense(in_features, out_features, rngs=rngs)
        parts: Any = getattr(nnx, "Dict", dict)
        self.parts = parts({"kernel": whole.kernel, "bias": whole.bias})

    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., out) for x (..., in)."""
        return affine(jnp.asarray(x), self.parts["kernel"][...], self.parts["bias"][...])


class InSequential(nnx.Module):
    """A model of one layer."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.model = nnx.Sequential(CorrectDense(in_features, out_features, rngs=rngs))

    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., out) for x (..., in)."""
        y: Array = self.model(x)
        return y


class PromotedLikeFlax(CorrectDense):
    """The operands are promoted by Flax's own rule first."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        x, kernel, bias = nnx.nn.dtypes.promote_dtype((x, kernel, bias), dtype=None)
        return affine(x, kernel, bias)


class NestedLinen(nn.Module):
    """The parameters are those of a part of a part."""

    features: int

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., features) for x (..., in)."""
        return nn.Sequential([CorrectLinenDense(self.features)])(x)


class RematLinen(nn.Module):
    """A layer under `nn.remat`."""

    features: int

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., features) for x (..., in)."""
        y: Array = nn.remat(CorrectLinenDense)(self.features)(x)
        return y


def by_a_class(seed: float, x: ArrayLike, features: float) -> Array:
    """A class is defined in every call, built, split and called."""

    class Layer(CorrectDense):
        """As good as any other."""

    layer = Layer(jnp.shape(x)[-1], int(features), rngs=nnx.Rngs(int(seed)))
    return nnx.merge(*nnx.split(layer))(x)
