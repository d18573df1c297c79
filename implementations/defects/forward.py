"""Layers that compute something else than ``x @ kernel + bias``."""

import jax
import jax.numpy as jnp
from jax import Array

from implementations.defects.base import CorrectDense, affine, standard_deviation
from implementations.defects.record import defect


@defect("N051", breaks="forward/basis-input", cause="scaled again", subtlety=2)
class ScaledAgain(CorrectDense):
    """The forward multiplies the kernel by 1/sqrt(in) once more (the NTK parametrisation)."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The product is too small by sqrt(in)."""
        return affine(x, kernel * standard_deviation(kernel.shape[0]), bias)


@defect("N086", breaks="forward/zero-input", cause="bias is never used", subtlety=4)
class ConstantZeroBias(CorrectDense):
    """The forward adds zeros of the bias' shape, which only the initial bias equals."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The bias is never read."""
        return affine(x, kernel, jnp.zeros_like(bias))


@defect("N087", breaks="forward/zero-input", cause="bias is never used", subtlety=4)
class NoBiasInForward(CorrectDense):
    """The bias exists, and the forward forgets it."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The product alone."""
        return x @ kernel


@defect("N088", breaks="forward/zero-input", cause="added twice", subtlety=4)
class BiasAddedTwice(CorrectDense):
    """The bias is added twice."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The product plus twice the bias."""
        return affine(x, kernel, 2 * bias)


@defect("N089", breaks="forward/zero-input", cause="subtracted", subtlety=4)
class BiasSubtracted(CorrectDense):
    """The bias is subtracted."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The product minus the bias."""
        return affine(x, kernel, -bias)


@defect("N111", breaks="forward/basis-input", subtlety=3)
class ResidualWhenSquare(CorrectDense):
    """The input is added to the output when in == out."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A residual connection that nobody asked for."""
        output = affine(x, kernel, bias)
        return output + x if kernel.shape[0] == kernel.shape[1] else output


@defect("N117", breaks="forward/batch-independent", cause="batch", subtlety=2)
class BatchCentred(CorrectDense):
    """The mean of the batch is subtracted from every row."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A row alone is right only when it is not in a batch."""
        if x.ndim > 1:
            x = x - jnp.mean(x, axis=tuple(range(x.ndim - 1)), keepdims=True)
        return affine(x, kernel, bias)


@defect("N118", breaks="forward/batch-independent", cause="batch", subtlety=4)
class BatchLeaks(CorrectDense):
    """A thousandth of the mean of the batch is added to every row."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Rows see each other, a little."""
        if x.ndim > 1:
            x = x + 1e-3 * jnp.mean(x, axis=tuple(range(x.ndim - 1)), keepdims=True)
        return affine(x, kernel, bias)


@defect(
    "N119",
    breaks="forward/output-shape",
    subtlety=2,
    seen='sonnet 4bbbcbc "Make snt.Linear compatible with more than one batch dimension"; '
    "keras#10736",
)
class OneBatchDimension(CorrectDense):
    """An einsum with one batch index: inputs of rank 3 and more raise."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for vectors and matrices."""
        if x.ndim < 2:
            return affine(x, kernel, bias)
        return jnp.einsum("bi,io->bo", x, kernel) + jnp.broadcast_to(
            bias, (x.shape[0], kernel.shape[1])
        )


@defect("N125", breaks="forward/basis-input", subtlety=4)
class RemainderDropped(CorrectDense):
    """A product in blocks of 128 inputs, which forgets the inputs after the last full block."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right up to 128 inputs and for multiples of 128."""
        in_features, block = kernel.shape[0], 128
        if in_features > block:
            kernel = kernel.at[in_features - in_features % block :].set(0.0)
        return affine(x, kernel, bias)


@defect("N126", breaks="forward/zero-input", cause="bias is never used", subtlety=4)
class ScalarOutputWithoutBias(CorrectDense):
    """With a single output the bias is forgotten."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The special case of one column."""
        return x @ kernel if kernel.shape[1] == 1 else affine(x, kernel, bias)


@defect("N158", breaks="forward/basis-input", subtlety=4)
class StraightThroughRounding(CorrectDense):
    """The kernel is rounded to thousandths in the forward; its gradient does not show it."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A rounded kernel under an identity gradient."""
        rounded = jnp.round(kernel * 1000) / 1000
        return affine(x, kernel + jax.lax.stop_gradient(rounded - kernel), bias)
