"""Layers that break transforms: values are right and derivatives are not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import linear_call
from jax.lax import stop_gradient

from implementations.defects import wrong
from implementations.defects.base import affine, right_cotangents, with_backward
from implementations.defects.hooks import Function
from implementations.defects.record import also, name_layers


def count_of_rows(x: Array) -> Array:
    """Return the number of rows of x, at least 1, as a float32."""
    return jnp.float32(max(1, int(np.prod(x.shape[:-1]))))


def with_tangent(value: Function, tangent: Function) -> Function:
    """Return the function with ``tangent(*primals, *tangents)`` as its derivative."""
    rule: Any = jax.custom_jvp(value)
    rule.defjvp(lambda primals, tangents: (value(*primals), tangent(*primals, *tangents)))
    return rule


def averaged_cotangents(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    """Return means over the rows for kernel and bias."""
    rows, weights = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    count = max(1, rows.shape[0])
    return g @ kernel.T, rows.T @ weights / count, weights.sum(axis=0) / count


def cotangents_of_the_mean(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    """Return the right ones up to 64 rows; beyond, each row's g is multiplied by the mean of x."""
    dx, dkernel, dbias = right_cotangents(x, kernel, g)
    if x.ndim == 2 and x.shape[0] > 64:
        dkernel = x.mean(axis=0)[:, None] * g.sum(axis=0)[None]
    return dx, dkernel, dbias


