"""Reads properties of a traced layer from its jaxpr."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.errors import Cause

# Parts of the names of primitives that call Python, or draw random numbers.
_CALLBACKS = ("callback", "infeed", "outfeed", "debug_print")
_PRODUCTS = ("dot_general", "conv_general_dilated")
_RANDOM = ("random_", "threefry", "rng_")


def described(array: Any) -> str:
    """Return dtype, shape and weak type of an array or an output of eval_shape, in words."""
    aval = getattr(array, "aval", array)
    weak = bool(getattr(aval, "weak_type", False))
    dtype = getattr(array, "dtype", type(array).__name__)
    return f"{dtype}{list(np.shape(array))}, weak_type={weak}"


def inner(equation: Any) -> Iterator[Any]:
    """Yield the jaxprs in the parameters of an equation, closed or not."""
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns"):
                yield item


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yield every equation of a jaxpr and of the jaxprs within it."""
    for equation in jaxpr.eqns:
        yield equation
        for part in inner(equation):
            yield from equations(part)


def products(jaxpr: Any) -> list[Any]:
    """Return every equation that multiplies matrices: products and convolutions."""
    return [each for each in equations(jaxpr) if each.primitive.name in _PRODUCTS]


def precisions(jaxpr: Any) -> set[Any]:
    """Return the precisions of its matrix products: a pair for the operands; None if unset."""
    return {each.params["precision"] for each in products(jaxpr)}


def loops(jaxpr: Any) -> bool:
    """Return whether it has a loop, a scan or a while."""
    return any(each.primitive.name in ("scan", "while") for each in equations(jaxpr))


def conditions(jaxpr: Any) -> bool:
    """Return whether it has branches that a number chooses, as of `jax.lax.cond`."""
    return any(each.primitive.name == "cond" for each in equations(jaxpr))


def axes_of_meshes(jaxpr: Any) -> set[str]:
    """Return the names of the axes of the meshes over which it maps, as by `jax.shard_map`."""
    maps = (each for each in equations(jaxpr) if each.primitive.name == "shard_map")
    return {name for each in maps for name in each.params["mesh"].axis_names}


def multiply_adds(jaxpr: Any) -> int:
    """Return the number of multiply-adds in the products of a jaxpr.

    The body of a loop counts once for each iteration, or once if their number is unknown; among
    several branches the most expensive one counts.
    """
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in _PRODUCTS:
            total += _of_product(equation)
            continue
        counts = [multiply_adds(part) for part in inner(equation)]
        repeated = equation.params["length"] if name == "scan" else 1
        total += repeated * (max(counts, default=0) if name == "cond" else sum(counts))
    return total


def _of_product(equation: Any) -> int:
    left, right = (operand.aval.shape for operand in equation.invars[:2])
    entries = math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return entries * math.prod(left[axis] for axis in contracted)
    outputs = right[equation.params["dimension_numbers"].rhs_spec[0]]
    return entries * math.prod(right) // max(outputs, 1)


def largest_array(jaxpr: Any) -> int:
    """Return the bytes of the largest array that any equation of the jaxpr makes."""
    made = (out.aval for equation in equations(jaxpr) for out in equation.outvars)
    return max(
        (aval.size * aval.dtype.itemsize for aval in made if hasattr(aval, "dtype")), default=0
    )


def constants(jaxpr: Any) -> Iterator[Any]:
    """Yield every constant array of a closed jaxpr, or of a jaxpr within it."""
    yield from getattr(jaxpr, "consts", ())
    for equation in jaxpr.eqns:
        # A literal also has a value.
        yield from (v.val for v in equation.invars if hasattr(v, "val"))
        for part in inner(equation):
            yield from constants(part)


def impurities(jaxpr: Any, kernel_shape: tuple[int, int]) -> dict[str, Cause]:
    """Return the parts that a layer's closed jaxpr should not have, each with its likely cause.

    Parameters
    ----------
    jaxpr
        The jaxpr, with the parameters among its arguments.
    kernel_shape
        ``(in_features, out_features)``: a constant as large as kernel or bias is a parameter.
    """
    found = {}
    for equation in equations(jaxpr):
        name = equation.primitive.name
        if any(part in name for part in _CALLBACKS):
            found[f"the callback {name}"] = Cause(
                "callback", "a callback to Python, such as a debug print, in f"
            )
        elif name.startswith(_RANDOM):
            found[f"the random primitive {name}"] = Cause(
                "draws-in-call", "f draws random numbers in every call"
            )
    for effect in jaxpr.effects:
        cause = Cause("effect-in-call", "f does more than compute its result")
        found.setdefault(f"the effect {effect}", cause)
    count = kernel_shape[0] * kernel_shape[1]
    for constant in constants(jaxpr):
        size = int(np.size(constant))
        if size > 1 and (size in (count, kernel_shape[1]) or size > count):
            what = f"a constant of shape {np.shape(constant)}"
            found[what] = Cause(
                "constant-parameter",
                "an array as large as a parameter is a constant of the program",
            )
    return found
