"""Equinox's Linear, held to what Equinox documents: uniform laws, (out, in), vectors only."""

from __future__ import annotations

from typing import Any

import equinox
import jax

from conformance import Convention, Implementation, Law

__all__ = ["CONVENTION", "Linear"]

_UNIFORM = Law.uniform(lambda fan_in, fan_out: 1 / (3 * fan_in), "1/(3 fan_in)")

CONVENTION = Convention(
    name="Equinox",
    kernel=_UNIFORM,
    bias=_UNIFORM,
    layout="out,in",
    parameter_names=("weight", "bias"),
    # A batch is mapped over with jax.vmap, as Equinox documents.
    ranks=(1,),
)


def _write(layer: Any, kernel: Any, bias: Any) -> Any:
    return equinox.tree_at(lambda its: (its.weight, its.bias), layer, (kernel.T, bias))


Linear = Implementation(
    name="equinox.nn.Linear",
    init=lambda seed, in_features, out_features: equinox.nn.Linear(
        in_features, out_features, key=jax.random.key(seed)
    ),
    apply=lambda layer, x: layer(x),
    kernel=lambda layer: layer.weight.T,
    bias=lambda layer: layer.bias,
    with_parameters=_write,
    convention=CONVENTION,
    library="equinox",
)
