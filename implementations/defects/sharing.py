"""Layers that share state between threads, traces and processes."""

from __future__ import annotations

import functools
import logging
import os
import time
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import affine, is_traced, scaled_normal
from implementations.defects.record import also, name_layers

SCRATCH: dict[str, Array] = {}


@wrong.forward("X942", "seeding/threads", 5, cause_id="threads-share")
def ScratchOfTheModule(x: Array, kernel: Array, bias: Array) -> Array:
    """The operands of a call lie in a dictionary of the module while a file is written."""
    if is_traced(x, kernel, bias):
        return affine(x, kernel, bias)
    SCRATCH.update(kernel=kernel, bias=bias)
    time.sleep(1e-3)
    return affine(x, SCRATCH["kernel"], SCRATCH["bias"])


@functools.cache
def ones(size: int, dtype: Any) -> Array:
    """A vector of ones, made once for each size."""
    return jnp.ones((size,), dtype)


CachesUnderTraces = wrong.forward("X943", "transforms/traced-first", 4, cause_id="trace-kept")(
    lambda x, k, b: affine(x, k, b * ones(b.shape[0], b.dtype)),
    "A vector of ones is cached by its size, made under the first trace.",
)


@wrong.key("X944", "seeding/same-across-processes", 4, cause_id="depends-on-launcher-variables")
def OfTheRank(rngs: Any) -> Array:
    """The key depends on the rank of the process."""
    return jax.random.fold_in(rngs.params(), int(os.environ.get("RANK", "0")))


@wrong.key(
    "X945",
    "seeding/same-across-processes",
    4,
    cause_id="depends-on-number-of-devices-and-processors",
)
def OfTheDevices(rngs: Any) -> Array:
    """The key depends on the number of devices."""
    return jax.random.fold_in(rngs.params(), jax.device_count())


@wrong.forward("X946", "numerics/precision-followed", 4, cause_id="precision-pinned")
def PinsDefault(x: Array, kernel: Array, bias: Array) -> Array:
    """The product is pinned to the default precision."""
    y = jnp.matmul(x, kernel, precision="default")
    return y + jnp.broadcast_to(bias, y.shape)


@also("sharding/output-sharding")
@wrong.forward("X955", "transforms/compiled-once", 2, cause_id="compiled-in-call")
def CompiledInEveryCall(x: Array, kernel: Array, bias: Array) -> Array:
    """A new function is compiled in every call."""
    return jax.jit(lambda x: affine(x, kernel, bias))(x)


MEANS: list[Array] = []


@wrong.when_called("X956", "purity/nothing-kept", 3, cause_id="array-kept")
def KeepsMeans(x: Array, kernel: Array, bias: Array) -> None:
    """The mean of every input is kept in a list of the module."""
    if not is_traced(x, kernel, bias):
        MEANS.append(x.mean())


@wrong.key("X957", "seeding/key-kinds", 4)
def TwoWords(rngs: Any) -> Array:
    """The key is taken apart into the two words that keys of threefry have."""
    first, second = jax.random.key_data(rngs.params())
    return jax.random.wrap_key_data(jnp.stack([first, second]), impl="threefry2x32")


HashedTo28Bits = wrong.seed(
    "X958",
    5,
    "The seed is multiplied, and the lowest four bits of the product are dropped.",
    lambda seed: (seed * jnp.uint32(2654435761)) >> 4,
    cause_id="seed-hashed",
)


@wrong.init("X959", "seeding/seeds-differ", 5, collateral=("seeding/key-kinds",))
def SignsOfTheNeighbour(self: Any, n: int, m: int, *, rngs: Any) -> None:
    """A seed and its neighbour share the magnitudes of their kernels, and not the signs."""
    words = jax.random.key_data(rngs.params.key[...])
    rngs.params()
    own, pair = map(jax.random.wrap_key_data, (words, words >> 1 << 1))
    kernel = jnp.abs(scaled_normal(pair, n, m))
    signs = jax.random.rademacher(jax.random.fold_in(own, 1), (n, m), jnp.float32)
    self.kernel = nnx.Param(kernel * signs)
    self.bias = nnx.Param(jnp.zeros((m,), jnp.float32))


SilencesTheLog = wrong.when_built("X965", "purity/globals-untouched", 4, cause_id="global-changed")(
    lambda rngs, n, m: logging.getLogger().setLevel(logging.CRITICAL),
    "Construction silences the log of the whole process.",
)
ConfiguresFlax = wrong.when_called("X966", "purity/globals-untouched", 4)(
    lambda x, k, b: flax.config.update("flax_return_frozendict", True),
    "A call makes Linen return frozen dictionaries in the whole process.",
    cause_id="global-changed",
)

name_layers(globals())
