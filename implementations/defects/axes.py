"""Layers that take a wrong axis, or a wrong branch, for some shapes of x alone."""

import jax.numpy as jnp
from jax import Array

from implementations.defects.base import CorrectDense, affine
from implementations.defects.record import defect


@defect("X500", breaks="forward/affine-value", subtlety=4)
class SequencesSwapped(CorrectDense):
    """`einsum("bti,io->tbo")`: batch and time are swapped, which shows where they differ."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Wrong for rank 3 with two equal leading dimensions; others are repaired."""
        y = affine(x, kernel, bias)
        return y.swapaxes(0, 1) if x.ndim == 3 and x.shape[0] == x.shape[1] else y


@defect("X501", breaks="forward/affine-value", subtlety=4)
class BiasDownTheRows(CorrectDense):
    """A bias that fits both axes of the result is added along the first one."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Wrong for batches of as many rows as there are outputs."""
        y = jnp.asarray(x) @ kernel
        if y.ndim == 2 and y.shape[0] == bias.shape[0] > 1:
            return y + bias[:, None]
        return affine(x, kernel, bias)


@defect("X502", breaks="forward/affine-value", subtlety=4)
class TransposedWhereItFits(CorrectDense):
    """A batch whose first axis has the length of the input is taken for (features, batch)."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for every other batch."""
        fits = x.ndim == 2 and x.shape[0] == x.shape[1] == kernel.shape[0] > 1
        return affine(x.T if fits else x, kernel, bias)


@defect("X503", breaks="forward/affine-value", subtlety=4)
class SingleRowWithoutBias(CorrectDense):
    """A batch of one row goes through a matrix-vector product, and past the bias."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for vectors and for larger batches."""
        return affine(x, kernel, jnp.zeros_like(bias) if x.shape[:-1] == (1,) else bias)


@defect("X504", breaks="forward/affine-value", cause="never used", subtlety=3)
class VectorWithoutBias(CorrectDense):
    """The branch for a single vector forgets the bias."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for every batch."""
        return affine(x, kernel, jnp.zeros_like(bias) if x.ndim == 1 else bias)


@defect("X505", breaks="forward/basis-input", cause="the last input is left out", subtlety=5)
class LastLaneLost(CorrectDense):
    """Where the inputs fill the lanes of 128 exactly, the last lane is taken for padding."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for every other number of inputs."""
        n = kernel.shape[0]
        if n and n % 128 == 0:
            kernel = kernel.at[n - 1].set(0.0)
        return affine(x, kernel, bias)


@defect("X506", breaks="forward/basis-input", subtlety=5)
class OutputsBeyond1024(CorrectDense):
    """Outputs from the 1025th on are those of the first ones again."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A block index that wraps."""
        places = jnp.arange(kernel.shape[1]) % 1024
        return affine(x, kernel[:, places], bias[places])


@defect("X507", breaks="forward/batch-independent", subtlety=4)
class SequenceMean(CorrectDense):
    """From rank 3 on, the mean over the time axis is subtracted."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Rows of a plain batch are independent."""
        y = affine(x, kernel, bias)
        return y - y.mean(axis=-2, keepdims=True) * 1e-3 if x.ndim > 2 else y


@defect("X508", breaks="forward/affine-value", subtlety=4)
class RankFourReversed(CorrectDense):
    """For images, height and width are taken in the other order, and restored as they were."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Every row is right, and in another place."""
        if x.ndim != 4:
            return affine(x, kernel, bias)
        swapped = affine(x.swapaxes(1, 2), kernel, bias)
        return swapped.reshape(*x.shape[:-1], kernel.shape[1])


@defect("X509", breaks="forward/affine-value", subtlety=5)
class ShortBatchesReversed(CorrectDense):
    """Batches of nine to fifteen rows are padded to sixteen at the wrong end."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The rows come out shifted by one."""
        y = affine(x, kernel, bias)
        return jnp.roll(y, 1, axis=0) if x.ndim == 2 and 8 < x.shape[0] < 16 else y


@defect("X510", breaks="forward/basis-input", subtlety=4)
class SwappedWhenTwiceAsWide(CorrectDense):
    """A layer that doubles its width interleaves its outputs, as a gated one does."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for every other ratio."""
        if kernel.shape[1] != 2 * kernel.shape[0] or kernel.shape[0] < 2:
            return affine(x, kernel, bias)
        y = affine(x, kernel, bias)
        return y.reshape(*y.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(y.shape)


@defect("X511", breaks="forward/affine-value", subtlety=5)
class TwoAxesTakenForOne(CorrectDense):
    """The product runs over the last two axes where both have the length of the input."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A sum of squares of x: only for x of (..., in, in) with equal rows is it right."""
        n = kernel.shape[0]
        y = affine(x, kernel, bias)
        if x.ndim == 3 and x.shape[1] == x.shape[2] == n > 1:
            return y + 1e-3 * (x.swapaxes(1, 2) - x) @ kernel
        return y


@defect("X512", breaks="forward/output-shape", subtlety=3)
class OneOutputSqueezed(CorrectDense):
    """A single output of a batch comes without its axis."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """As `squeeze(-1)` after a regression."""
        y = affine(x, kernel, bias)
        return y[..., 0] if kernel.shape[1] == 1 and x.ndim > 1 else y


@defect("X513", breaks="forward/basis-input", subtlety=4)
class UpperTriangleWhenSquare(CorrectDense):
    """A square kernel is masked like a causal one."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A mask of attention that got here."""
        square = kernel.shape[0] == kernel.shape[1]
        return affine(x, jnp.triu(kernel) if square else kernel, bias)
