"""Layers that break serialization: checkpoints do not find the parameters."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import affine, scaled_normal
from implementations.defects.record import defect, seen


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


@wrong.linen_call("X622", "serialization/stable-names", 3, cause_id="names-exchanged")
def NamesSwapped(self: Any, x: ArrayLike) -> Array:
    """The kernel is called bias, and the bias kernel."""
    x = jnp.asarray(x)
    kernel = self.param("bias", self.draw_kernel, x)
    bias = self.param("kernel", self.draw_bias, x)
    return self.forward(x, kernel, bias)
