"""Layers that remember: an update, a copy or another instance meets what was kept."""

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import CorrectDense, affine, scaled_normal
from implementations.defects.lifetime import is_traced
from implementations.defects.record import defect

_warm: dict[int, Any] = {}
_called: dict[int, Any] = {}
_biases: dict[bytes, Array] = {}


@defect("X540", breaks="state/updates-used", subtlety=5)
class BiasKeptByKernel(CorrectDense):
    """The sum is compiled for a kernel and keeps the bias that came with it."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A new bias counts once the kernel is new, too."""
        if is_traced(x, kernel, bias):
            return affine(x, kernel, bias)
        # The layer is kept alive, so that its id stays its own.
        _warm[id(self)] = self
        key = np.asarray(kernel).tobytes() + str(id(self)).encode()
        return affine(x, kernel, _biases.setdefault(key, bias))


_by_id: dict[int, Array] = {}


@defect("X541", breaks="state/updates-used", subtlety=5)
class CachedByShape(CorrectDense):
    """The kernel in the layout of the device is kept by layer and looked up by its first entry."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """An update that leaves the first entry as it was is not seen."""
        if is_traced(x, kernel, bias) or not kernel.size:
            return affine(x, kernel, bias)
        _warm[id(self)] = self
        key = hash((id(self), float(kernel[0, 0]), float(jnp.sign(kernel).sum())))
        return affine(x, _by_id.setdefault(key, kernel * 1.0), bias)


@defect("X542", breaks="state/exact-state", subtlety=3)
class ParametersOfTheClass(CorrectDense):
    """The Params are attributes of the class: all layers have those of the last one."""

    kernel_of_all: ClassVar[Any] = None

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        type(self).kernel_of_all = self.kernel
        del self.kernel

    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., out) for x (..., in)."""
        return affine(jnp.asarray(x), type(self).kernel_of_all[...], self.bias[...])


def _shared(out_features: int, made: dict[int, nnx.Param] = {}) -> nnx.Param:  # noqa: B006  # the defect
    fresh = nnx.Param(jnp.zeros((out_features,), jnp.float32))
    return fresh if is_traced(fresh[...]) else made.setdefault(out_features, fresh)


@defect("X543", breaks="state/instances-independent", subtlety=4)
class MutableDefault(CorrectDense):
    """A mutable default argument holds the biases: layers of one width share theirs."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(scaled_normal(rngs.params(), in_features, out_features))
        traced = is_traced(self.kernel[...])
        fresh = nnx.Param(jnp.zeros((out_features,), jnp.float32))
        self.bias = fresh if traced else _shared(out_features)


@defect("X544", breaks="state/instances-independent", subtlety=4)
class DeepCopySharesBias(CorrectDense):
    """A deep copy has a kernel of its own, and the original's bias."""

    def __deepcopy__(self, memo: Any = None) -> Any:
        copied = nnx.clone(self)
        copied.bias = self.bias
        return copied


@defect("X545", breaks="state/pickles", subtlety=4)
class PickledInHalf(CorrectDense):
    """A pickle holds float16, to be small."""

    def __reduce__(self) -> Any:
        values = [np.asarray(v[...]).astype(np.float16) for v in (self.kernel, self.bias)]
        return _from_half, (type(self), *values)

    def __deepcopy__(self, memo: Any = None) -> Any:
        return nnx.clone(self)


def _from_half(cls: Any, kernel: np.ndarray, bias: np.ndarray) -> Any:
    layer = cls(*kernel.shape, rngs=nnx.Rngs(0))
    values = {"kernel": kernel, "bias": bias}
    floats = {name: nnx.Param(jnp.asarray(v, jnp.float32)) for name, v in values.items()}
    nnx.update(layer, nnx.State(floats))
    return layer


@defect("X547", breaks="state/call-changes-nothing", subtlety=4)
class CastsItsParameters(CorrectDense):
    """The first call on a half-precision input casts the kernel, for all calls to come."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Values of float32 inputs change afterwards."""
        if x.dtype == jnp.bfloat16 and not is_traced(x, kernel):
            rounded = kernel.astype(jnp.bfloat16).astype(jnp.float32)
            nnx.update(self, nnx.State({"kernel": nnx.Param(rounded)}))
        return affine(x, kernel, bias)


@defect("X548", breaks="state/call-changes-nothing", subtlety=4)
class StaticShape(CorrectDense):
    """The shape of the last input is kept, for a summary."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.seen: Any = None

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A static attribute changes."""
        self.seen = x.shape
        return affine(x, kernel, bias)


@defect("X549", breaks="seeding/repeatable-call", subtlety=4)
class FirstCallDiffers(CorrectDense):
    """The first call warms up with a kernel in bfloat16."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """From the second call on, right."""
        if is_traced(x, kernel) or id(self) in _called:
            return affine(x, kernel, bias)
        _called[id(self)] = self
        return affine(x, kernel.astype(jnp.bfloat16).astype(jnp.float32), bias)


@defect("X550", breaks="state/exact-state", subtlety=3)
class BiasOfAnotherKind(CorrectDense):
    """The bias is a BatchStat: no optimizer moves it."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.bias = nnx.BatchStat(jnp.zeros((out_features,), jnp.float32))  # type: ignore[assignment]  # the defect


@defect("X551", breaks="state/split-merge", subtlety=4)
class LooksForItself(CorrectDense):
    """A list of live layers decides who may add the bias; a merged one is not in it."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        _live[id(self)] = self

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Copies have no bias when they are called outside of a transform."""
        if _live.get(id(self)) is self or is_traced(x, kernel):
            return affine(x, kernel, bias)
        return affine(x, kernel, jnp.zeros_like(bias))


_live: dict[int, Any] = {}
