"""Flax's own dense layer for NNX, with every option as a variant."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from conformance.layers.adapters import adapt
from conformance.layers.implementation import FLAX, Convention, Implementation
from conformance.layers.law import Law

__all__ = ["Linear"]


def _with(difference: str, convention: dict[str, Any], **options: Any) -> Implementation:
    """Return ``nnx.Linear`` with these options, and the convention that they imply."""
    declared: Convention = replace(FLAX, name=f"Flax, {difference}", **convention)
    return adapt(partial(nnx.Linear, **options), name="nnx.Linear", convention=declared)


def _drawn(law: Law, initializer: Any) -> Implementation:
    return _with(law.description, {"kernel": law}, kernel_init=initializer)


def _computes_in(dtype: Any) -> Implementation:
    name = jnp.dtype(dtype).name
    convention = {"compute_dtype": name, "casts_input": True}
    return _with(f"computing in {name}", convention, dtype=dtype)


def _of(dtype: Any) -> Implementation:
    name = jnp.dtype(dtype).name
    return _with(f"{name} parameters", {"parameter_dtype": name}, param_dtype=dtype)


def _all_in(dtype: Any) -> Implementation:
    name = jnp.dtype(dtype).name
    convention = {"parameter_dtype": name, "compute_dtype": name, "casts_input": True}
    return _with(f"all in {name}", convention, dtype=dtype, param_dtype=dtype)


_INITIAL = nnx.initializers
_SMALL = Law.normal(lambda fan_in, fan_out: 1e-4, "0.0001")

VARIANTS = {
    "no-bias": _with("without bias", {"use_bias": False}, use_bias=False),
    "f32": _computes_in(jnp.float32),
    "bf16": _computes_in(jnp.bfloat16),
    "f16": _computes_in(jnp.float16),
    "param-bf16": _of(jnp.bfloat16),
    "param-f16": _of(jnp.float16),
    "all-bf16": _all_in(jnp.bfloat16),
    "all-f16": _all_in(jnp.float16),
    "precision-default": _with("precision default", {}, precision=jax.lax.Precision.DEFAULT),
    "precision-high": _with("precision high", {}, precision=jax.lax.Precision.HIGH),
    "precision-highest": _with("precision highest", {}, precision=jax.lax.Precision.HIGHEST),
    "lecun-uniform": _drawn(Law.lecun_uniform(), _INITIAL.lecun_uniform()),
    "he-normal": _drawn(Law.he_normal(), _INITIAL.he_normal()),
    "he-uniform": _drawn(Law.he_uniform(), _INITIAL.he_uniform()),
    "glorot-normal": _drawn(Law.glorot_normal(), _INITIAL.glorot_normal()),
    "glorot-uniform": _drawn(Law.glorot_uniform(), _INITIAL.glorot_uniform()),
    "normal": _drawn(_SMALL, _INITIAL.normal(0.01)),
    "zeros": _with("kernel 0", {"kernel": Law.zero()}, kernel_init=_INITIAL.zeros_init()),
    "bias-normal": _with("normal bias", {"bias": _SMALL}, bias_init=_INITIAL.normal(0.01)),
}

Linear = replace(adapt(nnx.Linear, name="nnx.Linear"), variants=VARIANTS)
