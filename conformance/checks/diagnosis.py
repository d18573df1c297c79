"""From observed symptoms to a cause in words, given only where the evidence singles one out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from conformance.checks import oracle
from conformance.checks.arithmetic import rounded

__all__ = ["of_affine", "of_basis", "of_saturation", "of_zero_input"]


def of_zero_input(found: np.ndarray, bias: np.ndarray) -> str:
    """Why f(0) is not the bias that was written in; ``found`` is ``(..., out)``."""
    bias = np.broadcast_to(bias, found.shape) if found.shape[-1:] == bias.shape else bias
    if found.shape != bias.shape or not bias.size or np.array_equal(found, bias):
        return ""
    causes = {
        "the bias is never used: the output does not depend on it": np.zeros_like(bias),
        "the bias is subtracted instead of added": -bias,
        "the bias is added twice": 2 * bias,
    }
    for cause, symptom in causes.items():
        if np.array_equal(found, symptom):
            return cause
    for name in ("bfloat16", "float16"):
        if np.array_equal(found, rounded(bias, name)):
            return f"the layer computes in reduced precision: f(0) is the bias in {name}"
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = found.astype(np.float64) / bias
    # One number is a multiple of any other.
    if bias.shape[-1] > 1 and np.ptp(ratio) < 1e-6 * np.abs(ratio).max():
        return f"the bias is multiplied by {ratio.flat[0]:.4g} before it is added"
    return ""


def of_affine(found: np.ndarray, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> str:
    """Why ``found`` is not ``x @ kernel + bias``: the one wrong formula that explains all of it.

    A formula explains the result if every entry is within its own rounding-error bound, and no
    other candidate explains it, too.
    """
    if found.shape != (*x.shape[:-1], kernel.shape[1]) or found.size < 2:
        return ""
    right = oracle.affine(x, kernel, bias)
    if not np.all(np.isfinite(right.value)):
        return ""
    if _explains(found, right):
        return ""
    named = [
        cause
        for cause, formula in _candidates(x, kernel, bias).items()
        if _explains(found, formula())
    ]
    if len(named) == 1:
        return named[0]
    return _reduced_precision(found, x, kernel, bias)


def of_basis(found: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> str:
    """Why f(e_i) is not K[i] + b; ``found`` is ``(in, out)``, a row for each basis vector."""
    eye = np.eye(len(kernel), dtype=np.float32)
    cause = of_affine(found, eye, kernel, bias)
    if cause or found.shape != kernel.shape:
        return cause
    right = kernel + bias
    wrong = np.flatnonzero((found != right).any(axis=1))
    ignored = np.flatnonzero((found == bias).all(axis=1) & (kernel != 0).any(axis=1))
    if ignored.size and np.array_equal(ignored, wrong):
        return f"inputs are ignored: {_span(ignored, len(kernel))} of {len(kernel)}"
    columns = np.flatnonzero((found != right).any(axis=0))
    if found.size > 3 and 0 < columns.size <= kernel.shape[1] // 2:
        return f"only outputs {_span(columns, kernel.shape[1])} of {kernel.shape[1]} are wrong"
    for decimals in (1, 2, 3, 4):
        grid = np.abs(np.round(found.astype(np.float64) - bias, decimals) - (found - bias))
        if found.size > 3 and grid.max() < 1e-6:
            return f"the kernel is rounded to {decimals} decimals in the forward pass"
    return ""


def _span(places: np.ndarray, total: int) -> str:
    """Places in words: a range where they are one."""
    first, last = int(places[0]), int(places[-1])
    if last - first + 1 == places.size and places.size > 1:
        return f"from {first} on" if last == total - 1 else f"from {first} to {last}"
    return ", ".join(map(str, places[:5])) + (", ..." if places.size > 5 else "")


def _explains(found: np.ndarray, formula: oracle.Bounded) -> bool:
    if found.shape != formula.value.shape:
        return False
    with np.errstate(invalid="ignore"):
        return bool(np.all(np.abs(found.astype(np.float64) - formula.value) <= formula.bound))


def _candidates(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> Mapping[str, Callable[[], oracle.Bounded]]:
    n, m = kernel.shape
    f = oracle.affine
    root = np.float32(np.sqrt(n))
    none = np.zeros_like(bias)
    found: dict[str, Callable[[], oracle.Bounded]] = {
        "the bias is never used: the output does not depend on it": lambda: f(x, kernel, none),
        "the bias is subtracted instead of added": lambda: f(x, kernel, -bias),
        "the bias is added twice": lambda: f(x, kernel, 2 * bias),
        "the kernel is never used": lambda: f(x, np.zeros_like(kernel), bias),
        "the kernel is used with its sign reversed": lambda: f(x, -kernel, bias),
        "the kernel is scaled again in the forward pass, by 1/in": lambda: f(
            x / np.float32(n), kernel, bias
        ),
        "the kernel is scaled again in the forward pass, by 1/sqrt(in)": lambda: _looser(
            f(x / root, kernel, bias)
        ),
        "a nonlinearity is applied: negative outputs become 0 (relu)": lambda: oracle.Bounded(
            np.maximum(f(x, kernel, bias).value, 0), f(x, kernel, bias).bound
        ),
        "the last input is left out": lambda: f(x[..., :-1], kernel[:-1], bias),
        "the first input is left out": lambda: f(x[..., 1:], kernel[1:], bias),
        "the order of the inputs is reversed": lambda: f(x[..., ::-1], kernel, bias),
        "the order of the outputs is reversed": lambda: f(x, kernel[:, ::-1], bias[::-1]),
    }
    if n == m and n > 1:
        found["the kernel is used transposed: x @ K.T"] = lambda: f(x, kernel.T, bias)
        found["the input is added to the output when in equals out (residual)"] = lambda: f(
            x, kernel.astype(np.float64) + np.eye(n), bias
        )
    if n == 1 or m == 1:
        # With one input or one output several formulas agree; none is singled out.
        for key in [k for k in found if "order" in k or "left out" in k]:
            del found[key]
    return found


def _looser(formula: oracle.Bounded) -> oracle.Bounded:
    """The factor 1/sqrt(in) is itself rounded, wherever the layer applies it."""
    return oracle.Bounded(formula.value, 4 * formula.bound)


_FORMATS = {
    "int8 or coarser": 2.0**-6,
    "bfloat16": 2.0**-8,
    "TF32 or float16": 2.0**-11,
}


def _reduced_precision(
    found: np.ndarray, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> str:
    """The coarsest of the usual formats whose rounding of the operands explains the error."""
    right = oracle.affine(x, kernel, bias)
    size = np.abs(x).astype(np.float64) @ np.abs(kernel).astype(np.float64) + np.abs(bias)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.abs(found.astype(np.float64) - right.value) - right.bound
        relative = np.where(error <= 0, 0.0, error / size)
    worst = float(np.max(relative)) if relative.size else 0.0
    if not np.isfinite(worst) or worst <= 0:
        return ""
    for name, unit in sorted(_FORMATS.items(), key=lambda item: item[1]):
        if unit / 16 < worst <= 2.5 * unit and name != "int8 or coarser":
            return f"the product is computed in reduced precision: errors are those of {name}"
    return ""


def of_saturation(found: np.ndarray, right: np.ndarray) -> str:
    """Where the output is clipped, if it is: large results that all have one magnitude."""
    if found.shape != right.shape:
        return ""
    with np.errstate(invalid="ignore", divide="ignore"):
        short = np.abs(found.astype(np.float64)) < 0.9 * np.abs(right)
    limits = np.abs(found[short])
    if not limits.size or not short[np.abs(right) >= np.abs(right[short]).min()].all():
        return ""  # others as large are right, so that it is not their size
    if np.all(limits == np.abs(found).max()) and np.isfinite(limits[0]) and limits[0] > 0:
        return f"the output is clipped: it does not exceed {float(limits[0]):.4g}"
    return "large values are clipped or squashed on the way"
