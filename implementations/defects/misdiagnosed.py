"""Layers whose fault looks like another one: what is said of each has to be true of it."""

from __future__ import annotations

import jax
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import affine
from implementations.defects.record import name_layers


@wrong.forward("X740", "purity/globals-untouched", 4, cause="jax_default_matmul_precision")
def EntersAPrecision(x: Array, kernel: Array, bias: Array) -> Array:
    """A context of JAX's configuration is entered for the thread, and never left."""
    jax.default_matmul_precision("float32").__enter__()
    return affine(x, kernel, bias)


name_layers(globals())
