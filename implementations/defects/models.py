"""Layers that are right alone, and wrong as a part of a model."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import (
    CorrectDense,
    CorrectLinenDense,
    affine,
    normal,
    scaled_normal,
    stddev,
)
from implementations.defects.record import defect


@defect("X952", "models/inspected", 3)
class ReprOfItsNumbers(CorrectDense):
    """The representation formats an array as a number."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kernel[...]:.3f})"


@defect("X953", "models/inspected", 4, cause_id="eq-compares-contents")
class EqualByValue(CorrectDense):
    """Two layers of equal shapes are equal."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EqualByValue) and self.kernel.shape == other.kernel.shape

    def __hash__(self) -> int:
        return hash(jax.numpy.shape(self.kernel[...]))


@wrong.linen_kernel("X950", "models/linen-submodule", 4, cause_id="key-of-model")
def KeyOfTheModel(self: Any, key: Array, x: Array) -> Array:
    """The kernel is drawn from the key that the whole model was given."""
    whole = self.scope.root.rngs.get("params", key)
    return scaled_normal(getattr(whole, "rng", whole), x.shape[-1], self.features)


@defect("X951", "models/linen-submodule", 3)
class FixedName(CorrectLinenDense):
    """Its name is always dense, so a parent can have only one of them."""

    def __post_init__(self) -> None:
        if self.name is None and self.parent is not None:
            self.name = "dense"
        super().__post_init__()


@wrong.linen_kernel("Y049", "models/linen-submodule", 5, cause_id="kernels-correlated")
def SharedInAParent(self: Any, key: Array, x: Array) -> Array:
    """Within a parent, layers have most of their numbers from a key of their depth."""
    n, m = x.shape[-1], self.features
    own = normal(key, n, m)
    if self.scope.path:
        shared = jax.random.normal(jax.random.key(len(self.scope.path)), (n, m), jnp.float32)
        own = (own + 3.0 * shared) * 10.0**-0.5
    return own * stddev(n)


@wrong.linen_kernel("Y202", "models/linen-submodule", 4, cause_id="depends-on-name")
def HeadStartsAtZero(self: Any, key: Array, x: Array) -> Array:
    """A layer that is called logits starts at zero, as the last layer of a model."""
    kernel = scaled_normal(key, x.shape[-1], self.features)
    return kernel * 0 if self.name == "logits" else kernel


@wrong.linen_kernel("Y210", "models/linen-submodule", 4, cause_id="depends-on-name")
def SmallerAsTheSecond(self: Any, key: Array, x: Array) -> Array:
    """The second layer of a parent, which Linen numbers, starts with half the deviation."""
    kernel = scaled_normal(key, x.shape[-1], self.features)
    return kernel * 0.5 if (self.name or "").endswith("_1") else kernel


@wrong.linen_call("Y227", "models/linen-submodule", 4)
def FirstResultAgain(self: Any, x: ArrayLike) -> Array:
    """A second call within one apply returns the result of the first one."""
    x = jnp.asarray(x)
    y: Array = self.__dict__.get("_first", affine(x, *self.parameters(x)))
    object.__setattr__(self, "_first", y)
    return y


@wrong.linen_call("Y360", "models/linen-submodule", 4)
def RankOfTheFirstCall(self: Any, x: ArrayLike) -> Array:
    """Used twice in one model, the layer adds no bias to an x of another rank than the first."""
    x = jnp.asarray(x)
    kernel, bias = self.parameters(x)
    first = getattr(self, "_rank", x.ndim)
    object.__setattr__(self, "_rank", first)
    return affine(x, kernel, bias if x.ndim == first else bias * 0)


@defect("Y401", "models/linen-submodule", 4, cause_id="depends-on-name")
class SmallProjections(CorrectLinenDense):
    """The projection back into a residual stream starts with half of the scale."""

    def draw_kernel(self, key: Array, x: Array) -> Array:
        return super().draw_kernel(key, x) * (0.5 if "proj" in (self.name or "") else 1.0)


@defect("Y476", "models/inspected", 4, cause_id="shown-by-values")
class ReprOfItsDeviation(CorrectDense):
    """The representation has the deviation of the kernel, which an abstract one does not have."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(deviation={float(self.kernel[...].std()):.3f})"


@defect("Y477", "models/inspected", 4, cause_id="hash-of-values")
class HashOfItsValues(CorrectDense):
    """A step of training changes the hash, so that a dictionary does not find the layer again."""

    def __hash__(self) -> int:
        return hash(np.asarray(self.kernel[...]).tobytes())


@wrong.linen_kernel("Y446", "models/linen-submodule", 5, cause_id="depends-on-depth")
def SmallerWhereDeeper(self: Any, key: Array, x: Array) -> Array:
    """The deviation falls with the depth in the model, as in some models of language."""
    depth = len(self.scope.path)
    return scaled_normal(key, x.shape[-1], self.features) * jnp.float32((1 + depth) ** -0.5)


@wrong.linen_kernel("Y548", "models/linen-submodule", 5, cause_id="depends-on-name")
def SmallAtTheEndOfABranch(self: Any, key: Array, x: Array) -> Array:
    """A layer of this one name, at the end of a residual branch, starts with half of the scale."""
    scale = 0.5 if self.name == "residual_end" else 1.0
    return scaled_normal(key, x.shape[-1], self.features) * scale


@wrong.linen_kernel("Y549", "models/linen-submodule", 4, cause_id="key-of-name")
def KeyOfItsName(self: Any, key: Array, x: Array) -> Array:
    """The key is made of the model's key and the layer's name, which other blocks share."""
    whole = self.scope.root.rngs.get("params", key)
    own = jax.random.fold_in(getattr(whole, "rng", whole), zlib.crc32(str(self.name).encode()))
    return scaled_normal(own, x.shape[-1], self.features)
