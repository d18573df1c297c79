"""Layers that share what they should not: between threads, traces and processes."""

from __future__ import annotations

import functools
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import affine, is_traced
from implementations.defects.record import name_layers

SCRATCH: dict[str, Array] = {}


@wrong.forward("X942", "seeding/threads", 5, cause="threads share")
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


CachesUnderTraces = wrong.forward("X943", "transforms/traced-first", 4, cause="under a trace")(
    lambda x, k, b: affine(x, k, b * ones(b.shape[0], b.dtype)),
    "A vector of ones is cached by its size, made under whatever trace is the first.",
)


@wrong.key("X944", "seeding/same-across-processes", 4, cause="launcher")
def OfTheRank(rngs: Any) -> Array:
    """The key depends on the rank of the process."""
    return jax.random.fold_in(rngs.params(), int(os.environ.get("RANK", "0")))


@wrong.key("X945", "seeding/same-across-processes", 4, cause="devices and processors")
def OfTheDevices(rngs: Any) -> Array:
    """The key depends on the number of devices."""
    return jax.random.fold_in(rngs.params(), jax.device_count())


@wrong.forward("X946", "numerics/precision-followed", 4, cause="pins")
def PinsDefault(x: Array, kernel: Array, bias: Array) -> Array:
    """The product is pinned to the default precision."""
    y = jnp.matmul(x, kernel, precision="default")
    return y + jnp.broadcast_to(bias, y.shape)


name_layers(globals())
