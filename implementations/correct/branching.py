"""Layers that compute the same result in several ways, chosen by shapes.

Every branch (paddings, tiles, chunks, fast paths) gives ``x @ K + b``, so a change of the program
at some size is not a fault.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.defects.base import CorrectDense, affine, normal, scaled_normal, stddev

__all__ = [
    "BatchesInChunks",
    "BatchesPaddedToPowersOfTwo",
    "ColumnVectorForOneOutput",
    "DotGeneralForWideKernels",
    "EinsumBeyondRankTwo",
    "FewRowsFirst",
    "FlattenedBeyondRankThree",
    "FoldedBatchOfEqualAxes",
    "InputsInTwoHalves",
    "KernelDrawnInColumnBlocks",
    "KernelDrawnInRowBlocks",
    "KernelTransposedTwiceWhenTall",
    "LongBatchesByMap",
    "MappedWhenSquare",
    "OddInputsPadded",
    "OneInputByEinsum",
    "OutputsInBlocksOf100",
    "OutputsInTwoHalves",
    "PaddedToMultiplesOf8",
    "PaddedToMultiplesOf128",
    "ScannedChunks",
    "SharedRuleForLongBatches",
    "SplitKeyForLargeKernels",
    "TensordotForBatches",
    "TilesOf256Rows",
    "TransposedForFewOutputs",
    "TransposedProductWhenWide",
    "TruncatedForLargeFans",
    "VectorsByDot",
    "WholeBlocksAndRest",
]

Arithmetic = Callable[[Array, Array, Array], Array]


def choosing(
    name: str, summary: str, when: Callable[[Array, Array], bool], other: Arithmetic
) -> type[CorrectDense]:
    """Return a layer that computes ``other(x, kernel, bias)`` where ``when(x, kernel)`` holds."""

    class Choosing(CorrectDense):
        def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
            # Widths are checked before they are padded or cut.
            if x.ndim == 0 or x.shape[-1] != kernel.shape[0] or not when(x, kernel):
                return affine(x, kernel, bias)
            return other(x, kernel, bias)

    Choosing.__doc__ = summary
    Choosing.__name__ = Choosing.__qualname__ = name
    Choosing.__module__ = __name__
    return Choosing


def drawing(
    name: str, summary: str, draw: Callable[[Array, int, int], Array]
) -> type[CorrectDense]:
    """Return a layer whose new kernel is ``draw(key, in_features, out_features)``."""

    class Drawing(CorrectDense):
        def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
            return draw(key, in_features, out_features)

    Drawing.__doc__ = summary
    Drawing.__name__ = Drawing.__qualname__ = name
    Drawing.__module__ = __name__
    return Drawing


def _padded(multiple: int) -> Arithmetic:
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


def _in_tiles(rows: int) -> Arithmetic:
    def tiled(x: Array, kernel: Array, bias: Array) -> Array:
        tiles = [affine(x[i : i + rows], kernel, bias) for i in range(0, x.shape[0], rows)]
        return jnp.concatenate(tiles)

    return tiled


def _blocks_of_outputs(columns: int) -> Arithmetic:
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


@jax.custom_vjp
def _ruled(x: Array, kernel: Array, bias: Array) -> Array:
    return affine(x, kernel, bias)


def _ahead(x: Array, kernel: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    return affine(x, kernel, bias), (x, kernel)


def _back(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array, Array]:
    x, kernel = kept
    return (g @ kernel.T).astype(x.dtype), x.astype(kernel.dtype).T @ g, g.sum(0)


_ruled.defvjp(_ahead, _back)

PaddedToMultiplesOf8 = choosing(
    "PaddedToMultiplesOf8",
    "Both sides are padded to multiples of 8 if needed.",
    lambda x, k: k.shape[0] % 8 != 0 or k.shape[1] % 8 != 0,
    _padded(8),
)
PaddedToMultiplesOf128 = choosing(
    "PaddedToMultiplesOf128",
    "Both sides are padded to multiples of 128, from 100 on.",
    lambda x, k: min(k.shape) >= 100,
    _padded(128),
)
OddInputsPadded = choosing(
    "OddInputsPadded",
    "An odd number of inputs is padded by one.",
    lambda x, k: k.shape[0] % 2 == 1,
    _padded(2),
)
BatchesPaddedToPowersOfTwo = choosing(
    "BatchesPaddedToPowersOfTwo",
    "A batch of more than 16 rows is padded to a power of two.",
    lambda x, k: x.ndim == 2 and x.shape[0] > 16,
    _rows_padded,
)
TilesOf256Rows = choosing(
    "TilesOf256Rows",
    "Up to 4096 rows are computed in tiles of 256, the last of them shorter.",
    lambda x, k: x.ndim == 2 and 256 < x.shape[0] <= 4096,
    _in_tiles(256),
)
BatchesInChunks = choosing(
    "BatchesInChunks",
    "Long batches are computed in four chunks.",
    lambda x, k: x.ndim == 2 and x.shape[0] > 1000 and x.shape[0] % 4 == 0,
    lambda x, k, b: affine(x.reshape(4, -1, x.shape[-1]), k, b).reshape(x.shape[0], -1),
)
ScannedChunks = choosing(
    "ScannedChunks",
    "A multiple of 100 rows is scanned by hundreds.",
    lambda x, k: x.ndim == 2 and x.shape[0] % 100 == 0 and x.shape[0] > 0,
    _scanned,
)
WholeBlocksAndRest = choosing(
    "WholeBlocksAndRest",
    "Blocks of 64 rows come first, then the rest.",
    lambda x, k: x.ndim == 2 and x.shape[0] > 64,
    _whole_and_rest,
)
LongBatchesByMap = choosing(
    "LongBatchesByMap",
    "From 512 rows on, rows are mapped.",
    lambda x, k: x.ndim == 2 and x.shape[0] >= 512,
    lambda x, k, b: jax.vmap(lambda row: affine(row, k, b))(x),
)
OutputsInBlocksOf100 = choosing(
    "OutputsInBlocksOf100",
    "Between 200 and 2000, outputs come in blocks of 100.",
    lambda x, k: 200 <= k.shape[1] <= 2000,
    _blocks_of_outputs(100),
)
OutputsInTwoHalves = choosing(
    "OutputsInTwoHalves",
    "An even number of outputs beyond 50 comes in two halves.",
    lambda x, k: k.shape[1] > 50 and k.shape[1] % 2 == 0,
    lambda x, k, b: _blocks_of_outputs(k.shape[1] // 2)(x, k, b),
)
InputsInTwoHalves = choosing(
    "InputsInTwoHalves",
    "From 1024 inputs on, two sums of half the length are added.",
    lambda x, k: k.shape[0] >= 1024,
    _two_halves,
)
VectorsByDot = choosing(
    "VectorsByDot",
    "A single vector goes through its row.",
    lambda x, k: x.ndim == 1,
    lambda x, k, b: jnp.dot(x, k) + b,
)
EinsumBeyondRankTwo = choosing(
    "EinsumBeyondRankTwo",
    "Higher ranks go through einsum.",
    lambda x, k: x.ndim > 2,
    lambda x, k, b: jnp.einsum("...i,io->...o", x, k) + b,
)
FlattenedBeyondRankThree = choosing(
    "FlattenedBeyondRankThree",
    "From rank 4 on, leading axes are merged.",
    lambda x, k: x.ndim > 3 and x.size > 0,
    _flattened,
)
FoldedBatchOfEqualAxes = choosing(
    "FoldedBatchOfEqualAxes",
    "Two equal leading axes are merged.",
    lambda x, k: x.ndim == 3 and x.shape[0] == x.shape[1],
    _flattened,
)
TensordotForBatches = choosing(
    "TensordotForBatches",
    "Batches go through tensordot.",
    lambda x, k: x.ndim > 1,
    lambda x, k, b: jnp.tensordot(x, k, 1) + b,
)
TransposedProductWhenWide = choosing(
    "TransposedProductWhenWide",
    "With four times as many outputs as inputs, the transpose is computed.",
    lambda x, k: x.ndim == 2 and k.shape[1] > 4 * k.shape[0],
    lambda x, k, b: (k.T @ x.T).T + b,
)
DotGeneralForWideKernels = choosing(
    "DotGeneralForWideKernels",
    "From 2^16 weights on, the product is one of lax.",
    lambda x, k: k.size >= 2**16 and x.dtype == k.dtype,
    lambda x, k, b: jax.lax.dot_general(x, k, (((x.ndim - 1,), (0,)), ((), ()))) + b,
)
MappedWhenSquare = choosing(
    "MappedWhenSquare",
    "A square kernel is mapped over its columns.",
    lambda x, k: x.ndim == 2 and k.shape[0] == k.shape[1],
    lambda x, k, b: jax.vmap(lambda column: x @ column, 1, 1)(k) + b,
)
OneInputByEinsum = choosing(
    "OneInputByEinsum",
    "A single input goes through einsum.",
    lambda x, k: k.shape[0] == 1,
    lambda x, k, b: jnp.einsum("...i,io->...o", x, k) + b,
)
ColumnVectorForOneOutput = choosing(
    "ColumnVectorForOneOutput",
    "A single output is a product with a vector.",
    lambda x, k: k.shape[1] == 1,
    lambda x, k, b: (x @ k[:, 0])[..., None] + b,
)
TransposedForFewOutputs = choosing(
    "TransposedForFewOutputs",
    "Up to four outputs are contracted along the transpose.",
    lambda x, k: k.shape[1] <= 4,
    lambda x, k, b: jnp.einsum("...i,oi->...o", x, k.T) + b,
)
FewRowsFirst = choosing(
    "FewRowsFirst",
    "The first row of a batch of more than 128 is computed by itself.",
    lambda x, k: x.ndim == 2 and x.shape[0] > 128,
    lambda x, k, b: jnp.concatenate([affine(x[:1], k, b), affine(x[1:], k, b)]),
)
KernelTransposedTwiceWhenTall = choosing(
    "KernelTransposedTwiceWhenTall",
    "A tall kernel is contracted along its transpose.",
    lambda x, k: k.shape[0] > 500,
    lambda x, k, b: jnp.einsum("...i,oi->...o", x, k.T) + b,
)
SharedRuleForLongBatches = choosing(
    "SharedRuleForLongBatches",
    "From 300 rows on, the derivative is written by hand.",
    lambda x, k: x.ndim == 2 and x.shape[0] >= 300 and bool(jnp.issubdtype(x.dtype, jnp.floating)),
    _ruled,
)


def _row_blocks(key: Array, i: int, o: int) -> Array:
    if i < 512:
        return scaled_normal(key, i, o)
    first, second = jax.random.split(key)
    drawn = jnp.concatenate([normal(first, 256, o), normal(second, i - 256, o)])
    return drawn * stddev(i)


def _column_blocks(key: Array, i: int, o: int) -> Array:
    if o <= 200:
        return scaled_normal(key, i, o)
    keys = jax.random.split(key, -(-o // 200))
    return jnp.concatenate([normal(k, i, 200) for k in keys], 1)[:, :o] * stddev(i)


KernelDrawnInRowBlocks = drawing(
    "KernelDrawnInRowBlocks", "From 512 inputs on, rows are drawn in two blocks.", _row_blocks
)
KernelDrawnInColumnBlocks = drawing(
    "KernelDrawnInColumnBlocks", "Columns are drawn by 200, each block its key.", _column_blocks
)
SplitKeyForLargeKernels = drawing(
    "SplitKeyForLargeKernels",
    "From 10^5 weights on, another key.",
    lambda key, i, o: scaled_normal(jax.random.fold_in(key, 1) if i * o >= 10**5 else key, i, o),
)
TruncatedForLargeFans = drawing(
    "TruncatedForLargeFans",
    "From 1000 inputs on, Flax's own initializer.",
    lambda key, i, o: (
        scaled_normal(key, i, o)
        if i < 1000
        else nnx.initializers.lecun_normal()(key, (i, o), jnp.float32)
    ),
)
