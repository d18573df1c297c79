"""Layers that break state: they hold, copy, split or pickle the wrong things."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from conformance.jax_setup.compat import set_value
from implementations.defects import wrong
from implementations.defects.base import (
    CorrectDense,
    CorrectLinenDense,
    affine,
    is_traced,
    memory,
    scaled_normal,
    stddev,
)
from implementations.defects.record import also, defect, name_layers, seen

INSTANCES = "state/instances-independent"
GRAPHDEF = "state/graphdef-stable"
EXACT = "state/exact-state"

RawKernel = wrong.holding("N001", EXACT, 3, cause_id="raw-array")(
    lambda layer: {"kernel": layer.kernel[...]},
    "The kernel is a jax array without nnx.Param around it: gradients and optimizers miss it.",
    seen='pitfall; flax#4480 "Improve error message when user mistakenly holds a jax Array in an '
    'nnx.Module"; flax#4612',
)
RawBias = wrong.holding("N002", EXACT, 3, cause_id="raw-array", seen="pitfall")(
    lambda layer: {"bias": layer.bias[...]}, "The bias is a jax array without nnx.Param around it."
)
VariableKernel = wrong.holding("N006", EXACT, 3, cause_id="not-a-param", seen="pitfall")(
    lambda layer: {"kernel": nnx.Variable(layer.kernel[...])},
    "The kernel is a plain nnx.Variable: a filter for nnx.Param misses it.",
)
NumpyKernel = wrong.holding("N007", EXACT, 3, cause_id="raw-array", seen="pitfall")(
    lambda layer: {"kernel": np.asarray(layer.kernel[...])},
    "The kernel is a NumPy array: no transformation of nnx tracks it.",
    collateral=("construction/abstract-init",),
)
RunningScale = wrong.holding("X191", EXACT, 3, cause_id="state-beside-parameters")(
    lambda layer: {"scale": nnx.BatchStat(jnp.ones((), jnp.float32))},
    "A batch statistic besides the parameters, which is never updated.",
)
BiasOfAnotherKind = wrong.holding("X550", EXACT, 3, cause_id="not-a-param")(
    lambda layer: {"bias": nnx.BatchStat(layer.bias[...])},
    "The bias is a BatchStat: no optimizer moves it.",
)
_numbers = itertools.count(1)
NumberedName = wrong.holding("X189", GRAPHDEF, 3, cause_id="static-differs")(
    lambda layer: {"name": f"dense_{next(_numbers)}"},
    "Every layer has a name with its number in it: no two graphdefs are equal.",
    collateral=("transforms/one-trace",),
    seen="Keras names its layers dense, dense_1, ...",
)


def _initializer(deviation: float) -> Any:
    return lambda key, shape: jax.random.normal(key, shape) * deviation


KeepsItsInitializer = wrong.holding("X190", GRAPHDEF, 4, cause_id="static-differs")(
    lambda layer: {"initializer": _initializer(stddev(layer.kernel.shape[0]))},
    "A closure made in the constructor is kept: unequal graphdefs, and no pickling.",
    collateral=("transforms/one-trace", "state/pickles"),
    seen="flax before 0.11: nnx.Linear keeps its initializers",
)
KeepsATag = wrong.holding("X756", GRAPHDEF, 3, cause_id="static-differs")(
    lambda layer: {"tag": f"dense-{id(layer)}"},
    "Every layer has a tag of its own: no two graphdefs are equal.",
)
CompilesItsOwn = wrong.holding("Y159", GRAPHDEF, 3, cause_id="static-differs")(
    lambda layer: {"_formula": jax.jit(lambda x, kernel, bias: affine(x, kernel, bias))},
    "Each layer keeps a compiled function of its own, in a private attribute.",
    collateral=("state/pickles",),
)


class _Formula(nnx.Module):
    def __init__(self) -> None:
        self.activation = lambda x: x


HasAFormulaOfItsOwn = wrong.holding("Y510", GRAPHDEF, 3, cause_id="static-differs")(
    lambda layer: {"formula": _Formula()},
    "A submodule of each layer keeps a new function.",
    collateral=("transforms/one-trace", "state/pickles"),
)
HasAList = wrong.holding("Y511", GRAPHDEF, 2, cause_id="static-unhashable")(
    lambda layer: {"_seen": []},
    "Each layer keeps a list, which has no hash.",
    collateral=("transforms/one-trace",),
)
BornAt = wrong.holding("Y481", GRAPHDEF, 4, cause_id="static-differs")(
    lambda layer: {"bias": nnx.Param(layer.bias[...], made=time.perf_counter_ns())},
    "The metadata of the bias say when it was made.",
    collateral=("transforms/one-trace",),
)


@seen('flax#5548 "nnx.jit recompiles every epoch when recreating nnx.Module"')
@defect("N008", EXACT, 3, cause_id="parameter-hidden")
class KernelInClosure(CorrectDense):
    """The kernel lives in a closure: it is not a leaf, and every instance has its own graphdef."""

    multiply: Callable[[Array], Array]

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        kernel = self.draw_kernel(self.kernel_key(rngs), in_features, out_features)
        self.multiply = lambda x: x @ kernel
        self.bias = nnx.Param(self.draw_bias(rngs, in_features, out_features))

    def __call__(self, x: ArrayLike) -> Array:
        product = self.multiply(jnp.asarray(x))
        return product + jnp.broadcast_to(self.bias[...], product.shape)


@seen('flax#4749 "MultiHeadAttention only keeps rngs if dropout_rate is positive"')
@wrong.built("N072", EXACT, 3, cause_id="rngs-kept")
def KeepsRngs(layer: Any, rngs: nnx.Rngs) -> None:
    """The Rngs is kept: its keys and counts are leaves of the state."""
    layer.rngs = rngs


@also("state/call-changes-nothing", "transforms/vmap")
@wrong.call(
    "N091",
    EXACT,
    3,
    cause_id="state-beside-parameters",
    start=lambda layer: {"calls": nnx.Variable(jnp.zeros((), jnp.int32))},
)
def CallCounter(self: Any, x: ArrayLike) -> Array:
    """A Variable counts the calls."""
    set_value(self.calls, self.calls[...] + 1)
    return CorrectDense.__call__(self, x)


@defect("X542", EXACT, 3, cause_id="parameter-hidden")
class ParametersOfTheClass(CorrectDense):
    """The Params are attributes of the class: all layers have those of the last one."""

    kernel_of_all: ClassVar[Any] = None

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        type(self).kernel_of_all = self.kernel
        del self.kernel

    def __call__(self, x: ArrayLike) -> Array:
        return affine(jnp.asarray(x), type(self).kernel_of_all[...], self.bias[...])


@defect("Y328", EXACT, 1, cause_id="parameter-hidden")
class DrawnInCall(nnx.Module):
    """The layer keeps its Rngs, and draws the kernel in the call."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.sizes, self.rngs = (in_features, out_features), rngs
        self.bias = nnx.Param(jnp.zeros((out_features,)))

    def __call__(self, x: ArrayLike) -> Array:
        kernel = scaled_normal(self.rngs.params(), *self.sizes)
        return affine(x, kernel, self.bias[...])


