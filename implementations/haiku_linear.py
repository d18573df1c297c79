"""Haiku's Linear, with the convention that Haiku documents: an uncorrected truncated normal."""

from __future__ import annotations

from dataclasses import replace
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


def _transformed(out_features: int, use_bias: bool) -> Any:
    return haiku.without_apply_rng(
        haiku.transform(lambda x: haiku.Linear(out_features, with_bias=use_bias)(x))
    )


def _linear(convention: Convention) -> Implementation:
    use_bias = convention.use_bias

    def init(seed: Any, in_features: int, out_features: int) -> Any:
        example = jnp.zeros((1, in_features), jnp.float32)
        return _transformed(out_features, use_bias).init(jax.random.key(seed), example)

    def apply(parameters: Any, x: Any) -> Any:
        out_features = parameters["linear"]["w"].shape[1]
        return _transformed(out_features, use_bias).apply(parameters, x)

    def write(parameters: Any, kernel: Any, bias: Any) -> Any:
        return {"linear": {"w": kernel, "b": bias} if use_bias else {"w": kernel}}

    return Implementation(
        name="haiku.Linear",
        init=init,
        apply=apply,
        kernel=lambda parameters: parameters["linear"]["w"],
        bias=lambda parameters: parameters["linear"]["b"],
        with_parameters=write,
        convention=convention,
        library="dm-haiku",
    )


VARIANTS = {"no-bias": _linear(replace(CONVENTION, name="Haiku, without bias", use_bias=False))}

Linear = replace(_linear(CONVENTION), variants=VARIANTS)
