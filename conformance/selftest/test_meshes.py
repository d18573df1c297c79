"""Layers that compute on a mesh of their own."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from conformance.checks.exceptions import cause_of
from conformance.jax_setup.compat import inside_mesh
from conformance.selftest.processes import Checked
from implementations.defects.base import CorrectDense

pytestmark = pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="JAX has no jax.shard_map")


def one_device() -> Any:
    """Return a mesh of one device."""
    return jax.sharding.Mesh(np.array(jax.devices()[:1]), ("model",))


def within() -> Any:
    """Return the context of that mesh."""
    return inside_mesh(one_device())


class RowParallel(CorrectDense):
    """The sums over parts of the inputs are added between the devices of a mesh."""

    def forward(self, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        lead = (None,) * (x.ndim - 1)

        def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jax.lax.psum(x @ kernel, "model")

        mapped = jax.shard_map(
            product,
            mesh=one_device(),
            in_specs=(PartitionSpec(*lead, "model"), PartitionSpec("model", None)),
            out_specs=PartitionSpec(*lead, None),
        )
        found: jax.Array = mapped(x, kernel) + bias
        return found


class Constrained(nnx.Linear):
    """The place of the result is fixed on the mesh of the context."""

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        y = super().__call__(inputs)
        axes = PartitionSpec(*(None,) * (y.ndim - 1), "model")
        return jax.lax.with_sharding_constraint(y, axes)


def test_a_layer_on_its_own_mesh_is_traced_once_and_mapped(checked: Checked) -> None:
    """An axis of the mesh in the layer hides a mapped one, and nnx.jit moves the parameters."""
    code, text = checked(RowParallel, rows=("one-trace", "transforms/vmap"))
    assert code == 0, text


def test_a_layer_is_checked_within_its_own_mesh(checked: Checked) -> None:
    context = f"--declare=context={__name__}:within"
    code, text = checked(RowParallel, context, rows=("sharding", "transforms/vmap"))
    assert code == 0, text


def test_arrays_beside_the_mesh_of_a_layer_are_named() -> None:
    """This process has one device; the text comes from JAX 0.10.2."""
    text = (
        "Received incompatible devices for jitted computation. Got argument x of f with shape "
        "float32[8,16] and with device ids [0, 1] on platform CPU and shard_map inside jit with "
        "device ids [0] on platform CPU at mine.py:24:15"
    )
    assert "declare the mesh as its context" in cause_of(ValueError(text), text)


def test_numbers_lie_on_the_mesh_of_the_context(checked: Checked) -> None:
    """Outside of jit, JAX constrains no cotangent that lies beside the mesh."""
    context = f"--declare=context={__name__}:within"
    code, text = checked(Constrained, context, rows=("any-order",))
    assert code == 0, text
