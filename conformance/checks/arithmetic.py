"""Reference values and derivatives, with bounds for the dtypes that a layer declares.

In half precision a product is accumulated in float32 and rounded, unless the layer declares that it
accumulates in that dtype; a sum over several axes of a batch, or for the gradient of a bias, may be
accumulated in the dtype itself. A layer that declares a result of float32 does not round it again,
and takes cotangents of float32. A layer may promise another error of its product, as a quantized
one does. A gradient with respect to a parameter is rounded once more if the parameter has fewer
bits than the product. Where an intermediate number may overflow, the bound is infinite.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conformance.checks import oracle
from conformance.checks.oracle import HIGHEST, Bounded, Precision
from conformance.jax_setup.lazy import jnp


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return float32 numbers rounded to a dtype, as float32."""
    if dtype == "float32":
        return values
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(jnp.dtype(dtype)).astype(np.float32)


def is_exact(values: np.ndarray, dtype: str) -> bool:
    """Return whether a dtype represents all of these numbers."""
    return np.array_equal(values, rounded(values, dtype))


def is_rounded(held: np.ndarray, written: np.ndarray) -> bool:
    """Return whether two kernels differ only by the roundings of a reparameterization."""
    if held.shape != written.shape:
        return False
    error = oracle.reparameterized(len(written)).operand * np.abs(written).astype(np.float64)
    return bool(np.all(np.abs(held.astype(np.float64) - written) <= error))


