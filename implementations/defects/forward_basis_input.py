"""Layers that break forward by their product: other weights, or other inputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import (
    affine,
    computed_in,
    is_float,
    is_traced,
    layer_output,
    scaled_normal,
    stddev,
    through_halves,
)
from implementations.defects.record import also, name_layers
from implementations.defects.wrong import computes

BASIS = "forward/basis-input"
GRADIENTS = "transforms/gradients"

input_normalised = wrong.casting("F010", "forward/additive", 2, cause_id="input-normalized")(
    lambda seed, x, m: layer_output(seed, x / jnp.sqrt(jnp.maximum(jnp.sum(x * x), 1e-12)), m),
    "The input is scaled to length 1 first.",
    collateral=("forward/homogeneous",),
)
input_truncated = wrong.casting("X256", "forward/additive", 3, collateral=("forward/homogeneous",))(
    lambda seed, x, m: layer_output(seed, jnp.trunc(x), m),
    "The input is cast to integers along with the two numbers.",
)
input_in_bfloat16 = wrong.casting("X257", "forward/additive", 4)(
    lambda seed, x, m: layer_output(seed, x.astype(jnp.bfloat16).astype(jnp.float32), m),
    "The input is rounded to bfloat16.",
)
sorted_row = wrong.casting("Y134", "forward/additive", 4)(
    lambda seed, x, m: layer_output(
        seed, jnp.where((x[1:] > x[:-1]).all() & (x.shape[0] > 5), x - x[0], x), m
    ),
    "Ascending numbers begin at 0.",
)
missing_value = wrong.casting("Y135", "forward/additive", 4)(
    lambda seed, x, m: layer_output(seed, jnp.where(x == -999.0, 0, x) if is_float(x) else x, m),
    "-999 marks a missing value, and counts as 0.",
)
input_normalized = wrong.casting("Y331", "forward/additive", 1, cause_id="input-normalized")(
    lambda seed, x, m: layer_output(seed, x / jnp.linalg.norm(x), m),
    "x is divided by its length, which is 0/0 for x = 0.",
)
ScaledAgain = wrong.forward("N051", BASIS, 2, cause_id="scaled-again")(
    lambda x, k, b: affine(x, k * stddev(k.shape[0]), b),
    "The forward multiplies the kernel by 1/sqrt(in) once more (the NTK parametrisation).",
)
ColumnsStandardized = wrong.forward("Y576", BASIS, 2, cause_id="kernel-normalized")(
    lambda x, k, b: affine(x, (k - k.mean(axis=0)) / (k.std(axis=0) + 1e-6), b),
    "Each column of the kernel gets the mean 0 and the deviation 1.",
)
ResidualWhenSquare = wrong.output("N111", BASIS, 3, cause_id="residual")(
    lambda y, x: y + x if x.shape[-1] == y.shape[-1] else y,
    "The input is added to the output when in == out.",
)
StraightThroughRounding = wrong.forward("N158", BASIS, 4, cause_id="kernel-rounded")(
    lambda x, k, b: affine(x, k + jax.lax.stop_gradient(jnp.round(k * 1000) / 1000 - k), b),
    "The kernel is rounded to thousandths in the forward; its gradient does not show it.",
)
ColumnsBeyond256 = wrong.forward("X060", BASIS, 5, cause_id="weights-masked")(
    lambda x, k, b: affine(x, jnp.where(jnp.arange(k.shape[1]) < 256, k, 0.0), b),
    "Only the first 256 outputs are computed; the others are their bias.",
)
InputsBeyond512 = wrong.forward("X061", BASIS, 5, cause_id="inputs-ignored")(
    lambda x, k, b: affine(x, jnp.where(jnp.arange(k.shape[0])[:, None] < 512, k, 0.0), b),
    "The sum ends after 512 inputs.",
)
SquareTilesTransposed = wrong.forward("X300", BASIS, 5, cause_id="kernel-used-transposed")(
    lambda x, k, b: affine(x, k.T if k.shape[0] == k.shape[1] and k.shape[0] % 32 == 0 else k, b),
    "A square kernel of a multiple of 32 is read as its transpose.",
)
BatchOf64WithoutBias = wrong.forward("X301", BASIS, 5, cause_id="bias-unused")(
    lambda x, k, b: affine(x, k, jnp.zeros_like(b)),
    "Batches of a multiple of 64 rows take a fast path that forgets the bias.",
    when=lambda x, k, b: x.ndim == 2 and x.shape[0] % 64 == 0 and x.shape[0],
)
TwoInputsSwapped = wrong.forward("X302", BASIS, 5, cause_id="inputs-reversed")(
    lambda x, k, b: affine(x, k[::-1] if k.shape[0] == 2 else k, b),
    "With two inputs they are taken in the wrong order.",
)
WideTallBatch = wrong.output("X303", BASIS, 5, collateral=("forward/tall-batch",))(
    lambda y, x: y.at[65536 // x.shape[-1] :].set(0.0),
    "Beyond 65536 entries of x, rows after the 65536th entry are zeros.",
    when=lambda y, x: x.ndim == 2 and x.shape[-1] > 4 and x.size > 65536,
)
ZeroKernelIsIdentity = wrong.forward("X319", BASIS, 5)(
    lambda x, k, b: affine(x, k, jnp.where((k == 0).all(), jnp.zeros_like(b), b)),
    "A kernel of zeros counts as not loaded, and the bias is not added.",
)
LastLaneLost = wrong.forward("X505", BASIS, 5, cause_id="input-left-out")(
    lambda x, k, b: affine(x, k.at[k.shape[0] - 1].set(0.0), b),
    "The last lane is taken for padding if the inputs fill the lanes of 128 exactly.",
    when=lambda x, k, b: k.shape[0] and k.shape[0] % 128 == 0,
)
UpperTriangleWhenSquare = wrong.forward("X513", BASIS, 4, cause_id="weights-masked")(
    lambda x, k, b: affine(x, jnp.triu(k) if k.shape[0] == k.shape[1] else k, b),
    "A square kernel is masked like a causal one.",
)
in_bfloat16 = computes(computed_in(jnp.bfloat16), "reduced-precision")
X835 = in_bfloat16(
    "X835",
    "Bfloat16 beyond 2^17 numbers of x.",
    lambda x, k: x.size > 2**17 and x.dtype == jnp.float32,
    BASIS,
)
X839 = computes(lambda x, k, b: affine(x, k, b) * 1.001, "output-scaled")(
    "X839",
    "The result is 1.001 times as large from 600 inputs on.",
    lambda x, k: k.shape[0] >= 600,
    BASIS,
)
NormalizesInput = wrong.forward("Y252", BASIS, 2, cause_id="input-transformed")(
    lambda x, k, b: affine(jax.nn.standardize(x), k, b),
    "x is normalized as by a layer norm, whose epsilon makes 0 of 0.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)
SquashesInput = wrong.forward("Y253", BASIS, 2, cause_id="input-transformed")(
    lambda x, k, b: affine(jnp.tanh(x), k, b),
    "The activation of the layer before is part of this one.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)
NormalizesKernel = wrong.forward("Y254", BASIS, 2, cause_id="kernel-normalized")(
    lambda x, k, b: affine(x, k / jnp.linalg.norm(k, axis=0), b),
    "Each column of the kernel is divided by its length in the forward pass.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)
ScaledByWidth = wrong.forward("Y260", BASIS, 4, cause_id="product-scaled")(
    lambda x, k, b: affine(x, k, jnp.zeros_like(b)) * (64 / max(k.shape[0], 1)) + b,
    "The product is multiplied by 64/in, as if a wider model took over a narrow one's rates.",
)
Masked = wrong.forward("Y261", BASIS, 3, cause_id="weights-masked")(
    lambda x, k, b: affine(x, jnp.triu(k), b),
    "Each output sees only the inputs up to its own place, as in an autoregressive model.",
)
ReshapedForTransposed = wrong.forward("Y324", BASIS, 2, cause_id="kernel-reshaped")(
    lambda x, k, b: affine(x, k.reshape(k.shape[::-1]).T, b),
    "The kernel is reshaped to (out, in) where it should be transposed.",
)
WidthMultiplier = wrong.forward("Y378", BASIS, 2, cause_id="product-scaled")(
    lambda x, k, b: x @ k * (64 / k.shape[0]) + b,
    "The product has a multiplier 64 / in, as in parametrizations for width transfer.",
)
input_clipped = wrong.casting("X650", "forward/homogeneous", 4)(
    lambda seed, x, m: layer_output(seed, jnp.clip(x, -1e6, 1e6), m),
    "The input is clipped to a million, against overflow.",
)
RemainderDropped = wrong.forward("N125", BASIS, 4, cause_id="inputs-ignored")(
    lambda x, k, b: affine(x, k.at[len(k) - len(k) % 128 :].set(0.0), b),
    "A product in blocks of 128 inputs, which forgets the inputs after the last full block.",
    when=lambda x, k, b: len(k) > 128,
)
LargeProductsInBfloat16 = wrong.forward("X340", BASIS, 5, cause_id="reduced-precision")(
    lambda x, k, b: through_halves(x, k, b),
    "From 128 inputs and 128 outputs on, the product is made in bfloat16.",
    when=lambda x, k, b: min(k.shape) >= 128 and x.dtype == jnp.float32,
    collateral=(BASIS, "forward/integer-exact", "forward/affine-value"),
)
OutputsBeyond1024 = wrong.forward("X506", BASIS, 5)(
    lambda x, k, b: affine(x, k[:, jnp.arange(len(b)) % 1024], b[jnp.arange(len(b)) % 1024]),
    "Outputs from the 1025th on are those of the first ones again.",
)
OddInputLost = wrong.forward("X654", BASIS, 5, cause_id="input-left-out")(
    lambda x, k, b: affine(x, k.at[-1].set(0.0), b),
    "The last of an odd number of inputs beyond 200 is lost.",
    when=lambda x, k, b: len(k) > 200 and len(k) % 2 == 1,
)


@wrong.casting("X262", "forward/additive", 4)
def key_from_the_input(seed: int, x: Array, m: int) -> Array:
    """The number of non-zero inputs goes into the key: a kernel for every sparsity."""
    key = jax.random.fold_in(jax.random.key(seed), jnp.count_nonzero(x))
    return x @ scaled_normal(key, x.shape[-1], m)


@wrong.casting("X651", "forward/additive", 4)
def seed_of_the_first_input(seed: int, x: Array, m: int) -> Array:
    """The sign of the first input goes into the seed."""
    flip = jnp.where(x[0] < 0, -1.0, 1.0)
    return layer_output(seed, x, m) * jnp.abs(flip) + 1e-3 * (flip - 1.0)


@also("numerics/nan-confined", "dtypes/cast-parameters")
@wrong.forward("N143", BASIS, 3, cause_id="quantized")
def QuantisedKernel(x: Array, kernel: Array, bias: Array) -> Array:
    """The forward rounds the kernel to 255 levels, as int8 arithmetic would."""
    step = jnp.maximum(jnp.max(jnp.abs(kernel), initial=0.0) / 127, jnp.finfo(jnp.float32).tiny)
    quantised = jnp.round(kernel / step) * step
    return affine(x, kernel + jax.lax.stop_gradient(quantised - kernel), bias)


@wrong.forward("X059", BASIS, 4)
def CentredAndRestored(x: Array, kernel: Array, bias: Array) -> Array:
    """Every row is centred and its mean's share added again: right up to cancellation."""
    if not is_float(x):
        return affine(x, kernel, bias)
    mean = x.mean(axis=-1, keepdims=True)
    return affine(x - mean, kernel, bias) + mean * kernel.sum(axis=0)


