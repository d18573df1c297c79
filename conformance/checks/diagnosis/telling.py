"""Finds causes at 3 inputs and 10 outputs that one or two numbers cannot separate.

For a square layer it uses 5 of each, because square layers may have a branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.checks import require
from conformance.checks.arithmetic import rounded
from conformance.checks.cases import Case
from conformance.checks.diagnosis import wrong_values
from conformance.checks.diagnosis.places import Formula, of_constants, of_places
from conformance.checks.diagnosis.stale_values import of_copy
from conformance.checks.diagnosis.transformations import of_transformation
from conformance.checks.layer import Layer
from conformance.checks.oracle import Bounded
from conformance.checks.scan.edges import scan
from conformance.errors import Cause, id_of


def _larger(case: Case) -> Case:
    if case.in_features == case.out_features:
        return replace(case, in_features=5, out_features=5)
    return replace(case, in_features=3, out_features=10)


def bias_in_result(layer: Layer, found: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return the bias that f(0), which is ``found``, should be: rounded as the product is."""
    its = layer.convention
    # A layer that returns float32 may add a bias that is not rounded.
    if its.returned == "float32" and np.array_equal(found, np.broadcast_to(bias, found.shape)):
        return bias
    return rounded(bias, its.compute_dtype)


def of_zero_input(layer: Layer, case: Case, found: np.ndarray, bias: np.ndarray) -> str:
    """Return why ``found``, which is f(0), is not the bias, if other inputs give the same cause."""
    first = found[0] / bias if found.shape[1:] == bias.shape and bias.all() else np.ones(1)
    if case.out_features < 10 and not np.array_equal(found, np.broadcast_to(bias, found.shape)):
        larger = _larger(case)
        there = layer.written(larger).rows(np.zeros((8, larger.in_features), np.float32))
        its = rounded(layer.bias_for(larger), layer.convention.compute_dtype)
        if not np.array_equal(there, np.broadcast_to(its, there.shape)):
            case, found, bias = larger, there, its
    cause = wrong_values.of_zero_input(found, bias)
    if not cause:
        return of_copy(layer, case) or of_transformation(layer, case) or of_usual(layer, case)
    if id_of(cause) == "bias-twice" and layer.accepts(()):
        vector = layer.written(case)(np.zeros(case.in_features, np.float32))
        if np.array_equal(np.asarray(vector), bias):
            return Cause("bias-twice", f"{cause} for a batch, once for a vector")
    # The whole output may be scaled or masked.
    x = np.eye(case.in_features, dtype=np.float32)
    kernel = layer.kernel_for(case)
    images = layer.written(case).rows(x)
    cause = wrong_values.of_zero_and_basis(cause, found[0], images, kernel, bias)
    cause = cause or of_copy(layer, case) or of_usual(layer, case)
    if id_of(cause) not in ("output-scaled", "bias-scaled"):
        return cause
    if np.allclose(first, (found[0] / bias)[0], rtol=1e-4):
        return cause
    # The factor of this size is not that of the case that is shown.
    return Cause("scaled-by-size", "the output is scaled by a factor that depends on the sizes")


def of_basis(layer: Layer, case: Case, cause: str) -> str:
    """Return why f(e_i) is not K[i] + b; ``cause`` is the one of :func:`of_zero_input`."""
    case = _larger(case)
    found = layer.written(case).rows(np.eye(case.in_features, dtype=np.float32))
    kernel, bias = layer.kernel_for(case), layer.bias_for(case)
    if np.array_equal(found, kernel + bias):
        return cause
    return (
        _of_normalization(layer, case)
        or wrong_values.of_basis(found, kernel, bias)
        or _of_product_factor(layer, case)
        or of_transformation(layer, case)
    )


def _of_normalization(layer: Layer, case: Case) -> str:
    """Return a cause if a kernel, and not another one, gives the f(x) of its quadruple."""
    kernel, eye = layer.kernel_for(case), np.eye(case.in_features, dtype=np.float32)

    def images(kernel: np.ndarray) -> np.ndarray:
        none = np.zeros(case.out_features, np.float32)
        return layer.of(case).write(kernel, none).rows(eye).astype(np.float64)

    found = images(kernel)
    same = found.shape == kernel.shape and np.allclose(images(4 * kernel), found, rtol=_NORMED)
    # Signs, and a kernel that is never used, are the same for every scale too.
    if not same or np.unique(np.abs(found)).size < _LEVELS:
        return ""
    if np.allclose(images(kernel[::-1].copy()), found, rtol=_NORMED):
        return ""
    done = "the kernel is normalized"
    for axis, part in ((None, "the kernel"), (0, "each column of the kernel")):
        for shift, how in ((0.0, "divided by its size"), (kernel.mean(axis), "standardized")):
            ratio = np.median(found / (kernel - shift), axis, keepdims=True)
            if np.allclose(found, ratio * (kernel - shift), rtol=_NORMED):
                done = f"{part} is {how}"
    words = f"{done} in each call: 4 times the kernel gives the same f(x)"
    return Cause("kernel-normalized", words)


_NORMED, _LEVELS = 1e-3, 4
"""The relative difference that a constant beside a norm leaves, and the magnitudes of a kernel that
is more than its signs."""


def _of_product_factor(layer: Layer, case: Case) -> str:
    """Return the factor of the product, the bias left out, as a function of in_features."""
    factors = {n: _factor_of(layer, replace(case, in_features=n)) for n in (3, 12, 48)}
    if None in factors.values():
        return ""
    for power, words in ((0.0, ""), (1.0, " / in_features"), (0.5, " / sqrt(in_features)")):
        scaled = np.array([(found or 0.0) * n**power for n, found in factors.items()])
        if np.ptp(scaled) < _SAME * np.abs(scaled).max():
            what = f"{scaled[0]:.4g}{words}"
            return Cause(
                "product-scaled", f"x @ kernel is multiplied by {what} before the bias is added"
            )
    return Cause("scaled-by-size", "x @ kernel is multiplied by a factor that depends on the sizes")


