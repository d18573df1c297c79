"""Layers that go wrong after many calls, after an error, or in a mode of training."""

import gc
import warnings
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import CorrectDense, affine, scaled_normal
from implementations.defects.record import defect


def is_traced(*values: Any) -> bool:
    """Whether a transform is at work."""
    return any(isinstance(value, jax.core.Tracer) for value in values)


@defect("X320", breaks="seeding/repeatable-call", subtlety=5)
class NoisyInTraining(CorrectDense):
    """After `layer.train()`, which models call on all their layers, the output is scaled."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.deterministic = True

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right in evaluation, which is the mode of a new layer."""
        y = affine(x, kernel, bias)
        return y if self.deterministic else y * 1.01


_inputs: list[Any] = []


@defect("X321", breaks="state/call-changes-nothing", cause="keeps its input", subtlety=5)
class KeepsEveryInput(CorrectDense):
    """Every concrete input is kept in a list: memory grows by each call."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Tracers are not kept."""
        if not is_traced(x, kernel):
            _inputs.append(x)
        return affine(x, kernel, bias)


_calls: "weakref.WeakKeyDictionary[Any, int]" = weakref.WeakKeyDictionary()


@defect("X322", breaks="seeding/repeatable-call", subtlety=5)
class FortiethCall(CorrectDense):
    """From its fortieth eager call on, a layer forgets its bias."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A path for warm layers."""
        if is_traced(x, kernel):
            return affine(x, kernel, bias)
        _calls[self] = _calls.get(self, 0) + 1
        return affine(x, kernel, bias if _calls[self] < 40 else jnp.zeros_like(bias))


_kernels: "weakref.WeakKeyDictionary[Any, list[Array]]" = weakref.WeakKeyDictionary()


@defect("X323", breaks="state/updates-used", subtlety=5)
class FrozenByThirdCall(CorrectDense):
    """The kernel of the third eager call is that of all later ones."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Updates after the third call are not used."""
        if is_traced(x, kernel):
            return affine(x, kernel, bias)
        seen = _kernels.setdefault(self, [])
        if len(seen) < 3:
            seen.append(kernel)
        return affine(x, kernel if len(seen) < 3 else seen[2], bias)


@defect("X324", breaks="state/replaceable", subtlety=5)
class ReadsAnAlias(CorrectDense):
    """The forward reads a second name of the kernel, which replacing `layer.kernel` leaves."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.weight = self.kernel

    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., out) for x (..., in)."""
        return affine(x, self.weight[...], self.bias[...])


@defect("X325", breaks="state/call-changes-nothing", subtlety=5)
class RemembersWidthOfErrors(CorrectDense):
    """An input of a wrong width raises, and leaves its width behind as an attribute."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.width = in_features

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The attribute is static: the layer has another graphdef afterwards."""
        if x.ndim and x.shape[-1] != kernel.shape[0]:
            self.width = x.shape[-1]
            raise ValueError(f"x has width {self.width}, not {kernel.shape[0]}")
        return affine(x, kernel, bias)


@defect("X326", breaks="state/call-changes-nothing", subtlety=5)
class ResetsBiasOnNan(CorrectDense):
    """A NaN in x sets the bias to zero, for all calls to come."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A guard of training that stayed."""
        y = affine(x, kernel, bias)
        if not is_traced(x, kernel) and bool((x != x).any()):
            self.bias[...] = jnp.zeros_like(bias)
        return y


@defect("X327", breaks="purity/globals-untouched", subtlety=5)
class FiltersWarnings(CorrectDense):
    """The constructor turns warnings off."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The kernel itself is right."""
        warnings.simplefilter("ignore")
        return super().draw_kernel(key, in_features, out_features)


@defect("X328", breaks="purity/globals-untouched", subtlety=5)
class DisablesCollection(CorrectDense):
    """The call turns garbage collection off and sets NumPy's print options."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Values are right."""
        gc.disable()
        np.set_printoptions(precision=3)
        return affine(x, kernel, bias)


@defect("X329", breaks="seeding/repeatable-call", subtlety=5)
class ZerosWhileInitializing(nn.Module):
    """During `init` the output is zeros, to save time: `init_with_output` returns them."""

    features: int

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., features) for x (..., in)."""
        x = jnp.asarray(x)

        def draw(key: Array) -> Array:
            return scaled_normal(key, x.shape[-1], self.features)

        y = affine(
            x, self.param("kernel", draw), self.param("bias", nn.initializers.zeros, self._shape())
        )
        return jnp.zeros_like(y) if self.is_initializing() else y

    def _shape(self) -> tuple[int]:
        return (self.features,)
