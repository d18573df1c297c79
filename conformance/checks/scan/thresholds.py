"""Finds the constants with which a traced program compares values.

A layer that computes ``x @ K + b`` makes no comparisons. If a layer does, checks try values near
the constant, and sizes beyond the index.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from conformance.checks import jaxprs

_COMPARING = {"eq", "ne", "lt", "le", "gt", "ge", "max", "min", "clamp", "rem"}
_PASSING = {"convert_element_type", "broadcast_in_dim", "copy", "copy_p", "neg", "reshape"}
_OF_SHAPE = {"broadcast_in_dim", "reshape", "squeeze", "transpose", "expand_dims", "copy", "copy_p"}


def thresholds(jaxpr: Any) -> tuple[frozenset[float], frozenset[int]]:
    """Return the magnitudes and the indices with which a closed jaxpr compares values."""
    values: set[float] = set()
    indices: set[int] = set()
    whole = getattr(jaxpr, "jaxpr", jaxpr)
    consts = zip(whole.constvars, getattr(jaxpr, "consts", ()), strict=False)
    known = {var: float(value) for var, value in consts if _is_number(value)}
    _read(whole, known, values, indices)
    return frozenset(values), frozenset(indices)


def _is_number(value: Any) -> bool:
    return np.ndim(value) == 0 and np.result_type(value).kind in "iuf"


def _read(jaxpr: Any, known: dict[Any, float], values: set[float], indices: set[int]) -> None:
    for equation in jaxpr.eqns:
        given = [_number(variable, known) for variable in equation.invars]
        name = equation.primitive.name
        if name in _COMPARING:
            kinds = [np.dtype(str(v.aval.dtype)).kind for v in equation.invars if _has_dtype(v)]
            for number in given:
                if number is None or not math.isfinite(number) or number == 0:
                    continue
                if "f" in kinds or "V" in kinds:
                    values.add(abs(number))
                else:
                    indices.add(int(abs(number)))
        elif name in _PASSING and given and given[0] is not None:
            known[equation.outvars[0]] = given[0]
        for part in jaxprs.inner(equation):
            within = getattr(part, "jaxpr", part)
            last = given[len(given) - len(within.invars) :]
            pairs = zip(within.invars, last, strict=False)
            passed = {var: number for var, number in pairs if number is not None}
            _read(within, passed, values, indices)


def _has_dtype(variable: Any) -> bool:
    return getattr(getattr(variable.aval, "dtype", None), "name", "key").isalnum()


def _number(variable: Any, known: Mapping[Any, float]) -> float | None:
    if hasattr(variable, "val"):
        return float(variable.val) if _is_number(variable.val) else None
    return known.get(variable)


def operations(jaxpr: Any) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield each equation that computes, with its primitive and its dtypes, without shapes."""
    for equation in jaxprs.equations(jaxpr):
        if equation.primitive.name not in _OF_SHAPE and not [*jaxprs.inner(equation)]:
            variables = (*equation.invars, *equation.outvars)
            dtypes = [str(getattr(v.aval, "dtype", type(v.aval).__name__)) for v in variables]
            yield equation, (equation.primitive.name, *dtypes)


def counted(jaxpr: Any) -> Counter[tuple[str, ...]]:
    """Return how often a program has each operation, without its shapes."""
    return Counter(operation for _, operation in operations(jaxpr))


def arithmetic(jaxpr: Any) -> frozenset[tuple[str, ...]]:
    """Return the primitives of a program with their dtypes, without shapes."""
    return frozenset(operation for _, operation in operations(jaxpr))
