"""Linen layers that mix up names, collections, shapes and the two ways of defining a module."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import CorrectLinenDense, affine, scaled_normal
from implementations.defects.record import defect


@defect("X620", breaks="construction/only-two-parameters", subtlety=3)
class BiasInBatchStats(CorrectLinenDense):
    """The bias is a variable of the collection of running statistics."""

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., features) for x (..., in)."""
        x = jnp.asarray(x)
        kernel = self.param("kernel", self.draw_kernel, x)
        bias = self.variable("batch_stats", "bias", jnp.zeros, (self.features,), jnp.float32)
        return self.forward(x, kernel, bias.value)


@defect("X621", breaks="initialization/bias-zero", subtlety=3)
class BiasByTheKernelsInitializer(CorrectLinenDense):
    """One initializer for both: the bias is drawn like the kernel."""

    def draw_bias(self, key: Array, x: Array) -> Array:
        """The initial bias (features,)."""
        return scaled_normal(key, x.shape[-1], self.features)[0]


@defect("X622", breaks="serialization/stable-names", cause="each other's names", subtlety=3)
class NamesSwapped(CorrectLinenDense):
    """The kernel is called bias, and the bias kernel."""

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., features) for x (..., in)."""
        x = jnp.asarray(x)
        kernel = self.param("bias", self.draw_kernel, x)
        bias = self.param("kernel", self.draw_bias, x)
        return self.forward(x, kernel, bias)


@defect("X623", breaks="forward/output-shape", subtlety=3)
class WidthOfTheSecondAxis(CorrectLinenDense):
    """The number of inputs is `x.shape[1]`: of a vector there is none."""

    def draw_kernel(self, key: Array, x: Array) -> Array:
        """The initial kernel (in, features)."""
        return scaled_normal(key, x.shape[1] if x.ndim > 1 else 1, self.features)


@defect("X624", breaks="state/call-changes-nothing", subtlety=4)
class RunningMean(CorrectLinenDense):
    """A running mean of the inputs is kept, from the second call on."""

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., features) for x (..., in)."""
        x = jnp.asarray(x)
        kernel = self.param("kernel", self.draw_kernel, x)
        bias = self.param("bias", self.draw_bias, x)
        if not self.is_initializing() and self.is_mutable_collection("params"):
            self.put_variable("params", "kernel", 0.999 * kernel)
        return self.forward(x, kernel, bias)


@defect(
    "X625",
    breaks="construction/only-two-parameters",
    collateral=("forward/output-shape",),
    subtlety=4,
)
class Perturbed(CorrectLinenDense):
    """`self.perturb` is left in: `init` returns a collection of perturbations."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Values are right."""
        return self.perturb("y", affine(x, kernel, bias))


@defect("X626", breaks="seeding/repeatable-call", subtlety=4)
class FirstOutputInHalf(CorrectLinenDense):
    """While it is initialized the layer computes in bfloat16."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """`init_with_output` gives another output than `apply`."""
        if not self.is_initializing():
            return affine(x, kernel, bias)
        return affine(x, jax.lax.reduce_precision(kernel, 8, 7), bias)


@defect("X627", breaks="initialization/data-free-init", subtlety=4)
class ZerosForAnEmptyExample(CorrectLinenDense):
    """An example of integers makes a kernel of another seed."""

    def draw_kernel(self, key: Array, x: Array) -> Array:
        """As the dtype of the example goes into the key."""
        kind = 1 if jnp.issubdtype(x.dtype, jnp.integer) else 0
        key = jax.random.fold_in(key, kind) if kind else key
        return scaled_normal(key, x.shape[-1], self.features)


@defect("X628", breaks="forward/zero-input", cause="never used", subtlety=3)
class BiasInitializedNotAdded(nn.Module):
    """The bias is a parameter of a part that is not called."""

    features: int

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., features) for x (..., in)."""
        x = jnp.asarray(x)
        kernel = self.param("kernel", lambda key: scaled_normal(key, x.shape[-1], self.features))
        self.param("bias", nn.initializers.zeros, (self.features,))
        return affine(x, kernel, jnp.zeros((self.features,)))


@defect("X629", breaks="forward/zero-input", cause="reduced precision", subtlety=3)
class ComputesInBfloat16(nn.Module):
    """`dtype=bfloat16` is left from training, and the result cast back."""

    features: int

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., features) for x (..., in)."""
        y = nn.Dense(self.features, dtype=jnp.bfloat16)(jnp.asarray(x))
        return y.astype(jnp.float32)
