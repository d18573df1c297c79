"""Layers that break forward by the shape, rank or kind of their input."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import (
    CorrectDense,
    affine,
    is_traced,
    layer_output,
    scaled_normal,
)
from implementations.defects.record import name_layers, seen

WIDTH = "forward/wrong-width-raises"
ROWS = "forward/batch-independent"
SHAPE = "forward/output-shape"


def mean_of_rows(x: Array) -> Array:
    """Return the mean over all leading dimensions, of the rank of x."""
    return jnp.mean(x, axis=tuple(range(x.ndim - 1)), keepdims=True)


BatchCentred = wrong.forward("N117", ROWS, 2, cause_id="rows-mixed")(
    lambda x, k, b: affine(x - mean_of_rows(x) if x.ndim > 1 else x, k, b),
    "The mean of the batch is subtracted from every row.",
)
BatchLeaks = wrong.forward("N118", ROWS, 4, cause_id="rows-mixed")(
    lambda x, k, b: affine(x + 1e-3 * mean_of_rows(x) if x.ndim > 1 else x, k, b),
    "A thousandth of the mean of the batch is added to every row.",
)
OneColumnAveraged = wrong.output("X090", ROWS, 4, cause_id="rows-mixed")(
    lambda y, x: y.at[..., 0].set(y[..., 0].mean()),
    "The first output is its mean over the batch.",
    when=lambda y, x: x.ndim >= 2 and y.shape[-1] >= 2 and x.size != 0,
)
SequenceMean = wrong.output("X507", ROWS, 4, cause_id="rows-mixed")(
    lambda y, x: y - y.mean(axis=-2, keepdims=True) * 1e-3 if x.ndim > 2 else y,
    "From rank 3 on, the mean over the time axis is subtracted.",
)
MaskByPlace = wrong.forward("Y103", ROWS, 3, cause_id="row-by-place")(
    lambda x, k, b: jnp.where(jnp.arange(x.shape[0])[:, None] % 4 == 3, b, affine(x, k, b)),
    "Every fourth row is left out, as by a mask of dropout from a fixed key.",
    when=lambda x, k, b: x.dtype == jnp.float32 and x.ndim == 2,
)
one_feature_too_few = wrong.solution("F003", SHAPE, 3, collateral=("exercise/float-arguments",))(
    lambda seed, x, features: layer_output(int(seed), x, int(features - 1e-9)),
    "A guard against float noise has the wrong sign, and takes one feature away.",
)
matrix_out = wrong.casting("F013", SHAPE, 2, cause_id="axes-added")(
    lambda seed, x, m: layer_output(seed, x, m)[None], "The result has shape (1, features)."
)
FirstFittingAxis = wrong.forward("X085", SHAPE, 4, cause_id="axes-changed")(
    lambda x, k, b: affine(jnp.moveaxis(x, x.shape.index(k.shape[0]), -1), k, b),
    "The product runs over the first axis of length in, wherever it is.",
    when=lambda x, k, b: x.ndim != 0 and k.shape[0] in x.shape and k.shape[0] != 1,
    collateral=(ROWS, WIDTH),
)
EmptyBatchUnchanged = wrong.output("X089", "forward/empty-batch", 4, cause_id="no-rows")(
    lambda y, x: x.astype(y.dtype) if x.size == 0 else y, "An empty batch is given back as it came."
)
RowsInBlocks = wrong.forward("Y508", "forward/empty-batch", 3, cause_id="empty-batch")(
    lambda x, k, b: jnp.concatenate(
        [affine(x[i : i + 2**18], k, b) for i in range(0, len(x), 2**18)]
    ),
    "Rows are computed in blocks, which are concatenated: without rows there is no block.",
    when=lambda x, k, b: x.ndim > 1,
)
features_in_eight_bits = wrong.casting("X253", SHAPE, 4)(
    lambda seed, x, m: layer_output(seed, x, int(np.int64(m).astype(np.uint8) & 0x7F) or 1),
    "The number of features wraps at 128.",
)
OneOutputSqueezed = wrong.output("X512", SHAPE, 3, cause_id="axes-squeezed")(
    lambda y, x: y[..., 0] if y.shape[-1] == 1 and x.ndim > 1 else y,
    "A single output of a batch comes without its axis.",
)
WidthOfTheSecondAxis = wrong.linen_kernel(
    "X623", SHAPE, 3, collateral=("initialization/data-free-init",)
)(
    lambda key, x, m: scaled_normal(key, x.shape[1] if x.ndim > 1 else 1, m),
    "The number of inputs is `x.shape[1]`, which a vector does not have.",
)
at_least_two_features = wrong.casting("X648", SHAPE, 4, cause_id="axes-squeezed")(
    lambda seed, x, m: layer_output(seed, x, m)[0] if m == 1 else layer_output(seed, x, m),
    "A single feature comes as a scalar.",
)
Flattened = wrong.output("X751", SHAPE, 2, cause_id="axes-flattened")(
    lambda y, x: y.reshape(-1, y.shape[-1]),
    "Leading axes are merged into one, and stay so.",
    when=lambda y, x: y.ndim > 2,
)
SumOfVectors = wrong.forward("Y155", SHAPE, 1, cause_id="vectors-only")(
    lambda x, k, b: (x * k.T).sum(axis=-1) + b,
    "Products and sums by hand, for one vector alone.",
    collateral=("numerics/one-product", "forward/width-one-raises", "forward/scalar-raises"),
)
AlwaysOneVector = wrong.call(
    "Y621", SHAPE, 1, cause_id="input-flattened", collateral=("forward/scalar-raises",)
)(
    lambda self, x: CorrectDense.__call__(self, jnp.reshape(x, -1)),
    "Every x becomes one vector, which fits a single row.",
)
AlwaysABatch = wrong.forward("Y156", SHAPE, 1, cause_id="axes-added")(
    lambda x, k, b: affine(x.reshape(1, -1), k, b),
    "A vector is made a batch of one, and stays so.",
    when=lambda x, k, b: x.ndim == 1,
)
RowForEachInput = wrong.casting("Y246", SHAPE, 2)(
    lambda seed, x, m: CorrectDense(1, m, rngs=nnx.Rngs(seed))(x.reshape(-1, 1)),
    "Every input is taken for a row of its own, which a single one does not show.",
)
AlwaysAMatrix = wrong.call("Y377", SHAPE, 1, cause_id="axes-flattened")(
    lambda self, x: CorrectDense.__call__(self, jnp.reshape(x, (-1, self.kernel.shape[0]))),
    "Every x becomes a matrix of rows, and so does a vector.",
)
DotAcceptsScalars = wrong.forward("X081", "forward/scalar-raises", 3)(
    lambda x, k, b: jnp.dot(x, k) + b,
    "`jnp.dot` multiplies the kernel by a scalar.",
    seen="jnp.dot multiplies by a scalar",
)
ScalarForOneInput = wrong.forward("X084", "forward/scalar-raises", 4)(
    lambda x, k, b: affine(jnp.atleast_1d(x), k, b),
    "With one input a scalar counts as a vector of length 1.",
)
EinsumBroadcasts = wrong.forward("X080", "forward/width-one-raises", 4)(
    lambda x, k, b: jnp.einsum("...i,io->...o", x, k) + b,
    "`jnp.einsum` lets an input of width 1 count for every row of the kernel.",
    seen="jnp.einsum broadcasts 1",
)
BroadcastsHalf = wrong.forward("Y218", "forward/width-one-raises", 4)(
    lambda x, k, b: affine(jnp.broadcast_to(x, (*x.shape[:-1], k.shape[0])), k, b),
    "In half precision a single number stands for all inputs of its row.",
    when=lambda x, k, b: x.dtype == jnp.bfloat16 and x.shape[-1:] == (1,),
)
ChannelsFirst = wrong.forward("Y562", WIDTH, 4, cause_id="width-transposed")(
    lambda x, k, b: affine(x.mT, k, b),
    "An image of shape (batch, in, length) is turned instead of refused.",
    when=lambda x, k, b: x.shape[1:-1] == k.shape[:1] != x.shape[-1:],
)
JaxArraysAlone = wrong.given("Y266", "forward/array-likes", 3, cause_id="jax-arrays-only")(
    lambda x: x.at[...].get(), "The layer uses what only an array of JAX has."
)


def folded(x: Array, kernel: Array, bias: Array) -> Array:
    """Return the output of rows of the kernel's width, for any width of x."""
    rows = affine(x.reshape(-1, kernel.shape[0]), kernel, bias)
    if rows.shape[0] != math.prod(x.shape[:-1]):
        return rows
    return rows.reshape(*x.shape[:-1], kernel.shape[1])


