"""Layers whose parameters cannot be found again under the names that checkpoints use."""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import affine, scaled_normal
from implementations.defects.record import defect


@defect(
    "N082",
    breaks="serialization/stable-names",
    cause="weight",
    subtlety=2,
    seen='keras#4338 "Fix the load_model() bug by sorting weights by names"',
)
class WeightAndB(nnx.Module):
    """The parameters are named weight and b."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        """The right values under other names."""
        self.weight = nnx.Param(scaled_normal(rngs.params(), in_features, out_features))
        self.b = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        """The right value."""
        return affine(x, self.weight[...], self.b[...])