@dataclass(frozen=True)
class Arithmetic:
    """The roundings of a layer.

    Parameters
    ----------
    parameters, results
        The dtypes of its parameters and of its computation.
    precision
        The error of its float32 products, besides rounding.
    sums
        The dtype in which it accumulates a product of half precision.
    product_error
        The error of each operand of a product, relative to its largest entry: half a step of a
        quantization. 0 if products only round.
    returned
        The dtype of the result; empty if it is `results`, the dtype of the computation.
    parts
        Whether a gradient may be added in parts, each rounded to the dtype of its parameter.
    """

    parameters: str = "float32"
    results: str = "float32"
    precision: Precision = HIGHEST
    sums: str = "float32"
    product_error: float = 0.0
    returned: str = ""
    parts: bool = False

    @property
    def is_wider(self) -> bool:
        """Return whether it computes in half precision, and returns float32."""
        return self.is_half and self.returned == "float32"

    @property
    def is_half(self) -> bool:
        """Return whether it computes in half precision."""
        return self.results in ("float16", "bfloat16")

    @property
    def is_float32(self) -> bool:
        """Return whether it rounds to float32 only."""
        return (self.parameters, self.results) == ("float32", "float32") and not self.product_error

    def in_parts(self) -> Arithmetic:
        """Return the arithmetic of a product that is added in parts, each rounded.

        Devices add in parts, and so does a loop over the rows of x in its derivative.
        """
        return replace(self, sums=self.results if self.is_half else self.sums, parts=True)

    def held(self, values: np.ndarray) -> np.ndarray:
        """Return values of a parameter, rounded to its dtype and then to that of the product."""
        return self.operand(rounded(values, self.parameters))

    def operand(self, values: np.ndarray) -> np.ndarray:
        """Return values of x, or of a cotangent, rounded as the product takes them."""
        return rounded(values, self.results) if self.is_half else values

    def affine(self, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> Bounded:
        """Return ``x @ kernel + bias`` with its bound; ``kernel`` may be a stack of kernels."""
        bias = rounded(bias, self.parameters)
        if not self.is_half:
            kernel = rounded(kernel, self.parameters)
            found = oracle.affine(x, kernel, bias, precision=self.precision)
        else:
            found = self._forward(x, rounded(kernel, self.parameters), bias)
        return Bounded(found.value, found.bound + self.promised(x, kernel))

    def promised(self, left: np.ndarray, right: np.ndarray, *, by_row: bool = True) -> Any:
        """Return the error of a product that the layer declares, besides rounding.

        With operands that err by e max abs(left) and e max abs(right), an entry errs by
        e (max abs(right) sum abs(left) + (1 + e) max abs(left) sum abs(right)), the sums over the
        axis of the product. Without ``by_row``, for derivatives, the maximum is over all ``left``.
        """
        if not self.product_error or not left.size or not right.size:
            return 0.0
        e, a, b = self.product_error, np.abs(left).astype(np.float64), np.abs(right)
        b = b.astype(np.float64)
        largest = a.max(-1, keepdims=True) if by_row else a.max()
        with np.errstate(over="ignore", invalid="ignore"):
            of_right = b.max((-2, -1), keepdims=True) if b.ndim > 2 else b.max()
            moved = of_right * a.sum(-1, keepdims=True)
            moved = moved + (1 + e) * largest * b.sum(-2, keepdims=b.ndim > 2)
        return e * moved

    def _with_promised(self, found: Bounded, left: np.ndarray, right: np.ndarray) -> Bounded:
        return Bounded(found.value, found.bound + self.promised(left, right, by_row=False))

    def _half(
        self, left: np.ndarray, right: np.ndarray, added: np.ndarray | float = 0.0
    ) -> Bounded:
        """Return the product with a bound that allows each operand to be rounded first."""
        unit, bias = oracle.unit_roundoff(self.sums), np.asarray(added)
        largest = float(jnp.finfo(self.results).max)
        ways = [
            oracle.in_dtype(a, b, bias, self.results, largest, unit)
            for a in (left, self.operand(left))
            for b in (right, self.operand(right))
        ]
        return oracle.either(ways)

    def _forward(
        self, left: np.ndarray, right: np.ndarray, added: np.ndarray | float = 0.0
    ) -> Bounded:
        """Return the product and a bias, which a result of float32 may have unrounded."""
        if not self.is_wider:
            return self._half(left, right, added)
        # A layer that accumulates in half precision rounds its product to it.
        to = replace(self, results="float32" if self.sums == "float32" else self.results)
        ways = [
            to._half(a, b, c)
            for a in (left, self.operand(left))
            for b in (right, self.operand(right))
            for c in (np.asarray(added, np.float32), self.operand(np.asarray(added, np.float32)))
        ]
        return oracle.either(ways)

    def _cotangent(self, values: np.ndarray) -> np.ndarray:
        """Return a cotangent as the product takes it: one of float32 may be rounded or not."""
        return values if self.is_wider else self.operand(values)

    def kernel_gradient(self, x: np.ndarray, cotangent: np.ndarray) -> Bounded:
        """Return dK = x^T g over all leading dimensions, of shape ``(in, out)``."""
        cotangent = self._cotangent(cotangent)
        left, rows = x.reshape(-1, x.shape[-1]).T, cotangent.reshape(-1, cotangent.shape[-1])
        if not self.is_half:
            found = oracle.kernel_gradient(x, cotangent, self.precision)
        else:
            # XLA adds over several axes in bfloat16 where it fuses the product with a transposition
            # (jax 0.12 on a CPU), so the order is arbitrary there and each partial sum is rounded.
            inner = self.in_parts() if x.ndim > 2 else self
            found = inner._half(left, rows)
        size = np.abs(left).astype(np.float64) @ np.abs(rows) if self.parts else 0.0
        return self._returned(self._with_promised(found, left, rows), size, len(rows))

    def bias_gradient(self, cotangent: np.ndarray) -> Bounded:
        """Return db, the sum of g over all leading dimensions, of shape ``(out,)``."""
        if not self.is_half:
            rows = np.abs(cotangent.reshape(-1, cotangent.shape[-1])).astype(np.float64)
            return self._returned(oracle.bias_gradient(cotangent), rows.sum(axis=0), len(rows))
        rows = self._cotangent(cotangent).reshape(-1, cotangent.shape[-1])
        # Adding a row of zeros rounds nothing, so only the others count.
        rows = rows[rows.any(axis=1)]
        ones = np.ones((1, len(rows)), np.float32)
        # The order is arbitrary, and each partial sum may be rounded to the dtype.
        plain = oracle.products(ones, rows, unit=oracle.unit_roundoff(self.results))
        held = self._half(ones, rows)
        # A cotangent of float32 may be rounded first, so the two values differ.
        bound = held.bound + plain.bound if self.is_wider else np.maximum(held.bound, plain.bound)
        return self._returned(Bounded(held.value[0], bound[0]), np.abs(rows).sum(axis=0), len(rows))

    def input_gradient(self, kernel: np.ndarray, cotangent: np.ndarray) -> Bounded:
        """Return dx = g K^T, of the shape of ``x``."""
        if not self.is_half:
            kernel = rounded(kernel, self.parameters)
            found = oracle.input_gradient(kernel, cotangent, self.precision)
        else:
            kernel = rounded(kernel, self.parameters)
            found = self._half(self._cotangent(cotangent), kernel.T)
        return self._with_promised(found, cotangent, kernel.T)

    def _returned(self, gradient: Bounded, size: np.ndarray | float, rows: int) -> Bounded:
        """Return a gradient rounded to the dtype of its parameter.

        `size` is the sum of magnitudes over the rows, if it may be added in that dtype: a bias is,
        if it is broadcast before it is promoted.
        """
        if self.parameters in ("float32", "float64", self.results):
            return gradient
        partial = rows * oracle.unit_roundoff(self.parameters) * size
        found = oracle.rounded_twice(gradient, self.parameters)
        largest = float(jnp.finfo(self.parameters).max)
        with np.errstate(invalid="ignore"):
            safe = np.abs(gradient.value) + gradient.bound <= largest / 2
            bound = found.bound + partial
        return Bounded(np.where(safe, found.value, 0.0), np.where(safe, bound, np.inf))

    def tangent(
        self, x: np.ndarray, kernel: np.ndarray, kernel_tangent: np.ndarray,
        bias_tangent: np.ndarray, x_tangent: np.ndarray,
    ) -> Bounded:  # fmt: skip
        """Return x tK + tx K + tb; in half precision each product and each sum is rounded."""
        kernel, kernel_tangent, bias_tangent = (
            rounded(each, self.parameters) for each in (kernel, kernel_tangent, bias_tangent)
        )
        if not self.is_half:
            plain = oracle.tangent(
                x, kernel, kernel_tangent, bias_tangent, x_tangent, self.precision
            )
            plain = self._with_promised(plain, x, kernel_tangent)
            return self._with_promised(plain, x_tangent, kernel)
        first = self._forward(x, kernel_tangent)
        first = self._with_promised(first, x, kernel_tangent)
        second = self._forward(x_tangent, kernel)
        second = self._with_promised(second, x_tangent, kernel)
        added = self.held(bias_tangent).astype(np.float64)
        value, error = first.value + second.value + added, first.bound + second.bound
        size = np.abs(first.value) + np.abs(second.value) + np.abs(added)
        largest = float(jnp.finfo(self.results).max)
        bound = error + 3 * oracle.unit_roundoff(self.results) * (size + error)
        return Bounded(value, np.where(size + error <= largest / 2, bound, np.inf))

    def after(self, layer_input: Bounded, kernel: np.ndarray, bias: np.ndarray) -> Bounded:
        """Return the layer applied to another's output, whose error passes through the kernel."""
        kernel, bias = rounded(kernel, self.parameters), rounded(bias, self.parameters)
        if not self.is_half:
            found = oracle.after(layer_input, kernel, bias, self.precision)
            largest = np.abs(layer_input.value) + layer_input.bound
            return Bounded(found.value, found.bound + self.promised(largest, kernel))
        size = np.abs(kernel).astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            largest = np.abs(layer_input.value) + layer_input.bound
            own = self._forward(largest, size, np.abs(bias))
            apart = largest @ np.abs(self.operand(kernel).astype(np.float64) - kernel)
            if self.is_wider:
                # The next layer rounds an x of float32 first.
                apart = apart + oracle.unit_roundoff(self.results) * (largest @ size + np.abs(bias))
            bound = own.bound + self.promised(largest, kernel) + layer_input.bound @ size + apart
            value = layer_input.value @ kernel.astype(np.float64) + bias
        return Bounded(value, np.where(np.isfinite(bound), bound, np.inf))
