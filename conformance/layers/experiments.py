"""Experiments that find an activation, factors, quantized products or inputs of a layer.

Each experiment excludes the others: it writes numbers into the parameters, and the results fit only
the one difference.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.jax_setup.lazy import jax
from conformance.layers.implementation import INPUTS, Implementation, existing
from conformance.layers.storage import Blocks, Factored, Joined, Scaled, values_at, with_values

_BATCH = 8
CLOSE = 2.0**-6
"""An error bound of half precision and of operands of eight bits, which activations exceed."""

_ON_GRID = 1e-3
"""The distance to a step, in steps, that float32's roundings stay below."""

_STEPS = (7, 8, 15, 127, 128, 255)
"""The steps up to the largest entry of operands in 4, 5, 8 and 9 bits."""


_LARGE = (96, 16)
"""A size of so many weights that the mean of their squares is within 1/5 of their variance."""

_IDENTITIES = ("jax.nn:identity", "jax.numpy:asarray")
"""Functions that return an array as it is; the first exists in recent versions of JAX."""


def _drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _results(its: Implementation, parameters: Any, x: np.ndarray) -> np.ndarray:
    """Return f of the rows of x, in float64."""
    apply = existing(its.apply)
    if 2 in its.convention.ranks:
        filled = np.zeros((_BATCH, x.shape[1]), np.float32)
        filled[: len(x)] = x
        rows = np.asarray(apply(parameters, jax.device_put(filled)))[: len(x)]
    else:
        given = x.astype(np.float32).reshape(len(x), *its.convention.fewest, -1)
        rows = np.stack([np.ravel(apply(parameters, jax.device_put(row))) for row in given])
    return rows.astype(np.float64)


def _written(its: Implementation, kernel: np.ndarray, bias: np.ndarray) -> Any:
    """Return a new layer's parameters with this kernel, and this bias if it has one."""
    arrays = [
        jax.device_put(each).astype(its.convention.parameter_dtype) for each in (kernel, bias)
    ]
    new = existing(its.init)(0, *kernel.shape)
    given = arrays[0], arrays[1] if its.convention.use_bias else None
    return existing(its.with_parameters)(new, *given)


def error_of(its: Implementation, size: tuple[int, int], *, summed: bool = False) -> float:
    """Return the largest error of f(0) and f(e_i), which are b and K[i] + b; 0 if they are exact.

    It is relative to an entry, or absolute for one below 1. If it is ``summed``, it includes that
    of f(1, 1, ...), which also is wrong if x is normalized.
    """
    kernel, bias = _drawn(*size), _drawn(size[1])
    bias = bias if its.convention.use_bias else np.zeros_like(bias)
    x = np.eye(size[0] + 1, size[0])
    x[-1] = summed
    found = _results(its, _written(its, kernel, bias), x)
    expected = np.vstack([kernel, summed * kernel.sum(axis=0)]) + bias
    if found.shape != expected.shape or not np.isfinite(found).all():
        return math.inf
    return float((np.abs(found - expected) / np.maximum(np.abs(expected), 1)).max())


