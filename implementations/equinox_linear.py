"""Equinox's Linear, with the convention that Equinox documents: uniform laws, (out, in)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import equinox

from conformance import Convention, Law, adapt

__all__ = ["CONVENTION", "Linear"]

_UNIFORM = Law.uniform(lambda fan_in, fan_out: 1 / (3 * fan_in), "1/(3 fan_in)")

CONVENTION = Convention(
    name="Equinox",
    kernel=_UNIFORM,
    bias=_UNIFORM,
    layout="out,in",
    parameter_names=("weight", "bias"),
    # Batches go through jax.vmap, as Equinox documents.
    ranks=(1,),
)

_WITHOUT_BIAS = replace(CONVENTION, name="Equinox, without bias", use_bias=False)

VARIANTS = {
    "no-bias": adapt(
        partial(equinox.nn.Linear, use_bias=False),
        name="equinox.nn.Linear",
        convention=_WITHOUT_BIAS,
    )
}

Linear = replace(
    adapt(equinox.nn.Linear, name="equinox.nn.Linear", convention=CONVENTION), variants=VARIANTS
)