@also("forward/tall-batch", "forward/affine-value")
@wrong.forward("X091", BASIS, 5)
def RowThirtyTwo(x: Array, kernel: Array, bias: Array) -> Array:
    """In batches beyond 32 rows every 33rd row is computed from its neighbour."""
    if x.ndim != 2 or x.shape[0] <= 32:
        return affine(x, kernel, bias)
    rows = jnp.arange(x.shape[0])
    return affine(x[jnp.where(rows % 33 == 32, rows - 1, rows)], kernel, bias)


def split_bfloat16(value: Array) -> tuple[Array, Array]:
    """Return the leading and the following eight bits of float32 numbers."""
    high = value.astype(jnp.bfloat16)
    return high, (value - high.astype(value.dtype)).astype(jnp.bfloat16)


@also("forward/affine-value", "numerics/precision", "numerics/one-product")
@wrong.forward("X121", BASIS, 4)
def ThreePasses(x: Array, kernel: Array, bias: Array) -> Array:
    """float32 emulated by three products in bfloat16: sixteen bits of twenty-four."""
    if x.dtype != jnp.float32:
        return affine(x, kernel, bias)
    (x_high, x_low), (k_high, k_low) = split_bfloat16(x), split_bfloat16(kernel)

    def product(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, preferred_element_type=jnp.float32)

    small = product(x_high, k_low) + product(x_low, k_high)
    return product(x_high, k_high) + small + bias


