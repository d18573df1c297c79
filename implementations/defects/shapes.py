"""Layers that misread the shape of their input, or accept one that they should refuse."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import CorrectDense, affine, scaled_normal
from implementations.defects.record import defect


@defect("X080", breaks="forward/wrong-width-raises", subtlety=4, seen="jnp.einsum broadcasts 1")
class EinsumBroadcasts(CorrectDense):
    """`jnp.einsum` lets an input of width 1 count for every row of the kernel."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The plain einsum, as most people would write it."""
        return jnp.einsum("...i,io->...o", x, kernel) + bias


@defect("X081", breaks="forward/scalar-raises", subtlety=3, seen="jnp.dot multiplies by a scalar")
class DotAcceptsScalars(CorrectDense):
    """`jnp.dot` multiplies the kernel by a scalar."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for every x that has a last dimension."""
        return jnp.dot(x, kernel) + bias


@defect("X082", breaks="forward/wrong-width-raises", subtlety=3)
class PadsOrCuts(CorrectDense):
    """Inputs of another width are padded with zeros or cut."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Never raises for a vector or a batch."""
        if x.ndim == 0:
            return affine(x, kernel, bias)
        missing = max(kernel.shape[0] - x.shape[-1], 0)
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
        return affine(x[..., : kernel.shape[0]], kernel, bias)


@defect("X083", breaks="forward/wrong-width-raises", subtlety=4)
class FoldsMultiples(CorrectDense):
    """Leading dimensions are flattened by `reshape(-1, in)`, which also takes multiples of in."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """An input twice as wide becomes two rows."""
        if x.ndim == 0:
            return affine(x, kernel, bias)
        rows = affine(x.reshape(-1, kernel.shape[0]), kernel, bias)
        if rows.shape[0] != math.prod(x.shape[:-1]):
            return rows
        return rows.reshape(*x.shape[:-1], kernel.shape[1])


@defect("X084", breaks="forward/scalar-raises", subtlety=4)
class ScalarForOneInput(CorrectDense):
    """With one input a scalar counts as a vector of length 1."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Raises for every in > 1."""
        return affine(jnp.atleast_1d(x), kernel, bias)


@defect(
    "X085",
    breaks="forward/output-shape",
    collateral=("forward/batch-independent", "forward/wrong-width-raises"),
    subtlety=4,
)
class FirstFittingAxis(CorrectDense):
    """The product runs over the first axis of length in, wherever it is."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Transposed when the batch has as many rows as there are inputs."""
        if x.ndim == 0 or kernel.shape[0] not in x.shape or kernel.shape[0] == 1:
            return affine(x, kernel, bias)
        axis = x.shape.index(kernel.shape[0])
        return affine(jnp.moveaxis(x, axis, -1), kernel, bias)


@defect("X086", breaks="forward/batch-independent", subtlety=4)
class ColumnMajorRows(CorrectDense):
    """From rank 3 on, leading dimensions are flattened in Fortran's order and restored in C's."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The right rows in another order."""
        if x.ndim < 3:
            return affine(x, kernel, bias)
        lead = tuple(reversed(range(x.ndim - 1)))
        rows = jnp.transpose(x, (*lead, x.ndim - 1)).reshape(-1, x.shape[-1])
        return affine(rows, kernel, bias).reshape(*x.shape[:-1], kernel.shape[1])


@defect("X087", breaks="forward/output-shape", subtlety=3)
class UpToRankFour(CorrectDense):
    """A table of subscripts that ends at rank 4."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Raises KeyError at rank 5."""
        subscripts = {1: "i", 2: "ai", 3: "abi", 4: "abci"}[x.ndim]
        if x.shape[-1] != kernel.shape[0]:
            raise ValueError("wrong width")
        return jnp.einsum(f"{subscripts},io->{subscripts[:-1]}o", x, kernel) + bias


@defect("X088", breaks="forward/output-shape", subtlety=3)
class SqueezesBatchOfOne(CorrectDense):
    """Leading dimensions of length 1 are lost."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A batch of one row comes back as a vector."""
        axes = tuple(i for i, n in enumerate(x.shape[:-1]) if n == 1)
        return affine(x.squeeze(axes), kernel, bias)


@defect("X089", breaks="forward/output-shape", subtlety=4)
class EmptyBatchUnchanged(CorrectDense):
    """An empty batch is given back as it came."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Of width in instead of out."""
        y = affine(x, kernel, bias)
        return x.astype(y.dtype) if x.size == 0 else y


@defect("X090", breaks="forward/batch-independent", cause="batch", subtlety=4)
class OneColumnAveraged(CorrectDense):
    """The first output is its mean over the batch."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The other outputs are right."""
        y = affine(x, kernel, bias)
        if x.ndim < 2 or kernel.shape[1] < 2 or x.size == 0:
            return y
        return y.at[..., 0].set(y[..., 0].mean())


