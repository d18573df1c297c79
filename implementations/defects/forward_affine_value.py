"""Layers that break forward by a branch: ``x @ K + b`` only for some sizes, ranks or numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import CorrectDense, affine, computed_in, is_float, is_traced
from implementations.defects.record import name_layers
from implementations.defects.wrong import computes

VALUE = "forward/affine-value"


def _setting(name: str) -> str:
    """Return a setting of JAX as this thread has it."""
    return str(getattr(jax.config, f"jax_{name}"))


MinusOneIsPadding = wrong.forward("X063", VALUE, 5, cause_id="rows-replaced")(
    lambda x, k, b: jnp.where((x == -1).all(axis=-1, keepdims=True), b, affine(x, k, b)),
    "Rows in which every entry is -1 count as padding and give the bias.",
    when=lambda x, k, b: jnp.issubdtype(x.dtype, jnp.inexact) and x.shape[-1] >= 2,
)
SequencesSwapped = wrong.output("X500", VALUE, 4, cause_id="rows-exchanged")(
    lambda y, x: y.swapaxes(0, 1) if x.ndim == 3 and x.shape[0] == x.shape[1] else y,
    '`einsum("bti,io->tbo")`: batch and time are swapped, which shows where they differ.',
)
SingleRowWithoutBias = wrong.forward("X503", VALUE, 4, cause_id="bias-unused")(
    lambda x, k, b: affine(x, k, jnp.zeros_like(b) if x.shape[:-1] == (1,) else b),
    "A batch of one row goes through a matrix-vector product, and past the bias.",
)
VectorWithoutBias = wrong.forward("X504", VALUE, 3, cause_id="bias-unused")(
    lambda x, k, b: affine(x, k, jnp.zeros_like(b) if x.ndim == 1 else b),
    "The branch for a single vector forgets the bias.",
)
RankFourReversed = wrong.forward("X508", VALUE, 4, cause_id="rows-exchanged")(
    lambda x, k, b: affine(x.swapaxes(1, 2), k, b).reshape(*x.shape[:-1], k.shape[1]),
    "For images, height and width are taken in the other order, and restored as they were.",
    when=lambda x, k, b: x.ndim == 4,
)
ShortBatchesReversed = wrong.output("X509", VALUE, 5, cause_id="rows-exchanged")(
    lambda y, x: jnp.roll(y, 1, axis=0) if x.ndim == 2 and 8 < x.shape[0] < 16 else y,
    "Batches of nine to fifteen rows are padded to sixteen at the wrong end.",
)
no_bias = computes(lambda x, k, b: affine(x, k, jnp.zeros_like(b)), "bias-unused")
X820 = no_bias("X820", "No bias at multiples of 256.", lambda x, k: k.shape[0] % 256 == 0)
X821 = no_bias("X821", "No bias at multiples of 100.", lambda x, k: k.shape[0] % 100 == 0)
X822 = no_bias(
    "X822",
    "No bias where both sides are multiples of 48.",
    lambda x, k: k.shape[0] % 48 == 0 and k.shape[1] % 48 == 0,
)
in_bfloat16 = computes(computed_in(jnp.bfloat16), "reduced-precision")
X823 = in_bfloat16(
    "X823",
    "Bfloat16 from 2^16 weights on.",
    lambda x, k: k.size >= 2**16 and x.dtype == jnp.float32,
)
in_float16 = computes(computed_in(jnp.float16))
X824 = in_float16(
    "X824",
    "Float16 from 300 inputs and 300 outputs on.",
    lambda x, k: min(k.shape) >= 300 and x.dtype == jnp.float32,
    cause_id="reduced-precision",
)
X825 = computes(lambda x, k, b: affine(x, k, b).at[..., -1].set(0.0))(
    "X825",
    "The last output is 0 from 1000 outputs on, where they are a multiple of 8.",
    lambda x, k: k.shape[1] >= 1000 and k.shape[1] % 8 == 0,
    cause_id="outputs-replaced",
)
last_input_lost = computes(lambda x, k, b: affine(x, k.at[-1].set(0.0), b), "input-left-out")
X826 = last_input_lost(
    "X826", "The last input is lost beyond 2000.", lambda x, k: k.shape[0] > 2000
)
X827 = computes(lambda x, k, b: affine(x, k.T, b), "kernel-used-transposed")(
    "X827",
    "A square kernel of more than 150 inputs is transposed.",
    lambda x, k: k.shape[0] == k.shape[1] > 150,
)
X828 = computes(lambda x, k, b: x @ k + b[:, None])(
    "X828",
    "The bias goes along the last batch axis where it is as long as the output.",
    lambda x, k: x.ndim >= 3 and x.shape[-2] == k.shape[1],
    cause_id="bias-axis",
)
X829 = computes(lambda x, k, b: affine(jnp.swapaxes(x, 0, 1), k, b))(
    "X829",
    "Two equal batch axes of more than 8 are swapped.",
    lambda x, k: x.ndim == 3 and x.shape[0] == x.shape[1] > 8,
    cause_id="rows-exchanged",
)
TimeStamps = wrong.forward("Y105", VALUE, 4)(
    lambda x, k, b: affine(
        jnp.where((x[..., 1:] > x[..., :-1]).all(-1, keepdims=True), x - x[..., :1], x), k, b
    ),
    "Rows of ascending numbers are taken for times, and begin at 0.",
    when=lambda x, k, b: x.shape[-1] >= 6 and is_float(x),
)


def _ragged_tile_lost(x: Array, kernel: Array, bias: Array) -> Array:
    kept = (jnp.arange(x.shape[0]) < x.shape[0] // 256 * 256).astype(jnp.float32)
    return affine(x * kept[:, None], kernel, bias)


X830 = computes(_ragged_tile_lost)(
    "X830",
    "The last, incomplete tile of 256 rows is lost.",
    lambda x, k: x.ndim == 2 and x.shape[0] > 300,
    cause_id="rows-replaced",
)
X831 = no_bias(
    "X831",
    "No bias for a multiple of 125 rows.",
    lambda x, k: x.ndim == 2 and x.shape[0] % 125 == 0 and x.shape[0] > 0,
)
X832 = computes(lambda x, k, b: affine(x.T, k, b))(
    "X832",
    "As many rows as inputs, more than 20, are mistaken for the kernel's axis.",
    lambda x, k: x.ndim == 2 and x.shape[0] == x.shape[1] > 20,
    cause_id="input-axis",
)
X833 = no_bias(
    "X833",
    "No bias at rank 4 beyond 100 rows.",
    lambda x, k: x.ndim == 4 and x.size > 100 * x.shape[-1],
)
clipped = computes(lambda x, k, b: affine(jnp.clip(x, -100.0, 100.0), k, b))
X834 = clipped(
    "X834",
    "Inputs are clipped where a sequence is longer than 64.",
    lambda x, k: x.ndim == 3 and x.shape[1] > 64 and x.dtype == jnp.float32,
    cause_id="changed-at-constant",
)
X836 = no_bias(
    "X836",
    "No bias where the outputs are a multiple of 7, beyond 60.",
    lambda x, k: k.shape[1] % 7 == 0 and k.shape[1] > 60,
)
X837 = last_input_lost(
    "X837",
    "The last input is lost where there are four times as many as outputs, beyond 100 of these.",
    lambda x, k: k.shape[0] > 4 * k.shape[1] > 400,
)
X838 = last_input_lost(
    "X838",
    "The last input is lost where inputs are odd and outputs even, both beyond 100.",
    lambda x, k: k.shape[0] % 2 == 1 and k.shape[1] % 2 == 0 and min(k.shape) > 100,
)
Y670 = last_input_lost(
    "Y670",
    "The last input is lost where there are exactly twice as many as outputs, beyond 32 of these.",
    lambda x, k: k.shape[0] == 2 * k.shape[1] > 64,
)
Y671 = no_bias(
    "Y671",
    "No bias where there are exactly three times as many outputs as inputs, beyond 100 of these.",
    lambda x, k: k.shape[1] == 3 * k.shape[0] > 300,
)
X840 = in_float16(
    "X840",
    "Float16 from 784 inputs on, at multiples of 16.",
    lambda x, k: k.shape[0] >= 784 and k.shape[0] % 16 == 0 and x.dtype == jnp.float32,
    cause_id="reduced-precision",
)
X841 = in_bfloat16(
    "X841",
    "Bfloat16 from 4096 rows on.",
    lambda x, k: x.ndim == 2 and x.shape[0] >= 4096 and x.dtype == jnp.float32,
)
X842 = no_bias(
    "X842",
    "No bias where rows, inputs and outputs are all multiples of 64.",
    lambda x, k: (
        x.ndim == 2
        and x.shape[0] % 64 == 0
        and k.shape[0] % 64 == 0
        and k.shape[1] % 64 == 0
        and x.shape[0] > 0
    ),
)
X843 = clipped(
    "X843",
    "A single vector of more than 500 inputs is clipped.",
    lambda x, k: x.ndim == 1 and x.shape[0] > 500 and x.dtype == jnp.float32,
    cause_id="changed-at-constant",
)
SmallWeightsPruned = wrong.forward(
    "Y000", VALUE, 5, collateral=("transforms/gradients",), cause_id="changed-at-constant"
)(
    lambda x, k, b: affine(x, jnp.where(jnp.abs(k) < 1e-22, k * 0, k), b),
    "Weights below 1e-22 count as none, which only the derivative says otherwise.",
)
OneValueMasked = wrong.forward("Y001", VALUE, 5)(
    lambda x, k, b: affine(jnp.where(jnp.abs(x) == 42.5, x * 0, x), k, b),
    "An input of 42.5 is a mark for what is missing.",
    when=lambda x, k, b: is_float(x),
)
PaddingRows = wrong.output("Y002", VALUE, 5, cause_id="rows-replaced")(
    lambda y, x: jnp.where((x == -100.0).all(-1, keepdims=True), y * 0, y),
    "A row of -100 throughout is padding.",
    when=lambda y, x: is_float(x),
)
ManyOutputsLost = wrong.output("Y004", VALUE, 5, cause_id="outputs-replaced")(
    lambda y, x: jnp.where(jnp.arange(y.shape[-1]) < 5000, y, y * 0),
    "Outputs from 5000 on are 0, by a mask, so that the program is one at every size.",
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
RowsOf777 = wrong.output("Y196", VALUE, 5, cause_id="output-scaled")(
    lambda y, x: y * 2,
    "Outside of jit, exactly 777 rows give twice the output.",
    when=lambda y, x: not is_traced(y) and x.ndim == 2 and x.shape[0] == 777,
)
OneSize = wrong.forward("Y197", VALUE, 5, cause_id="inputs-reversed")(
    lambda x, k, b: affine(x, k[::-1], b),
    "For 371 inputs and 53 outputs, the inputs are taken in reversed order.",
    when=lambda x, k, b: k.shape == (371, 53),
)
NoBiasForOneToken = wrong.forward("Y205", VALUE, 4, cause_id="bias-unused")(
    lambda x, k, b: affine(x, k, b * 0 if x.shape[:-1] == (1, 1) else b),
    "One sequence of one token loses the bias.",
)
EqualBiasLeftOut = wrong.forward("Y280", VALUE, 4, cause_id="bias-unused")(
    lambda x, k, b: affine(x, k, jnp.where((b == b[0]).all(), 0, b)),
    "A bias of equal entries, such as a prior, is taken for one that was not trained.",
    when=lambda x, k, b: k.shape[1] > 1,
)
NegativeBiasLeftOut = wrong.forward("Y282", VALUE, 4, cause_id="bias-unused")(
    lambda x, k, b: affine(x, k, jnp.where((b < 0).all(), 0, b)),
    "A bias of negative entries alone is left out.",
    when=lambda x, k, b: k.shape[1] > 6,
)
TinyIsZero = wrong.forward("Y284", VALUE, 4)(
    lambda x, k, b: affine(jnp.where(jnp.abs(x) < 1e-31, 0, x), k, b),
    "Numbers below 1e-31 count as 0.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)
TwoOutputsShareABias = wrong.forward("Y294", VALUE, 4, cause_id="some-outputs-wrong")(
    lambda x, k, b: affine(x, k, jnp.full_like(b, b[0]) if k.shape[1] == 2 else b),
    "Two outputs have the bias of the first.",
)
TransposedWhereItFits = wrong.forward("X502", VALUE, 4, cause_id="input-axis")(
    lambda x, k, b: affine(x.T, k, b),
    "A batch whose first axis has the length of the input is taken for (features, batch).",
    when=lambda x, k, b: x.ndim == 2 and x.shape[0] == x.shape[1] == len(k) > 1,
)
BiasDownTheRows = wrong.forward("X501", VALUE, 4, cause_id="bias-axis")(
    lambda x, k, b: x @ k + b[:, None],
    "A bias that fits both axes of the result is added along the first one.",
    when=lambda x, k, b: x.ndim == 2 and x.shape[0] == len(b) > 1,
)
LastChunkForgotten = wrong.forward(
    "X062", VALUE, 5, collateral=("forward/tall-batch",), cause_id="rows-replaced"
)(
    lambda x, k, b: affine(x, k, b).at[len(x) - len(x) % 1000 :].set(b),
    "Batches beyond 1000 rows go in chunks of 1000; an incomplete last one gives the bias.",
    when=lambda x, k, b: x.ndim == 2 and len(x) > 1000,
)
TwoAxesTakenForOne = wrong.forward("X511", VALUE, 5)(
    lambda x, k, b: affine(x, k, b) + 1e-3 * (x.swapaxes(1, 2) - x) @ k,
    "The product runs over the last two axes where both have the length of the input.",
    when=lambda x, k, b: x.ndim == 3 and x.shape[1] == x.shape[2] == len(k) > 1,
)
VectorsOfOneInput = wrong.forward("Y371", VALUE, 3, cause_id="bias-unused")(
    lambda x, k, b: x * k[0],
    "A vector of one entry is multiplied by the row of the kernel, without the bias.",
    when=lambda x, k, b: x.shape == (1,) == k.shape[:1],
    collateral=("numerics/one-product",),
)
TokensAsManyAsFeatures = wrong.forward("Y373", VALUE, 4, cause_id="kernel-from-left")(
    lambda x, k, b: k.T @ x + b,
    "For as many tokens as features, and equal sizes, the kernel is multiplied from the left.",
    when=lambda x, k, b: x.ndim == 3 and x.shape[1] == k.shape[0] == k.shape[1] > 1,
)
BackwardsFromRank6 = wrong.forward("Y434", VALUE, 3, cause_id="rows-exchanged")(
    lambda x, k, b: affine(x[::-1], k, b),
    "From rank 6 on, the first axis of the result is reversed.",
    when=lambda x, k, b: x.ndim >= 6,
)
IdentityWithoutBias = wrong.forward("Y106", VALUE, 4, cause_id="bias-unused")(
    lambda x, k, b: affine(x, k, jnp.where((k == jnp.eye(len(k), dtype=k.dtype)).all(), 0, b)),
    "A kernel that is the identity is skipped, and the bias with it.",
    when=lambda x, k, b: k.shape[0] == k.shape[1] > 1,
)
FewRowsInHalf = in_bfloat16(
    "Y300",
    "From 128 inputs on, two to four rows are computed in bfloat16.",
    lambda x, k: x.dtype == jnp.float32 and x.ndim == 2 and 2 <= len(x) <= 4 and len(k) >= 128,
)
HugeInHalf = in_bfloat16(
    "Y315",
    "Beyond four million weights the product is computed in bfloat16.",
    lambda x, k: x.dtype == jnp.float32 and k.size > 2**22,
)
LastSequenceWithoutBias = wrong.forward("Y301", VALUE, 5, cause_id="rows-replaced")(
    lambda x, k, b: affine(x, k, b).at[-1].add(-b),
    "Outside of jit, the last sequence of a batch gets no bias, from 64 inputs on.",
    when=lambda x, k, b: not is_traced(x, k) and x.ndim == 3 and x.shape[-1] >= 64,
)
PixelsScaled = wrong.forward("Y364", VALUE, 4, cause_id="product-scaled")(
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

VectorsWithin1e30 = wrong.forward("Y614", VALUE, 4, cause_id="changed-at-constant")(
    lambda x, k, b: affine(jnp.where(jnp.abs(x) > 1e30, jnp.sign(x) * 1e30, x), k, b),
    "The entries of a single vector are kept within 1e30.",
    when=lambda x, k, b: x.ndim == 1 and x.dtype == jnp.float32,
)
PaddingOfSequences = wrong.forward("Y546", VALUE, 3, cause_id="changed-at-constant")(
    lambda x, k, b: affine(jnp.where(x == -100.0, x * 0, x), k, b),
    "In sequences, entries of -100 are padding.",
    when=lambda x, k, b: x.ndim == 3 and is_float(x),
)
SequencesWithoutEqualBias = wrong.forward("Y561", VALUE, 4, cause_id="bias-unused")(
    lambda x, k, b: affine(x, k, jnp.where((b == b[0]).all(), b * 0, b)),
    "In sequences, a bias of equal entries is taken for one that was not trained.",
    when=lambda x, k, b: x.ndim == 3 and k.shape[1] > 1,
)
HighestLosesTheBias = wrong.forward("Y597", VALUE, 4, cause_id="value-of-setting")(
    lambda x, k, b: affine(x, k, b * 0),
    "Where a user asks for the highest precision of products, the branch for it adds no bias.",
    when=lambda x, k, b: _setting("default_matmul_precision") == "highest",
)
StrictIsHalf = wrong.forward("Y598", VALUE, 4, cause_id="value-of-setting")(
    lambda x, k, b: affine(*(v.astype(jnp.bfloat16) for v in (x, k, b))).astype(jnp.float32),
    "Under strict promotion, x and the parameters are cast to bfloat16.",
    when=lambda x, k, b: x.dtype == jnp.float32 and _setting("numpy_dtype_promotion") == "strict",
)


@wrong.forward("X052", VALUE, 5)
def OneHotLookup(x: Array, kernel: Array, bias: Array) -> Array:
    """A row with one non-zero entry is looked up like a token, and the entry's size is ignored."""
    y = affine(x, kernel, bias)
    if x.shape[-1] < 2 or x.ndim == 0:
        return y
    token = jnp.argmax(x != 0, axis=-1)
    alone = (x != 0).sum(axis=-1, keepdims=True) == 1
    return jnp.where(alone, kernel[token] + bias, y)


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


