"""The functional view of a Linen class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import meta
from flax.core.scope import LazyRng

from conformance.layers.adapters.parameters import Leaf, Parameters, implementation_of, leaves_of
from conformance.layers.implementation import Convention, Implementation


def collection_leaves(variables: Any) -> list[Leaf]:
    """Return the leaves of a Linen variable dict; the kind of a leaf is its collection.

    Boxes around parameters, such as ``nn.Partitioned``, are not part of their names.
    """
    leaves = leaves_of(meta.unbox(variables))
    return [Leaf(leaf.path[1:] or leaf.path, leaf.path[0], leaf.value) for leaf in leaves]


def give_streams(module: Any, streams: Sequence[str]) -> None:
    """Add streams of keys to the scope of a module."""
    if module.scope is None:
        return
    for name in streams:
        if name not in module.scope.rngs:
            module.scope.rngs[name] = LazyRng.create(jax.random.key(0))
            module.scope.rng_counters[name] = 0


def from_linen(
    construct: Callable[[int, int], Any], name: str, convention: Convention, library: str
) -> Implementation:
    """Return an implementation of the class; ``construct(in_features, out_features)`` builds it."""

    # The example input has a batch axis of 1, as in Flax's own documentation.
    lead = convention.lead(1)

    def init(seed: Any, in_features: int, out_features: int) -> Parameters:
        model = construct(in_features, out_features)
        example = jnp.zeros((*lead, in_features), jnp.float32)
        return Parameters(model, model.init(jax.random.key(seed), example))

    def apply(parameters: Parameters, x: Any) -> Any:
        return parameters.static.apply(parameters.tree, x)

    return implementation_of(
        collection_leaves,
        name=name,
        init=init,
        apply=apply,
        linen=construct,
        under=lambda other: from_linen(construct, name, other, library),
        convention=convention,
        library=library,
    )