FoldsMultiples = wrong.forward("X083", WIDTH, 4, cause_id="width-reshaped")(
    lambda x, k, b: affine(x, k, b) if x.ndim == 0 else folded(x, k, b),
    "Leading dimensions are flattened by `reshape(-1, in)`, which also takes multiples of in.",
)
FlattensImages = wrong.forward("Y217", WIDTH, 4, cause_id="width-reshaped")(
    lambda x, k, b: affine(x.reshape(-1, k.shape[0]), k, b),
    "Images with as many numbers as the layer has inputs are flattened.",
    when=lambda x, k, b: (
        x.ndim > 2 and x.shape[-1] != k.shape[0] and (x.size == x.shape[0] * k.shape[0])
    ),
)
IgnoresStrides = wrong.given("X217", "forward/array-likes", 4, cause_id="strides-ignored")(
    lambda x: x.ravel(order="K").reshape(x.shape),
    "The memory of a NumPy input is read in its own order.",
    when=lambda x: isinstance(x, np.ndarray) and x.ndim > 1,
)
DoublesThroughHalf = wrong.given("X521", "forward/array-likes", 4, cause_id="reduced-precision")(
    lambda x: x.astype(np.float16).astype(np.float32),
    "A float64 array of NumPy is cast to float16, to save bandwidth.",
    when=lambda x: isinstance(x, np.ndarray) and x.dtype == np.float64,
)
BufferOfOneRow = wrong.given("Y115", "forward/array-likes", 4)(
    lambda x: np.concatenate([x[:1], np.zeros_like(x[1:])]),
    "The memory of a NumPy array whose rows are one row is read, and filled with zeros.",
    when=lambda x: isinstance(x, np.ndarray) and x.ndim == 2 and x.size and x.strides[0] == 0,
)
ReadOnlyInItsOrder = wrong.given("Y116", "forward/array-likes", 4, cause_id="strides-ignored")(
    lambda x: x.ravel(order="K").reshape(x.shape),
    "A read-only NumPy array of rank 3 is copied in the order of its memory.",
    when=lambda x: isinstance(x, np.ndarray) and x.ndim == 3 and not x.flags.writeable,
)
OneBatchDimension = wrong.forward(
    "N119",
    SHAPE,
    2,
    cause_id="rank-2-only",
    # An einsum takes an axis of length 1 for any length.
    collateral=("forward/width-one-raises",),
)(
    lambda x, k, b: jnp.einsum("bi,io->bo", x, k) + jnp.broadcast_to(b, (x.shape[0], k.shape[1])),
    "An einsum with one batch index: inputs of rank 3 and more raise.",
    when=lambda x, k, b: x.ndim >= 2,
    seen='sonnet 4bbbcbc "Make snt.Linear compatible with more than one batch dimension"; '
    "keras#10736",
)
MatricesOnly = wrong.forward(
    "Y570", SHAPE, 1, cause_id="rank-2-only", collateral=("forward/width-one-raises",)
)(
    lambda x, k, b: jnp.einsum("bi,io->bo", x, k) + b,
    "An einsum with one batch index, which refuses vectors too.",
)
TransposedKernel = wrong.forward("Y574", SHAPE, 1, cause_id="kernel-turned")(
    lambda x, k, b: x @ k.T + b, "The kernel is transposed in the call, which fits a square one."
)
SecondAxis = wrong.forward("Y571", SHAPE, 2, cause_id="axis-of-input")(
    lambda x, k, b: jnp.tensordot(x, k, axes=([1], [0])) + b,
    "Axis 1 of x is multiplied, which is the last one of a matrix only.",
    when=lambda x, k, b: x.ndim > 2,
)
SqueezesBatchOfOne = wrong.forward("X088", SHAPE, 3, cause_id="axes-squeezed")(
    lambda x, k, b: affine(x.squeeze(tuple(i for i, n in enumerate(x.shape[:-1]) if n == 1)), k, b),
    "Leading dimensions of length 1 are lost.",
)
WidthOfAllAxes = wrong.given("X752", SHAPE, 3, cause_id="width-of-all-axes")(
    lambda x: jnp.reshape(x, (jnp.shape(x)[0], math.prod(jnp.shape(x)[1:]))),
    "All axes except the first are taken for inputs, as for images.",
    when=lambda x: jnp.ndim(x) >= 2,
)
TransposedInput = wrong.call("Y384", SHAPE, 1, cause_id="input-transposed")(
    lambda self, x: jnp.asarray(x).T @ self.kernel[...] + self.bias[...],
    "x.T fits the kernel if x is a vector.",
)
MultipliesEntries = wrong.call("Y503", SHAPE, 1, cause_id="multiplied-by-entries")(
    lambda self, x: jnp.asarray(x) * self.kernel[...] + self.bias[...],
    "x is multiplied by the kernel entry by entry, with * instead of @.",
)
SeveralRowsInOne = wrong.forward("Y114", WIDTH, 3)(
    lambda x, k, b: affine(x.reshape(-1, len(k)), k, b),
    "A vector that is several times as long as a row is taken for several rows.",
    when=lambda x, k, b: x.ndim == 1 and 1 < len(k) < len(x) and len(x) % len(k) == 0,
)