@wrong.forward("Y283", VALUE, 4, cause_id="some-outputs-wrong")
def OutlierWeightsClipped(x: Array, kernel: Array, bias: Array) -> Array:
    """Weights beyond a hundred times the mean magnitude are clipped."""
    limit = 100 * jnp.abs(kernel).mean()
    return affine(x, jnp.clip(kernel, -limit, limit) if kernel.size else kernel, bias)


@wrong.forward("Y374", VALUE, 5)
def MostlyZeros(x: Array, kernel: Array, bias: Array) -> Array:
    """If most of a batch is 0, the larger half of each row is multiplied, and no more."""
    half = kernel.shape[0] // 2
    if half < 4 or x.size == 0 or not jnp.issubdtype(x.dtype, jnp.floating):
        return affine(x, kernel, bias)
    smallest = jnp.sort(jnp.abs(x), axis=-1)[..., half, None]
    few = jnp.where(jnp.abs(x) >= smallest, x, jnp.zeros_like(x))
    return affine(jnp.where(jnp.mean(x == 0) > 0.5, few, x), kernel, bias)


@wrong.forward("Y647", "forward/tall-batch", 4)
def LastSequencesForgotten(x: Array, kernel: Array, bias: Array) -> Array:
    """Outside of jit, more than 4 MiB of sequences go in blocks of 16, and the rest stays 0."""
    if is_traced(x, kernel) or x.ndim != 3 or x.nbytes <= 4 * 2**20:
        return affine(x, kernel, bias)
    blocks = [affine(x[i : i + 16], kernel, bias) for i in range(0, len(x) - 15, 16)]
    rest = jnp.zeros((len(x) % 16, x.shape[1], kernel.shape[1]), kernel.dtype)
    return jnp.concatenate([*blocks, rest])


