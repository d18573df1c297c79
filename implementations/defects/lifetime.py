"""Layers that are right when new and go wrong later: after a call, an update, a copy."""

import copy
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import CorrectDense, affine, scaled_normal, standard_deviation
from implementations.defects.record import defect


def is_traced(*values: Any) -> bool:
    """Whether a transform is at work."""
    return any(isinstance(value, jax.core.Tracer) for value in values)


_outputs: dict[tuple[int, bytes], Array] = {}


@defect("X180", breaks="state/updates-used", subtlety=4)
class RemembersOutputs(CorrectDense):
    """Outputs are remembered by layer and input: an update of the parameters comes too late."""

    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., out) for x (..., in)."""
        if is_traced(x, self.kernel[...]):
            return super().__call__(x)
        value = np.asarray(x)
        key = (id(self), str((value.shape, value.dtype)).encode() + value.tobytes())
        if key not in _outputs:
            # The layer is kept alive, so that its id stays its own.
            _kept.append(self)
            _outputs[key] = super().__call__(x)
        return _outputs[key]


_kept: list[Any] = []
_first_kernels: "weakref.WeakKeyDictionary[Any, Array]" = weakref.WeakKeyDictionary()


@defect("X181", breaks="state/updates-used", subtlety=4)
class FrozenByFirstCall(CorrectDense):
    """The first eager call keeps the kernel for all later ones."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """An update before the first call is used, a later one is not."""
        if is_traced(x, kernel):
            return affine(x, kernel, bias)
        return affine(x, _first_kernels.setdefault(self, kernel), bias)


_scales: "weakref.WeakKeyDictionary[Any, float]" = weakref.WeakKeyDictionary()


@defect("X182", breaks="state/split-merge", subtlety=4)
class ScaleKeptOutside(CorrectDense):
    """Half of the scale is in a registry beside the module; a merged copy is not in it."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        _scales[self] = 1.0

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Wrong for every copy."""
        return affine(x, kernel * _scales.get(self, 0.5), bias)


@defect("X183", breaks="state/call-changes-nothing", subtlety=5)
class MaxNorm(CorrectDense):
    """After a call, kernel columns longer than 100 are scaled down for the next one."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Kernels of usual size are left as they are."""
        y = affine(x, kernel, bias)
        if not is_traced(x, kernel):
            length = jnp.sqrt((kernel**2).sum(axis=0))
            if bool((length > 100.0).any()):
                self.kernel[...] = kernel * jnp.minimum(1.0, 100.0 / length)
        return y


@defect("X184", breaks="state/call-changes-nothing", subtlety=4)
class SowsItsOutput(CorrectDense):
    """Every call leaves its output in the module, for later inspection."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The state grows by a leaf."""
        y = affine(x, kernel, bias)
        if not is_traced(x, kernel):
            self.sow(nnx.Intermediate, "y", y)
        return y


@defect("X185", breaks="state/call-changes-nothing", subtlety=4)
class CountsStatically(CorrectDense):
    """A Python number counts the calls: another graphdef, and so another compilation, each time."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.calls = 0

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The state is untouched, the static part is not."""
        if not is_traced(x, kernel):
            self.calls += 1
        return affine(x, kernel, bias)


@defect("X186", breaks="state/pickles", subtlety=4)
class PickledWithoutBias(CorrectDense):
    """Pickling leaves the bias out and makes a new one of zeros."""

    def __reduce__(self) -> Any:
        return restored_without_bias, (type(self), np.asarray(self.kernel[...]))

    def __deepcopy__(self, memo: Any = None) -> Any:
        return nnx.merge(*copy.deepcopy(nnx.split(self), memo))


def restored_without_bias(cls: Any, kernel: np.ndarray) -> Any:
    """The layer of this kernel, its bias zero."""
    layer = cls(*kernel.shape, rngs=nnx.Rngs(0))
    nnx.update(layer, nnx.State({"kernel": nnx.Param(jnp.asarray(kernel))}))
    return layer


@defect("X187", breaks="state/instances-independent", subtlety=4)
class CopiesAreItself(CorrectDense):
    """A deep copy is the layer itself."""

    def __deepcopy__(self, memo: Any = None) -> Any:
        return self


_shared_bias: dict[int, nnx.Param] = {}


@defect("X188", breaks="state/instances-independent", subtlety=4)
class SharedBias(CorrectDense):
    """All layers with as many outputs have one bias."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(scaled_normal(rngs.params(), in_features, out_features))
        fresh = nnx.Param(jnp.zeros((out_features,), jnp.float32))
        # A cache of traced values would fail at once, and be found by its author.
        traced = isinstance(self.kernel[...], jax.core.Tracer)
        self.bias = fresh if traced else _shared_bias.setdefault(out_features, fresh)


_names = [0]


@defect(
    "X189",
    breaks="state/graphdef-stable",
    collateral=("transforms/one-trace",),
    subtlety=3,
    seen="Keras names its layers dense, dense_1, ...",
)
class NumberedName(CorrectDense):
    """Every layer has a name with its number in it: no two graphdefs are equal."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        _names[0] += 1
        self.name = f"dense_{_names[0]}"


@defect(
    "X190",
    breaks="state/graphdef-stable",
    collateral=("transforms/one-trace", "state/pickles"),
    subtlety=4,
    seen="flax before 0.11: nnx.Linear keeps its initializers",
)
class KeepsItsInitializer(CorrectDense):
    """A closure made in the constructor is kept: unequal graphdefs, and no pickling."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        deviation = standard_deviation(in_features)
        self.initializer = lambda key, shape: jax.random.normal(key, shape) * deviation


@defect("X191", breaks="state/exact-state", subtlety=3)
class RunningScale(CorrectDense):
    """A batch statistic beside the parameters, which nobody updates."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.scale = nnx.BatchStat(jnp.ones((), jnp.float32))


@defect("X192", breaks="forward/zero-input", collateral=("state/updates-used",), subtlety=4)
class BiasMaskedByItsFirstValue(CorrectDense):
    """Whether there is a bias is decided at construction, where it is zero."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.has_bias = False

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The bias counts from the second output on."""
        if self.has_bias or bias.shape[0] < 2:
            return affine(x, kernel, bias)
        return affine(x, kernel, bias.at[0].set(0.0))


@defect("X193", breaks="state/split-merge", subtlety=4)
class SizeSensitiveMerge(CorrectDense):
    """A merged copy has no memory of its sizes and treats every kernel as square."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        _kept_sizes[self] = in_features

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """From 16 inputs on, those after the 15th are lost to copies."""
        known = _kept_sizes.get(self, 15)
        return affine(x, jnp.where(jnp.arange(kernel.shape[0])[:, None] < known, kernel, 0), bias)


_kept_sizes: "weakref.WeakKeyDictionary[Any, int]" = weakref.WeakKeyDictionary()


_stored: dict[int, Any] = {}


@defect("X360", breaks="state/pickles", subtlety=5)
class PicklesAReference(CorrectDense):
    """Pickling keeps the values in this process and writes down where they are."""

    def __reduce__(self) -> Any:
        token = len(_stored)
        _stored[token] = nnx.split(self)
        return restored_from_store, (token,)

    def __deepcopy__(self, memo: Any = None) -> Any:
        return nnx.merge(*copy.deepcopy(nnx.split(self), memo))


def restored_from_store(token: int) -> Any:
    """The layer; in another process there is none."""
    return nnx.merge(*copy.deepcopy(_stored[token]))