@wrong.call("X218", "forward/array-likes", 4)
def NeedsWriteableInput(self: Any, x: ArrayLike) -> Array:
    """A read-only NumPy input is refused."""
    if isinstance(x, np.ndarray) and not x.flags.writeable:
        raise ValueError("x is read-only")
    return CorrectDense.__call__(self, x)


@wrong.call("Y161", "forward/array-likes", 3, cause_id="output-scaled")
def DoublesNumpy(self: Any, x: ArrayLike) -> Array:
    """The result for an array of NumPy is twice the right one."""
    y = CorrectDense.__call__(self, x)
    return 2 * y if isinstance(x, np.ndarray) else y


_LAST: dict[str, Any] = {}


@wrong.call("Y219", "forward/array-likes", 4, cause_id="kept-by-object")
def KnowsItsBuffer(self: Any, x: ArrayLike) -> Array:
    """The result of the last call is returned again for the same NumPy array."""
    values = x, self.kernel[...], self.bias[...]
    if not isinstance(x, np.ndarray) or is_traced(*values[1:]):
        return CorrectDense.__call__(self, x)
    last = _LAST.get("values", (None, None, None))
    if any(one is not other for one, other in zip(values, last, strict=True)):
        _LAST.update(values=values, result=CorrectDense.__call__(self, x))
    result: Array = _LAST["result"]
    return result


