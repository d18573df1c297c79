"""Layers that compute the same result in several ways, chosen by shapes.

Every branch (paddings, tiles, chunks, fast paths) gives ``x @ K + b``, so a change of the program
at some size is not a fault.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.defects import hooks
from implementations.defects.base import (
    affine,
    is_float,
    normal,
    right_cotangents,
    scaled_normal,
    stddev,
    with_backward,
)
from implementations.defects.record import name_layers

_Arithmetic = Callable[[Array, Array, Array], Array]


def _choosing(summary: str, when: Callable[[Array, Array], bool], other: _Arithmetic) -> Any:
    """Return a layer that computes ``other(x, kernel, bias)`` where ``when(x, kernel)`` holds."""

    def applies(x: Array, kernel: Array, bias: Array) -> bool:
        # Widths are checked before they are padded or cut.
        return x.ndim > 0 and x.shape[-1] == kernel.shape[0] and when(x, kernel)

    return hooks.forward(lambda x, k, b: other(x, k, b), summary, applies)


def _padded(multiple: int) -> _Arithmetic:
    def product(x: Array, kernel: Array, bias: Array) -> Array:
        n, m = kernel.shape
        more, further = -n % multiple, -m % multiple
        wide = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)])
        return (wide @ jnp.pad(kernel, ((0, more), (0, further))))[..., :m] + bias

    return product


def _rows_padded(x: Array, kernel: Array, bias: Array) -> Array:
    rows = x.shape[0]
    filled = jnp.pad(x, ((0, (1 << (rows - 1).bit_length()) - rows), (0, 0)))
    return affine(filled, kernel, bias)[:rows]


def _in_tiles(rows: int) -> _Arithmetic:
    def tiled(x: Array, kernel: Array, bias: Array) -> Array:
        tiles = [affine(x[i : i + rows], kernel, bias) for i in range(0, x.shape[0], rows)]
        return jnp.concatenate(tiles)

    return tiled


def _blocks_of_outputs(columns: int) -> _Arithmetic:
    def blocked(x: Array, kernel: Array, bias: Array) -> Array:
        starts = range(0, kernel.shape[1], columns)
        return jnp.concatenate([x @ kernel[:, i : i + columns] for i in starts], -1) + bias

    return blocked


def _two_halves(x: Array, kernel: Array, bias: Array) -> Array:
    half = kernel.shape[0] // 2
    return x[..., :half] @ kernel[:half] + x[..., half:] @ kernel[half:] + bias


def _scanned(x: Array, kernel: Array, bias: Array) -> Array:
    chunks = x.reshape(-1, 100, x.shape[-1])
    _, y = jax.lax.scan(lambda carry, rows: (carry, affine(rows, kernel, bias)), None, chunks)
    return y.reshape(x.shape[0], -1)


def _whole_and_rest(x: Array, kernel: Array, bias: Array) -> Array:
    whole = x.shape[0] // 64 * 64
    return jnp.concatenate([affine(x[:whole], kernel, bias), affine(x[whole:], kernel, bias)])


def _flattened(x: Array, kernel: Array, bias: Array) -> Array:
    return affine(x.reshape(-1, x.shape[-1]), kernel, bias).reshape(*x.shape[:-1], -1)


_ruled = with_backward(right_cotangents)

PaddedToMultiplesOf8 = _choosing(
    "Both sides are padded to multiples of 8 if needed.",
    lambda x, k: k.shape[0] % 8 != 0 or k.shape[1] % 8 != 0,
    _padded(8),
)
PaddedToMultiplesOf128 = _choosing(
    "Both sides are padded to multiples of 128, from 100 on.",
    lambda x, k: min(k.shape) >= 100,
    _padded(128),
)
OddInputsPadded = _choosing(
    "An odd number of inputs is padded by one.", lambda x, k: k.shape[0] % 2 == 1, _padded(2)
)
BatchesPaddedToPowersOfTwo = _choosing(
    "A batch of more than 16 rows is padded to a power of two.",
    lambda x, k: x.ndim == 2 and x.shape[0] > 16,
    _rows_padded,
)
TilesOf256Rows = _choosing(
    "Up to 4096 rows are computed in tiles of 256, the last of them shorter.",
    lambda x, k: x.ndim == 2 and 256 < x.shape[0] <= 4096,
    _in_tiles(256),
)
BatchesInChunks = _choosing(
    "Long batches are computed in four chunks.",
    lambda x, k: x.ndim == 2 and x.shape[0] > 1000 and x.shape[0] % 4 == 0,
    lambda x, k, b: affine(x.reshape(4, -1, x.shape[-1]), k, b).reshape(x.shape[0], -1),
)
ScannedChunks = _choosing(
    "A multiple of 100 rows is scanned by hundreds.",
    lambda x, k: x.ndim == 2 and x.shape[0] % 100 == 0 and x.shape[0] > 0,
    _scanned,
)
WholeBlocksAndRest = _choosing(
    "Blocks of 64 rows come first, then the rest.",
    lambda x, k: x.ndim == 2 and x.shape[0] > 64,
    _whole_and_rest,
)
LongBatchesByMap = _choosing(
    "From 512 rows on, rows are mapped.",
    lambda x, k: x.ndim == 2 and x.shape[0] >= 512,
    lambda x, k, b: jax.vmap(lambda row: affine(row, k, b))(x),
)
OutputsInBlocksOf100 = _choosing(
    "Between 200 and 2000, outputs come in blocks of 100.",
    lambda x, k: 200 <= k.shape[1] <= 2000,
    _blocks_of_outputs(100),
)
OutputsInTwoHalves = _choosing(
    "An even number of outputs beyond 50 comes in two halves.",
    lambda x, k: k.shape[1] > 50 and k.shape[1] % 2 == 0,
    lambda x, k, b: _blocks_of_outputs(k.shape[1] // 2)(x, k, b),
)
InputsInTwoHalves = _choosing(
    "From 1024 inputs on, two sums of half the length are added.",
    lambda x, k: k.shape[0] >= 1024,
    _two_halves,
)
VectorsByDot = _choosing(
    "A single vector goes through its row.",
    lambda x, k: x.ndim == 1,
    lambda x, k, b: jnp.dot(x, k) + b,
)
EinsumBeyondRankTwo = _choosing(
    "Higher ranks go through einsum.",
    lambda x, k: x.ndim > 2,
    lambda x, k, b: jnp.einsum("...i,io->...o", x, k) + b,
)
FlattenedBeyondRankThree = _choosing(
    "From rank 4 on, leading axes are merged.", lambda x, k: x.ndim > 3 and x.size > 0, _flattened
)
FoldedBatchOfEqualAxes = _choosing(
    "Two equal leading axes are merged.",
    lambda x, k: x.ndim == 3 and x.shape[0] == x.shape[1],
    _flattened,
)
TensordotForBatches = _choosing(
    "Batches go through tensordot.",
    lambda x, k: x.ndim > 1,
    lambda x, k, b: jnp.tensordot(x, k, 1) + b,
)
TransposedProductWhenWide = _choosing(
    "With four times as many outputs as inputs, the transpose is computed.",
    lambda x, k: x.ndim == 2 and k.shape[1] > 4 * k.shape[0],
    lambda x, k, b: (k.T @ x.T).T + b,
)
DotGeneralForWideKernels = _choosing(
    "From 2^16 weights on, the product is one of lax.",
    lambda x, k: k.size >= 2**16 and x.dtype == k.dtype,
    lambda x, k, b: jax.lax.dot_general(x, k, (((x.ndim - 1,), (0,)), ((), ()))) + b,
)
MappedWhenSquare = _choosing(
    "A square kernel is mapped over its columns.",
    lambda x, k: x.ndim == 2 and k.shape[0] == k.shape[1],
    lambda x, k, b: jax.vmap(lambda column: x @ column, 1, 1)(k) + b,
)
OneInputByEinsum = _choosing(
    "A single input goes through einsum.",
    lambda x, k: k.shape[0] == 1,
    lambda x, k, b: jnp.einsum("...i,io->...o", x, k) + b,
)
ColumnVectorForOneOutput = _choosing(
    "A single output is a product with a vector.",
    lambda x, k: k.shape[1] == 1,
    lambda x, k, b: (x @ k[:, 0])[..., None] + b,
)
TransposedForFewOutputs = _choosing(
    "Up to four outputs are contracted along the transpose.",
    lambda x, k: k.shape[1] <= 4,
    lambda x, k, b: jnp.einsum("...i,oi->...o", x, k.T) + b,
)
FewRowsFirst = _choosing(
    "The first row of a batch of more than 128 is computed by itself.",
    lambda x, k: x.ndim == 2 and x.shape[0] > 128,
    lambda x, k, b: jnp.concatenate([affine(x[:1], k, b), affine(x[1:], k, b)]),
)
KernelTransposedTwiceWhenTall = _choosing(
    "A tall kernel is contracted along its transpose.",
    lambda x, k: k.shape[0] > 500,
    lambda x, k, b: jnp.einsum("...i,oi->...o", x, k.T) + b,
)
SharedRuleForLongBatches = _choosing(
    "From 300 rows on, the derivative is written by hand.",
    lambda x, k: x.ndim == 2 and x.shape[0] >= 300 and is_float(x),
    _ruled,
)


@hooks.kernel
def KernelDrawnInRowBlocks(key: Array, i: int, o: int) -> Array:
    """From 512 inputs on, rows are drawn in two blocks."""
    if i < 512:
        return scaled_normal(key, i, o)
    first, second = jax.random.split(key)
    drawn = jnp.concatenate([normal(first, 256, o), normal(second, i - 256, o)])
    return drawn * stddev(i)


@hooks.kernel
def KernelDrawnInColumnBlocks(key: Array, i: int, o: int) -> Array:
    """Columns are drawn by 200, each block its key."""
    if o <= 200:
        return scaled_normal(key, i, o)
    keys = jax.random.split(key, -(-o // 200))
    return jnp.concatenate([normal(k, i, 200) for k in keys], 1)[:, :o] * stddev(i)


SplitKeyForLargeKernels = hooks.kernel(
    lambda key, i, o: scaled_normal(jax.random.fold_in(key, 1) if i * o >= 10**5 else key, i, o),
    "From 10^5 weights on, another key.",
)
TruncatedForLargeFans = hooks.kernel(
    lambda key, i, o: (
        scaled_normal(key, i, o)
        if i < 1000
        else nnx.initializers.lecun_normal()(key, (i, o), jnp.float32)
    ),
    "From 1000 inputs on, Flax's own initializer.",
)

name_layers(globals())
