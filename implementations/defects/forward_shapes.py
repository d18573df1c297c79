"""Layers that break forward by the shape, rank or kind of their input."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
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
from implementations.defects.record import also, defect, name_layers, seen

_layers: dict[tuple[int, int], CorrectDense] = {}


def mean_of_rows(x: Array) -> Array:
    """Return the mean over all leading dimensions, of the rank of x."""
    return jnp.mean(x, axis=tuple(range(x.ndim - 1)), keepdims=True)


def folded(x: Array, kernel: Array, bias: Array) -> Array:
    """Return the output of rows of the kernel's width, for any width of x."""
    rows = affine(x.reshape(-1, kernel.shape[0]), kernel, bias)
    if rows.shape[0] != math.prod(x.shape[:-1]):
        return rows
    return rows.reshape(*x.shape[:-1], kernel.shape[1])


BatchCentred = wrong.forward("N117", "forward/batch-independent", 2, cause_id="rows-mixed")(
    lambda x, k, b: affine(x - mean_of_rows(x) if x.ndim > 1 else x, k, b),
    "The mean of the batch is subtracted from every row.",
)
BatchLeaks = wrong.forward("N118", "forward/batch-independent", 4, cause_id="rows-mixed")(
    lambda x, k, b: affine(x + 1e-3 * mean_of_rows(x) if x.ndim > 1 else x, k, b),
    "A thousandth of the mean of the batch is added to every row.",
)
OneColumnAveraged = wrong.output("X090", "forward/batch-independent", 4, cause_id="rows-mixed")(
    lambda y, x: y.at[..., 0].set(y[..., 0].mean()),
    "The first output is its mean over the batch.",
    when=lambda y, x: x.ndim >= 2 and y.shape[-1] >= 2 and x.size != 0,
)
SequenceMean = wrong.output("X507", "forward/batch-independent", 4, cause_id="rows-mixed")(
    lambda y, x: y - y.mean(axis=-2, keepdims=True) * 1e-3 if x.ndim > 2 else y,
    "From rank 3 on, the mean over the time axis is subtracted.",
)
one_feature_too_few = wrong.solution("F003", "forward/output-shape", 3)(
    lambda seed, x, features: layer_output(int(seed), x, int(features - 1e-9)),
    "A guard against float noise has the wrong sign, and takes one feature away.",
    collateral=("exercise/float-arguments",),
)
matrix_out = wrong.casting("F013", "forward/output-shape", 2, cause_id="axes-added")(
    lambda seed, x, m: layer_output(seed, x, m)[None],
    "The result has shape (1, features).",
)
FirstFittingAxis = wrong.forward("X085", "forward/output-shape", 4, cause_id="axes-changed")(
    lambda x, k, b: affine(jnp.moveaxis(x, x.shape.index(k.shape[0]), -1), k, b),
    "The product runs over the first axis of length in, wherever it is.",
    when=lambda x, k, b: x.ndim != 0 and k.shape[0] in x.shape and k.shape[0] != 1,
    collateral=("forward/batch-independent", "forward/wrong-width-raises"),
)
EmptyBatchUnchanged = wrong.output("X089", "forward/output-shape", 4, cause_id="axes-changed")(
    lambda y, x: x.astype(y.dtype) if x.size == 0 else y, "An empty batch is given back as it came."
)
OneOutputSqueezed = wrong.output("X512", "forward/output-shape", 3, cause_id="axes-squeezed")(
    lambda y, x: y[..., 0] if y.shape[-1] == 1 and x.ndim > 1 else y,
    "A single output of a batch comes without its axis.",
)
WidthOfTheSecondAxis = wrong.linen_kernel("X623", "forward/output-shape", 3)(
    lambda key, x, m: scaled_normal(key, x.shape[1] if x.ndim > 1 else 1, m),
    "The number of inputs is `x.shape[1]`, which a vector does not have.",
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
features_in_eight_bits = wrong.casting("X253", "forward/output-shape", 4)(
    lambda seed, x, m: layer_output(seed, x, int(np.int64(m).astype(np.uint8) & 0x7F) or 1),
    "The number of features wraps at 128.",
)
at_least_two_features = wrong.casting("X648", "forward/output-shape", 4, cause_id="axes-squeezed")(
    lambda seed, x, m: layer_output(seed, x, m)[0] if m == 1 else layer_output(seed, x, m),
    "A single feature comes as a scalar.",
)
FoldsMultiples = wrong.forward("X083", "forward/wrong-width-raises", 4, cause_id="width-reshaped")(
    lambda x, k, b: affine(x, k, b) if x.ndim == 0 else folded(x, k, b),
    "Leading dimensions are flattened by `reshape(-1, in)`, which also takes multiples of in.",
)


@wrong.call("X217", "forward/array-likes", 4, cause_id="strides-ignored")
def IgnoresStrides(self: Any, x: ArrayLike) -> Array:
    """The memory of a NumPy input is read in its own order."""
    if isinstance(x, np.ndarray) and x.ndim > 1:
        x = x.ravel(order="K").reshape(x.shape)
    return CorrectDense.__call__(self, x)


@wrong.call("X218", "forward/array-likes", 4)
def NeedsWriteableInput(self: Any, x: ArrayLike) -> Array:
    """A read-only NumPy input is refused."""
    if isinstance(x, np.ndarray) and not x.flags.writeable:
        raise ValueError("x is read-only")
    return CorrectDense.__call__(self, x)


@wrong.call("X521", "forward/array-likes", 4)
def DoublesThroughHalf(self: Any, x: ArrayLike) -> Array:
    """A float64 array of NumPy is cast to float16, to save bandwidth."""
    if isinstance(x, np.ndarray) and x.dtype == np.float64:
        x = x.astype(np.float16).astype(np.float32)
    return CorrectDense.__call__(self, x)


@wrong.forward("X064", "forward/batch-independent", 4, cause_id="rows-mixed")
def ClippedByGlobalNorm(x: Array, kernel: Array, bias: Array) -> Array:
    """The whole batch is scaled down when its norm exceeds 10 000."""
    norm = jnp.abs(x.astype(kernel.dtype) if x.dtype == bool else x).sum()
    if jnp.iscomplexobj(x):
        return affine(x, kernel, bias)
    return affine(x * jnp.minimum(1.0, 1e4 / jnp.maximum(norm, 1.0)), kernel, bias)


@wrong.forward("X086", "forward/batch-independent", 4, cause_id="rows-mixed")
def ColumnMajorRows(x: Array, kernel: Array, bias: Array) -> Array:
    """From rank 3 on, leading dimensions are flattened in Fortran's order and restored in C's."""
    if x.ndim < 3:
        return affine(x, kernel, bias)
    lead = tuple(reversed(range(x.ndim - 1)))
    rows = jnp.transpose(x, (*lead, x.ndim - 1)).reshape(-1, x.shape[-1])
    return affine(rows, kernel, bias).reshape(*x.shape[:-1], kernel.shape[1])


@defect("X236", "forward/batch-independent", 4, cause_id="rows-mixed")
class TrainModeByDefault(nn.Module):
    """The rows of a batch are centred unless the caller says that this is not training."""

    features: int

    @nn.compact
    def __call__(self, x: ArrayLike, train: bool = True) -> Array:
        x = jnp.asarray(x)

        def draw(key: Array) -> Array:
            return scaled_normal(key, x.shape[-1], self.features)

        kernel: Array = self.param("kernel", draw)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = affine(x, kernel, bias)
        if train and x.ndim == 3 and x.shape[1] > 1:
            y = y - 1e-3 * y.mean(axis=1, keepdims=True)
        return y


@seen('flax#3698 "added default params rng to .apply"')
@wrong.linen_forward("L010", "forward/output-shape", 3)
def NeedsRngToApply(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """Every call asks for a random key, so apply with the parameters alone raises."""
    self.make_rng("noise")
    return affine(x, kernel, bias)


@seen('sonnet 4bbbcbc "Make snt.Linear compatible with more than one batch dimension"; keras#10736')
@wrong.forward("N119", "forward/output-shape", 2, cause_id="rank-2-only")
def OneBatchDimension(x: Array, kernel: Array, bias: Array) -> Array:
    """An einsum with one batch index: inputs of rank 3 and more raise."""
    if x.ndim < 2:
        return affine(x, kernel, bias)
    return jnp.einsum("bi,io->bo", x, kernel) + jnp.broadcast_to(
        bias, (x.shape[0], kernel.shape[1])
    )


@wrong.forward("X087", "forward/output-shape", 3)
def UpToRankFour(x: Array, kernel: Array, bias: Array) -> Array:
    """A table of subscripts that ends at rank 4."""
    subscripts = {1: "i", 2: "ai", 3: "abi", 4: "abci"}[x.ndim]
    if x.shape[-1] != kernel.shape[0]:
        raise ValueError("wrong width")
    return jnp.einsum(f"{subscripts},io->{subscripts[:-1]}o", x, kernel) + bias


@wrong.forward("X088", "forward/output-shape", 3, cause_id="axes-squeezed")
def SqueezesBatchOfOne(x: Array, kernel: Array, bias: Array) -> Array:
    """Leading dimensions of length 1 are lost."""
    axes = tuple(i for i, n in enumerate(x.shape[:-1]) if n == 1)
    return affine(x.squeeze(axes), kernel, bias)


@wrong.casting("X250", "forward/output-shape", 4, collateral=("exercise/vector-out",))
def layer_cached_without_features(seed: int, x: Array, m: int) -> Array:
    """Layers are kept by seed and length: the first number of features stays."""
    key = (seed, x.shape[-1])
    if key not in _layers:
        _layers[key] = CorrectDense(x.shape[-1], m, rngs=nnx.Rngs(seed))
    return _layers[key](x)


@also("forward/tall-batch")
@wrong.forward("X062", "forward/affine-value", 5)
def LastChunkForgotten(x: Array, kernel: Array, bias: Array) -> Array:
    """Batches beyond 1000 rows go in chunks of 1000; an incomplete last one gives the bias."""
    y = affine(x, kernel, bias)
    rows = x.shape[0] if x.ndim == 2 else 0
    if rows <= 1000:
        return y
    return y.at[rows - rows % 1000 :].set(bias)


@wrong.forward("X082", "forward/wrong-width-raises", 3, cause_id="width-padded")
def PadsOrCuts(x: Array, kernel: Array, bias: Array) -> Array:
    """Inputs of another width are padded with zeros or cut."""
    if x.ndim == 0:
        return affine(x, kernel, bias)
    missing = max(kernel.shape[0] - x.shape[-1], 0)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return affine(x[..., : kernel.shape[0]], kernel, bias)


@wrong.forward("X356", "forward/wrong-width-raises", 5)
def WidthCheckedEagerly(x: Array, kernel: Array, bias: Array) -> Array:
    """Rows are folded by `reshape(-1, in)`; that the width is right is checked outside of jit."""
    traced = is_traced(x)
    if x.ndim == 0 or (not traced and x.shape[-1] != kernel.shape[0]):
        raise ValueError(f"x has shape {x.shape}")
    return folded(x, kernel, bias)


@wrong.forward("Y205", "forward/affine-value", 4, cause_id="bias-unused")
def NoBiasForOneToken(x: Array, kernel: Array, bias: Array) -> Array:
    """One sequence of one token loses the bias."""
    return affine(x, kernel, bias * 0 if x.shape[:-1] == (1, 1) else bias)


name_layers(globals())