CopiesAreItself = wrong.methods("X187", INSTANCES, 4, cause_id="parameters-shared")(
    "A deep copy is the layer itself.",
    __deepcopy__=lambda self, memo=None: self,
)


@defect("Y437", "state/pickles", 4)
class CopiesWithoutBias(CorrectDense):
    """``copy.copy`` of the layer takes the first attribute and makes the others new."""

    def __copy__(self) -> Any:
        new = type(self)(*self.kernel[...].shape, rngs=nnx.Rngs(0))
        new.kernel = self.kernel
        return new


_shared_bias: dict[int, nnx.Param] = {}


@wrong.init("X188", INSTANCES, 4, cause_id="parameters-shared")
def SharedBias(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """All layers with as many outputs have one bias."""
    self.kernel = nnx.Param(scaled_normal(rngs.params(), in_features, out_features))
    fresh = nnx.Param(jnp.zeros((out_features,), jnp.float32))
    # A cache of traced values would fail at once, and be found by its author.
    traced = is_traced(self.kernel[...])
    self.bias = fresh if traced else _shared_bias.setdefault(out_features, fresh)


def _shared(out_features: int, made: dict[int, nnx.Param] = {}) -> nnx.Param:  # noqa: B006  # the defect
    fresh = nnx.Param(jnp.zeros((out_features,), jnp.float32))
    return fresh if is_traced(fresh[...]) else made.setdefault(out_features, fresh)


@wrong.init("X543", INSTANCES, 4, cause_id="parameters-shared")
def MutableDefault(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """A mutable default argument holds the biases: layers of one width share theirs."""
    self.kernel = nnx.Param(scaled_normal(rngs.params(), in_features, out_features))
    traced = is_traced(self.kernel[...])
    fresh = nnx.Param(jnp.zeros((out_features,), jnp.float32))
    self.bias = fresh if traced else _shared(out_features)


@defect("X544", INSTANCES, 4, cause_id="parameters-shared")
class DeepCopySharesBias(CorrectDense):
    """A deep copy has its own kernel, and the original's bias."""

    def __deepcopy__(self, memo: Any = None) -> Any:
        copied = nnx.clone(self)
        copied.bias = self.bias
        return copied


def restored_without_bias(cls: Any, kernel: np.ndarray) -> Any:
    """Return the layer of this kernel, its bias zero."""
    layer = cls(*kernel.shape, rngs=nnx.Rngs(0))
    nnx.update(layer, nnx.State({"kernel": nnx.Param(jnp.asarray(kernel))}))
    return layer


PickledWithoutBias = wrong.methods("X186", "state/pickles", 4)(
    "Pickling leaves the bias out and makes a new one of zeros.",
    __reduce__=lambda self: (restored_without_bias, (type(self), np.asarray(self.kernel[...]))),
    __deepcopy__=lambda self, memo=None: nnx.merge(*copy.deepcopy(nnx.split(self), memo)),
)


_stored: dict[int, Any] = {}


def restored_from_store(token: int) -> Any:
    """Return the layer; another process does not have it."""
    return nnx.merge(*copy.deepcopy(_stored[token]))


@defect("X360", "state/pickles", 5, cause_id="pickle-refers-here")
class PicklesAReference(CorrectDense):
    """Pickling keeps the values in this process, and stores a reference."""

    def __reduce__(self) -> Any:
        token = len(_stored)
        _stored[token] = nnx.split(self)
        return restored_from_store, (token,)

    def __deepcopy__(self, memo: Any = None) -> Any:
        return nnx.merge(*copy.deepcopy(nnx.split(self), memo))


def _with_variables(kernel: np.ndarray, bias: np.ndarray) -> Any:
    layer = PickledAsVariables(*kernel.shape, rngs=nnx.Rngs(0))
    for name, value in (("kernel", kernel), ("bias", bias)):
        setattr(layer, name, nnx.Variable(jnp.asarray(value)))
    return layer


PickledAsVariables = wrong.methods("Y413", "state/pickles", 5, cause_id="copied-otherwise")(
    "After pickling, kernel and bias are Variables and not Params, so no optimizer finds them.",
    __reduce__=lambda self: (
        _with_variables,
        (np.asarray(self.kernel[...]), np.asarray(self.bias[...])),
    ),
    __deepcopy__=lambda self, memo=None: nnx.merge(*copy.deepcopy(nnx.split(self), memo)),
)


def _from_half(cls: Any, kernel: np.ndarray, bias: np.ndarray) -> Any:
    layer = cls(*kernel.shape, rngs=nnx.Rngs(0))
    values = {"kernel": kernel, "bias": bias}
    floats = {name: nnx.Param(jnp.asarray(v, jnp.float32)) for name, v in values.items()}
    nnx.update(layer, nnx.State(floats))
    return layer


PickledInHalf = wrong.methods("X545", "state/pickles", 4)(
    "A pickle holds float16, to be small.",
    __reduce__=lambda self: (
        _from_half,
        (type(self), *[np.asarray(v[...]).astype(np.float16) for v in (self.kernel, self.bias)]),
    ),
    __deepcopy__=lambda self, memo=None: nnx.clone(self),
)


@defect("Y203", "state/pickles", 4, cause_id="unpicklable")
class KeepsALambda(CorrectLinenDense):
    """A field holds a function without a name, so that the module cannot be sent to a worker."""

    draw: Any = lambda key, n, m: scaled_normal(key, n, m)

    def draw_kernel(self, key: Array, x: Array) -> Array:
        kernel: Array = self.draw(key, x.shape[-1], self.features)
        return kernel


ScaleKeptOutside = wrong.forward(
    "X182", "state/split-merge", 4, start=lambda layer: memory(layer).update(scale=1.0)
)(
    lambda self, x, k, b: affine(x, k * memory(self).get("scale", 0.5), b),
    "Half of the scale is in a registry beside the module; a merged copy is not in it.",
)
SizeSensitiveMerge = wrong.forward(
    "X193",
    "state/split-merge",
    4,
    start=lambda layer: memory(layer).update(n=layer.kernel.shape[0]),
)(
    lambda self, x, k, b: affine(
        x, jnp.where(jnp.arange(len(k))[:, None] < memory(self).get("n", 15), k, 0), b
    ),
    "A merged copy has no memory of its sizes and treats every kernel as square.",
)
LooksForItself = wrong.forward(
    "X551", "state/split-merge", 4, start=lambda layer: memory(layer).update(live=True)
)(
    lambda self, x, k, b: affine(x, k, jnp.zeros_like(b)),
    "A list of live layers decides who may add the bias; a merged one is not in it.",
    when=lambda self, x, k, b: not memory(self) and not is_traced(x, k),
)


name_layers(globals())
