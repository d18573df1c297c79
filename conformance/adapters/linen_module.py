"""The functional view of a Linen class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from conformance.adapters.parameters import (
    Leaf,
    Parameters,
    find,
    leaves_of,
    register,
    replace_leaves,
)
from conformance.implementation import Convention, Implementation

__all__ = ["collection_leaves", "from_linen"]


def collection_leaves(variables: Any) -> list[Leaf]:
    """The leaves of a Linen variable dict; the kind of a leaf is its collection."""
    return [
        Leaf(leaf.path[1:] or leaf.path, leaf.path[0], leaf.value) for leaf in leaves_of(variables)
    ]


def from_linen(
    layer: Callable[..., Any], name: str, convention: Convention, library: str
) -> Implementation:
    """An implementation of the class, constructed as ``layer(features=out_features)``."""
    register()
    transposed = convention.layout == "out,in"

    def linen(out_features: int) -> Any:
        return layer(features=out_features)

    def init(seed: Any, in_features: int, out_features: int) -> Parameters:
        model = linen(out_features)
        # The example input has a batch axis of 1, as in Flax's own documentation.
        example = jnp.zeros((1, in_features), jnp.float32)
        return Parameters(model, model.init(jax.random.key(seed), example))

    def apply(parameters: Parameters, x: Any) -> Any:
        return parameters.static.apply(parameters.tree, x)

    def kernel(parameters: Parameters) -> Any:
        leaves = collection_leaves(parameters.tree)
        value = leaves[find(leaves, convention, "kernel")].value
        return value.T if transposed else value

    def bias(parameters: Parameters) -> Any:
        leaves = collection_leaves(parameters.tree)
        return leaves[find(leaves, convention, "bias")].value

    def with_parameters(parameters: Parameters, kernel: Any, bias: Any) -> Parameters:
        leaves = collection_leaves(parameters.tree)
        values = {find(leaves, convention, "kernel"): kernel.T if transposed else kernel}
        if bias is not None:
            values[find(leaves, convention, "bias")] = bias
        return Parameters(parameters.static, replace_leaves(parameters.tree, values))

    return Implementation(
        name=name,
        init=init,
        apply=apply,
        kernel=kernel,
        bias=bias,
        with_parameters=with_parameters,
        linen=linen,
        convention=convention,
        library=library,
    )