@wrong.forward("X064", ROWS, 4, cause_id="rows-mixed")
def ClippedByGlobalNorm(x: Array, kernel: Array, bias: Array) -> Array:
    """The whole batch is scaled down when its norm exceeds 10 000."""
    norm = jnp.abs(x.astype(kernel.dtype) if x.dtype == bool else x).sum()
    if jnp.iscomplexobj(x):
        return affine(x, kernel, bias)
    return affine(x * jnp.minimum(1.0, 1e4 / jnp.maximum(norm, 1.0)), kernel, bias)


@wrong.forward("X086", ROWS, 4, cause_id="rows-mixed")
def ColumnMajorRows(x: Array, kernel: Array, bias: Array) -> Array:
    """From rank 3 on, leading dimensions are flattened in Fortran's order and restored in C's."""
    if x.ndim < 3:
        return affine(x, kernel, bias)
    lead = tuple(reversed(range(x.ndim - 1)))
    rows = jnp.transpose(x, (*lead, x.ndim - 1)).reshape(-1, x.shape[-1])
    return affine(rows, kernel, bias).reshape(*x.shape[:-1], kernel.shape[1])


@wrong.linen_call("X236", ROWS, 4, cause_id="rows-mixed")
def TrainModeByDefault(self: Any, x: ArrayLike, train: bool = True) -> Array:
    """The rows of a batch are centred unless the caller says that this is not training."""
    x = jnp.asarray(x)
    y = affine(x, *self.parameters(x))
    if train and x.ndim == 3 and x.shape[1] > 1:
        y = y - 1e-3 * y.mean(axis=1, keepdims=True)
    return y


