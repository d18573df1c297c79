"""Haiku's Linear, held to what Haiku documents: a truncated normal that is not corrected."""

from __future__ import annotations

from typing import Any

import haiku
import jax
import jax.numpy as jnp

from conformance import Convention, Implementation, Law

__all__ = ["CONVENTION", "Linear"]

_TRUNCATED_VARIANCE = 0.7737413
"""Of a standard normal truncated at two standard deviations: what no correction makes up for."""

CONVENTION = Convention(
    name="Haiku",
    kernel=Law.truncated_normal(
        lambda fan_in, fan_out: _TRUNCATED_VARIANCE / fan_in, "0.774/fan_in: that of no correction"
    ),
    parameter_names=("w", "b"),
)


def _transformed(out_features: int) -> Any:
    return haiku.without_apply_rng(haiku.transform(lambda x: haiku.Linear(out_features)(x)))


def _init(seed: Any, in_features: int, out_features: int) -> Any:
    example = jnp.zeros((1, in_features), jnp.float32)
    return _transformed(out_features).init(jax.random.key(seed), example)


def _apply(parameters: Any, x: Any) -> Any:
    return _transformed(parameters["linear"]["w"].shape[1]).apply(parameters, x)


Linear = Implementation(
    name="haiku.Linear",
    init=_init,
    apply=_apply,
    kernel=lambda parameters: parameters["linear"]["w"],
    bias=lambda parameters: parameters["linear"]["b"],
    with_parameters=lambda parameters, kernel, bias: {"linear": {"w": kernel, "b": bias}},
    convention=CONVENTION,
    library="dm-haiku",
)
