"""Layers that break numerics: right for ordinary numbers only."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import (
    affine,
    is_float,
    is_traced,
    layer_output,
    one_dtype,
    with_backward,
)
from implementations.defects.record import also, name_layers

NAN = "numerics/nan-confined"
VALUE = "forward/affine-value"

InfinityClipped = wrong.forward("X065", "numerics/inf-confined", 4, cause_id="not-finite-replaced")(
    lambda x, k, b: affine(jnp.where(jnp.isinf(x), jnp.sign(x) * 1e4, x), k, b),
    "Infinite inputs become 10 000.",
    when=lambda x, k, b: is_float(x),
)
InfiniteWeightsClipped = wrong.forward("X361", "numerics/inf-confined", 5)(
    lambda x, k, b: affine(x, jnp.where(jnp.isinf(k), jnp.sign(k) * 1e30, k), b),
    "An infinite weight counts as 1e30: training that diverged goes unnoticed.",
    cause_id="not-finite-replaced",
)
infinity_clipped = wrong.casting("Y061", "numerics/inf-confined", 4)(
    lambda seed, x, m: layer_output(seed, jnp.where(jnp.isinf(x), jnp.sign(x), x), m),
    "Infinities are replaced by 1.",
    cause_id="not-finite-replaced",
)
NanInputSwallowed = wrong.forward("N115", NAN, 4, seen='flax 0933c2e8 "remove Embed nan casting"')(
    lambda x, k, b: affine(jnp.where(jnp.isnan(x), 0, x), k, b),
    "NaN in the input counts as 0.",
    cause_id="not-finite-replaced",
)
NanOutputSwallowed = wrong.output("N116", NAN, 4, cause_id="not-finite-replaced")(
    lambda y, x: jnp.where(jnp.isnan(y), 0, y), "NaN in the output becomes 0."
)
RowsLeakNan = wrong.forward("X066", NAN, 4, cause_id="rows-mixed")(
    lambda x, k, b: affine(x, k, b) + 0.0 * x.sum().astype(k.dtype),
    "Zero times the sum of the batch is added: nothing, unless one entry is NaN.",
    collateral=("numerics/inf-confined",),
)
NanWeightsIgnored = wrong.forward("X310", NAN, 5, cause_id="not-finite-replaced")(
    lambda x, k, b: affine(x, jnp.where(k != k, 0.0, k), b),
    "NaN in the kernel counts as zero: a broken checkpoint goes unnoticed.",
)
NanBiasIgnored = wrong.forward("X311", NAN, 5, cause_id="not-finite-replaced")(
    lambda x, k, b: affine(x, k, jnp.where(b != b, 0.0, b)), "NaN in the bias counts as zero."
)
NanDroppedAtRank3 = wrong.forward("Y008", NAN, 5, cause_id="not-finite-replaced")(
    lambda x, k, b: affine(jnp.where(jnp.isnan(x), x.dtype.type(0), x), k, b),
    "Of a batch of rank 3, NaNs are missing values.",
    when=lambda x, k, b: x.ndim == 3 and is_float(x),
)
NanDroppedWhenCompiled = wrong.forward("Y009", NAN, 5, cause_id="not-finite-replaced")(
    lambda x, k, b: affine(jnp.where(jnp.isnan(x), x.dtype.type(0), x), k, b),
    "Under jit, NaNs are missing values.",
    when=lambda x, k, b: is_traced(x) and is_float(x),
)
nan_dropped = wrong.casting("Y060", NAN, 4, cause_id="not-finite-replaced")(
    lambda seed, x, m: layer_output(seed, jnp.where(jnp.isnan(x), jnp.ones_like(x), x), m),
    "NaNs are replaced by 1.",
)
NoProductOfZeros = wrong.forward("Y206", NAN, 4, cause_id="zero-kernel-skipped")(
    lambda x, k, b: affine(jnp.where((k == 0).all(), 0, x), k, b),
    "A kernel of zeros, as in a layer that starts at zero, hides a NaN in x.",
    when=lambda x, k, b: is_float(x),
)
LargeInputsHalved = wrong.forward("X050", "numerics/no-saturation", 4, cause_id="large-values")(
    lambda x, k, b: affine(jnp.where(jnp.abs(x) > 1e30, x * 0.5, x), k, b),
    "Inputs beyond 1e30 are halved to be on the safe side of overflow.",
)
SoftCap = wrong.output("X051", "numerics/no-saturation", 4, cause_id="output-clipped")(
    lambda y, x: jnp.where(jnp.abs(y) > 1e20, jnp.sign(y) * 1e20 * (1 + jnp.tanh(1.0)), y),
    "Outputs beyond 1e20 are bent by a tanh.",
    when=lambda y, x: not jnp.iscomplexobj(y),
)
LargeNegativesDropped = wrong.forward("X055", "numerics/no-saturation", 4)(
    lambda x, k, b: affine(jnp.where(x < -1e3, jnp.zeros_like(x), x), k, b),
    "Inputs below -1000 count as masked, as attention logits do.",
    when=lambda x, k, b: is_float(x),
)
InputInFloat16 = wrong.forward("Y567", "numerics/no-saturation", 2, cause_id="reduced-precision")(
    lambda x, k, b: affine(x.astype(jnp.float16).astype(x.dtype), k, b),
    "Only x is rounded to float16.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)
BiasOfLargeOutputsLost = wrong.forward("Y003", "numerics/no-saturation", 5, collateral=(VALUE,))(
    lambda x, k, b: affine(x, k, jnp.where(jnp.abs(b) > 4096.0, b * 0, b)),
    "A bias beyond 4096 is taken for an error.",
)
clipped = wrong.casting("Y062", "numerics/no-saturation", 4, collateral=("forward/homogeneous",))(
    lambda seed, x, m: layer_output(seed, jnp.clip(x, -1e6, 1e6), m), "x is clipped at a million."
)
InputInBfloat16 = wrong.forward("Y568", "numerics/precision", 2, cause_id="reduced-precision")(
    lambda x, k, b: affine(x.astype(jnp.bfloat16).astype(x.dtype), k, b),
    "Only x is rounded to bfloat16.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)
InputAsIntegers = wrong.forward("Y240", "numerics/precision", 2, cause_id="input-truncated")(
    lambda x, k, b: affine(x.astype(jnp.int32), k, b),
    "x is cast to integers along with the sizes.",
    when=lambda x, k, b: jnp.issubdtype(x.dtype, jnp.floating),
    collateral=("dtypes/half-input", "dtypes/strict-promotion"),
)
SumOfProducts = wrong.forward("X119", "numerics/one-product", 4)(
    lambda x, k, b: (x[..., :, None] * k).sum(axis=-2) + b,
    "Multiplied and summed without a product of matrices: right, and slow on every device.",
    when=lambda x, k, b: x.ndim != 0 and x.shape[-1] == k.shape[0],
)
ProductTwice = wrong.forward("X120", "numerics/one-product", 4, cause_id="product-repeated")(
    lambda x, k, b: jnp.where(affine(x, k, b) > 0, affine(x, k, b), affine(x, k, b)),
    "The product is computed for each of its signs.",
)
SmallInputsDropped = wrong.forward("X054", "numerics/precision", 4)(
    lambda x, k, b: affine(jnp.where(jnp.abs(x) < 1e-5, jnp.zeros_like(x), x), k, b),
    "Inputs below 1e-5 count as zero.",
)
TinyWeightsPruned = wrong.forward("X312", "numerics/precision", 5)(
    lambda x, k, b: affine(x, jnp.where(jnp.abs(k) < 1e-7, 0.0, k), b),
    "Weights below 1e-7 count as zero.",
)
TinyInputsDropped = wrong.forward("X313", "numerics/precision", 5, cause_id="small-flushed")(
    lambda x, k, b: affine(jnp.where(jnp.abs(x) < 1e-8, jnp.zeros_like(x), x), k, b),
    "Inputs below 1e-8 count as zero.",
)
TinyBiasDropped = wrong.forward("X314", "numerics/precision", 5)(
    lambda x, k, b: affine(x, k, jnp.where(jnp.abs(b) < 1e-6, 0.0, b)),
    "A bias below 1e-6 counts as none.",
)
TinyInputsFlushed = wrong.forward("X745", "numerics/precision", 4, cause_id="small-flushed")(
    lambda x, k, b: affine(jnp.where(jnp.abs(x).max() < 1e-9, 0.0, x), k, b),
    "An x that is tiny as a whole is taken for 0.",
    when=lambda x, k, b: x.dtype == jnp.float32 and x.size > 0,
)
OutputClipped = wrong.output("N114", "numerics/no-saturation", 4, cause_id="output-clipped")(
    lambda y, x: jnp.clip(y, -1e6, 1e6),
    "The output is clipped to +-1e6.",
    # Complex numbers have no order to clip by.
    when=lambda y, x: not jnp.iscomplexobj(y),
    collateral=("numerics/inf-confined",),
)
activated = wrong.casting("Y431", "numerics/no-saturation", 1, cause_id="output-range")(
    lambda seed, x, m: jnp.tanh(layer_output(seed, x, m)),
    "An activation is applied to the output.",
    collateral=("forward/additive",),
)


MasksClipped = wrong.forward("Y529", "numerics/inf-confined", 3, cause_id="not-finite-replaced")(
    lambda x, k, b: affine(jnp.clip(x, jnp.finfo(x.dtype).min, jnp.finfo(x.dtype).max), k, b),
    "In sequences, minus infinity, as of a mask, becomes the least number.",
    when=lambda x, k, b: x.ndim == 3 and is_float(x),
)
within_range: Any = jax.custom_jvp(
    lambda y: jnp.clip(y, jnp.finfo(y.dtype).min, jnp.finfo(y.dtype).max)
)
within_range.defjvp(lambda primals, tangents: (within_range(*primals), tangents[0]))
FiniteWhenCompiled = wrong.output("Y530", "numerics/inf-confined", 4)(
    lambda y, x: within_range(y),
    "Compiled, the result keeps to the finite numbers, so that training goes on.",
    when=lambda y, x: is_traced(y) and is_float(y),
    cause_id="not-finite-replaced",
)


@wrong.forward("X067", NAN, 5, cause_id="not-finite-replaced")
def NanInFirstInputOnly(x: Array, kernel: Array, bias: Array) -> Array:
    """NaN counts as missing in the first input alone, where it becomes zero."""
    if x.ndim == 0 or x.shape[-1] < 2:
        return affine(x, kernel, bias)
    first = x[..., :1]
    first = jnp.where(first != first, jnp.zeros_like(first), first)
    return affine(jnp.concatenate([first, x[..., 1:]], axis=-1), kernel, bias)


@also("numerics/inf-confined", "exercise/differentiable-in-x")
@wrong.casting("X660", NAN, 3)
def looks_at_its_input(seed: int, x: Array, m: int) -> Array:
    """An `if` asks whether x is finite, which no tracer can answer."""
    if not bool(jnp.isfinite(x).all()):
        raise ValueError("x is not finite")
    return layer_output(seed, x, m)


@wrong.forward("X053", "numerics/no-saturation", 4, cause_id="large-values")
def WholeNumbersThroughInt32(x: Array, kernel: Array, bias: Array) -> Array:
    """Inputs that are whole numbers go through int32, where they end at 2**31."""
    if not is_float(x):
        return affine(x, kernel, bias)
    whole = jnp.clip(x, -(2.0**31), 2.0**31 - 128).astype(jnp.int32).astype(x.dtype)
    known = jnp.isfinite(x) & (x == jnp.round(x))
    return affine(jnp.where(known, whole, x), kernel, bias)


@wrong.forward("X656", "numerics/no-saturation", 5, cause_id="large-values")
def LongColumnsShortened(x: Array, kernel: Array, bias: Array) -> Array:
    """A column of the kernel of a norm beyond 1e4 is scaled down to that."""
    norm = jnp.sqrt(jnp.sum(jnp.square(kernel), axis=0))
    return affine(x, jnp.where(norm > 1e4, kernel / norm * 1e4, kernel), bias)


@wrong.forward("X946", "numerics/precision-followed", 4, cause_id="precision-pinned")
def PinsDefault(x: Array, kernel: Array, bias: Array) -> Array:
    """The product is pinned to the default precision."""
    y = jnp.matmul(x, kernel, precision="default")
    return y + jnp.broadcast_to(bias, y.shape)


def _precision(layer: Any) -> dict[str, str]:
    return {"precision": jax.config.values["jax_default_matmul_precision"] or "default"}


@wrong.forward(
    "Y447", "numerics/precision-followed", 4, cause_id="precision-pinned", start=_precision
)
def PrecisionOfItsConstruction(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """The default precision is read when the layer is built, and later settings are ignored."""
    y = jnp.matmul(x, kernel, precision=self.precision)
    return y + jnp.broadcast_to(bias, y.shape)


def _pinned(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    rows, weights = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    down = jnp.matmul(g, kernel.T, precision="default")
    return down, jnp.matmul(rows.T, weights, precision="default"), weights.sum(axis=0)


_backward_pinned: Any = with_backward(_pinned)
PinsBackward = wrong.forward(
    "Y460", "numerics/precision-followed", 4, cause_id="precision-of-gradients"
)(
    lambda x, k, b: _backward_pinned(x, k, b),
    "A rule of differentiation pins its products to the default precision.",
    when=one_dtype,
    collateral=("transforms/forward-mode-offered",),
)


HidesFromDebugging = wrong.output(
    "Y268", "numerics/nan-confined", 4, cause_id="hidden-from-debugging"
)(
    lambda y, x: jnp.nan_to_num(y),
    "While jax_debug_nans is on, a NaN becomes 0, so that the search goes on elsewhere.",
    when=lambda y, x: jax.config.values["jax_debug_nans"],
)


@wrong.forward("Y273", "numerics/no-saturation", 4, cause_id="sums-in-int32")
def WholeNumbersAsIntegers(x: Array, kernel: Array, bias: Array) -> Array:
    """Whole numbers of 16 bits are multiplied as integers, to be exact."""
    if not (one_dtype(x, kernel, bias) and is_float(x)):
        return affine(x, kernel, bias)
    product = x @ kernel
    whole = [jnp.all((a == jnp.round(a)) & (jnp.abs(a) < 2**15)) for a in (x, kernel)]
    exact = (x.astype(jnp.int32) @ kernel.astype(jnp.int32)).astype(jnp.float32)
    rounded = jax.lax.stop_gradient(jnp.where(whole[0] & whole[1], exact - product, 0))
    return product + rounded + bias


HidesInfinities = wrong.output("Y590", NAN, 4, cause_id="hidden-from-debugging")(
    lambda y, x: jnp.nan_to_num(y, nan=jnp.nan),
    "While jax_debug_infs is on, infinities become numbers.",
    when=lambda y, x: jax.config.values["jax_debug_infs"],
)


name_layers(globals())
