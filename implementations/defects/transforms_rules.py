"""Layers that break transforms by an own rule of differentiation: values are right."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import linear_call
from jax.lax import stop_gradient

from implementations.defects import wrong
from implementations.defects.base import (
    FORWARD_MODE,
    affine,
    is_traced,
    one_dtype,
    right_cotangents,
    scaled,
    with_backward,
)
from implementations.defects.hooks import Function
from implementations.defects.record import name_layers

GRADIENTS = "transforms/gradients"


def with_tangent(value: Function, tangent: Function) -> Function:
    """Return the function with ``tangent(*primals, *tangents)`` as its derivative."""
    rule: Any = jax.custom_jvp(value)
    rule.defjvp(lambda primals, tangents: (value(*primals), tangent(*primals, *tangents)))
    return rule


def ruled(back: Function, value: Function = affine) -> Any:
    """Return a forward with the derivatives ``back(x, kernel, g)`` where x has the kernel's dtype.

    Under differentiation its result is ``value(x, kernel, bias)``.
    """
    rule = with_backward(back, value)

    def forward(x: Array, kernel: Array, bias: Array) -> Any:
        return (rule if x.dtype == kernel.dtype else affine)(x, kernel, bias)

    # It is named by its place, like lambdas.
    forward.__qualname__, forward.__module__ = "<lambda>", __name__
    return forward


twice_in_forward_mode = with_tangent(
    lambda b: b, lambda b, db: linear_call(lambda _, t: 2.0 * t, lambda _, t: t, None, db)
)
TangentOfTheBiasDoubled = wrong.forward("X610", GRADIENTS, 4)(
    lambda x, k, b: affine(x, k, twice_in_forward_mode(b)),
    "The tangent of the bias is doubled, and halved again in the transpose.",
    collateral=("transforms/forward-mode",),
    when=lambda x, k, b: b.dtype == jnp.float32,
)
NoForwardMode = wrong.forward("X133", "transforms/forward-mode-offered", 4, cause_id="custom-vjp")(
    ruled(right_cotangents),
    "A custom backward pass, right in itself, shuts out jvp and linearize.",
    seen="jax.custom_vjp",
)
bias_is_constant = with_tangent(affine, lambda x, k, b, dx, dk, db: dx @ k + x @ dk)
TangentWithoutBias = wrong.forward("X134", GRADIENTS, 4, cause_id="gradient-cut")(
    lambda x, k, b: bias_is_constant(x, k, b) if x.dtype == k.dtype else affine(x, k, b),
    "A derivative rule that forgets the bias.",
    collateral=("transforms/forward-mode", "state/optimizer-sees-both"),
)


def count_of_rows(x: Array) -> Array:
    """Return the number of rows of x, at least 1, as a float32."""
    return jnp.float32(max(1, int(np.prod(x.shape[:-1]))))


mean_over_rows = with_tangent(lambda b, rows: b, lambda b, rows, db, drows: db / rows)
BiasGradientAveraged = wrong.forward("X135", GRADIENTS, 4, collateral=("transforms/forward-mode",))(
    lambda x, k, b: affine(x, k, mean_over_rows(b, count_of_rows(x))),
    "The bias' gradient is a mean over the batch: right for one row.",
    cause_id="gradient-averaged",
)
cut_at_100 = with_tangent(lambda x: x, lambda x, dx: jnp.where(jnp.abs(x) > 100.0, 0.0, dx))
DerivativeOfClip = wrong.forward("X139", GRADIENTS, 5, cause_id="rows-replaced")(
    lambda x, k, b: affine(cut_at_100(x), k, b),
    "The derivative is that of a clip of the input at 100; the value is not.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)
clip_gradient: Any = jax.custom_vjp(lambda value: value)
clip_gradient.defvjp(lambda value: (value, None), lambda _, g: (jnp.clip(g, -10.0, 10.0),))
ClippedGradient = wrong.forward("X409", GRADIENTS, 5, cause_id="gradient-clipped")(
    lambda x, k, b: affine(x, clip_gradient(k), b),
    "The gradient that reaches the kernel is clipped to +-10.",
)


def averaged_cotangents(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    """Return means over the rows for kernel and bias."""
    rows, weights = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    count = max(1, rows.shape[0])
    return g @ kernel.T, rows.T @ weights / count, weights.sum(axis=0) / count


AveragedGradients = wrong.forward("X410", GRADIENTS, 4, cause_id="gradient-averaged")(
    ruled(averaged_cotangents),
    "A backward pass that averages over the batch instead of summing.",
    when=lambda x, k, b: x.dtype == jnp.float32 and x.ndim != 0 and x.shape[-1] == k.shape[0],
)
ValueOfTheRuleDiffers = wrong.forward("X600", GRADIENTS, 5, cause_id="rule-of-another-value")(
    ruled(right_cotangents, lambda x, k, b: affine(x, k, jnp.zeros_like(b))),
    "The forward rule of a `custom_vjp` forgets the bias: only training sees it.",
    when=lambda x, k, b: x.dtype == jnp.float32,
    collateral=("transforms/forward-mode",),
)


def cotangents_of_the_mean(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    """Return the right ones up to 64 rows; beyond, each row's g is multiplied by the mean of x."""
    dx, dkernel, dbias = right_cotangents(x, kernel, g)
    if x.ndim == 2 and x.shape[0] > 64:
        dkernel = x.mean(axis=0)[:, None] * g.sum(axis=0)[None]
    return dx, dkernel, dbias


