"""Layers that break sharding: wrong on more than one device."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import CorrectDense, affine
from implementations.defects.record import defect

LECUN = nnx.initializers.lecun_normal()


@wrong.forward("X412", "sharding/sharded-equals-local", 4)
def PinnedToFirstDevice(x: Array, kernel: Array, bias: Array) -> Array:
    """The kernel is moved to the first device in every call."""
    first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return affine(x, jax.device_put(kernel, first), bias)


@defect("X408", "sharding/sharding-metadata", 5, cause_id="annotation-lost")
class AnnotationDropped(CorrectDense):
    """An initializer can be given, but its annotation is dropped."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_init: Any = LECUN,
        rngs: nnx.Rngs,
    ) -> None:
        kernel = kernel_init(rngs.params(), (in_features, out_features), jnp.float32)
        self.kernel = nnx.Param(self.kept(kernel))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    def kept(self, kernel: Any) -> Any:
        """Return what the layer keeps of an initializer's value, which may be annotated."""
        return getattr(kernel, "raw_value", kernel)

    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, self.kernel[...], self.bias[...])


@defect("Y248", "sharding/sharding-metadata", 5, cause_id="annotation-exchanged")
class AnnotationExchanged(AnnotationDropped):
    """The axes of an initializer's annotation are given in reverse."""

    def kept(self, kernel: Any) -> Any:
        if not hasattr(kernel, "raw_value"):
            return kernel
        said = kernel.metadata.items()
        turned = {key: value[::-1] if isinstance(value, tuple) else value for key, value in said}
        return dataclasses.replace(kernel, metadata=turned)
