"""Layers that are right in one call, and wrong about being compiled, mapped, saved or spread."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import CorrectDense, CorrectLinenDense, affine
from implementations.defects.record import defect


@dataclasses.dataclass(eq=False)
class Options:
    """Options without an equality of their own: no two are equal."""

    scale: float = 1.0


@defect("X401", breaks="transforms/one-trace", cause="static", subtlety=4)
class OptionsCompareByIdentity(CorrectLinenDense):
    """Each model makes options that are equal to no other ones: each is compiled anew."""

    options: Options = dataclasses.field(default_factory=Options)


@defect("X402", breaks="transforms/no-leaks", cause="store", subtlety=4)
class RemembersInGlobal(CorrectDense):
    """The last output is kept in a list of the module, tracers included."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Values are right."""
        y = affine(x, kernel, bias)
        LAST_OUTPUT[:] = [y]
        return y


LAST_OUTPUT: list[Array] = []


@jax.custom_batching.custom_vmap
def mapped_affine(x: Array, kernel: Array, bias: Array) -> Array:
    """The right output, with a rule for vmap written out below."""
    return affine(x, kernel, bias)


@mapped_affine.def_vmap
def first_of_stacked(
    size: int, batched: list[bool], x: Array, kernel: Array, bias: Array
) -> tuple[Array, bool]:
    """The rule takes the first of stacked parameters for all of them."""
    x_batched, kernel_batched, bias_batched = batched
    kernel = kernel[0] if kernel_batched else kernel
    bias = bias[0] if bias_batched else bias
    x = x if x_batched else jnp.broadcast_to(x, (size, *x.shape))
    return jax.vmap(affine, (0, None, None))(x, kernel, bias), True


@defect(
    "X403",
    breaks="transforms/vmap",
    collateral=("numerics/one-product",),
    subtlety=5,
)
class FirstOfStacked(CorrectDense):
    """Mapped over stacked layers, all compute what the first one does."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for one layer."""
        y = affine(x, kernel, bias)
        if x.dtype != jnp.float32 or x.ndim == 0:
            return y
        # The rule serves values only: derivatives are those of the product itself.
        stop = jax.lax.stop_gradient
        return y + stop(mapped_affine(stop(x), stop(kernel), stop(bias)) - y)


@defect("X404", breaks="transforms/symbolic-batch", subtlety=5)
class CountsRows(CorrectDense):
    """The number of rows is turned into a Python int on the way."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Values are right."""
        rows = [int(size) for size in x.shape[:-1]]
        return affine(x, kernel, bias).reshape(*rows, kernel.shape[1])


ZEROS: dict[int, Array] = {}


@defect("X405", breaks="transforms/donation", cause="share", subtlety=5)
class SharedZeros(CorrectDense):
    """All instances of one width start with the same array of zeros as their bias."""

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        """Zeros from a cache, outside of transforms."""
        zeros = jnp.zeros((out_features,), jnp.float32)
        if isinstance(zeros, jax.core.Tracer):
            return zeros
        return ZEROS.setdefault(out_features, zeros)


@defect("X407", breaks="dtypes/rank-promotion", subtlety=4)
class BiasPromoted(CorrectDense):
    """The bias is added as it is, and broadcast by promotion."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """As in the exercise."""
        return jnp.asarray(x) @ kernel + bias


LECUN = nnx.initializers.lecun_normal()


@defect("X408", breaks="sharding/sharding-metadata", subtlety=5)
class AnnotationDropped(CorrectDense):
    """An initializer can be given, and what it annotates is thrown away."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_init: Any = LECUN,
        rngs: nnx.Rngs,
    ) -> None:
        """The initializer's value without its metadata."""
        kernel = kernel_init(rngs.params(), (in_features, out_features), jnp.float32)
        self.kernel = nnx.Param(getattr(kernel, "raw_value", kernel))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        """The right output."""
        return affine(x, self.kernel[...], self.bias[...])


@defect("X409", breaks="transforms/gradients", subtlety=5)
class ClippedGradient(CorrectDense):
    """The gradient that reaches the kernel is clipped to +-10."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Values are right."""
        return affine(x, clip_gradient(kernel), bias)


@jax.custom_vjp
def clip_gradient(value: Array) -> Array:
    """The identity; its gradient is clipped."""
    return value


clip_gradient.defvjp(lambda value: (value, None), lambda _, g: (jnp.clip(g, -10.0, 10.0),))


@defect("X410", breaks="transforms/gradients", cause="averaged", subtlety=4)
class AveragedGradients(CorrectDense):
    """A backward pass that averages over the batch instead of summing."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Values are right."""
        if x.dtype != jnp.float32 or x.ndim == 0 or x.shape[-1] != kernel.shape[0]:
            return affine(x, kernel, bias)
        return affine_averaged(x, kernel, bias)


@jax.custom_vjp
def affine_averaged(x: Array, kernel: Array, bias: Array) -> Array:
    """The right output."""
    return affine(x, kernel, bias)


def averaged_backward(saved: Any, g: Array) -> tuple[Array, Array, Array]:
    """Means over rows."""
    x, kernel = saved
    rows, weights = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    count = max(1, rows.shape[0])
    return g @ kernel.T, rows.T @ weights / count, weights.sum(axis=0) / count


affine_averaged.defvjp(lambda x, k, b: (affine(x, k, b), (x, k)), averaged_backward)


@defect("X411", breaks="transforms/abstract-forward", subtlety=5)
class IndexesInInt32(CorrectDense):
    """A layer of more than 2^31 weights is refused, though only its shapes are asked for."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for every layer that fits into the memory of one device."""
        if kernel.size >= 2**31:
            raise OverflowError(f"the kernel has {kernel.size} entries")
        return affine(x, kernel, bias)


@defect("X412", breaks="sharding/sharded-equals-local", subtlety=4)
class PinnedToFirstDevice(CorrectDense):
    """The kernel is moved to the first device in every call."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right on one device."""
        first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return affine(x, jax.device_put(kernel, first), bias)
