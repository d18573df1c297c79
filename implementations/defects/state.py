"""Layers that hold the wrong things, or change them."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import CorrectDense, affine, write
from implementations.defects.record import defect


@defect(
    "N001",
    breaks="state/exact-state",
    cause="raw array",
    subtlety=3,
    seen="pitfall; "
    'flax#4480 "Improve error message when user mistakenly holds a jax Array in an nnx.Module"; '
    "flax#4612",
)
class RawKernel(CorrectDense):
    """The kernel is a jax array without nnx.Param around it: gradients and optimizers miss it."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        """Forget the Param of the kernel."""
        kernel = self.draw_kernel(self.kernel_key(rngs), in_features, out_features)
        self.kernel = kernel  # type: ignore[assignment]  # the fault
        self.bias = nnx.Param(self.draw_bias(rngs, in_features, out_features))


@defect("N002", breaks="state/exact-state", cause="raw array", subtlety=3, seen="pitfall")
class RawBias(CorrectDense):
    """The bias is a jax array without nnx.Param around it."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        """Forget the Param of the bias."""
        kernel = self.draw_kernel(self.kernel_key(rngs), in_features, out_features)
        self.kernel = nnx.Param(kernel)
        bias = self.draw_bias(rngs, in_features, out_features)
        self.bias = bias  # type: ignore[assignment]  # the fault


@defect("N006", breaks="state/exact-state", cause="nnx.Variable", subtlety=3, seen="pitfall")
class VariableKernel(CorrectDense):
    """The kernel is a plain nnx.Variable: a filter for nnx.Param misses it."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        """Use the base class of Param."""
        kernel = self.draw_kernel(self.kernel_key(rngs), in_features, out_features)
        self.kernel = nnx.Variable(kernel)  # type: ignore[assignment]  # the fault
        self.bias = nnx.Param(self.draw_bias(rngs, in_features, out_features))


@defect(
    "N007",
    breaks="state/exact-state",
    collateral=("construction/abstract-init",),
    cause="raw array",
    subtlety=3,
    seen="pitfall",
)
class NumpyKernel(CorrectDense):
    """The kernel is a NumPy array: no transformation of nnx tracks it."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        """Leave jax."""
        kernel = self.draw_kernel(self.kernel_key(rngs), in_features, out_features)
        self.kernel = np.asarray(kernel)  # type: ignore[assignment]  # the fault
        self.bias = nnx.Param(self.draw_bias(rngs, in_features, out_features))


@defect(
    "N008",
    breaks="state/exact-state",
    cause="closure",
    subtlety=3,
    seen='flax#5548 "nnx.jit recompiles every epoch when recreating nnx.Module"',
)
class KernelInClosure(CorrectDense):
    """The kernel lives in a closure: it is no leaf, and every instance has its own graphdef."""

    multiply: Callable[[Array], Array]

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        """Close over the kernel."""
        kernel = self.draw_kernel(self.kernel_key(rngs), in_features, out_features)
        self.multiply = lambda x: x @ kernel
        self.bias = nnx.Param(self.draw_bias(rngs, in_features, out_features))

    def __call__(self, x: ArrayLike) -> Array:
        """The right value."""
        product = self.multiply(jnp.asarray(x))
        return product + jnp.broadcast_to(self.bias[...], product.shape)


@defect(
    "N072",
    breaks="state/exact-state",
    cause="Rngs",
    subtlety=3,
    seen='flax#4749 "MultiHeadAttention only keeps rngs if dropout_rate is positive"',
)
class KeepsRngs(CorrectDense):
    """The Rngs is kept: its keys and counts are leaves of the state."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        """Keep what was only lent."""
        super().__init__(in_features, out_features, rngs=rngs)
        self.rngs = rngs


@defect(
    "N085",
    breaks="state/updates-used",
    collateral=("state/graphdef-stable", "state/pickles"),
    cause="kernel",
    subtlety=3,
)
class CachedKernel(CorrectDense):
    """The forward uses the kernel of the construction, whatever is written into the Param."""

    multiply: Callable[[Array], Array]

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        """Remember the initial kernel."""
        super().__init__(in_features, out_features, rngs=rngs)
        initial = self.kernel[...]
        self.multiply = lambda x: x @ initial

    def __call__(self, x: ArrayLike) -> Array:
        """Right until the first update."""
        product = self.multiply(jnp.asarray(x))
        return product + jnp.broadcast_to(self.bias[...], product.shape)


@defect(
    "N091",
    breaks="state/exact-state",
    collateral=("state/call-changes-nothing", "transforms/vmap"),
    cause="calls",
    subtlety=3,
)
class CallCounter(CorrectDense):
    """A Variable counts the calls."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        """Add a third leaf."""
        super().__init__(in_features, out_features, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x: ArrayLike) -> Array:
        """The right value, and one more call."""
        write(self.calls, self.calls[...] + 1)
        return super().__call__(x)


@defect("N092", breaks="state/call-changes-nothing", subtlety=3)
class DecayOnCall(CorrectDense):
    """Every call shrinks the kernel by a thousandth."""

    def __call__(self, x: ArrayLike) -> Array:
        """The right value, once."""
        output = super().__call__(x)
        write(self.kernel, self.kernel[...] * 0.999)
        return output


@defect(
    "N093",
    breaks="state/call-changes-nothing",
    subtlety=3,
    seen='keras#20724 "UnexpectedTracerError"; jax#7343',
)
class KeepsLastInput(CorrectDense):
    """The last input is stored on the layer: a new leaf, and a leaked tracer under jit."""

    def __call__(self, x: ArrayLike) -> Array:
        """The right value, and a memory of x."""
        self.last_input = jnp.asarray(x)
        return affine(self.last_input, self.kernel[...], self.bias[...])
