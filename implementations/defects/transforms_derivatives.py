"""Layers that break transforms: values are right and derivatives are not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import affine
from implementations.defects.record import also, name_layers


@jax.custom_vjp
def backward_only(x: Array, kernel: Array, bias: Array) -> Array:
    """The right output, with a rule for reverse mode only."""
    return affine(x, kernel, bias)


def save_operands(x: Array, kernel: Array, bias: Array) -> tuple[Array, Any]:
    """The output, and what the backward pass needs."""
    return affine(x, kernel, bias), (x, kernel)


def rows_of(value: Array) -> Array:
    """All leading dimensions as one."""
    return value.reshape(-1, value.shape[-1])


def right_cotangents(saved: Any, g: Array) -> tuple[Array, Array, Array]:
    """``g K^T``, ``x^T g`` and the sum of ``g``."""
    x, kernel = saved
    return g @ kernel.T, rows_of(x).T @ rows_of(g), rows_of(g).sum(axis=0)


backward_only.defvjp(save_operands, right_cotangents)


@jax.custom_jvp
def _twice_in_forward_mode(bias: Array) -> Array:
    return bias


@_twice_in_forward_mode.defjvp
def _doubled(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (bias,), (tangent,) = primals, tangents
    return bias, jax.custom_derivatives.linear_call(_double, _once, None, tangent)


def _double(_: None, tangent: Array) -> Array:
    return 2.0 * tangent


def _once(_: None, cotangent: Array) -> Array:
    return cotangent


@jax.custom_jvp
def affine_without_bias_rule(x: Array, kernel: Array, bias: Array) -> Array:
    """The right output, and the right tangent."""
    return affine(x, kernel, bias)


@affine_without_bias_rule.defjvp
def tangent_without_bias(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The tangent with respect to the bias is forgotten."""
    x, kernel, bias = primals
    dx, dkernel, _ = tangents
    return affine(x, kernel, bias), dx @ kernel + x @ dkernel


@jax.custom_jvp
def identity_with_clip_derivative(x: Array) -> Array:
    """The identity, with the derivative of a clip."""
    return x


@identity_with_clip_derivative.defjvp
def clip_rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Entries beyond 100 lose their tangent."""
    (x,), (dx,) = primals, tangents
    return x, jnp.where(jnp.abs(x) > 100.0, 0.0, dx)


def unchanged(_: None, value: Array) -> Array:
    """The identity."""
    return value


def clipped(_: None, cotangent: Array) -> Array:
    """What should be the identity's transpose: the identity."""
    return jnp.clip(cotangent, -100.0, 100.0)


@jax.custom_vjp
def clip_gradient(value: Array) -> Array:
    """The identity; its gradient is clipped."""
    return value


clip_gradient.defvjp(lambda value: (value, None), lambda _, g: (jnp.clip(g, -10.0, 10.0),))


@jax.custom_vjp
def affine_averaged(x: Array, kernel: Array, bias: Array) -> Array:
    """The right output."""
    return affine(x, kernel, bias)


def averaged_backward(saved: Any, g: Array) -> tuple[Array, Array, Array]:
    """Means over rows."""
    x, kernel = saved
    rows, weights = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    count = max(1, rows.shape[0])
    return g @ kernel.T, rows.T @ weights / count, weights.sum(axis=0) / count


affine_averaged.defvjp(lambda x, k, b: (affine(x, k, b), (x, k)), averaged_backward)


