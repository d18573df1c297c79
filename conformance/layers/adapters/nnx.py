"""The functional view of an ``nnx.Module`` class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from conformance.jax_setup.compat import state_leaves
from conformance.layers.adapters.parameters import Leaf, Parameters, implementation_of
from conformance.layers.implementation import Convention, Implementation


def split(module: nnx.Module) -> Parameters:
    """Split a module by ``nnx.split``, into one pytree."""
    graphdef, state = nnx.split(module)
    return Parameters(graphdef, state)


def _leaves(state: Any) -> list[Leaf]:
    return [Leaf(path, kind, value) for path, kind, value in state_leaves(state)]


def from_nnx(
    construct: Callable[[int, int, Any], Any],
    name: str,
    convention: Convention,
    library: str,
    *,
    takes_seed: bool = False,
) -> Implementation:
    """Return an implementation; ``construct(in_features, out_features, rngs)`` builds the class.

    If the class takes a seed, ``construct`` also takes the number in place of the ``nnx.Rngs``.
    """

    def init(seed: Any, in_features: int, out_features: int) -> Parameters:
        source: Any
        if takes_seed and isinstance(seed, int):
            source = seed % 2**32
        else:
            # nnx.Rngs takes Python ints and keys, not a traced number.
            source = nnx.Rngs(seed if isinstance(seed, int) else jax.random.key(seed))
        return split(construct(in_features, out_features, source))

    def apply(parameters: Parameters, x: Any) -> Any:
        return nnx.merge(parameters.static, parameters.tree)(x)

    return implementation_of(
        _leaves,
        name=name,
        init=init,
        apply=apply,
        module=construct,
        under=lambda other: from_nnx(construct, name, other, library, takes_seed=takes_seed),
        convention=convention,
        library=library,
    )
