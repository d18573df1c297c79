"""Faults of first attempts; each has a cause that no other fault has."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import (
    CorrectDense,
    affine,
    layer_output,
    normal,
    scaled_normal,
    stddev,
)
from implementations.defects.record import Defect, also, declaring, defect, name_layers

ScaleRoundedDown = wrong.kernel("Y320", "seeding/seeds-differ", 1, cause_id="kernel-zeros")(
    lambda key, n, m: normal(key, n, m) * (1 // jnp.sqrt(n)),
    "1 // sqrt(in) is 0, except for a single input.",
)
PowerForProduct = wrong.kernel("Y321", "construction/finite", 1, cause_id="root-of-negative")(
    lambda key, n, m: normal(key, n, m) ** (1 / jnp.sqrt(n)),
    "The draw is taken to the power 1/sqrt(in), which is NaN for negative numbers.",
)
ColumnsNormalized = wrong.kernel("Y322", "initialization/kernel-independence", 3)(
    lambda key, n, m: (lambda k: k / jnp.linalg.norm(k, axis=0))(normal(key, n, m)),
    "Every column of the new kernel is divided by its length.",
    cause_id="lines-normalized",
)
SymmetricWhereSquare = wrong.kernel("Y323", "initialization/kernel-independence", 3)(
    lambda key, n, m: (lambda k: jnp.tril(k) + jnp.tril(k, -1).T if n == m else k)(
        scaled_normal(key, n, m)
    ),
    "A square kernel is its lower half and the mirror image of that.",
    cause_id="kernel-symmetric",
)
ReshapedForTransposed = wrong.forward("Y324", "forward/basis-input", 2, cause_id="kernel-reshaped")(
    lambda x, k, b: affine(x, k.reshape(k.shape[::-1]).T, b),
    "The kernel is reshaped to (out, in) where it should be transposed.",
)


@wrong.init("Y325", "construction/only-two-parameters", 1, cause_id="parameter-integer")
def WidthInParam(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """The number of outputs is kept in an nnx.Param, and nnx.grad refuses integers."""
    CorrectDense.__init__(self, in_features, out_features, rngs=rngs)
    self.features = nnx.Param(jnp.array(out_features))


@wrong.call("Y326", "forward/zero-input", 2, cause_id="bias-twice")
def BiasAfterVmap(self: Any, x: ArrayLike) -> Array:
    """Each row gets the bias in vmap, and again after it."""
    x = jnp.asarray(x)
    if x.ndim == 1:
        return CorrectDense.__call__(self, x)
    y: Array = jax.vmap(lambda row: BiasAfterVmap.__call__(self, row))(x)
    return y + self.bias[...]


@also("state/graphdef-stable", "state/pickles")
@wrong.init("Y327", "forward/zero-input", 2, cause_id="stale-copy")
def ClosedOver(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """The forward closes over the arrays of construction."""
    CorrectDense.__init__(self, in_features, out_features, rngs=rngs)
    kernel, bias = self.kernel[...], self.bias[...]
    self.forward = lambda x, k, b: affine(x, kernel, bias)


@defect("Y328", "state/exact-state", 1, cause_id="parameter-hidden")
class DrawnInCall(nnx.Module):
    """The layer keeps its Rngs, and draws the kernel in the call."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.sizes, self.rngs = (in_features, out_features), rngs
        self.bias = nnx.Param(jnp.zeros((out_features,)))

    def __call__(self, x: ArrayLike) -> Array:
        kernel = scaled_normal(self.rngs.params(), *self.sizes)
        return affine(x, kernel, self.bias[...])


