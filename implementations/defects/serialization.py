"""Layers that break serialization: checkpoints do not find the parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import affine, is_traced, scaled_normal
from implementations.defects.record import defect, name_layers, seen

AsksTheKernelForItsDevice = wrong.forward("X962", "serialization/round-trip", 4)(
    lambda x, k, b: affine(jax.device_put(x, k.sharding), k, b),
    "x is put where the kernel lies, which a NumPy array does not say.",
    when=lambda x, k, b: not is_traced(x, k) and len(k.sharding.device_set) <= 1,
)


@defect("Y200", "serialization/round-trip", 4)
class AsksWithin(nnx.Module):
    """The same within another module, whose paths are not those of a Flax layer."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.dense = AsksTheKernelForItsDevice(in_features, out_features, rngs=rngs)

    def __call__(self, x: ArrayLike) -> Array:
        y: Array = self.dense(x)
        return y


@wrong.linen_call(
    "L012", "serialization/stable-names", 2, cause_id="names-other", seen="keras-core#648"
)
def LinenWeight(self: Any, x: ArrayLike) -> Array:
    """The kernel is named weight."""
    x = jnp.asarray(x)
    weight = self.param("weight", lambda key: scaled_normal(key, x.shape[-1], self.features))
    return affine(x, weight, self.param("bias", self.draw_bias, x))


@seen('keras#4338 "Fix the load_model() bug by sorting weights by names"')
@defect("N082", "serialization/stable-names", 2, cause_id="names-other")
class WeightAndB(nnx.Module):
    """The parameters are named weight and b."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.weight = nnx.Param(scaled_normal(rngs.params(), in_features, out_features))
        self.b = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, self.weight[...], self.b[...])


@wrong.linen_call("Y583", "serialization/stable-names", 1, cause_id="name-misspelled")
def Kernal(self: Any, x: ArrayLike) -> Array:
    """The kernel is named kernal."""
    x = jnp.asarray(x)
    kernel = self.param("kernal", self.draw_kernel, x)
    return self.forward(x, kernel, self.param("bias", self.draw_bias, x))


@wrong.linen_call("X622", "serialization/stable-names", 3, cause_id="names-exchanged")
def NamesSwapped(self: Any, x: ArrayLike) -> Array:
    """The kernel is called bias, and the bias kernel."""
    x = jnp.asarray(x)
    kernel = self.param("bias", self.draw_kernel, x)
    bias = self.param("kernel", self.draw_bias, x)
    return self.forward(x, kernel, bias)


name_layers(globals())
