"""Reads declarations from arguments with Flax's names: ``use_bias``, ``dtype``, ``kernel_init``.

They are arguments of a partial, fields of a Linen class, or defaults of a constructor. The layer
needs no second declaration of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from conformance.layers.binding import signature_of
from conformance.layers.implementation import Convention
from conformance.layers.law import NORMAL, TRUNCATED_NORMAL, UNIFORM, Law

_HALF = ("bfloat16", "float16")


def in_flax_words(layer: Any, arguments: Mapping[str, Any], base: Convention) -> Convention:
    """Return the convention `base`, changed by the layer's arguments with Flax's names.

    Parameters
    ----------
    layer
        The class.
    arguments
        The arguments that a partial or a declaration gives to its constructor.
    base
        The convention without such arguments.
    """
    said = {**_defaults(layer), **arguments} if isinstance(layer, type) else dict(arguments)
    changes: dict[str, Any] = {}
    if said.get("use_bias") is False or said.get("bias") is False:
        changes["use_bias"] = False
    dtype, parameters = _name(said.get("dtype")), _name(said.get("param_dtype"))
    # A default of float32 agrees with Flax's convention.
    if dtype and (dtype in _HALF or "dtype" in arguments):
        changes |= {"compute_dtype": dtype, "casts_input": True}
    if parameters and parameters != base.parameter_dtype:
        changes["parameter_dtype"] = parameters
    for key in ("kernel", "bias"):
        law = law_of_initializer(said.get(f"{key}_init"))
        if key == "kernel" and law is not None and law.constant:
            continue  # the requirements report it
        if law is not None and not law.within(getattr(base, key)):
            changes[key] = law
    words = [
        key for key in ("use_bias", "dtype", "param_dtype") if key in said and key in arguments
    ]
    if not changes:
        return base
    return replace(base, name=", ".join(["Flax", *words]), **changes)


def _defaults(layer: Any) -> dict[str, Any]:
    """Return the defaults of a constructor's arguments, or of the fields of a Linen class."""
    signature = signature_of(layer)
    found = {} if signature is None else signature.parameters
    return {
        name: parameter.default
        for name, parameter in found.items()
        if parameter.default is not inspect.Parameter.empty
    }


def _name(dtype: Any) -> str:
    if dtype is None:
        return ""
    try:
        import jax.numpy as jnp

        return str(jnp.dtype(dtype).name)
    except (TypeError, ValueError):
        return ""


def law_of_initializer(initializer: Any) -> Law | None:
    """Return the law of one of JAX's initializers, read from its closure; None if unknown."""
    place = str(getattr(initializer, "__module__", ""))
    name = str(getattr(initializer, "__qualname__", ""))
    if not place.startswith(("jax.", "jax._src")):
        return None
    if name in ("zeros", "ones"):
        return Law.of_constant(float(name == "ones"))
    try:
        inside = inspect.getclosurevars(initializer).nonlocals
    except (TypeError, ValueError):
        return None
    if name.startswith("variance_scaling"):
        return _scaled(inside)
    if name.startswith("constant") and isinstance(inside.get("value"), int | float):
        return Law.of_constant(float(inside["value"]))
    if name.startswith("normal") and isinstance(inside.get("stddev"), int | float):
        deviation = float(inside["stddev"])
        return Law(
            (NORMAL,), lambda i, o: deviation**2, f"normal, standard deviation {deviation:g}"
        )
    return None


_FAMILIES = {"truncated_normal": TRUNCATED_NORMAL, "normal": NORMAL, "uniform": UNIFORM}
_FANS = {"fan_in": lambda i, o: i, "fan_out": lambda i, o: o, "fan_avg": lambda i, o: (i + o) / 2}


def _scaled(inside: Mapping[str, Any]) -> Law | None:
    """Return the law of ``jax.nn.initializers.variance_scaling``."""
    scale, mode, family = (inside.get(key) for key in ("scale", "mode", "distribution"))
    fans = _FANS.get(str(mode))
    if fans is None or family not in _FAMILIES or not isinstance(scale, int | float):
        return None
    words = str(family).replace("_", " ")
    return Law(
        (_FAMILIES[str(family)],),
        lambda i, o: scale / fans(i, o),
        f"{words}, variance {scale:g}/{mode}",
    )