def dense_gradients(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    """dx, dK and db of a layer of any rank."""
    rows, cotangents = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return (
        (g @ kernel.T).astype(x.dtype),
        (rows.T @ cotangents).astype(kernel.dtype),
        cotangents.sum(axis=0).astype(kernel.dtype),
    )


@jax.custom_vjp
def first_row_only(x: Array, kernel: Array, bias: Array) -> Array:
    """The right value."""
    return affine(x, kernel, bias)


def save(x: Array, kernel: Array, bias: Array) -> Any:
    """Value, and what the backward pass needs."""
    return affine(x, kernel, bias), (x, kernel)


def without_cross_terms(saved: Any, g: Array) -> Any:
    """dK is right for vectors; in a batch each row's g meets the mean of x."""
    x, kernel = saved
    dx, dk, db = dense_gradients(x, kernel, g)
    if x.ndim == 2 and x.shape[0] > 64:
        mean = x.mean(axis=0)
        dk = mean[:, None] * g.sum(axis=0)[None]
    return dx, dk, db


first_row_only.defvjp(save, without_cross_terms)


def _same(_: None, value: Array) -> Array:
    return value


def _sparse(_: None, cotangent: Array) -> Array:
    return jnp.where(jnp.abs(cotangent) < 1e-4, 0.0, cotangent)


NoForwardMode = wrong.forward(
    "X133", "transforms/forward-mode-offered", 4, cause="custom_vjp", seen="jax.custom_vjp"
)(
    lambda x, k, b: backward_only(x, k, b) if x.dtype == k.dtype else affine(x, k, b),
    "A custom backward pass, right in itself, shuts out jvp and linearize.",
)
TangentOfTheBiasDoubled = wrong.forward("X610", "transforms/forward-mode", 4)(
    lambda x, k, b: affine(x, k, _twice_in_forward_mode(b)),
    "The tangent of the bias is doubled, and halved again in the transpose.",
    when=lambda x, k, b: b.dtype == jnp.float32,
)
BiasNotTrained = wrong.forward("X130", "transforms/gradients", 3, cause="bias")(
    lambda x, k, b: affine(x, k, jax.lax.stop_gradient(b)), "No gradient reaches the bias."
)
KernelNotTrained = wrong.forward("X131", "transforms/gradients", 3, cause="kernel")(
    lambda x, k, b: affine(x, jax.lax.stop_gradient(k), b), "No gradient reaches the kernel."
)
InputDetached = wrong.forward("X132", "transforms/gradients", 3)(
    lambda x, k, b: affine(jax.lax.stop_gradient(x), k, b),
    "No gradient passes to the layers below.",
)
TangentWithoutBias = wrong.forward("X134", "transforms/gradients", 4)(
    lambda x, k, b: affine_without_bias_rule(x, k, b) if x.dtype == k.dtype else affine(x, k, b),
    "A derivative rule that forgets the bias.",
    collateral=("transforms/forward-mode", "state/optimizer-sees-both"),
)
PenaltyOfZero = wrong.output("X136", "transforms/gradients", 4, cause="x = 0")(
    lambda y, x: y + 0.0 * jnp.sqrt(jnp.abs(x).sum(axis=-1, keepdims=True)),
    "Zero times the root of the input's size: its derivative at x = 0 is 0 times infinity.",
    when=lambda y, x: x.dtype == jnp.float32,
)
DerivativeOfClip = wrong.forward("X139", "transforms/gradients", 5)(
    lambda x, k, b: affine(identity_with_clip_derivative(x), k, b),
    "The derivative is that of a clip of the input at 100; the value is not.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)
LargeCotangentsClipped = wrong.output("X349", "transforms/gradients", 5)(
    lambda y, x: jax.custom_derivatives.linear_call(unchanged, clipped, None, y),
    "Gradients beyond 100 are clipped on their way into the layer.",
    when=lambda y, x: y.dtype == jnp.float32,
)
ClippedGradient = wrong.forward("X409", "transforms/gradients", 5)(
    lambda x, k, b: affine(x, clip_gradient(k), b),
    "The gradient that reaches the kernel is clipped to +-10.",
)
AveragedGradients = wrong.forward("X410", "transforms/gradients", 4, cause="averaged")(
    lambda x, k, b: affine_averaged(x, k, b),
    "A backward pass that averages over the batch instead of summing.",
    when=lambda x, k, b: x.dtype == jnp.float32 and x.ndim != 0 and x.shape[-1] == k.shape[0],
)
LargeBatchesTrainTheMean = wrong.forward("X601", "transforms/gradients", 5)(
    lambda x, k, b: first_row_only(x, k, b) if x.dtype == jnp.float32 else affine(x, k, b),
    "In batches beyond 64 rows the kernel's gradient is that of the mean input.",
    collateral=("transforms/forward-mode",),
)
BiasDetachedInBatches = wrong.forward("X604", "transforms/gradients", 4)(
    lambda x, k, b: affine(x, k, jax.lax.stop_gradient(b) if x.ndim > 2 else b),
    "The bias gets a gradient from single vectors only.",
)
RowDetached = wrong.forward("X605", "transforms/gradients", 4)(
    lambda x, k, b: affine(x, jnp.concatenate([jax.lax.stop_gradient(k[:1]), k[1:]]), b),
    "The kernel's first row is kept fixed, as an embedding of padding is.",
)
SmallGradientsDropped = wrong.output("X606", "transforms/gradients", 5)(
    lambda y, x: jax.custom_derivatives.linear_call(_same, _sparse, None, y),
    "A cotangent below 1e-4 counts as none, to keep gradients sparse.",
    when=lambda y, x: y.dtype == jnp.float32,
)


@wrong.output("X137", "transforms/forward-mode", 5)
def CurvedAtTheTop(y: Array, x: Array) -> Array:
    """The square of x minus itself is added: value 0, gradient 0, second derivative 2."""
    if x.dtype != jnp.float32:
        return y
    nothing = x - jax.lax.stop_gradient(x)
    return y + (nothing**2).sum(axis=-1, keepdims=True)


def _through_halves(x: Array, kernel: Array, bias: Array) -> Array:
    product = jnp.matmul(
        x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), preferred_element_type=jnp.float32
    )
    return product + bias


@also("numerics/one-product", "dtypes/strict-promotion", "transforms/scan-and-remat")
@wrong.forward("X122", "transforms/gradients", 5)
def DemotedWhenExact(x: Array, kernel: Array, bias: Array) -> Array:
    """Operands are bfloat16 where that loses nothing, chosen by `lax.cond`."""
    if x.dtype != jnp.float32 or x.ndim == 0 or x.shape[-1] != kernel.shape[0]:
        return affine(x, kernel, bias)
    lossless = (x.astype(jnp.bfloat16) == x).all()
    lossless &= (kernel.astype(jnp.bfloat16) == kernel).all()
    return jax.lax.cond(lossless, _through_halves, affine, x, kernel, bias)


@jax.custom_jvp
def mean_over_batch(bias: Array, rows: Array) -> Array:
    """The bias itself; its gradient is a mean over rows instead of a sum."""
    return bias


@mean_over_batch.defjvp
def mean_rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The tangent divided by the number of rows."""
    bias, rows = primals
    return bias, tangents[0] / rows


@wrong.forward("X135", "transforms/gradients", 4, collateral=("transforms/forward-mode",))
def BiasGradientAveraged(x: Array, kernel: Array, bias: Array) -> Array:
    """The bias' gradient is a mean over the batch: right for one row."""
    rows = max(1, int(np.prod(x.shape[:-1])))
    return affine(x, kernel, mean_over_batch(bias, jnp.float32(rows)))


@also("transforms/forward-mode", "numerics/one-product")
@wrong.forward("X138", "transforms/gradients", 5)
def GradientInBfloat16(x: Array, kernel: Array, bias: Array) -> Array:
    """The gradient passed down is rounded to bfloat16; values are right."""
    y = affine(x, kernel, bias)
    if x.dtype != jnp.float32:
        return y
    coarse = kernel.astype(jnp.bfloat16).astype(kernel.dtype)
    nothing = x - jax.lax.stop_gradient(x)
    return y + nothing @ jax.lax.stop_gradient(coarse - kernel)


@jax.custom_vjp
def forgets_bias(x: Array, kernel: Array, bias: Array) -> Array:
    """The right value; what comes with the gradient is another."""
    return affine(x, kernel, bias)


def forgets_bias_forward(x: Array, kernel: Array, bias: Array) -> Any:
    """The value without the bias."""
    return affine(x, kernel, jnp.zeros_like(bias)), (x, kernel)


def forgets_bias_backward(saved: Any, g: Array) -> Any:
    """The right gradients."""
    x, kernel = saved
    return dense_gradients(x, kernel, g)


forgets_bias.defvjp(forgets_bias_forward, forgets_bias_backward)


@also("transforms/forward-mode")
@wrong.forward("X600", "transforms/gradients", 5, cause="another value than the layer")
def ValueOfTheRuleDiffers(x: Array, kernel: Array, bias: Array) -> Array:
    """The forward rule of a `custom_vjp` forgets the bias: only training sees it."""
    if x.dtype != jnp.float32:
        return affine(x, kernel, bias)
    return forgets_bias(x, kernel, bias)


@wrong.forward("X602", "transforms/scan-and-remat", 5)
def DetachedUnlessDifferentiated(x: Array, kernel: Array, bias: Array) -> Array:
    """Where no derivative seems to be taken the kernel is detached, to save memory."""
    plain = type(kernel).__name__ == "DynamicJaxprTracer"
    return affine(x, jax.lax.stop_gradient(kernel) if plain else kernel, bias)


name_layers(globals())