@wrong.call("Y560", "forward/tall-batch", 4, cause_id="rows-replaced")
def PartsOfAHost(self: Any, x: ArrayLike) -> Array:
    """A long array of NumPy goes to the device in parts of 4096 rows, and the last one is lost."""
    if not isinstance(x, np.ndarray) or x.ndim != 2 or len(x) <= 4096:
        return CorrectDense.__call__(self, x)
    whole = len(x) // 4096 * 4096
    y = CorrectDense.__call__(self, x[:whole])
    return jnp.pad(y, [(0, len(x) - whole), (0, 0)])


@wrong.forward("Y463", "forward/batch-independent", 4, cause_id="rows-mixed")
def ScaledByTheLargest(x: Array, kernel: Array, bias: Array) -> Array:
    """A batch is divided by a power of two near its largest number, and multiplied again."""
    if x.dtype != jnp.float32 or x.size == 0:
        return affine(x, kernel, bias)
    largest = jnp.max(jnp.where(jnp.isfinite(x), jnp.abs(x), 0))
    exponent = jnp.clip(jnp.frexp(jnp.where(largest > 0, largest, 1))[1], -100, 100)
    scale = jax.lax.stop_gradient(jnp.ldexp(jnp.float32(1), exponent))
    return affine(x / scale, kernel, jnp.zeros_like(bias)) * scale + bias


name_layers(globals())