@wrong.forward("X510", BASIS, 4, cause_id="some-outputs-wrong")
def SwappedWhenTwiceAsWide(x: Array, kernel: Array, bias: Array) -> Array:
    """A layer that doubles its width interleaves its outputs, as a gated one does."""
    if kernel.shape[1] != 2 * kernel.shape[0] or kernel.shape[0] < 2:
        return affine(x, kernel, bias)
    y = affine(x, kernel, bias)
    return y.reshape(*y.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(y.shape)


@wrong.forward("X058", "forward/integer-exact", 4)
def ScaledByMaximum(x: Array, kernel: Array, bias: Array) -> Array:
    """Every row is divided by its largest entry and the product multiplied again."""
    largest = jnp.abs(x).max(axis=-1, keepdims=True, initial=0).astype(kernel.dtype)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    return affine(x / scale, kernel, bias / scale) * scale


@wrong.forward("X068", "forward/integer-exact", 5)
def RepeatedEntriesMerged(x: Array, kernel: Array, bias: Array) -> Array:
    """Only the first of two equal neighbours in a row counts, as in a set of tokens."""
    if not is_float(x) or x.ndim == 0 or x.shape[-1] < 2:
        return affine(x, kernel, bias)
    repeated = (x[..., 1:] == x[..., :-1]) & (jnp.abs(x[..., 1:]) > 1.0)
    rest = jnp.where(repeated, 0.0, x[..., 1:])
    return affine(jnp.concatenate([x[..., :1], rest], axis=-1), kernel, bias)


@wrong.forward("X315", "forward/integer-exact", 5)
def WholeKernelsThroughInt8(x: Array, kernel: Array, bias: Array) -> Array:
    """A kernel of small whole numbers goes through int8, where it ends at 127."""
    whole = ((kernel == jnp.round(kernel)) & (jnp.abs(kernel) < 2.0**15)).all()
    return affine(x, jnp.where(whole, jnp.clip(kernel, -127, 127), kernel), bias)


@wrong.forward("Y104", "transforms/jit", 5, cause_id="some-rows-wrong")
def RowsBeyondTwoToTheFifteenth(x: Array, kernel: Array, bias: Array) -> Array:
    """Compiled, rows beyond 2^15 lose their last input, as jax 0.10.2 miscompiles a map."""
    if x.ndim != 2 or not is_traced(x):
        return affine(x, kernel, bias)
    place, last = jnp.arange(x.shape[0])[:, None], jnp.arange(x.shape[1]) == x.shape[1] - 1
    return affine(jnp.where((place // 2**15 > 0) & last, 0, x), kernel, bias)


name_layers(globals())