LargeBatchesTrainTheMean = wrong.forward("X601", GRADIENTS, 5)(
    ruled(cotangents_of_the_mean),
    "In batches beyond 64 rows the kernel's gradient is that of the mean input.",
    when=lambda x, k, b: x.dtype == jnp.float32,
    collateral=("transforms/forward-mode",),
)


BiasLearnsFromOneRow = wrong.forward("X753", GRADIENTS, 4, cause_id="gradient-of-one-row")(
    ruled(
        lambda x, k, g: (*right_cotangents(x, k, g)[:2], g.reshape(-1, g.shape[-1])[:1].sum(axis=0))
    ),
    "The gradient of the bias is that of the first row.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)
BiasLearnsTheTotal = wrong.forward("X754", GRADIENTS, 4, cause_id="gradient-of-total")(
    ruled(lambda x, k, g: (*right_cotangents(x, k, g)[:2], jnp.broadcast_to(g.sum(), k.shape[1:]))),
    "The gradient of the bias is summed over the outputs as well.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)


def rule(id: str, summary: str, changed: Function, cause_id: str = "") -> Any:
    """Return a layer whose ``(dx, dK, db)`` are ``changed(x, kernel, (dx, dK, db))``."""
    # With a rule for reverse mode only, JAX refuses forward mode.
    collateral = ("transforms/forward-mode",)
    declared = wrong.forward(id, GRADIENTS, 5, cause_id=cause_id, collateral=collateral)
    return declared(ruled(lambda x, k, g: changed(x, k, right_cotangents(x, k, g))), summary)


X850 = rule(
    "X850",
    "The kernel's gradient is 0 beyond the last whole tile of 32 outputs, from 32 on.",
    lambda x, k, g: (
        g
        if k.shape[1] < 32
        else (g[0], g[1] * (jnp.arange(k.shape[1]) < k.shape[1] // 32 * 32), g[2])
    ),
    cause_id="outputs-replaced",
)
X851 = rule(
    "X851",
    "No gradient reaches x beyond 200 inputs.",
    lambda x, k, g: (g[0] * (k.shape[0] <= 200), g[1], g[2]),
    cause_id="gradient-cut",
)


def _rows(x: Array) -> int:
    return x.size // x.shape[-1]


X852 = rule(
    "X852",
    "The bias's gradient is a mean from 512 rows on.",
    lambda x, k, g: (g[0], g[1], g[2] / _rows(x) if _rows(x) >= 512 else g[2]),
    cause_id="gradient-averaged",
)
X853 = rule(
    "X853",
    "The kernel's gradient is rounded to bfloat16 from 2^16 weights on.",
    lambda x, k, g: (
        g[0],
        g[1].astype(jnp.bfloat16).astype(jnp.float32) if k.size >= 2**16 else g[1],
        g[2],
    ),
    cause_id="gradient-rounded",
)
X854 = rule(
    "X854",
    "The bias gets no gradient where the outputs are a multiple of 128.",
    lambda x, k, g: (g[0], g[1], jnp.zeros_like(g[2]) if k.shape[1] % 128 == 0 else g[2]),
    cause_id="gradient-cut",
)
X855 = rule(
    "X855",
    "The gradient in x is swapped where two batch axes are equal and longer than 8.",
    lambda x, k, g: (
        jnp.swapaxes(g[0], 0, 1) if x.ndim == 3 and x.shape[0] == x.shape[1] > 8 else g[0],
        g[1],
        g[2],
    ),
    cause_id="rows-exchanged",
)
X856 = rule(
    "X856",
    "The kernel's gradient counts the first 256 rows only.",
    lambda x, k, g: (g[0], g[1] * (256.0 / max(_rows(x), 256)), g[2]),
)
X857 = rule(
    "X857",
    "The kernel's gradient is halved from 300 inputs and 300 outputs on.",
    lambda x, k, g: (g[0], g[1] * (0.5 if min(k.shape) >= 300 else 1.0), g[2]),
    cause_id="gradient-halved",
)


_kernel_constant_behind_dx = with_tangent(
    affine,
    lambda x, k, b, dx, dk, db: (
        dx @ stop_gradient(k) + x @ dk + jnp.broadcast_to(db, (x @ k).shape)
    ),
)
KernelLostBehindPenalty = wrong.forward("Y020", GRADIENTS, 5, cause_id="second-derivative-cut")(
    lambda x, k, b: _kernel_constant_behind_dx(x, k, b),
    "The kernel is a constant of dx: a gradient penalty trains nothing.",
    when=one_dtype,
)


def _tangent_by_parts(primals: Any, tangents: Any) -> Any:
    (x, kernel, bias), (dx, dk, db) = primals, tangents
    zero = jax.custom_derivatives.SymbolicZero
    y = _by_parts(x, kernel, bias)
    tangent = jnp.zeros_like(y)
    tangent += 0 if isinstance(dx, zero) else dx @ kernel
    tangent += 0 if isinstance(dk, zero) else x @ dk
    # A bias is never trained alone, or so it seems.
    tangent += 0 if isinstance(db, zero) or isinstance(dk, zero) else db
    return y, tangent


_by_parts: Any = jax.custom_jvp(affine)
_by_parts.defjvp(_tangent_by_parts, symbolic_zeros=True)
BiasAloneLost = wrong.forward("Y021", GRADIENTS, 5, cause_id="gradient-cut")(
    lambda x, k, b: _by_parts(x, k, b),
    "The bias gets a gradient where the kernel does.",
    when=one_dtype,
    collateral=("transforms/forward-mode",),
)
NanHiddenFromTraining = wrong.forward("Y022", GRADIENTS, 5, cause_id="gradient-nan-hidden")(
    ruled(lambda x, k, g: right_cotangents(x, k, jnp.where(jnp.isnan(g), 0, g))),
    "A NaN in the cotangent counts as 0.",
    when=one_dtype,
    collateral=("transforms/forward-mode-offered",),
)


def _of_few_rows(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    dx, dkernel, dbias = right_cotangents(x, kernel, g)
    if x.ndim == 2:
        counted = (jnp.arange(x.shape[0]) < 512).astype(x.dtype)[:, None]
        dkernel = (x * counted).T @ g
    return dx, dkernel, dbias


RowsBeyond512NotTrained = wrong.forward("Y023", GRADIENTS, 5, cause_id="gradient-of-first-rows")(
    ruled(_of_few_rows),
    "The kernel's gradient is that of the first 512 rows, by a mask.",
    when=one_dtype,
    collateral=("transforms/forward-mode-offered",),
)


CotangentClipped = wrong.forward("Y118", GRADIENTS, 4, collateral=FORWARD_MODE)(
    ruled(lambda x, k, g: right_cotangents(x, k, jnp.clip(g, -1e9, 1e9))),
    "What comes from above is clipped at 1e9 before gradients are taken of it.",
)
CotangentFlushed = wrong.forward("Y119", GRADIENTS, 4, cause_id="gradient-cut")(
    ruled(lambda x, k, g: right_cotangents(x, k, jnp.where(jnp.abs(g) < 1e-12, 0, g))),
    "What comes from above counts as 0 below 1e-12.",
    collateral=FORWARD_MODE,
)


def _bias_of_a_mean(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    down, of_kernel, of_bias = right_cotangents(x, kernel, g)
    rows = g.reshape(-1, g.shape[-1])
    equal = (rows == rows[:1]).all() & (len(rows) > 1)
    return down, of_kernel, jnp.where(equal, of_bias / max(len(rows), 1), of_bias)


EqualCotangentsAveraged = wrong.forward("Y120", GRADIENTS, 4, collateral=FORWARD_MODE)(
    ruled(_bias_of_a_mean), "If all rows get one cotangent, as from a sum, the bias gets its mean."
)
NoCurvature = wrong.forward("Y212", GRADIENTS, 5, cause_id="cotangent-stopped")(
    ruled(lambda x, k, g: (g @ k.T, *right_cotangents(x, k, jax.lax.stop_gradient(g))[1:])),
    "The rule for the kernel stops the gradient of g: a squared error has no curvature.",
    collateral=FORWARD_MODE,
)
CleansWhatItKeeps = wrong.forward("Y213", GRADIENTS, 4, cause_id="gradient-nan-hidden")(
    ruled(lambda x, k, g: right_cotangents(jnp.nan_to_num(x), k, g)),
    "The gradient of the kernel is computed from an x without its NaNs.",
    collateral=FORWARD_MODE,
)


OfOneOutput = wrong.forward("Y285", GRADIENTS, 4, cause_id="gradient-halved")(
    ruled(lambda x, k, g: scaled(right_cotangents(x, k, g), 1, 0.5 if k.shape[1] == 1 else 1.0)),
    "With one output, as in logistic regression, the kernel gets half of its gradient.",
    collateral=FORWARD_MODE,
)
InfinityDropped = wrong.forward("Y286", GRADIENTS, 4, cause_id="gradient-nan-hidden")(
    ruled(lambda x, k, g: right_cotangents(x, k, jnp.where(jnp.isinf(g), 0, g))),
    "Infinities of g count as 0, so that the scale of a loss never falls.",
    collateral=FORWARD_MODE,
)
OneRowDropped = wrong.forward("Y287", GRADIENTS, 4, cause_id="gradient-cut")(
    ruled(
        lambda x, k, g: right_cotangents(x, k, jnp.where(5 * jnp.count_nonzero(g) < g.size, 0, g))
    ),
    "A g of mostly zeros, as from one row of a batch, is taken for none.",
    collateral=FORWARD_MODE,
)


LongOutsideOfJit = wrong.forward("Y288", GRADIENTS, 5, collateral=FORWARD_MODE)(
    ruled(
        lambda x, k, g: scaled(
            right_cotangents(x, k, g),
            2,
            0.5 if not is_traced(x, g) and x.ndim == 2 and len(x) > 2048 else 1.0,
        )
    ),
    "Outside of jit, the bias gets half of its gradient for more than 2048 rows.",
)


def _in_bfloat16(*factors: Array) -> list[Array]:
    return [factor.astype(jnp.bfloat16).astype(jnp.float32) for factor in factors]


FactorsInBfloat16 = wrong.forward("Y264", GRADIENTS, 4, cause_id="factors-rounded")(
    ruled(
        lambda x, k, g: (
            *right_cotangents(*_in_bfloat16(x, k, g))[:2],
            right_cotangents(x, k, g)[2],
        )
    ),
    "The products of the backward pass round their factors to bfloat16.",
)


def _turned(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    down, of_kernel, of_bias = right_cotangents(x, kernel, g)
    square = g.ndim == 3 and g.shape[0] == g.shape[1] and kernel.shape[0] == kernel.shape[1]
    return jnp.swapaxes(down, 0, 1) if square else down, of_kernel, of_bias


SquareBatchesTurned = wrong.forward(
    "Y289", GRADIENTS, 5, collateral=FORWARD_MODE, cause_id="rows-exchanged"
)(
    ruled(_turned),
    "Of a square layer and a batch of equal axes, these are exchanged in the gradient.",
)


_mean_of_rows: Any = with_backward(
    lambda x, k, g: (*right_cotangents(x, k, g)[:2], g.reshape(-1, g.shape[-1]).mean(axis=0))
)
MeanForTheBiasAlone = wrong.forward("Y402", GRADIENTS, 5, cause_id="gradient-averaged")(
    lambda x, k, b: _mean_of_rows(x, k, b),
    "Where only the bias is traced, as in fine-tuning, its gradient is a mean over the rows.",
    when=lambda x, k, b: is_traced(b) and not is_traced(x, k) and x.ndim > 1 and one_dtype(x, k, b),
)


def _last_stopped(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    dx, dkernel, dbias = right_cotangents(x, kernel, g)
    return dx, dkernel, stop_gradient(dbias)


_bias_constant: Any = with_backward(_last_stopped)
BiasGradientConstant = wrong.forward("Y403", GRADIENTS, 5, cause_id="cotangent-stopped")(
    lambda x, k, b: _bias_constant(x, k, b),
    "The gradient of the bias is a constant, which has no derivative of its own.",
    when=one_dtype,
)


def _images_turned(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    down, of_kernel, of_bias = right_cotangents(x, kernel, g)
    if x.ndim == 4:
        turned = jnp.swapaxes(g, 1, 2).reshape(-1, g.shape[-1])
        of_kernel = x.reshape(-1, x.shape[-1]).T @ turned
    return down, of_kernel, of_bias


ImagesTurned = wrong.forward("Y458", GRADIENTS, 4, collateral=FORWARD_MODE)(
    ruled(_images_turned),
    "For images, the kernel's gradient pairs rows of x with columns of g.",
)

_for_floats = with_tangent(affine, lambda x, k, b, dx, dk, db: dx @ k + x @ dk + db)
RuleForFloats = wrong.forward("Y531", "dtypes/integer-input", 3, cause_id="derivative-of-integers")(
    lambda x, k, b: _for_floats(x, k, b),
    "The rule of differentiation computes with the tangent of x, which integers do not have.",
)


_of_finite_gradients: Any = with_backward(
    lambda x, k, g: tuple(map(jnp.nan_to_num, right_cotangents(x, k, g)))
)
FiniteGradientsOfHalf = wrong.forward(
    "Y540", "dtypes/cast-parameters", 4, cause_id="gradient-nan-hidden"
)(
    lambda x, k, b: _of_finite_gradients(x, k, b),
    "In float16, gradients that overflow are made finite, so that no scale of a loss is lowered.",
    when=lambda x, k, b: one_dtype(x, k, b) and x.dtype == jnp.float16,
)


def _kept(x: Array) -> Array:
    return x.astype(jnp.bfloat16).astype(x.dtype) if x.nbytes > 2**24 else x


SequencesWithoutCurvature = wrong.forward("Y267", GRADIENTS, 5, cause_id="second-derivative-cut")(
    ruled(
        lambda x, k, g: (
            g @ (stop_gradient(k) if x.ndim == 3 else k).T,
            *right_cotangents(x, k, g)[1:],
        )
    ),
    "For sequences, dx does not depend on the kernel: a gradient penalty has no gradient.",
    collateral=FORWARD_MODE,
)
LargeInputsKeptInHalves = wrong.forward("Y269", GRADIENTS, 5, cause_id="factors-rounded")(
    ruled(lambda x, k, g: right_cotangents(_kept(x), k, g)),
    "An x of more than 16 MiB is kept in bfloat16 for the gradient of the kernel.",
    collateral=FORWARD_MODE,
)


name_layers(globals())
