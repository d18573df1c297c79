"""Recognizes a usual function that a layer applies to x, to the kernel or to the output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.checks.cases import Case
from conformance.checks.layer import Layer
from conformance.errors import Cause

Function = Callable[[np.ndarray], np.ndarray]

_NEAR = 1e-3
"""Relative to the terms of a sum: an epsilon, or half precision, moves no entry further."""


def _standardized(values: np.ndarray, axis: int) -> np.ndarray:
    return (values - values.mean(axis, keepdims=True)) / values.std(axis, keepdims=True)


def _softmax(values: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(values - values.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


_OF_NUMBERS: Mapping[str, Function] = {
    "tanh": np.tanh,
    "relu": lambda v: np.maximum(v, 0),
    "the sigmoid": _sigmoid,
    "silu": lambda v: v * _sigmoid(v),
    "softplus": lambda v: np.log1p(np.exp(v)),
    "the sine": np.sin,
    "the absolute value": np.abs,
    "the square": np.square,
    "the sign": np.sign,
    "clipping to -1 .. 1": lambda v: np.clip(v, -1, 1),
    "clipping to 0 .. 1": lambda v: np.clip(v, 0, 1),
}


def _along(axis: int, line: str) -> Mapping[str, Function]:
    """Return the functions of whole lines of an array: vectors along `axis`."""
    return {
        f"division of each {line} by its length": lambda v: (
            v / np.linalg.norm(v, axis=axis, keepdims=True)
        ),
        f"standardization of each {line} (layer norm)": lambda v: _standardized(v, axis),
        f"division of each {line} by its root mean square (RMS norm)": lambda v: (
            v / np.sqrt(np.square(v).mean(axis, keepdims=True))
        ),
        f"subtraction of the mean of each {line}": lambda v: v - v.mean(axis, keepdims=True),
        f"the softmax of each {line}": lambda v: _softmax(v, axis),
        f"sorting of each {line}": lambda v: np.sort(v, axis),
    }


_ROWS = {**_OF_NUMBERS, **_along(-1, "row")}
_KERNEL = {
    **_OF_NUMBERS,
    **_along(0, "column"),
    **_along(1, "row"),
    "division by its length as a whole": lambda v: v / np.sqrt(np.square(v).sum()),
    "division by its largest singular value": lambda v: v / np.linalg.norm(v, 2),
}


def of_transformation(layer: Layer, case: Case) -> str:
    """Return the one usual function of x, kernel or output that explains generic values, or "".

    It also recognizes numbers that are added to the output and depend on nothing else.
    """
    with np.errstate(all="ignore"):
        return _of_generic_values(layer, replace(case, in_features=5, out_features=7))


def _of_generic_values(layer: Layer, case: Case) -> str:
    x = case.normal("generic", 8, case.in_features, scale=2.0)
    kernel, bias = layer.kernel_for(case, 2.0), layer.bias_for(case, 2.0)
    found = layer.written(case, 2.0).rows(x).astype(np.float64)
    x, kernel, bias = (value.astype(np.float64) for value in (x, kernel, bias))
    right = x @ kernel + bias
    if found.shape != right.shape or _near(found, right, np.abs(x) @ np.abs(kernel)):
        return ""
    if not np.isfinite(found).all():
        return ""
    fits = [
        Cause("input-transformed", f"x is not used as it is: {name} is applied to it")
        for name, function in _ROWS.items()
        if _is_product(found, function(x), kernel, bias)
    ]
    fits += [
        Cause(
            "kernel-transformed",
            f"the kernel is not used as it is: {name} is applied to it in the forward pass",
        )
        for name, function in _KERNEL.items()
        if _is_product(found, x, function(kernel), bias)
    ]
    fits += [
        Cause("output-transformed", f"{name} is applied to the output")
        for name, function in _ROWS.items()
        if _near(found, function(right), np.abs(function(right)).max())
    ]
    if fits:
        return fits[0] if len(fits) == 1 else ""
    return _of_constants(layer, case, found - right)


def _of_constants(layer: Layer, case: Case, rest: np.ndarray) -> str:
    """Return a cause if `rest` is also added for another x, kernel and bias."""
    x = case.normal("other generic", 8, case.in_features)
    kernel, bias = layer.kernel_for(case), layer.bias_for(case)
    found = layer.written(case).rows(x).astype(np.float64)
    if not _near(found - x.astype(np.float64) @ kernel - bias, rest, np.abs(rest).max()):
        return ""
    words = "the same numbers are added to the output for every x, kernel and bias"
    noise = ": noise from a fixed key" if np.ptp(rest, axis=0).max() > 0.01 * np.ptp(rest) else ""
    return Cause("constants-added", words + noise)


def _is_product(found: np.ndarray, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> bool:
    return _near(found, x @ kernel + bias, np.abs(x) @ np.abs(kernel) + np.abs(bias))


def _near(found: np.ndarray, value: np.ndarray, size: Any) -> bool:
    return bool(np.all(np.abs(found - value) <= _NEAR * size))
