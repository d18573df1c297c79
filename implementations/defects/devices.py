"""Layers that are wrong on several devices, for arrays that are divided in less usual ways."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from implementations.correct.options import LECUN
from implementations.defects import wrong
from implementations.defects.base import CorrectDense, affine, is_traced
from implementations.defects.record import defect, name_layers

EAGER = "sharding/eager"


@wrong.forward("Y641", EAGER, 5)
def GatheredByColumns(x: Array, kernel: Array, bias: Array) -> Array:
    """Outside of jit, the parts of a kernel sharded along both axes are put side by side."""
    if is_traced(x, kernel) or None in (spec := _spec(kernel)) or len(spec) < 2:
        return affine(x, kernel, bias)
    shards = {shard.index[1].start or 0: shard.data for shard in kernel.addressable_shards}
    side_by_side = np.concatenate([np.asarray(shards[start]) for start in sorted(shards)], axis=1)
    whole = np.resize(side_by_side, kernel.shape)
    return affine(x, jax.device_put(jnp.asarray(whole), kernel.sharding), bias)


@wrong.forward("Y642", EAGER, 5)
def FirstPartOfTheTokens(x: Array, kernel: Array, bias: Array) -> Array:
    """Outside of jit, the tokens on one device stand for those of all, if these are sharded."""
    if is_traced(x, kernel) or x.ndim != 3 or _spec(x)[1:2] in ((), (None,)):
        return affine(x, kernel, bias)
    part = np.asarray(x.addressable_data(0))
    tokens = np.concatenate([part] * (x.shape[1] // part.shape[1]), axis=1)
    return affine(jax.device_put(jnp.asarray(tokens), x.sharding), kernel, bias)


def _spec(value: Array) -> tuple[Any, ...]:
    return tuple(getattr(value.sharding, "spec", (None,)))


@wrong.forward("Y643", "sharding/sharded-equals-local", 4, cause_id="mesh-in-call")
def SummedOverTheMesh(x: Array, kernel: Array, bias: Array) -> Array:
    """Within `jax.shard_map`, products are added over all axes, as if inputs were sharded."""
    y = x @ kernel
    # Older versions of JAX have no such function, and no such attribute.
    mesh = getattr(jax.sharding, "get_abstract_mesh", lambda: None)()
    if axes := tuple(getattr(mesh, "manual_axes", ())):
        y = jax.lax.psum(y, axes)
    return y + jnp.broadcast_to(bias, y.shape)


@defect("Y654", "sharding/sharding-metadata", 3, cause_id="metadata-elsewhere")
class MetadataExchanged(CorrectDense):
    """The metadata of kernel and bias are exchanged."""

    def __init__(
        self, in_features: int, out_features: int, *, kernel_init: Any = LECUN,
        kernel_metadata: Any = MappingProxyType({}), bias_metadata: Any = MappingProxyType({}),
        rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        kernel = kernel_init(rngs.params(), (in_features, out_features), jnp.float32)
        self.kernel = nnx.Param(kernel, **bias_metadata)
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32), **kernel_metadata)


name_layers(globals())