_SAME = 1e-4
"""The relative difference that rounding leaves between two factors."""


def _factor_of(layer: Layer, case: Case) -> float | None:
    """Return the one factor of every f(c e_i) without a bias, or None for several, or 1."""
    kernel, eye = layer.kernel_for(case), np.eye(case.in_features, dtype=np.float32)
    dense = layer.of(case).write(kernel, np.zeros(case.out_features, np.float32))
    # Of several magnitudes, because a function of x is a factor at a single one.
    found = np.stack([dense.rows(c * eye) / c for c in np.array([1, -0.5, 4], np.float32)])
    if found.shape[1:] != kernel.shape or not kernel.all() or not np.isfinite(found).all():
        return None
    ratios = found.astype(np.float64) / kernel
    middle = float(np.median(ratios))
    same = np.abs(ratios - middle).max() < _SAME * abs(middle)
    return middle if same and abs(middle - 1) > _SAME else None


def at_usual(layer: Layer, case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return f(x) with x, kernel and bias of the scale 1, for 8 rows of x."""
    x, kernel, bias = case.normal("x", 8, case.in_features), case.kernel(), layer.bias_for(case)
    return layer.of(case).write(kernel, bias).rows(x), x, kernel, bias


def of_value(layer: Layer, case: Case, x: np.ndarray, found: np.ndarray) -> str:
    """Return why ``found``, which is f(x), is wrong; for an x of 0, another x is used instead.

    At 0, a bias that is not used gives the same result as one that is added to the kernel.
    """
    if found.size < _SEVERAL:
        larger = _larger(case)
        larger_x = larger.normal("x", *larger.x_shape)
        there = np.asarray(layer.written(larger)(larger_x))
        if not layer.value_for(larger, larger_x).admits(there):
            case, x, found = larger, larger_x, there
    if not x.any():
        x = case.normal("another x", *x.shape)
        found = np.asarray(layer.written(case)(x))
    kernel, bias, constants = layer.kernel_for(case), layer.bias_for(case), scan(layer).constants
    return of_result(found, x, kernel, bias, layer.value, constants)


def of_result(
    found: np.ndarray,
    x: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    value: Formula,
    constants: Sequence[float] = (),
) -> str:
    """Return why ``found`` is not ``x @ kernel + bias``, as a whole or in a part of it.

    The constants are those with which the layer compares values.
    """
    if value(x, kernel, bias).admits(found):
        return ""
    return (
        wrong_values.of_affine(found, x, kernel, bias, value)
        or of_constants(found, x, kernel, bias, value, constants)
        or of_places(found, x, kernel, bias, value)
    )


def require_value(
    layer: Layer,
    y: Any,
    x: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    what: str,
    value: Formula | None = None,
    reference: Bounded | None = None,
) -> None:
    """Require ``y`` to be ``x @ kernel + bias`` within its bound, or say what is likely wrong.

    ``value`` gives the bound, if a plain call has another one, and ``reference`` is what it gives,
    if that is known.
    """
    value, found, cause = value or layer.value, np.asarray(y), ""
    reference = reference or value(x, kernel, bias)
    if not reference.admits(found):
        cause = of_result(found, x, kernel, bias, value, scan(layer).constants)
    require.near(found, reference, what, cause=cause)


_SEVERAL = 4
"""So few numbers fit several formulas."""


def of_usual(layer: Layer, case: Case) -> str:
    """Return why values of the scale 1 are wrong, at a size that separates explanations."""
    return wrong_values.of_affine(*at_usual(layer, _larger(case)), layer.value)


def of_saturation(
    layer: Layer, case: Case, found: np.ndarray, right: np.ndarray, scale: float, own: float
) -> str:
    """Return why ``found`` is wrong for an x of this scale and parameters of the scale ``own``.

    ``right`` has the correct values. No limit explains a fault at the scale 1.
    """
    few = 1 in case.kernel_shape
    case = _larger(case) if few else case
    usual, x, kernel, bias = at_usual(layer, case)
    if not layer.value(x, kernel, bias).admits(usual):
        return wrong_values.of_affine(usual, x, kernel, bias, layer.value)
    if few:
        x = case.normal("x", 8, case.in_features, scale=scale)
        kernel, bias = case.kernel(own), layer.bias_for(case, own)
        found = layer.of(case).write(kernel, bias).rows(x)
        right = x.astype(np.float64) @ kernel + bias
    return wrong_values.of_saturation(found, right)


def of_many_not_finite(numbers: np.ndarray) -> str:
    """Return a cause if about half of the numbers are NaN, and no other is negative."""
    wrong = np.isnan(numbers)
    rest = numbers[~wrong]
    if numbers.size < _MANY or not 0.3 < wrong.mean() < 0.7 or not (rest >= 0).all():
        return ""
    words = (
        f"{wrong.mean():.0%} of the weights are NaN, and no other is negative: a root or power of "
        "negative numbers is taken"
    )
    return Cause("root-of-negative", words)


_MANY = 100
"""So many symmetric draws have a share of negative ones between 0.3 and 0.7 almost surely."""


def of_not_finite(layer: Layer, case: Case) -> str:
    """Return a cause if the kernel is not finite only for one input."""
    if case.in_features != 1:
        return ""
    other = layer.of(replace(case, in_features=3)).kernel
    if not np.isfinite(other.astype(np.float64)).all():
        return ""
    words = "the scale of the kernel divides by zero at in_features=1"
    return Cause("scale-divides-by-zero", words)
