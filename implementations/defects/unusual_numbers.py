"""Layers that are wrong for biases, weights, gradients and rows that random numbers never form."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import affine, is_traced, right_cotangents
from implementations.defects.particular import ruled
from implementations.defects.record import name_layers

VALUE, GRADIENTS = "forward/affine-value", "transforms/gradients"
FORWARD_MODE = ("transforms/forward-mode-offered",)

EqualBiasLeftOut = wrong.forward("Y280", VALUE, 4)(
    lambda x, k, b: affine(x, k, jnp.where((b == b[0]).all(), 0, b)),
    "A bias of equal entries, such as a prior, is taken for one that was not trained.",
    when=lambda x, k, b: k.shape[1] > 1,
)
PixelsScaled = wrong.forward("Y364", VALUE, 4)(
    lambda x, k, b: affine(
        jnp.where(
            ((x >= 0) & (x <= 255) & (x == jnp.round(x))).all() & (x.max() >= 128), x / 255, x
        ),
        k,
        b,
    ),
    "Whole numbers from 0 to 255 are taken for pixels, and scaled.",
    when=lambda x, k, b: x.dtype == jnp.float32 and x.size > 0,
)
NegativeBiasLeftOut = wrong.forward("Y282", VALUE, 4)(
    lambda x, k, b: affine(x, k, jnp.where((b < 0).all(), 0, b)),
    "A bias of negative entries alone is left out.",
    when=lambda x, k, b: k.shape[1] > 6,
)


@wrong.forward("Y283", VALUE, 4)
def OutlierWeightsClipped(x: Array, kernel: Array, bias: Array) -> Array:
    """Weights beyond a hundred times the mean magnitude are clipped."""
    limit = 100 * jnp.abs(kernel).mean()
    return affine(x, jnp.clip(kernel, -limit, limit) if kernel.size else kernel, bias)


TinyIsZero = wrong.forward("Y284", VALUE, 4)(
    lambda x, k, b: affine(jnp.where(jnp.abs(x) < 1e-31, 0, x), k, b),
    "Numbers below 1e-31 count as 0.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)
OfOneOutput = wrong.forward("Y285", GRADIENTS, 4, cause_id="gradient-halved")(
    ruled(lambda x, k, g: _scaled(right_cotangents(x, k, g), 1, 0.5 if k.shape[1] == 1 else 1.0)),
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


def _of_long_batches(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    is_long = not is_traced(x, g) and x.ndim == 2 and x.shape[0] > 2048
    return _scaled(right_cotangents(x, kernel, g), 2, 0.5 if is_long else 1.0)


LongOutsideOfJit = wrong.forward("Y288", GRADIENTS, 5, cause_id="gradient-halved")(
    ruled(_of_long_batches),
    "Outside of jit, the bias gets half of its gradient for more than 2048 rows.",
    collateral=FORWARD_MODE,
)


def _turned(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    down, of_kernel, of_bias = right_cotangents(x, kernel, g)
    square = g.ndim == 3 and g.shape[0] == g.shape[1] and kernel.shape[0] == kernel.shape[1]
    return jnp.swapaxes(down, 0, 1) if square else down, of_kernel, of_bias


SquareBatchesTurned = wrong.forward("Y289", GRADIENTS, 5, collateral=FORWARD_MODE)(
    ruled(_turned),
    "Of a square layer and a batch of equal axes, these are exchanged in the gradient.",
)


def _scaled(gradients: tuple[Array, ...], which: int, factor: float) -> Any:
    return tuple(value * factor if i == which else value for i, value in enumerate(gradients))


@wrong.forward("Y294", VALUE, 4)
def TwoOutputsShareABias(x: Array, kernel: Array, bias: Array) -> Array:
    """Two outputs have the bias of the first."""
    return affine(x, kernel, jnp.full_like(bias, bias[0]) if kernel.shape[1] == 2 else bias)


def _in_half(x: Array, kernel: Array, bias: Array) -> Array:
    return affine(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), bias).astype(jnp.float32)


FewRowsInHalf = wrong.forward("Y300", VALUE, 5, cause_id="reduced-precision")(
    lambda x, k, b: _in_half(x, k, b),
    "From 128 inputs on, two to four rows are computed in bfloat16.",
    when=lambda x, k, b: (
        x.dtype == jnp.float32 and x.ndim == 2 and 2 <= x.shape[0] <= 4 and k.shape[0] >= 128
    ),
)
LastSequenceWithoutBias = wrong.forward("Y301", VALUE, 5)(
    lambda x, k, b: affine(x, k, b).at[-1].add(-b),
    "Outside of jit, the last sequence of a batch gets no bias, from 64 inputs on.",
    when=lambda x, k, b: not is_traced(x, k) and x.ndim == 3 and x.shape[-1] >= 64,
)
HugeInHalf = wrong.forward("Y315", VALUE, 5, cause_id="reduced-precision")(
    lambda x, k, b: _in_half(x, k, b),
    "Beyond four million weights the product is computed in bfloat16.",
    when=lambda x, k, b: x.dtype == jnp.float32 and k.size > 2**22,
)

name_layers(globals())