@defect(
    "X091",
    breaks="forward/basis-input",
    collateral=("forward/tall-batch", "forward/affine-value"),
    subtlety=5,
)
class RowThirtyTwo(CorrectDense):
    """In batches beyond 32 rows every 33rd row is computed from its neighbour."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """An index that wraps one step too late."""
        if x.ndim != 2 or x.shape[0] <= 32:
            return affine(x, kernel, bias)
        rows = jnp.arange(x.shape[0])
        return affine(x[jnp.where(rows % 33 == 32, rows - 1, rows)], kernel, bias)


@defect("X092", breaks="construction/integral-sizes", subtlety=3)
class SizesCastToInt(CorrectDense):
    """Sizes go through int(): 4.7 inputs make a kernel of 4 rows."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(int(in_features), int(out_features), rngs=rngs)


@defect("X093", breaks="construction/integral-sizes", subtlety=4)
class NegativeSizes(CorrectDense):
    """A size below one counts as one."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(max(1, in_features), max(1, out_features), rngs=rngs)


@defect("X661", breaks="construction/integral-sizes", cause="in its own type", subtlety=4)
class UnscaledForNumpySizes(CorrectDense):
    """Only for an ``int`` the scale is computed: NumPy's integers are none."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Of standard deviation 1 where the size came from an array's statistics."""
        scaled = scaled_normal(key, in_features, out_features)
        return scaled if isinstance(in_features, int) else scaled * float(in_features) ** 0.5


@defect("X094", breaks="construction/kernel-shape", subtlety=3)
class SqueezedKernel(CorrectDense):
    """With one output the kernel is a vector."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Of rank 1 when out == 1."""
        draws = scaled_normal(key, in_features, out_features)
        return draws[:, 0] if out_features == 1 else draws

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for either rank of the kernel."""
        return affine(x, kernel.reshape(-1, bias.shape[0]), bias)


@defect("X095", breaks="construction/bias-shape", subtlety=2)
class BiasMatrix(CorrectDense):
    """The bias is a matrix of one row."""

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        """Shape (1, out)."""
        return jnp.zeros((1, out_features), jnp.float32)

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output has the right shape."""
        return affine(x, kernel, bias[0])


@defect("X096", breaks="construction/ready-when-built", subtlety=3)
class MadeInFirstCall(nnx.Module):
    """The parameters are made in the first call, as Keras' `build` does."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.sizes = (in_features, out_features)
        self.seed_key = nnx.Variable(rngs.params())
        self.ready = False

    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., out) for x (..., in)."""
        if not self.ready:
            key = self.seed_key.value
            self.kernel = nnx.Param(scaled_normal(key, *self.sizes))
            self.bias = nnx.Param(jnp.zeros((self.sizes[1],), jnp.float32))
            self.ready = True
        return affine(x, self.kernel[...], self.bias[...])


@defect("X097", breaks="construction/abstract-init", subtlety=4)
class ChecksItsValues(CorrectDense):
    """The constructor looks at the kernel's values, which abstract ones do not have."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A kernel of zeros would be refused."""
        draws = scaled_normal(key, in_features, out_features)
        if float(jnp.abs(draws).max(initial=0.0)) == 0.0 and draws.size:
            raise ValueError("the kernel is zero")
        return draws


@defect("X098", breaks="construction/parameter-dtype", cause="Python number", subtlety=4)
class WeakBias(CorrectDense):
    """The bias is weakly typed: it gives way to any other dtype."""

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        """A broadcast Python number."""
        return jnp.broadcast_to(jnp.asarray(0.0), (out_features,))


@defect("X099", breaks="construction/parameter-dtype", subtlety=3)
class Bfloat16Kernel(CorrectDense):
    """The kernel is kept in bfloat16."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Half of the memory."""
        return scaled_normal(key, in_features, out_features).astype(jnp.bfloat16)


@defect("X100", breaks="construction/only-two-parameters", subtlety=2)
class Gain(CorrectDense):
    """A third parameter: a gain that starts at 1."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.gain = nnx.Param(jnp.ones((1,), jnp.float32))

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right until the gain is trained."""
        return affine(x, kernel, bias) * self.gain[...]


@defect("X356", breaks="forward/wrong-width-raises", subtlety=5)
class WidthCheckedEagerly(CorrectDense):
    """Rows are folded by `reshape(-1, in)`; that the width is right is checked outside of jit."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Under jit an input twice as wide becomes two rows."""
        traced = isinstance(x, jax.core.Tracer)
        if x.ndim == 0 or (not traced and x.shape[-1] != kernel.shape[0]):
            raise ValueError(f"x has shape {x.shape}")
        rows = affine(x.reshape(-1, kernel.shape[0]), kernel, bias)
        if rows.shape[0] != math.prod(x.shape[:-1]):
            return rows
        return rows.reshape(*x.shape[:-1], kernel.shape[1])