@also("forward/output-shape")
@defect("Y329", "construction/kernel-shape", 1, cause_id="operands-exchanged")
class MultipliedFromTheLeft(nnx.Module):
    """The kernel of shape (out, in) is multiplied from the left, which takes vectors only."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        drawn = jax.random.normal(rngs.params(), (out_features, in_features))
        self.kernel = nnx.Param(drawn * stddev(in_features))
        self.bias = nnx.Param(jnp.zeros((out_features,)))

    def __call__(self, x: ArrayLike) -> Array:
        return self.kernel[...] @ jnp.asarray(x) + self.bias[...]


@defect("Y375", "construction/kernel-shape", 1, cause_id="kernel-made-transposed")
class MadeTransposed(nnx.Module):
    """The kernel has the shape (out, in), and is used as if it were (in, out)."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        drawn = jax.random.normal(rngs.params(), (out_features, in_features))
        self.kernel = nnx.Param(drawn * stddev(in_features))
        self.bias = nnx.Param(jnp.zeros((out_features,)))

    def __call__(self, x: ArrayLike) -> Array:
        return jnp.asarray(x) @ self.kernel[...] + self.bias[...]


@wrong.call("Y376", "forward/output-shape", 1, cause_id="rank-2-only")
def SumOverTheMiddle(self: Any, x: ArrayLike) -> Array:
    """Axes are counted from the front, as they are in a matrix."""
    x = jnp.asarray(x)
    if x.ndim == 1:
        return CorrectDense.__call__(self, x)
    return jnp.sum(x[:, :, None] * self.kernel[...][None], axis=1) + self.bias[...]


@wrong.call("Y377", "forward/output-shape", 1, cause_id="axes-flattened")
def AlwaysAMatrix(self: Any, x: ArrayLike) -> Array:
    """Every x becomes a matrix of rows, and so does a vector."""
    return CorrectDense.__call__(self, jnp.reshape(x, (-1, self.kernel.shape[0])))


WidthMultiplier = wrong.forward("Y378", "forward/basis-input", 2, cause_id="product-scaled")(
    lambda x, k, b: x @ k * (64 / k.shape[0]) + b,
    "The product has a multiplier 64 / in, as in parametrizations for width transfer.",
)


@defect("Y379", "initialization/kernel-variance", 1, cause_id="law-truncated-normal-he")
class LinenByHe(nn.Module):
    """He's law, whose variance of few weights chance may hide."""

    features: int

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        kernel = self.param("kernel", nn.initializers.he_normal(), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return jnp.dot(x, kernel) + bias


def _to_int8(values: Array, axis: int) -> Array:
    step = jnp.abs(values).max(axis=axis, keepdims=True) / 127
    return jnp.round(values / jnp.where(step == 0, 1, step)) * step


class _RoundedToInt8(CorrectDense):
    """Rounds x and the kernel to 255 levels, and has the gradient of the rounding."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        return affine(_to_int8(x, -1), _to_int8(kernel, 0), bias)


RoundedToInt8 = declaring(
    _RoundedToInt8, Defect("Y334", "transforms/gradients", subtlety=1), product_error="2**-4"
)
mean_for_sum = wrong.casting("Y330", "exercise/recovered-kernel", 2)(
    lambda seed, x, m: layer_output(seed, x, m) / x.shape[-1],
    "The mean of the products is taken instead of their sum.",
    cause_id="law-normal-standard-deviation-fan-in-3-2",
)
input_normalized = wrong.casting("Y331", "forward/additive", 1, cause_id="input-normalized")(
    lambda seed, x, m: layer_output(seed, x / jnp.linalg.norm(x), m),
    "x is divided by its length, which is 0/0 for x = 0.",
)
columns_copied = wrong.casting("Y332", "exercise/recovered-kernel", 2, cause_id="lines-copied")(
    lambda seed, x, m: jnp.repeat(layer_output(seed, x, 1), m),
    "Every column of the kernel is drawn with the same key.",
)


@wrong.solution("Y333", "exercise/fixed-result", 1, cause_id="arguments-in-another-order")
def dense_forward(x: ArrayLike, seed: float, features: float) -> Array:
    """The function takes x first, and the exercise gives it the seed first."""
    return layer_output(int(seed), jnp.asarray(x), int(features))


name_layers(globals())
