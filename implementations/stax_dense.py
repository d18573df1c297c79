"""The Dense of ``jax.example_libraries.stax``: Glorot normal kernel, normal bias, a tuple."""

from __future__ import annotations

from typing import Any

import jax
from jax.example_libraries import stax

from conformance import Convention, Expected, Implementation, Law

__all__ = ["CONVENTION", "Dense"]

CONVENTION = Convention(
    name="stax",
    kernel=Law.glorot_normal(),
    bias=Law.normal(lambda fan_in, fan_out: 1e-4, "0.0001"),
    # The parameters are a tuple.
    parameter_names=("0", "1"),
)


def _init(seed: Any, in_features: int, out_features: int) -> Any:
    construct, _ = stax.Dense(out_features)
    _, parameters = construct(jax.random.key(seed), (in_features,))
    return parameters


def _apply(parameters: Any, x: Any) -> Any:
    _, apply = stax.Dense(parameters[0].shape[1])
    return apply(parameters, x)


Dense = Implementation(
    name="stax.Dense",
    init=_init,
    apply=_apply,
    kernel=lambda parameters: parameters[0],
    bias=lambda parameters: parameters[1],
    with_parameters=lambda parameters, kernel, bias: (kernel, bias),
    convention=CONVENTION,
    library="jax",
    expected_failures=(
        Expected(
            "forward/scalar-raises",
            "it is written with jnp.dot, which multiplies by a scalar",
            link="https://docs.jax.dev/en/latest/_autosummary/jax.numpy.dot.html",
        ),
    ),
)
