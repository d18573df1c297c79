"""The float64 reference of ``x @ kernel + bias``, and bounds on the rounding error.

All bounds are componentwise and hold for every order of summation, with or without fused
multiply-add: ``n u`` in place of ``gamma(n)`` by Jeannerod and Rump, "Improved error bounds
for inner products in floating-point arithmetic", SIAM J. Matrix Anal. Appl. 34 (2013).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
F32 = UNIT_ROUNDOFF["float32"]
TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Precision:
    """The format of float32 products on a device that does not compute them in float32.

    ``operand`` is the relative error of a product of two rounded operands, and ``sum`` the
    factor on the unit roundoff of the accumulation. A kernel may be computed through a norm over
    its axes ``over``.
    """

    name: str
    operand: float = 0.0
    sum: float = 1.0
    over: tuple[int, ...] = (0,)

    def spread(self, size: np.ndarray) -> np.ndarray:
        """Return the errors of a kernel, (in, out): a norm spreads the error of each entry."""
        norm = np.sqrt(np.square(size).sum(axis=self.over, keepdims=True))
        return self.operand * np.broadcast_to(norm, size.shape)


HIGHEST = Precision("highest")


def reparameterized(in_features: int, over: tuple[int, ...] = (0,)) -> Precision:
    """Return the error of a kernel that is computed from parameters, such as g v / |v|.

    A norm over the inputs has ``in_features`` roundings, the rest of such formulas a dozen.
    """
    return Precision("reparameterized", operand=(in_features + 16) * F32, over=over)


@dataclass(frozen=True)
class Bounded:
    """A float64 reference with the bound on the error of its float32 computation."""

    value: np.ndarray
    bound: np.ndarray

    def admits(self, found: np.ndarray, times: float = 1.0) -> bool:
        """Return whether an array has the value's shape, and errors of so many bounds at most."""
        if np.shape(found) != np.shape(self.value):
            return False
        wide = found if np.iscomplexobj(found) else np.asarray(found, np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            return bool(np.all(np.abs(wide - self.value) <= times * self.bound))


def unit_roundoff(dtype: DTypeLike) -> float:
    """Return the unit roundoff of a dtype, by its name.

    Raises
    ------
    KeyError
        For a dtype that is not floating-point.
    """
    return UNIT_ROUNDOFF[dtype if isinstance(dtype, str) else np.dtype(dtype).name]


def products(
    left: np.ndarray,
    right: np.ndarray,
    added: np.ndarray | float = 0.0,
    *,
    unit: float = F32,
    precision: Precision = HIGHEST,
) -> Bounded:
    """Return ``left @ right + added`` in float64, with the bound of its computation in ``unit``.

    The bound is ``(n + 1) u (|left| |right| + |added|)``; the last term covers results and
    operands that the platform flushes to zero (XLA on CPU flushes every subnormal).

    Parameters
    ----------
    left
        ``(..., n)``.
    right
        ``(n, m)``, or a stack of such matrices as ``numpy.matmul`` takes them.
    added
        Broadcasts to ``(..., m)``.
    unit
        The unit roundoff of the computation.
    precision
        The format in which the device computes float32 products.
    """
    wide = np.complex128 if np.iscomplexobj(left) or np.iscomplexobj(right) else np.float64
    a, b, c = left.astype(wide), right.astype(wide), np.asarray(added).astype(wide)
    n = a.shape[-1]
    with np.errstate(over="ignore", invalid="ignore"):
        value = a @ b + c
        size = np.abs(a) @ np.abs(b) + np.abs(c)
        relative = (n + 1) * unit * precision.sum + precision.operand
        # Each part of a complex product takes two real products and an addition.
        relative = 2 * relative if wide is np.complex128 else relative
        columns = np.abs(b).sum(-2, keepdims=b.ndim > 2)
        flushed = 2 * n + 2 + np.abs(a).sum(-1, keepdims=True) + columns
        if unit == UNIT_ROUNDOFF["float64"]:
            # The reference itself has float64's roundings.
            relative, flushed = 2 * relative, flushed * 0.0
        return Bounded(value, relative * size + _least(unit) * flushed)


def affine(
    x: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray | float = 0.0,
    *,
    unit: float = F32,
    precision: Precision = HIGHEST,
) -> Bounded:
    """Return ``x @ kernel + bias`` for ``x`` of shape ``(..., in)``; see :func:`products`."""
    return products(x, kernel, bias, unit=unit, precision=precision)


def rounded_twice(exact: Bounded, dtype: DTypeLike, added: np.ndarray | float = 0.0) -> Bounded:
    """Return the bound of a sum accumulated in float32 and rounded to a half-precision dtype.

    ``exact`` is the product without the bias, with its float32 bound; the product is rounded
    once, and once more after the bias is added. The bias may be rounded before, which moves the sum
    by ``u |added|``.
    """
    u = unit_roundoff(dtype)
    bias = np.asarray(added, np.float64)
    once = exact.bound + u * (np.abs(exact.value) + exact.bound + np.abs(bias))
    value = exact.value + bias
    return Bounded(value, once + u * (np.abs(value) + once) + 2 * _least(u))


def _least(unit: float) -> float:
    """Return the error of rounding or flushing near 0: 2^-24 for float16, else as float32."""
    return 2.0**-24 if unit == UNIT_ROUNDOFF["float16"] else TINY


def either(ways: Sequence[Bounded]) -> Bounded:
    """Return one reference whose bounds contain all the given ones."""
    values = np.stack([way.value for way in ways])
    low, high = values.min(axis=0), values.max(axis=0)
    bound = np.stack([way.bound for way in ways]).max(axis=0)
    return Bounded((low + high) / 2, bound + (high - low) / 2)


def in_dtype(
    x: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    dtype: DTypeLike,
    largest: float,
    unit: float = F32,
) -> Bounded:
    """Return ``x @ kernel + bias`` in a half-precision dtype, accumulated in float32.

    ``unit`` is the unit roundoff of the accumulation.

    If the sum of magnitudes comes near `largest`, the dtype's largest number, a partial sum may
    overflow, and the bound is infinite.
    """
    found = rounded_twice(products(x, kernel, unit=unit), dtype, bias)
    with np.errstate(over="ignore", invalid="ignore"):
        size = np.abs(x).astype(np.float64) @ np.abs(kernel).astype(np.float64) + np.abs(bias)
    safe = size <= largest / 2
    return Bounded(np.where(safe, found.value, 0.0), np.where(safe, found.bound, np.inf))


# Half the smallest number of float16, for each rounding of a handful of products.
_SUBNORMAL = 2.0**-24 * 16


def each_rounded(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, unit: float, more: int
) -> Bounded:
    """Return ``x @ kernel + bias`` with each product and each sum rounded to half precision.

    A row of ``x`` has as many rounded products as entries that are not 0, and a term takes part in
    as many sums. `more` counts further roundings; `unit` is the roundoff.
    """
    roundings = np.count_nonzero(x, axis=-1)[..., None] + more
    size = np.abs(x) @ np.abs(kernel) + np.abs(bias)
    bound = roundings * unit * size + _SUBNORMAL
    return Bounded(affine(x, kernel, bias).value, bound)


def kernel_gradient(
    x: np.ndarray, cotangent: np.ndarray, precision: Precision = HIGHEST
) -> Bounded:
    """Return dK = x^T g over all leading dimensions, ``(in, out)``.

    Through the norm of a column, its derivative is the sum of the projections along the column and
    across it: by Cauchy's inequality, an entry errs by the norm of the whole column's error.
    """
    left = x.reshape(-1, x.shape[-1]).T
    right = cotangent.reshape(-1, cotangent.shape[-1])
    plain = products(left, right)
    size = np.abs(left).astype(np.float64) @ np.abs(right).astype(np.float64)
    return Bounded(plain.value, plain.bound + precision.spread(size))


def bias_gradient(cotangent: np.ndarray) -> Bounded:
    """Return db, the sum of g over all leading dimensions, ``(out,)``."""
    rows = cotangent.reshape(-1, cotangent.shape[-1])
    summed = products(np.ones((1, rows.shape[0]), np.float32), rows)
    return Bounded(summed.value[0], summed.bound[0])


def input_gradient(
    kernel: np.ndarray, cotangent: np.ndarray, precision: Precision = HIGHEST
) -> Bounded:
    """Return dx = g K^T, of the shape of ``x``."""
    return products(cotangent, kernel.T, precision=precision)


def tangent(
    x: np.ndarray,
    kernel: np.ndarray,
    kernel_tangent: np.ndarray,
    bias_tangent: np.ndarray,
    x_tangent: np.ndarray,
    precision: Precision = HIGHEST,
) -> Bounded:
    """Return x tK + tx K + tb, as one product of ``[x, tx]`` and ``[tK; K]``.

    Through a norm, a tangent of the kernel errs by the norm of its column: `kernel_gradient`.
    """
    left = np.concatenate([x, x_tangent], axis=-1)
    right = np.concatenate([kernel_tangent, kernel])
    plain = products(left, right, bias_tangent, precision=precision)
    errors = precision.spread(kernel_tangent.astype(np.float64))
    return Bounded(plain.value, plain.bound + np.abs(x).astype(np.float64) @ errors)


def after(
    layer_input: Bounded, kernel: np.ndarray, bias: np.ndarray, precision: Precision = HIGHEST
) -> Bounded:
    """Return the layer applied to another's output, whose error passes through the kernel.

    With ``|x - value| <= bound``, the exact layer moves by at most ``bound |K|``, and its own
    rounding is bounded with ``|x| <= |value| + bound``.
    """
    size = np.abs(kernel).astype(np.float64)
    largest = np.abs(layer_input.value) + layer_input.bound
    own = products(largest, size, np.abs(bias), precision=precision)
    value = layer_input.value @ kernel.astype(np.float64) + bias
    return Bounded(value, own.bound + layer_input.bound @ size)
