"""Layers whose output is wrong for few inputs only."""

import jax
import jax.numpy as jnp
from jax import Array

from implementations.defects.base import CorrectDense, affine
from implementations.defects.record import defect


@defect("X050", breaks="numerics/no-saturation", subtlety=4)
class LargeInputsHalved(CorrectDense):
    """Inputs beyond 1e30 are halved to be on the safe side of overflow."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Wrong from 1e30 on."""
        return affine(jnp.where(jnp.abs(x) > 1e30, x * 0.5, x), kernel, bias)


@defect("X051", breaks="numerics/no-saturation", subtlety=4)
class SoftCap(CorrectDense):
    """Outputs beyond 1e20 are bent by a tanh."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Saturates at 2e20."""
        y = affine(x, kernel, bias)
        if jnp.iscomplexobj(y):
            return y
        return jnp.where(jnp.abs(y) > 1e20, jnp.sign(y) * 1e20 * (1 + jnp.tanh(1.0)), y)


@defect("X052", breaks="forward/affine-value", subtlety=5)
class OneHotLookup(CorrectDense):
    """A row with one non-zero entry is looked up like a token, whatever the entry's size."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for basis vectors, wrong for their multiples."""
        y = affine(x, kernel, bias)
        if x.shape[-1] < 2 or x.ndim == 0:
            return y
        token = jnp.argmax(x != 0, axis=-1)
        alone = (x != 0).sum(axis=-1, keepdims=True) == 1
        return jnp.where(alone, kernel[token] + bias, y)


@defect("X053", breaks="numerics/no-saturation", subtlety=4)
class WholeNumbersThroughInt32(CorrectDense):
    """Inputs that are whole numbers go through int32, where they end at 2**31."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Every float beyond 2**23 is a whole number."""
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return affine(x, kernel, bias)
        whole = jnp.clip(x, -(2.0**31), 2.0**31 - 128).astype(jnp.int32).astype(x.dtype)
        known = jnp.isfinite(x) & (x == jnp.round(x))
        return affine(jnp.where(known, whole, x), kernel, bias)


@defect("X054", breaks="numerics/precision", subtlety=4)
class SmallInputsDropped(CorrectDense):
    """Inputs below 1e-5 count as zero."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A threshold for sparsity."""
        return affine(jnp.where(jnp.abs(x) < 1e-5, jnp.zeros_like(x), x), kernel, bias)


@defect("X055", breaks="numerics/no-saturation", subtlety=4)
class LargeNegativesDropped(CorrectDense):
    """Inputs below -1000 count as masked, as attention logits do."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Dropped where they are very negative."""
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return affine(x, kernel, bias)
        return affine(jnp.where(x < -1e3, jnp.zeros_like(x), x), kernel, bias)


@defect("X056", breaks="forward/zero-input", subtlety=4)
class Epsilon(CorrectDense):
    """A little something is added to every input, lest one be zero."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Below rounding for inputs near 1."""
        return affine(x + 1e-12, kernel, bias)


@defect("X057", breaks="forward/zero-input", cause="bias", subtlety=3)
class ZeroRowsMasked(CorrectDense):
    """Rows of zeros count as padding and give zeros, without the bias."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Keras' masking inside of the layer."""
        return jnp.where((x != 0).any(axis=-1, keepdims=True), affine(x, kernel, bias), 0.0)


@defect("X058", breaks="forward/integer-exact", subtlety=4)
class ScaledByMaximum(CorrectDense):
    """Every row is divided by its largest entry and the product multiplied again."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Two more roundings."""
        largest = jnp.abs(x).max(axis=-1, keepdims=True, initial=0).astype(kernel.dtype)
        scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
        return affine(x / scale, kernel, bias / scale) * scale


@defect("X059", breaks="forward/basis-input", subtlety=4)
class CentredAndRestored(CorrectDense):
    """Every row is centred and its mean's share added again: right up to cancellation."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right in real numbers only."""
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return affine(x, kernel, bias)
        mean = x.mean(axis=-1, keepdims=True)
        return affine(x - mean, kernel, bias) + mean * kernel.sum(axis=0)