def of_basis(
    mapped: Callable[[Any], Any] | None, single: Callable[[Any], Any], n: int
) -> np.ndarray:
    """Return f(e_i) of each of n inputs, and f(0) as the last row.

    ``mapped`` is f as :func:`jax.vmap` takes it, and ``single`` f as it is called otherwise.
    """
    some = min(n + 1, max(1, AT_ONCE // n))

    def part(x: np.ndarray) -> np.ndarray:
        if mapped is not None and len(x) > _FEW_CALLS:
            with contextlib.suppress(Exception):  # which a requirement reports
                return np.asarray(jax.vmap(mapped)(jax.device_put(x)))
        return np.stack([np.asarray(single(row)) for row in x])

    # Every part is of one shape, which is compiled once; the rows beyond the last are 0.
    parts = [part(np.eye(some, n, i, dtype=np.float32)) for i in range(0, n + 1, some)]
    return np.concatenate(parts)[: n + 1]


# The numbers of x that are given at once, and the number of calls that cost less than compiling f
# for all rows.
AT_ONCE, _FEW_CALLS = 2**24, 40


def without_activation(its: Implementation, size: tuple[int, int]) -> dict[str, Any]:
    """Return the argument of the constructor, with the value that makes f affine.

    It is an activation, or the rate of a dropout. The result is empty if no argument does that, or
    if the constructor is unknown.
    """
    if its.configured is None:
        return {}
    for name, default in its.activations.items():
        values: Sequence[Any] = ("none", *_IDENTITIES)
        if isinstance(default, str):
            values = ("none", "linear", "identity")
        elif isinstance(default, bool | float):
            values = (not default,) if isinstance(default, bool) else (0.0,)
        for value in values:
            try:
                if error_of(its.given({name: value}).with_convention(its.convention), size) < CLOSE:
                    return {name: value}
            except Exception:  # the constructor refuses that value
                continue
    return {}


def factor(
    its: Implementation, direction: str, shapes: Mapping[str, Any], sizes: Sequence[tuple[int, int]]
) -> Factored | None:
    """Return the storage of a kernel that is computed from a direction and a factor, or None.

    ``shapes`` has the other parameters' shapes at both sizes, by their paths.
    """
    for path, shape in shapes.items():
        lengths = tuple(math.prod(each) for each in shape)
        ways = {tuple(m for _, m in sizes): (0,), tuple(n for n, _ in sizes): (1,), (1, 1): (0, 1)}
        if lengths in ways:
            found = Factored(direction, path, ways[lengths])
            seen = found.seen_through(its)
            if max(error_of(seen, sizes[0]), error_of(seen, sizes[0], summed=True)) < CLOSE:
                return replace(found, is_normalized=_is_normalized(its, seen, direction, sizes[0]))
    return None


def _is_normalized(
    its: Implementation, seen: Implementation, path: str, size: tuple[int, int]
) -> bool:
    """Return whether the kernel stays the same if the array at the path is doubled."""
    new, kernel = existing(seen.init)(0, *size), existing(seen.kernel)
    (direction,) = values_at(its, new, [path])
    doubled = kernel(with_values(its, new, {path: 2 * direction}))
    return bool(np.allclose(doubled, kernel(new), rtol=_ON_GRID))


def blocks(
    its: Implementation, shapes: Mapping[str, Any], bias: str, sizes: Sequence[tuple[int, int]]
) -> Blocks | None:
    """Return the storage of a kernel in blocks, whose order the results show, or None.

    ``shapes`` has the other parameters' shapes at both sizes, by path; ``bias`` is a path.
    """
    if not 2 <= len(shapes) <= 4 or any(len(s) != 2 for pair in shapes.values() for s in pair):
        return None
    for axis in (1, 0):
        fits = all(
            sum(pair[i][axis] for pair in shapes.values()) == size[axis]
            and all(pair[i][1 - axis] == size[1 - axis] for pair in shapes.values())
            for i, size in enumerate(sizes)
        )
        for order in itertools.permutations(shapes) if fits else ():
            found = Blocks(order, axis, bias)
            if error_of(found.seen_through(its), sizes[0]) < CLOSE:
                return found
    return None


def joined(its: Implementation, path: str, size: tuple[int, int]) -> Joined | None:
    """Return the storage of kernel and bias in one array, or None."""
    for row in (-1, 0):
        found = Joined(path, row)
        if error_of(found.seen_through(its), size) < CLOSE:
            return found
    return None


def scaled(its: Implementation, path: str, sizes: Sequence[tuple[int, int]]) -> Scaled | None:
    """Return the storage of a kernel that the layer multiplies by a number, or None.

    The number replaces the scale of the initial law: with it, and not without it, the variance of a
    new kernel is about 1 / fan_in. A usual kernel that is scaled again is a fault.
    """
    found = Scaled(path)
    seen = found.seen_through(its)
    if any(error_of(seen, size) > CLOSE for size in sizes):
        return None
    new = existing(seen.init)(0, *_LARGE)
    kernels = (existing(each.kernel)(new) for each in (its, seen))
    stored, used = (_LARGE[0] * np.mean(np.square(kernel)) for kernel in kernels)
    is_usual = [0.4 < float(variance) < 2.5 for variance in (stored, used)]
    return found if is_usual == [False, True] else None


def other(its: Implementation, parameters: Sequence[str], size: tuple[int, int]) -> str:
    """Return what a layer with more arrays than kernel and bias computes besides an affine map.

    ``parameters`` are the paths of its further parameters. The result is empty if it is unknown.
    """
    n, m = size
    bias, square = np.zeros(m, np.float32), np.eye(n, m, dtype=np.float32)
    kernel, x = _drawn(n, m), np.abs(_drawn(_BATCH, n)) + 1

    def results(kernel: np.ndarray, x: np.ndarray) -> np.ndarray:
        return _results(its, _written(its, kernel, bias), x)

    def same(one: np.ndarray, two: np.ndarray) -> bool:
        return bool(one.any()) and np.allclose(one, two, rtol=_ON_GRID)

    ratio = results(square, x)[:, :n] / x
    dropped, kept = ratio == 0, ratio[ratio != 0]
    # A mask of the kernel is the same for each row, and scales nothing.
    by_row = bool((dropped != dropped[0]).any())
    if by_row and kept.size and 1 + _ON_GRID < kept.min() > (1 - _ON_GRID) * kept.max():
        return "drops numbers at random in every call"
    # Large factors hide the constant that keeps a norm from 0.
    few, many = np.float32(2.0**6), np.float32(2.0**12)
    if same(results(kernel, few * x), results(kernel, many * x)):
        return "normalizes x: f(x) does not change if x is multiplied by a number"
    used = not same(results(few * kernel, x), results(few * kernel[::-1], x))
    if used and same(results(few * kernel, x), results(many * kernel, x)):
        return "normalizes the kernel: f(x) does not change if the kernel is multiplied by a number"
    new = _written(its, kernel, bias)
    values = values_at(its, new, parameters)
    ones = dict(zip(parameters, map(jax.numpy.ones_like, values), strict=True))
    found = _results(its, with_values(its, new, ones), x)
    if same(found, x.astype(np.float64) @ kernel):
        return f"multiplies its output by {' and '.join(parameters)}, which is not 1 when new"
    return ""


def quantization(its: Implementation, size: tuple[int, int]) -> float:
    """Return the error of quantized operands relative to their largest entry, or 0.

    Each operand must be exact, or on a grid of few steps to its largest entry: no rounding of
    floating-point numbers and no fixed number of decimals leaves it there.
    """
    of_kernel, of_x = (_error(found, exact) for found, exact in _operands(its, size))
    return max(of_kernel, of_x) if math.isfinite(of_kernel + of_x) else 0.0


def rounds_operands(its: Implementation, dtype: str, size: tuple[int, int]) -> bool:
    """Return whether x and the kernel are rounded to this dtype in the product."""
    to = jax.numpy.dtype(dtype)
    return all(
        np.array_equal(found, exact.astype(to).astype(np.float64))
        for found, exact in _operands(its, size)
    )


def rounds_product(its: Implementation, dtype: str, size: tuple[int, int]) -> bool:
    """Return whether the product is rounded to this dtype before a bias is added."""
    n, m = size
    written = _written(its, _drawn(n, m), np.zeros(m, np.float32))
    found = _results(its, written, _drawn(_BATCH, n))
    return np.array_equal(found, found.astype(jax.numpy.dtype(dtype)).astype(np.float64))


def _operands(
    its: Implementation, size: tuple[int, int]
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the kernel and x as a product with ones and zeros shows them, each with its values."""
    n, m = size
    kernel, x, bias = _drawn(n, m), _drawn(_BATCH, n), np.zeros(m, np.float32)
    eye = np.eye(n, m, dtype=np.float32)
    of_kernel = _results(its, _written(its, kernel, bias), eye[:, :n])
    of_x = _results(its, _written(its, eye, bias), x)[:, :n]
    return (of_kernel, kernel), (of_x, x)


def _error(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the error of a quantized operand: 0 if it is exact, infinite if it is on no grid."""
    if np.array_equal(found, exact):
        return 0.0
    for axis, steps in itertools.product((0, 1, None), _STEPS):
        largest = np.abs(exact).max(axis, keepdims=True)
        places = found * steps / largest
        error = float((np.abs(found - exact) / largest).max())
        if np.all(np.abs(places - np.round(places)) < _ON_GRID) and error < 1.01 / steps:
            return 2.0 ** math.ceil(math.log2(max(error, 0.5 / steps)))
    return math.inf


def kinds_taken(its: Implementation, size: tuple[int, int]) -> tuple[str, ...]:
    """Return the kinds of numbers that the layer takes for x."""
    parameters, lead = existing(its.init)(0, *size), its.convention.fewest
    found = []
    for kind, dtype in zip(INPUTS, (np.float32, np.int32, np.bool_, np.complex64), strict=True):
        x = jax.device_put(np.ones((*lead, size[0]), dtype))
        with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
            existing(its.apply)(parameters, x)
            found.append(kind)
    return tuple(found) if "floating" in found else its.convention.inputs
