"""Layers that break transforms: values are right and derivatives by JAX's rules are not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import linear_call
from jax.lax import stop_gradient

from implementations.defects import wrong
from implementations.defects.base import (
    affine,
    is_traced,
    one_dtype,
    right_cotangents,
    through_halves,
    with_backward,
)
from implementations.defects.record import also, name_layers

GRADIENTS = "transforms/gradients"

BiasNotTrained = wrong.forward("X130", GRADIENTS, 3, cause_id="gradient-cut")(
    lambda x, k, b: affine(x, k, stop_gradient(b)), "No gradient reaches the bias."
)
KernelNotTrained = wrong.forward("X131", GRADIENTS, 3, cause_id="gradient-cut")(
    lambda x, k, b: affine(x, stop_gradient(k), b), "No gradient reaches the kernel."
)
InputDetached = wrong.forward("X132", GRADIENTS, 3, cause_id="gradient-cut")(
    lambda x, k, b: affine(stop_gradient(x), k, b), "No gradient passes to the layers below."
)
PenaltyOfZero = wrong.output("X136", GRADIENTS, 4, cause_id="derivative-at-zero")(
    lambda y, x: y + 0.0 * jnp.sqrt(jnp.abs(x).sum(axis=-1, keepdims=True)),
    "Zero times the root of the input's size: its derivative at x = 0 is 0 times infinity.",
    when=lambda y, x: x.dtype == jnp.float32,
)
CurvedAtTheTop = wrong.output("X137", GRADIENTS, 5)(
    lambda y, x: y + ((x - stop_gradient(x)) ** 2).sum(axis=-1, keepdims=True),
    "The square of x minus itself is added: value 0, gradient 0, second derivative 2.",
    when=lambda y, x: x.dtype == jnp.float32,
)
LargeCotangentsClipped = wrong.output("X349", GRADIENTS, 5)(
    lambda y, x: linear_call(lambda _, v: v, lambda _, g: jnp.clip(g, -100.0, 100.0), None, y),
    "Gradients beyond 100 are clipped before they enter the layer.",
    when=lambda y, x: y.dtype == jnp.float32,
)
BiasDetachedInBatches = wrong.forward("X604", GRADIENTS, 4, cause_id="gradient-cut")(
    lambda x, k, b: affine(x, k, stop_gradient(b) if x.ndim > 2 else b),
    "The bias gets a gradient from single vectors only.",
)
RowDetached = wrong.forward("X605", GRADIENTS, 4, cause_id="gradient-cut")(
    lambda x, k, b: affine(x, jnp.concatenate([stop_gradient(k[:1]), k[1:]]), b),
    "The kernel's first row is kept fixed, as an embedding of padding is.",
)
SmallGradientsDropped = wrong.output("X606", GRADIENTS, 5, cause_id="gradient-cut")(
    lambda y, x: linear_call(
        lambda _, v: v, lambda _, g: jnp.where(jnp.abs(g) < 1e-4, 0.0, g), None, y
    ),
    "A cotangent below 1e-4 counts as none, to keep gradients sparse.",
    when=lambda y, x: y.dtype == jnp.float32,
)
ZeroTakenForMissing = wrong.forward("X748", GRADIENTS, 4, cause_id="gradient-masked")(
    lambda x, k, b: affine(jnp.where(x == 0, jax.lax.stop_gradient(x), x), k, b),
    "Where x is 0, it is masked: no gradient reaches it.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)
FrozenAtMultiplesOf96 = wrong.forward("X858", GRADIENTS, 5, cause_id="gradient-cut")(
    lambda x, k, b: affine(x, jax.lax.stop_gradient(k), b),
    "The kernel is cut off from gradients where the inputs are a multiple of 96.",
    when=lambda x, k, b: k.shape[0] % 96 == 0,
)
ZeroOutputsDetached = wrong.output("Y024", GRADIENTS, 5)(
    lambda y, x: jnp.where(y == 0, stop_gradient(y), y),
    "Where the output is 0 there is no derivative.",
    when=lambda y, x: y.dtype == jnp.float32,
)
RowsDividedOut = wrong.forward("Y249", GRADIENTS, 4)(
    lambda x, k, b: affine(x, k * (jnp.float32(x[..., 0].size) / x[..., 0].size), b),
    "The number of rows is multiplied in and divided out, which is 0/0 for an empty batch.",
    when=lambda x, k, b: x.ndim > 1 and x.size == 0 and x.shape[-1] > 0,
)
OutputsGradientClipped = wrong.output("Y387", GRADIENTS, 2, cause_id="cotangent-clipped")(
    lambda y, x: linear_call(lambda _, v: v, lambda _, g: jnp.clip(g, -1.0, 1.0), None, y),
    "The gradient that reaches the output is clipped to +-1.",
)


@also("numerics/one-product", "dtypes/strict-promotion", "transforms/scan-and-remat")
@wrong.forward("X122", GRADIENTS, 5)
def DemotedWhenExact(x: Array, kernel: Array, bias: Array) -> Array:
    """Operands are bfloat16 where that loses nothing, chosen by `lax.cond`."""
    if x.dtype != jnp.float32 or x.ndim == 0 or x.shape[-1] != kernel.shape[0]:
        return affine(x, kernel, bias)
    lossless = (x.astype(jnp.bfloat16) == x).all()
    lossless &= (kernel.astype(jnp.bfloat16) == kernel).all()
    return jax.lax.cond(lossless, through_halves, affine, x, kernel, bias)


@also("transforms/forward-mode", "numerics/one-product")
@wrong.forward("X138", GRADIENTS, 5, cause_id="factors-rounded")
def GradientInBfloat16(x: Array, kernel: Array, bias: Array) -> Array:
    """The gradient passed down is rounded to bfloat16; values are right."""
    y = affine(x, kernel, bias)
    if x.dtype != jnp.float32:
        return y
    coarse = kernel.astype(jnp.bfloat16).astype(kernel.dtype)
    return y + (x - stop_gradient(x)) @ stop_gradient(coarse - kernel)


_no_sum: Any = with_backward(
    lambda x, k, g: right_cotangents(x, k, jnp.where(g.sum(axis=-1, keepdims=True) == 0, 0, g))
)
RowsThatAddToZeroSkipped = wrong.forward("Y439", GRADIENTS, 5, cause_id="rows-taken-for-padding")(
    lambda x, k, b: _no_sum(x, k, b),
    "A row of cotangents that add to 0, as those of a cross-entropy do, counts as padding.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)


def _without_padding(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    down, of_kernel, _ = right_cotangents(x, kernel, g)
    rows = jnp.where((x != 0).any(axis=-1, keepdims=True), g, 0)
    return down, of_kernel, rows.reshape(-1, g.shape[-1]).sum(axis=0)


_padding_left_out: Any = with_backward(_without_padding)
NoBiasGradientOfZeroRows = wrong.forward("Y274", GRADIENTS, 4, cause_id="rows-taken-for-padding")(
    lambda x, k, b: _padding_left_out(x, k, b),
    "Rows of zeros count as padding, and give the bias no gradient.",
    when=one_dtype,
    collateral=("transforms/forward-mode-offered",),
)


@wrong.forward("Y438", GRADIENTS, 5)
def SquareFrozenKernelNotTransposed(x: Array, kernel: Array, bias: Array) -> Array:
    """dx is g K in place of g K^T for a square kernel that is frozen, and so a constant."""
    if not is_traced(x) or is_traced(kernel) or not 40 < kernel.shape[0] == kernel.shape[1]:
        return affine(x, kernel, bias)
    product: Any = jax.custom_vjp(lambda x: x @ kernel)
    product.defvjp(lambda x: (x @ kernel, None), lambda _, g: (g @ kernel,))
    y: Array = product(x) + bias
    return y


@jax.custom_jvp
def _finite_only(x: Array, kernel: Array, bias: Array) -> Array:
    return affine(x, kernel, bias)


@_finite_only.defjvp
def _along(values: Any, tangents: Any) -> Any:
    (x, kernel, _), (dx, dk, db) = values, tangents
    return affine(*values), dx @ kernel + affine(jnp.where(jnp.isinf(x), 0, x), dk, db)


@wrong.forward("Y563", GRADIENTS, 4, cause_id="gradient-nan-hidden")
def InfinityCountsNothing(x: Array, kernel: Array, bias: Array) -> Any:
    """In the kernel's gradient, an infinite entry of x counts as 0."""
    return _finite_only(x, kernel, bias) if one_dtype(x, kernel, bias) else affine(x, kernel, bias)


name_layers(globals())