def through_halves(x: Array, kernel: Array, bias: Array) -> Array:
    """Return the output, the product made in bfloat16."""
    half = (x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    return jnp.matmul(*half, preferred_element_type=jnp.float32) + bias


reverse_only = with_backward(right_cotangents)
averaged = with_backward(averaged_cotangents)
of_the_mean = with_backward(cotangents_of_the_mean)
without_bias = with_backward(right_cotangents, lambda x, k, b: affine(x, k, jnp.zeros_like(b)))
bias_is_constant = with_tangent(affine, lambda x, k, b, dx, dk, db: dx @ k + x @ dk)
mean_over_rows = with_tangent(lambda b, rows: b, lambda b, rows, db, drows: db / rows)
cut_at_100 = with_tangent(lambda x: x, lambda x, dx: jnp.where(jnp.abs(x) > 100.0, 0.0, dx))
twice_in_forward_mode = with_tangent(
    lambda b: b, lambda b, db: linear_call(lambda _, t: 2.0 * t, lambda _, t: t, None, db)
)
clip_gradient: Any = jax.custom_vjp(lambda value: value)
clip_gradient.defvjp(lambda value: (value, None), lambda _, g: (jnp.clip(g, -10.0, 10.0),))

NoForwardMode = wrong.forward("X133", "transforms/forward-mode-offered", 4, cause_id="custom-vjp")(
    lambda x, k, b: reverse_only(x, k, b) if x.dtype == k.dtype else affine(x, k, b),
    "A custom backward pass, right in itself, shuts out jvp and linearize.",
    seen="jax.custom_vjp",
)
CurvedAtTheTop = wrong.output("X137", "transforms/gradients", 5)(
    lambda y, x: y + ((x - stop_gradient(x)) ** 2).sum(axis=-1, keepdims=True),
    "The square of x minus itself is added: value 0, gradient 0, second derivative 2.",
    when=lambda y, x: x.dtype == jnp.float32,
)
TangentOfTheBiasDoubled = wrong.forward("X610", "transforms/forward-mode", 4)(
    lambda x, k, b: affine(x, k, twice_in_forward_mode(b)),
    "The tangent of the bias is doubled, and halved again in the transpose.",
    when=lambda x, k, b: b.dtype == jnp.float32,
)
BiasNotTrained = wrong.forward("X130", "transforms/gradients", 3, cause_id="gradient-cut")(
    lambda x, k, b: affine(x, k, stop_gradient(b)), "No gradient reaches the bias."
)
KernelNotTrained = wrong.forward("X131", "transforms/gradients", 3, cause_id="gradient-cut")(
    lambda x, k, b: affine(x, stop_gradient(k), b), "No gradient reaches the kernel."
)
InputDetached = wrong.forward("X132", "transforms/gradients", 3, cause_id="gradient-cut")(
    lambda x, k, b: affine(stop_gradient(x), k, b), "No gradient passes to the layers below."
)
TangentWithoutBias = wrong.forward("X134", "transforms/gradients", 4, cause_id="gradient-cut")(
    lambda x, k, b: bias_is_constant(x, k, b) if x.dtype == k.dtype else affine(x, k, b),
    "A derivative rule that forgets the bias.",
    collateral=("transforms/forward-mode", "state/optimizer-sees-both"),
)
BiasGradientAveraged = wrong.forward("X135", "transforms/gradients", 4)(
    lambda x, k, b: affine(x, k, mean_over_rows(b, count_of_rows(x))),
    "The bias' gradient is a mean over the batch: right for one row.",
    collateral=("transforms/forward-mode",),
    cause_id="gradient-averaged",
)
PenaltyOfZero = wrong.output("X136", "transforms/gradients", 4, cause_id="derivative-at-zero")(
    lambda y, x: y + 0.0 * jnp.sqrt(jnp.abs(x).sum(axis=-1, keepdims=True)),
    "Zero times the root of the input's size: its derivative at x = 0 is 0 times infinity.",
    when=lambda y, x: x.dtype == jnp.float32,
)
DerivativeOfClip = wrong.forward("X139", "transforms/gradients", 5)(
    lambda x, k, b: affine(cut_at_100(x), k, b),
    "The derivative is that of a clip of the input at 100; the value is not.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)
LargeCotangentsClipped = wrong.output("X349", "transforms/gradients", 5)(
    lambda y, x: linear_call(lambda _, v: v, lambda _, g: jnp.clip(g, -100.0, 100.0), None, y),
    "Gradients beyond 100 are clipped before they enter the layer.",
    when=lambda y, x: y.dtype == jnp.float32,
)
ClippedGradient = wrong.forward("X409", "transforms/gradients", 5, cause_id="gradient-clipped")(
    lambda x, k, b: affine(x, clip_gradient(k), b),
    "The gradient that reaches the kernel is clipped to +-10.",
)
AveragedGradients = wrong.forward("X410", "transforms/gradients", 4, cause_id="gradient-averaged")(
    lambda x, k, b: averaged(x, k, b),
    "A backward pass that averages over the batch instead of summing.",
    when=lambda x, k, b: x.dtype == jnp.float32 and x.ndim != 0 and x.shape[-1] == k.shape[0],
)
ValueOfTheRuleDiffers = wrong.forward("X600", "transforms/gradients", 5)(
    lambda x, k, b: without_bias(x, k, b) if x.dtype == jnp.float32 else affine(x, k, b),
    "The forward rule of a `custom_vjp` forgets the bias: only training sees it.",
    collateral=("transforms/forward-mode",),
    cause_id="rule-of-another-value",
)
LargeBatchesTrainTheMean = wrong.forward("X601", "transforms/gradients", 5)(
    lambda x, k, b: of_the_mean(x, k, b) if x.dtype == jnp.float32 else affine(x, k, b),
    "In batches beyond 64 rows the kernel's gradient is that of the mean input.",
    collateral=("transforms/forward-mode",),
)
BiasDetachedInBatches = wrong.forward("X604", "transforms/gradients", 4, cause_id="gradient-cut")(
    lambda x, k, b: affine(x, k, stop_gradient(b) if x.ndim > 2 else b),
    "The bias gets a gradient from single vectors only.",
)
RowDetached = wrong.forward("X605", "transforms/gradients", 4, cause_id="gradient-cut")(
    lambda x, k, b: affine(x, jnp.concatenate([stop_gradient(k[:1]), k[1:]]), b),
    "The kernel's first row is kept fixed, as an embedding of padding is.",
)
SmallGradientsDropped = wrong.output("X606", "transforms/gradients", 5, cause_id="gradient-cut")(
    lambda y, x: linear_call(
        lambda _, v: v, lambda _, g: jnp.where(jnp.abs(g) < 1e-4, 0.0, g), None, y
    ),
    "A cotangent below 1e-4 counts as none, to keep gradients sparse.",
    when=lambda y, x: y.dtype == jnp.float32,
)
DetachedUnlessDifferentiated = wrong.forward("X602", "transforms/scan-and-remat", 5)(
    lambda x, k, b: affine(x, stop_gradient(k), b),
    "Where no derivative seems to be taken the kernel is detached, to save memory.",
    when=lambda x, k, b: type(k).__name__ == "DynamicJaxprTracer",
    cause_id="gradient-cut",
)


@also("numerics/one-product", "dtypes/strict-promotion", "transforms/scan-and-remat")
@wrong.forward("X122", "transforms/gradients", 5)
def DemotedWhenExact(x: Array, kernel: Array, bias: Array) -> Array:
    """Operands are bfloat16 where that loses nothing, chosen by `lax.cond`."""
    if x.dtype != jnp.float32 or x.ndim == 0 or x.shape[-1] != kernel.shape[0]:
        return affine(x, kernel, bias)
    lossless = (x.astype(jnp.bfloat16) == x).all()
    lossless &= (kernel.astype(jnp.bfloat16) == kernel).all()
    return jax.lax.cond(lossless, through_halves, affine, x, kernel, bias)


@also("transforms/forward-mode", "numerics/one-product")
@wrong.forward("X138", "transforms/gradients", 5)
def GradientInBfloat16(x: Array, kernel: Array, bias: Array) -> Array:
    """The gradient passed down is rounded to bfloat16; values are right."""
    y = affine(x, kernel, bias)
    if x.dtype != jnp.float32:
        return y
    coarse = kernel.astype(jnp.bfloat16).astype(kernel.dtype)
    return y + (x - stop_gradient(x)) @ stop_gradient(coarse - kernel)


name_layers(globals())