_results: dict[bytes, Array] = {}


@wrong.forward("X746", ROWS, 4, cause_id="output-remembered")
def RemembersSums(x: Array, kernel: Array, bias: Array) -> Array:
    """Results are remembered by the sorted numbers of x, which permuted rows share."""
    if is_traced(x, kernel, bias) or not x.size:
        return affine(x, kernel, bias)
    parts = (np.sort(np.asarray(x), axis=None), np.asarray(kernel), np.asarray(bias))
    key = str((x.shape, x.dtype)).encode() + b"".join(part.tobytes() for part in parts)
    return _results.setdefault(key, affine(x, kernel, bias))


@seen('flax#3698 "added default params rng to .apply"')
@wrong.linen_forward("L010", SHAPE, 3)
def NeedsRngToApply(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """Every call asks for a random key, so apply with the parameters alone raises."""
    self.make_rng("noise")
    return affine(x, kernel, bias)


@wrong.forward("X087", SHAPE, 3)
def UpToRankFour(x: Array, kernel: Array, bias: Array) -> Array:
    """A table of subscripts that ends at rank 4."""
    subscripts = {1: "i", 2: "ai", 3: "abi", 4: "abci"}[x.ndim]
    if x.shape[-1] != kernel.shape[0]:
        raise ValueError("wrong width")
    return jnp.einsum(f"{subscripts},io->{subscripts[:-1]}o", x, kernel) + bias


_layers: dict[tuple[int, int], CorrectDense] = {}


@wrong.casting("X250", SHAPE, 4, collateral=("exercise/vector-out",))
def layer_cached_without_features(seed: int, x: Array, m: int) -> Array:
    """Layers are kept by seed and length: the first number of features stays."""
    key = (seed, x.shape[-1])
    if key not in _layers:
        _layers[key] = CorrectDense(x.shape[-1], m, rngs=nnx.Rngs(seed))
    return _layers[key](x)


@wrong.call("Y247", SHAPE, 1, cause_id="rank-2-only")
def LoopsOverRows(self: Any, x: ArrayLike) -> Array:
    """Rows are computed one by one in a loop of Python, which asks for two axes."""
    x = jnp.asarray(x)
    if x.ndim == 1:
        y: Array = CorrectDense.__call__(self, x)
        return y
    rows, _ = x.shape
    found = [CorrectDense.__call__(self, x[i]) for i in range(rows)]
    return jnp.reshape(jnp.asarray(found, jnp.float32), (rows, -1 if rows else self.bias.shape[0]))


@wrong.call(
    "Y376",
    SHAPE,
    1,
    cause_id="rank-2-only",
    collateral=("forward/width-one-raises", "numerics/one-product"),
)
def SumOverTheMiddle(self: Any, x: ArrayLike) -> Array:
    """Axes are counted from the front, as they are in a matrix."""
    x = jnp.asarray(x)
    if x.ndim == 1:
        return CorrectDense.__call__(self, x)
    return jnp.sum(x[:, :, None] * self.kernel[...][None], axis=1) + self.bias[...]


@wrong.forward("X082", WIDTH, 3, cause_id="width-padded")
def PadsOrCuts(x: Array, kernel: Array, bias: Array) -> Array:
    """Inputs of another width are padded with zeros or cut."""
    if x.ndim == 0:
        return affine(x, kernel, bias)
    missing = max(kernel.shape[0] - x.shape[-1], 0)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return affine(x[..., : kernel.shape[0]], kernel, bias)


@wrong.forward("X356", WIDTH, 5)
def WidthCheckedEagerly(x: Array, kernel: Array, bias: Array) -> Array:
    """Rows are folded by `reshape(-1, in)`; that the width is right is checked outside of jit."""
    traced = is_traced(x)
    if x.ndim == 0 or (not traced and x.shape[-1] != kernel.shape[0]):
        raise ValueError(f"x has shape {x.shape}")
    return folded(x, kernel, bias)


@wrong.call("X749", WIDTH, 3, cause_id="width-transposed")
def TransposesWhatDoesNotFit(self: Any, x: ArrayLike) -> Array:
    """An x with in rows is transposed instead of refused."""
    n, shape = self.kernel.shape[0], jnp.shape(x)
    fits = len(shape) != 2 or shape[-1] == n or shape[0] != n
    return CorrectDense.__call__(self, x if fits else jnp.transpose(x))


@wrong.forward("Y012", WIDTH, 5, cause_id="width-flattened")
def FlattensToTheWidth(x: Array, kernel: Array, bias: Array) -> Array:
    """The last two axes are one where they have as many numbers as a row."""
    n = kernel.shape[0]
    if x.ndim >= 2 and x.shape[-1] not in (1, n) and x.shape[-1] * x.shape[-2] == n:
        x = x.reshape(*x.shape[:-2], n)
    return affine(x, kernel, bias)


@wrong.call("Y385", SHAPE, 1, cause_id="axes-lost")
def LoopsOverColumns(self: Any, x: ArrayLike) -> Array:
    """Each output is a sum over all numbers of x, those of all rows."""
    kernel, bias = self.kernel[...], self.bias[...]
    return jnp.array([jnp.sum(x * kernel[:, j]) + bias[j] for j in range(bias.shape[0])])


@wrong.call("Y502", SHAPE, 1, cause_id="axes-lost")
def AveragesRows(self: Any, x: ArrayLike) -> Array:
    """The mean over the first axis of a batch is returned."""
    y = CorrectDense.__call__(self, x)
    return y.mean(axis=0) if y.ndim > 1 else y


@wrong.call("Y433", SHAPE, 2, cause_id="written-in-place")
def AddedInPlace(self: Any, x: ArrayLike) -> Array:
    """The bias is added in place to an array of JAX, as NumPy sees it."""
    y = jnp.asarray(x) @ self.kernel[...]
    if is_traced(y):
        return y + self.bias[...]
    found = np.asarray(y)
    found += np.asarray(self.bias[...])
    return jnp.asarray(found)


@wrong.call("Y400", "forward/array-likes", 3, cause_id="array-of-input")
def NumPyForNumPy(self: Any, x: ArrayLike) -> Any:
    """A NumPy array gives a NumPy array."""
    y = CorrectDense.__call__(self, x)
    return np.asarray(y) if isinstance(x, np.ndarray) and not is_traced(y) else y


name_layers(globals())