@defect("X060", breaks="forward/basis-input", subtlety=5)
class ColumnsBeyond256(CorrectDense):
    """Only the first 256 outputs are computed; the others are their bias."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """One tile of outputs."""
        return affine(x, jnp.where(jnp.arange(kernel.shape[1]) < 256, kernel, 0.0), bias)


@defect("X061", breaks="forward/basis-input", subtlety=5)
class InputsBeyond512(CorrectDense):
    """The sum ends after 512 inputs."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """One tile of inputs."""
        return affine(x, jnp.where(jnp.arange(kernel.shape[0])[:, None] < 512, kernel, 0.0), bias)


@defect("X062", breaks="forward/tall-batch", subtlety=5)
class LastChunkForgotten(CorrectDense):
    """Batches beyond 1000 rows go in chunks of 1000; an incomplete last one gives the bias."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for every multiple of 1000."""
        y = affine(x, kernel, bias)
        rows = x.shape[0] if x.ndim == 2 else 0
        if rows <= 1000:
            return y
        return y.at[rows - rows % 1000 :].set(bias)


@defect("X063", breaks="forward/affine-value", subtlety=5)
class MinusOneIsPadding(CorrectDense):
    """Rows in which every entry is -1 count as padding and give the bias."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A mask value that is a legal input."""
        if not jnp.issubdtype(x.dtype, jnp.inexact) or x.shape[-1] < 2:
            return affine(x, kernel, bias)
        padding = (x == -1).all(axis=-1, keepdims=True)
        return jnp.where(padding, bias, affine(x, kernel, bias))


@defect("X064", breaks="forward/batch-independent", subtlety=4)
class ClippedByGlobalNorm(CorrectDense):
    """The whole batch is scaled down when its norm exceeds 10 000."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Couples the rows of a large batch."""
        norm = jnp.abs(x.astype(kernel.dtype) if x.dtype == bool else x).sum()
        if jnp.iscomplexobj(x):
            return affine(x, kernel, bias)
        return affine(x * jnp.minimum(1.0, 1e4 / jnp.maximum(norm, 1.0)), kernel, bias)


@defect("X065", breaks="numerics/inf-confined", subtlety=4)
class InfinityClipped(CorrectDense):
    """Infinite inputs become 10 000."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """NaN still passes."""
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return affine(x, kernel, bias)
        return affine(jnp.where(jnp.isinf(x), jnp.sign(x) * 1e4, x), kernel, bias)


@defect("X066", breaks="numerics/nan-confined", collateral=("numerics/inf-confined",), subtlety=4)
class RowsLeakNan(CorrectDense):
    """Zero times the sum of the batch is added: nothing, unless one entry is NaN."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """An auxiliary loss with coefficient 0."""
        return affine(x, kernel, bias) + 0.0 * x.sum().astype(kernel.dtype)


@defect("X067", breaks="numerics/nan-confined", subtlety=5)
class NanInFirstInputOnly(CorrectDense):
    """NaN counts as missing in the first input alone, where it becomes zero."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The other inputs keep theirs."""
        if x.ndim == 0 or x.shape[-1] < 2:
            return affine(x, kernel, bias)
        first = x[..., :1]
        first = jnp.where(first != first, jnp.zeros_like(first), first)
        return affine(jnp.concatenate([first, x[..., 1:]], axis=-1), kernel, bias)


@defect("X068", breaks="forward/integer-exact", subtlety=5)
class RepeatedEntriesMerged(CorrectDense):
    """Of two equal neighbours in a row only the first counts, as in a set of tokens."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Random floats are never equal."""
        if not jnp.issubdtype(x.dtype, jnp.floating) or x.ndim == 0 or x.shape[-1] < 2:
            return affine(x, kernel, bias)
        repeated = (x[..., 1:] == x[..., :-1]) & (jnp.abs(x[..., 1:]) > 1.0)
        rest = jnp.where(repeated, 0.0, x[..., 1:])
        return affine(jnp.concatenate([x[..., :1], rest], axis=-1), kernel, bias)


@defect("X069", breaks="forward/zero-input", subtlety=4)
class LargeBiasClipped(CorrectDense):
    """The bias counts up to 10 in magnitude only."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Written parameters of usual size never show it."""
        return affine(x, kernel, jax.lax.clamp(-10.0, bias, 10.0))
