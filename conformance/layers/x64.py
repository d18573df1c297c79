"""Adapts conventions to 64-bit types, under which a draw without a dtype is float64.

A layer that follows JAX's default dtype is correct as well: that ``jax_enable_x64`` changes nothing
is a MAY (``dtypes/x64-stable``). Such a layer is checked as a float64 layer, and requirements that
presume float32 are not applicable.
"""

from __future__ import annotations

from dataclasses import replace

from conformance.jax_setup.lazy import jax, jnp
from conformance.layers.implementation import Convention, Implementation, existing

_WIDE = "float64"


def widened(implementation: Implementation) -> Implementation:
    """Return the implementation; it declares float64 if 64-bit types change its dtype."""
    declared = implementation.convention
    if not jax.config.values["jax_enable_x64"] or declared.compute_dtype != "float32":
        return implementation
    try:
        found = _declares(implementation, declared)
    except Exception:  # requirements report a layer that cannot be traced or called
        return implementation
    return replace(implementation, convention=found)


def _declares(implementation: Implementation, declared: Convention) -> Convention:
    x = jax.ShapeDtypeStruct((3,) * min(declared.ranks), jnp.float32)
    if implementation.forward is not None:
        forward = implementation.forward
        y = jax.eval_shape(lambda x: forward(0, x, 2), x)
        return replace(declared, compute_dtype=_dtype(declared.compute_dtype, y))
    parameters = jax.eval_shape(lambda: existing(implementation.init)(0, 3, 2))
    y = jax.eval_shape(existing(implementation.apply), parameters, x)
    leaves = jax.tree_util.tree_leaves(parameters)
    return replace(
        declared,
        parameter_dtype=_dtype(declared.parameter_dtype, *leaves),
        compute_dtype=_dtype(declared.compute_dtype, y),
    )


def _dtype(declared: str, *values: object) -> str:
    wide = any(getattr(value, "dtype", None) == jnp.float64 for value in values)
    return _WIDE if wide and declared == "float32" else declared
