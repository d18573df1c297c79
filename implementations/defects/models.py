"""Layers that are right alone, and wrong as a part of a model."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import CorrectDense, CorrectLinenDense, affine, scaled_normal
from implementations.defects.record import defect


@wrong.linen_kernel("X950", "models/linen-submodule", 4, cause_id="key-of-model")
def KeyOfTheModel(self: Any, key: Array, x: Array) -> Array:
    """The kernel is drawn from the key that the whole model was given."""
    whole = self.scope.root.rngs.get("params", key)
    return scaled_normal(getattr(whole, "rng", whole), x.shape[-1], self.features)


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


@wrong.linen_forward("Y211", "state/call-changes-nothing", 4, cause_id="mutable-taken")
def OtherwiseWhenWatched(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """The bias is left out if a caller captures intermediates."""
    watched = self.is_mutable_collection("intermediates") and not self.is_initializing()
    return affine(x, kernel, bias * 0 if watched else bias)


@defect("X951", "models/linen-submodule", 3)
class FixedName(CorrectLinenDense):
    """Its name is always dense, so a parent can have only one of them."""

    def __post_init__(self) -> None:
        if self.name is None and self.parent is not None:
            self.name = "dense"
        super().__post_init__()


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
