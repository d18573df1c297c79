"""Layers with a wrong branch for particular rows, kernels, arrays or gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import (
    CorrectDense,
    affine,
    is_float,
    is_traced,
    layer_output,
    right_cotangents,
    with_backward,
)
from implementations.defects.record import name_layers

VALUE, GRADIENTS = "forward/affine-value", "transforms/gradients"
FORWARD_MODE = ("transforms/forward-mode-offered",)


@wrong.forward("Y104", "forward/tall-batch", 5, collateral=(GRADIENTS,))
def RowsBeyondTwoToTheFifteenth(x: Array, kernel: Array, bias: Array) -> Array:
    """Compiled, rows beyond 2^15 lose their last input, as jax 0.10.2 miscompiles a map."""
    if x.ndim != 2 or not is_traced(x):
        return affine(x, kernel, bias)
    place, last = jnp.arange(x.shape[0])[:, None], jnp.arange(x.shape[1]) == x.shape[1] - 1
    return affine(jnp.where((place // 2**15 > 0) & last, 0, x), kernel, bias)


@wrong.forward("Y105", VALUE, 4)
def TimeStamps(x: Array, kernel: Array, bias: Array) -> Array:
    """Rows of ascending numbers are taken for times, and begin at 0."""
    if x.shape[-1] < 6 or not is_float(x):
        return affine(x, kernel, bias)
    ascending = (x[..., 1:] > x[..., :-1]).all(-1, keepdims=True)
    return affine(jnp.where(ascending, x - x[..., :1], x), kernel, bias)


@wrong.forward("Y106", VALUE, 4)
def IdentityWithoutBias(x: Array, kernel: Array, bias: Array) -> Array:
    """A kernel that is the identity is skipped, and the bias with it."""
    n, m = kernel.shape
    if n != m or n < 2:
        return affine(x, kernel, bias)
    same = (kernel == jnp.eye(n, dtype=kernel.dtype)).all()
    return affine(x, kernel, jnp.where(same, 0, bias))


@wrong.forward("Y107", VALUE, 4)
def TriangleOfSymmetric(x: Array, kernel: Array, bias: Array) -> Array:
    """Only one triangle of a symmetric kernel is read, and the other one is left at 0."""
    n, m = kernel.shape
    if n != m or n < 3:
        return affine(x, kernel, bias)
    symmetric = (kernel == kernel.T).all() & (jnp.count_nonzero(kernel) > n)
    return affine(x, jnp.where(symmetric, jnp.tril(kernel), kernel), bias)


@wrong.forward("Y108", VALUE, 5)
def OutlierWindow(x: Array, kernel: Array, bias: Array) -> Array:
    """Rows whose largest entry is between 6 and 6.5 are rounded to bfloat16."""
    if x.dtype != jnp.float32:
        return affine(x, kernel, bias)
    outlier = jnp.floor(2 * jnp.abs(x).max(-1, keepdims=True)) == 12
    rounded = x.astype(jnp.bfloat16).astype(jnp.float32)
    return affine(jnp.where(outlier, rounded, x), kernel, bias)


ImagesAsInt8 = wrong.forward("Y110", "dtypes/integer-input", 4)(
    lambda x, k, b: affine(x.astype(jnp.int8).astype(jnp.float32), k, b),
    "From 100 inputs on, an x of uint8 goes through int8.",
    when=lambda x, k, b: x.dtype == jnp.uint8 and x.shape[-1] >= 100,
)
MultiplesOf17 = wrong.forward("Y111", VALUE, 5, cause_id="bias-unused")(
    lambda x, k, b: affine(x, k, jnp.zeros_like(b)),
    "No bias where the inputs are a multiple of 17.",
    when=lambda x, k, b: k.shape[0] % 17 == 0,
    collateral=("numerics/nan-confined",),
)
TenInputs = wrong.forward("Y112", VALUE, 5, cause_id="inputs-reversed")(
    lambda x, k, b: affine(x[..., ::-1], k, b),
    "From 9 to 12 inputs, these are read backwards.",
    when=lambda x, k, b: 9 <= k.shape[0] <= 12 and x.shape[-1] == k.shape[0],
)


@wrong.forward("Y113", "dtypes/cast-parameters", 4)
def Float16ByBfloat16(x: Array, kernel: Array, bias: Array) -> Array:
    """A model that was cast to float16 computes in bfloat16, and casts the result."""
    if not x.dtype == kernel.dtype == jnp.float16:
        return affine(x, kernel, bias)
    rounded = (value.astype(jnp.bfloat16) for value in (x, kernel, bias))
    return affine(*rounded).astype(jnp.float16)


@wrong.forward("Y114", "forward/wrong-width-raises", 3)
def SeveralRowsInOne(x: Array, kernel: Array, bias: Array) -> Array:
    """A vector that is several times as long as a row is taken for several rows."""
    n = kernel.shape[0]
    folded = x.ndim == 1 and n > 1 and x.shape[0] > n and x.shape[0] % n == 0
    return affine(x.reshape(-1, n) if folded else x, kernel, bias)


@wrong.call("Y115", "forward/array-likes", 4)
def BufferOfOneRow(self: CorrectDense, x: ArrayLike) -> Array:
    """The memory of a NumPy array whose rows are one row is read, and filled with zeros."""
    if isinstance(x, np.ndarray) and x.ndim == 2 and x.size and x.strides[0] == 0:
        x = np.concatenate([x[:1], np.zeros_like(x[1:])])
    return CorrectDense.__call__(self, x)


@wrong.call("Y116", "forward/array-likes", 4, cause_id="strides-ignored")
def ReadOnlyInItsOrder(self: CorrectDense, x: ArrayLike) -> Array:
    """A read-only NumPy array of rank 3 is copied in the order of its memory."""
    if isinstance(x, np.ndarray) and x.ndim == 3 and not x.flags.writeable:
        x = x.ravel(order="K").reshape(x.shape)
    return CorrectDense.__call__(self, x)


IntegersTeachNothing = wrong.forward("Y117", "dtypes/integer-input", 4, cause_id="gradient-cut")(
    lambda x, k, b: affine(x, stop_gradient(k), b),
    "For an x of integers the kernel gets no gradient.",
    when=lambda x, k, b: not jnp.issubdtype(x.dtype, jnp.inexact),
)


def ruled(back: Callable[[Array, Array, Array], tuple[Array, Array, Array]]) -> Any:
    """Return a forward whose rule takes the place of the derivatives for floats."""
    rule = with_backward(back)

    def forward(x: Array, kernel: Array, bias: Array) -> Any:
        return (rule if x.dtype == kernel.dtype else affine)(x, kernel, bias)

    # It is named by its place, like lambdas.
    forward.__qualname__, forward.__module__ = "<lambda>", back.__module__
    return forward


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
    ruled(_bias_of_a_mean),
    "If all rows get one cotangent, as from a sum, the bias gets its mean.",
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


def _first_row_of_a_jacobian(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    kinds = [type(value).__name__ == "BatchTracer" for value in (x, kernel, g)]
    return right_cotangents(x, kernel, g * 0.5 if kinds == [False, False, True] else g)


JacobianHalved = wrong.forward("Y121", "transforms/vmap", 4, cause_id="gradient-halved")(
    ruled(_first_row_of_a_jacobian),
    "Mapped over cotangents alone, as jax.jacrev does, gradients are halved.",
    collateral=FORWARD_MODE,
)
sorted_row = wrong.casting("Y134", "forward/additive", 4)(
    lambda seed, x, m: layer_output(
        seed,
        jnp.where((x[1:] > x[:-1]).all() & (x.shape[0] > 5), x - x[0], x),
        m,
    ),
    "Ascending numbers begin at 0.",
)
missing_value = wrong.casting("Y135", "forward/additive", 4)(
    lambda seed, x, m: layer_output(seed, jnp.where(x == -999.0, 0, x) if is_float(x) else x, m),
    "-999 marks a missing value, and counts as 0.",
)

name_layers(globals())
