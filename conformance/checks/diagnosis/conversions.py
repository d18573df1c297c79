"""Recognizes what a layer takes an x of another dtype for."""

from __future__ import annotations

import numpy as np

from conformance.checks import oracle
from conformance.checks.diagnosis import telling
from conformance.errors import Cause
from conformance.jax_setup.lazy import jnp


def cause_of(
    found: np.ndarray,
    x: np.ndarray,
    equivalent: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
) -> str:
    """Return the one wrong arithmetic that explains the result, or "".

    Parameters
    ----------
    found
        ``(..., out)``, the result for ``x``.
    x
        ``(..., in)``, of another dtype than float32.
    equivalent
        The same numbers in float32, or complex64.
    kernel, bias
        ``(in, out)`` and ``(out,)``.
    """
    candidates = {}
    if np.iscomplexobj(x):
        candidates = {
            Cause("imaginary-dropped", "the imaginary part of x is dropped"): oracle.affine(
                equivalent.real.astype(np.complex64), kernel, bias
            ),
            Cause("input-conjugated", "x is conjugated"): oracle.affine(
                equivalent.conj(), kernel, bias
            ),
            Cause(
                "bias-in-imaginary", "the bias is also added to the imaginary part"
            ): oracle.affine(equivalent, kernel, bias * np.complex64(1 + 1j)),
        }
    elif x.dtype.kind in "biu":
        integral = (kernel.astype(x.dtype), bias.astype(x.dtype))
        candidates = {
            Cause(
                "parameters-cast", f"the parameters are cast to {x.dtype}, the dtype of x"
            ): oracle.affine(x, *(value.astype(np.float32) for value in integral)),
            Cause(
                "input-as-int32", "x is cast to int32 first: its largest numbers become negative"
            ): oracle.affine(x.astype(np.int32).astype(np.float32), kernel, bias),
            **_through_others(x, kernel, bias),
        }
    else:
        rounded = (value.astype(x.dtype).astype(np.float32) for value in (kernel, bias))
        candidates = {
            Cause(
                "parameters-cast", f"the parameters are cast to {x.dtype}, the dtype of x"
            ): oracle.rounded_twice(oracle.affine(equivalent, *rounded), str(x.dtype))
        }
        if _is_through_float16(found, equivalent, kernel, bias):
            return Cause("input-through", "x is cast to float16 first, which cannot hold it")
    right = oracle.affine(equivalent, kernel, bias)
    if np.shape(found) != right.value.shape or right.admits(found):
        return ""
    named = [words for words, other in candidates.items() if other.admits(found)]
    if named or np.iscomplexobj(x):
        return named[0] if len(named) == 1 else ""
    return (
        (_of_factor(found - bias, right.value - bias) if x.dtype.kind in "iu" else "")
        or (_of_shift(found, equivalent, kernel, bias) if x.dtype.kind in "biu" else "")
        or telling.of_result(found, equivalent, kernel, bias, oracle.affine)
    )


def _is_through_float16(
    found: np.ndarray, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> bool:
    """Return whether f(x) is right except in rows of numbers too large for float16: not finite."""
    with np.errstate(over="ignore"):
        beyond = ~np.isfinite(x.astype(np.float16)).all(axis=-1, keepdims=True)
    right, finite = oracle.affine(x, kernel, bias), np.isfinite(found)
    if found.shape != right.value.shape or not beyond.any() or beyond.all():
        return False
    return np.array_equal(~finite, np.broadcast_to(beyond, found.shape)) and bool(
        np.all((np.abs(found - right.value) <= right.bound) | ~finite)
    )


def _through_others(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> dict[Cause, oracle.Bounded]:
    """Return what f(x) is if integers are cast to a dtype that cannot hold them."""
    names: dict[bytes, list[str]] = {}
    values: dict[bytes, np.ndarray] = {}
    for name in ("int8", "uint8", "int16", "float16", "bfloat16"):
        with np.errstate(over="ignore"):
            cast = x.astype(jnp.dtype(name)).astype(np.float32)
        if not np.array_equal(cast, x.astype(np.float32)):
            names.setdefault(cast.tobytes(), []).append(name)
            values[cast.tobytes()] = cast
    return {
        Cause(
            "input-through", f"x is cast to {' or '.join(names[key])} first, which cannot hold it"
        ): oracle.affine(cast, kernel, bias)
        for key, cast in values.items()
    }


def _of_shift(found: np.ndarray, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> str:
    """Return whether a x + c is taken for each x, with two numbers a and c."""
    terms = np.stack([oracle.affine(v, kernel).value.ravel() for v in (x, np.ones_like(x))], axis=1)
    rest = (found.astype(np.float64) - bias).ravel()
    (a, c), _, rank, _ = np.linalg.lstsq(terms, rest, rcond=None)
    shifted = a * x.astype(np.float64) + c
    if rank < 2 or found.size < _MANY or max(abs(a - 1), abs(c)) < _SAME:
        return ""
    reference = oracle.affine(shifted, kernel, bias)
    if not reference.admits(found, times=4.0):
        return ""
    of_x = "x" if abs(a - 1) < _SAME else f"{a:.4g} x"
    return Cause("input-shifted", f"{of_x} {'-' if c < 0 else '+'} {abs(c):.4g} is taken for x")


def _of_factor(product: np.ndarray, right: np.ndarray) -> str:
    """Return whether an x of integers is scaled: x @ K is the right one times one factor."""
    if product.dtype.kind != "f" or right.dtype.kind != "f" or right.size < _MANY:
        return ""
    large = np.abs(right) > np.median(np.abs(right))
    factors = product[large] / right[large]
    middle = float(np.median(factors))
    if abs(middle - 1) < _SAME or np.abs(factors - middle).max() > _SAME * abs(middle):
        return ""
    return Cause("integers-scaled", f"an x of integers is multiplied by {middle:.4g}")


_MANY = 8
_SAME = 1e-3
"""The relative difference that rounding leaves between two factors."""
