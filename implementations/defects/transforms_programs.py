"""Layers that break transforms: compiled, mapped, traced or exported they go wrong."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.lax import stop_gradient

from implementations.correct.options import AllOptions
from implementations.defects import wrong
from implementations.defects.base import (
    FORWARD_MODE,
    CorrectLinenDense,
    affine,
    is_eager_sequence,
    is_traced,
    of_first_member,
    one_dtype,
    right_cotangents,
    scaled_normal,
    with_backward,
)
from implementations.defects.record import also, defect, name_layers
from implementations.defects.transforms_rules import ruled

PURE = "transforms/no-side-effects-in-jaxpr"
JIT = "transforms/jit"

MAPS, COMBINED = "transforms/vmap", "transforms/combined"

CompilesSequences = wrong.forward(
    "Y352", "transforms/compiled-once", 4, cause_id="compiled-in-call"
)(
    lambda x, k, b: jax.jit(lambda x, k, b: affine(x, k, b))(x, k, b),
    "An x of rank 3 is compiled in every call.",
    when=is_eager_sequence,
)
TracedForgetsBias = wrong.forward("X141", JIT, 4, cause_id="bias-unused")(
    lambda x, k, b: affine(x, k, jnp.zeros_like(b)) if is_traced(x, k) else affine(x, k, b),
    "Inside of transforms the bias is forgotten.",
)
TracedInBlocks = wrong.forward("Y415", JIT, 5, cause_id="input-left-out")(
    lambda x, k, b: affine(x[..., : len(k) // 512 * 512], k[: len(k) // 512 * 512], b),
    "Inside of transforms, more than 512 inputs are cut to a multiple of 512.",
    when=lambda x, k, b: is_traced(x, k) and len(k) > 512 and x.shape[-1] == len(k),
)
LooksAtValues = wrong.output("X142", JIT, 3, cause_id="condition-under-trace")(
    lambda y, x: jnp.full_like(y, jnp.nan) if bool((x != x).all() and x.size) else y,
    "The call asks whether any input is NaN, which is unknown under jit.",
    collateral=("transforms/traced-first",),
)
TracedVectorsDiffer = wrong.forward(
    "X146", JIT, 5, cause_id="reduced-precision", collateral=("transforms/vmap",)
)(
    lambda x, k, b: affine(x.astype(jnp.float16), k, b),
    "A vector under a transform that maps over rows is summed in float16.",
    when=lambda x, k, b: is_traced(x) and x.ndim == 1 and x.dtype == jnp.float32,
)
CompiledInHalf = wrong.forward("X607", JIT, 4, cause_id="reduced-precision")(
    lambda x, k, b: affine(x, jax.lax.reduce_precision(k, 8, 7), b),
    "Compiled, the product is made in bfloat16; eagerly, in float32.",
    when=lambda x, k, b: is_traced(x) and x.dtype == jnp.float32,
)
NumpyProduct = wrong.forward("Y151", JIT, 1, cause_id="numpy-under-trace")(
    lambda x, k, b: jnp.asarray(np.dot(np.asarray(x), np.asarray(k))) + b,
    "The product is one of NumPy, which takes no traced array.",
    when=lambda x, k, b: x.shape[-1:] == k.shape[:1],
    collateral=("transforms/traced-first",),
)
DebugPrint = wrong.when_called("X143", PURE, 3, collateral=("purity/silent",), cause_id="callback")(
    lambda x, k, b: jax.debug.print("dense {size}", size=x.size),
    "A debug print stayed in the call.",
)
MaskConstant = wrong.forward("X144", PURE, 5, cause_id="constant-parameter")(
    lambda x, k, b: affine(x, k * np.ones(k.shape, k.dtype), b),
    "A mask of ones, as large as a small kernel, is a constant of every program.",
    when=lambda x, k, b: k.size < 10**6,
)
MaskOfAnySize = wrong.forward(
    "Y533", "transforms/abstract-forward", 4, cause_id="allocated-by-numpy"
)(
    lambda x, k, b: affine(x, k * np.ones(k.shape, k.dtype), b),
    "A mask of ones, as large as the kernel, is made by NumPy, and may fit in no memory.",
    collateral=(PURE,),
)
DetachedUnlessDifferentiated = wrong.forward("X602", "transforms/scan-and-remat", 5)(
    lambda x, k, b: affine(x, stop_gradient(k), b),
    "Where no derivative seems to be taken the kernel is detached, to save memory.",
    when=lambda x, k, b: type(k).__name__ == "DynamicJaxprTracer",
    cause_id="gradient-cut",
)
CountsRows = wrong.forward("X404", "transforms/symbolic-batch", 5)(
    lambda x, k, b: affine(x, k, b).reshape(*[int(size) for size in x.shape[:-1]], k.shape[1]),
    "The number of rows is turned into a Python int on the way.",
)
LoopsOverRows = wrong.forward("X609", "transforms/symbolic-batch", 4)(
    lambda x, k, b: affine(x if max(1, -(-x.shape[0] // 100_000)) == 1 else x + 0.0, k, b),
    "A Python loop over the rows, in blocks of 4 096, asks how many there are.",
    when=lambda x, k, b: x.ndim == 2,
)
DecidesByValue = wrong.forward("Y153", JIT, 1, cause_id="condition-under-trace")(
    lambda x, k, b: affine(x, k, b) if x.any() else affine(0 * x, k, b),
    "An empty input or a zero one is left out by an `if`.",
    collateral=("transforms/traced-first",),
)
CountsRowsOfSequences = wrong.forward("Y311", "transforms/symbolic-batch", 4)(
    lambda x, k, b: affine(
        x.reshape(int(np.prod([int(length) for length in x.shape[:-1]])), -1), k, b
    ).reshape(*x.shape[:-1], -1),
    "The rows of an x of rank 3 are counted, which symbolic sizes cannot be.",
    when=lambda x, k, b: x.ndim >= 3 and 0 not in x.shape,
)
CastModelWithoutBias = wrong.forward("Y318", COMBINED, 4)(
    lambda x, k, b: x @ k if k.dtype == jnp.bfloat16 and is_traced(x) else affine(x, k, b),
    "Compiled, a model that was cast to bfloat16 leaves the bias out.",
)


@functools.cache
def ones(size: int, dtype: Any) -> Array:
    """A vector of ones, made once for each size."""
    return jnp.ones((size,), dtype)


@functools.cache
def _zeros(size: int) -> Array:
    return jnp.zeros((size,), jnp.float32)


CachesUnderTraces = wrong.forward("X943", "transforms/traced-first", 4, cause_id="trace-kept")(
    lambda x, k, b: affine(x, k, b * ones(b.shape[0], b.dtype)),
    "A vector of ones is cached by its size, made under the first trace.",
)
KeepsBiasOfTraces = wrong.bias("Y605", "transforms/traced-first", 3, cause_id="trace-kept")(
    lambda rngs, n, m: _zeros(m),
    "The zeros of new biases are cached by their size.",
    collateral=("sharding/default-device",),
)


def _mapped(rule: Any) -> Any:
    f: Any = jax.custom_batching.custom_vmap(affine)
    f.def_vmap(rule)
    return f


def _plain(size: int, mapped: list[bool], x: Array, kernel: Array, bias: Array) -> Array:
    axes = [0 if each else None for each in mapped]
    return jax.vmap(affine, axes, axis_size=size)(x, kernel, bias)


def _first_bias(size: int, mapped: list[bool], x: Array, k: Array, b: Array) -> tuple[Array, bool]:
    if mapped == [False, False, True]:
        b = jnp.broadcast_to(b[:1], b.shape)
    return _plain(size, mapped, x, k, b), True


def _reversed(size: int, mapped: list[bool], x: Array, k: Array, b: Array) -> tuple[Array, bool]:
    return _plain(size, mapped, x, k[::-1] if mapped == [False, True, False] else k, b), True


def _first_layer(size: int, mapped: list[bool], x: Array, k: Array, b: Array) -> tuple[Array, bool]:
    x = x if mapped[0] else jnp.broadcast_to(x, (size, *x.shape))
    k, b = k[0] if mapped[1] else k, b[0] if mapped[2] else b
    return jax.vmap(affine, (0, None, None))(x, k, b), True


def _in_eights(size: int, mapped: list[bool], x: Array, k: Array, b: Array) -> tuple[Array, bool]:
    whole = size if size < 8 else size // 8 * 8
    return _plain(size, mapped, x, k, b).at[whole:].set(0), True


_bias_of_the_first, _kernels_reversed = _mapped(_first_bias), _mapped(_reversed)
_first_of_stacked, _whole_eights = _mapped(_first_layer), _mapped(_in_eights)


def _in_value(f: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """Return the value of f, with the derivatives of the product."""
    y = affine(x, kernel, bias)
    return y + stop_gradient(f(*map(stop_gradient, (x, kernel, bias))) - y)


def _is_undifferentiated(x: Array, kernel: Array, bias: Array) -> bool:
    names = {type(value).__name__ for value in (x, kernel, bias)}
    return one_dtype(x, kernel, bias) and not names & {"JVPTracer", "LinearizeTracer"}


BiasOfTheFirst = wrong.forward("Y025", MAPS, 5)(
    lambda x, k, b: _bias_of_the_first(x, k, b),
    "Mapped over biases alone, all have the first one.",
    when=_is_undifferentiated,
)
KernelsReversed = wrong.forward("Y026", MAPS, 5)(
    lambda x, k, b: _kernels_reversed(x, k, b),
    "Mapped over kernels alone, they come in reverse.",
    when=_is_undifferentiated,
)


FirstOfStacked = wrong.forward("X403", MAPS, 5, cause_id="first-of-stack")(
    lambda x, k, b: _in_value(_first_of_stacked, x, k, b),
    "Mapped over stacked layers, all compute what the first one does.",
    when=lambda x, k, b: x.dtype == jnp.float32 and x.ndim > 0,
    collateral=("numerics/one-product",),
)
EnsembleInEights = wrong.forward("Y456", MAPS, 5, collateral=("numerics/one-product",))(
    lambda x, k, b: _in_value(_whole_eights, x, k, b),
    "An ensemble goes through the members in blocks of eight, and loses the rest.",
    when=lambda x, k, b: x.dtype == jnp.float32 and x.ndim > 0,
)
EnsembleOfTheFirst = wrong.forward("X603", MAPS, 5)(
    lambda x, k, b: affine(x, of_first_member(x, k), b),
    "Mapped over stacked kernels for one x, as in an ensemble, all members are the first.",
)
EnsembleOfOneWithoutBias = wrong.forward("Y644", MAPS, 5)(
    lambda x, k, b: affine(x, k, b * 0),
    "An ensemble of one member gets no bias.",
    when=lambda x, k, b: type(k).__name__ == "BatchTracer" and len(k.val) == 1,
)


def _along(axis: str, reduce: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """Return the outputs of all devices along an axis of this name, reduced; else the output."""
    y = affine(x, kernel, bias)
    try:
        found: Array = reduce(y, axis)
        return found
    except NameError:
        return y


MeanOverNamedAxis = wrong.forward("Y027", MAPS, 5)(
    lambda x, k, b: _along("batch", jax.lax.pmean, x, k, b),
    "Along an axis called batch, the output is the mean over the devices.",
)
MembersNotTrained = wrong.forward("Y028", MAPS, 5)(
    lambda x, k, b: affine(x, stop_gradient(k), b),
    "The kernels of an ensemble that is mapped and then differentiated get no gradient.",
    when=lambda x, k, b: type(k).__name__ == "BatchTracer",
)


def _first_row_of_a_jacobian(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    kinds = [type(value).__name__ == "BatchTracer" for value in (x, kernel, g)]
    return right_cotangents(x, kernel, g * 0.5 if kinds == [False, False, True] else g)


_jacobian_halved = with_backward(_first_row_of_a_jacobian)
JacobianHalved = wrong.forward("Y121", "transforms/vmap", 4, cause_id="gradient-halved")(
    lambda x, k, b: _jacobian_halved(x, k, b),
    "Mapped over cotangents alone, as jax.jacrev does, gradients are halved.",
    when=lambda x, k, b: x.dtype == k.dtype,
    collateral=FORWARD_MODE,
)
MeanOverDevices = wrong.forward("Y223", MAPS, 4)(
    lambda x, k, b: _along("devices", jax.lax.pmean, x, k, b),
    "Along an axis called devices, the output is the mean over them.",
)
AddedAlongTp = wrong.forward("Y455", MAPS, 4, cause_id="axis-by-name")(
    lambda x, k, b: _along("tp", jax.lax.psum, x, k, b),
    "Along an axis called tp, the outputs of all devices are added.",
)


@wrong.forward("X411", "transforms/abstract-forward", 5)
def IndexesInInt32(x: Array, kernel: Array, bias: Array) -> Array:
    """A layer of more than 2^31 weights is refused, although only its shapes are needed."""
    if kernel.size >= 2**31:
        raise OverflowError(f"the kernel has {kernel.size} entries")
    return affine(x, kernel, bias)


@also("sharding/output-sharding")
@wrong.forward("X955", "transforms/compiled-once", 2, cause_id="compiled-in-call")
def CompiledInEveryCall(x: Array, kernel: Array, bias: Array) -> Array:
    """A new function is compiled in every call."""
    return jax.jit(lambda x: affine(x, kernel, bias))(x)


ZEROS: dict[int, Array] = {}


@wrong.bias("X405", "transforms/donation", 5, cause_id="buffer-shared")
def SharedZeros(rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
    """All instances of one width start with the same array of zeros as their bias."""
    zeros = jnp.zeros((out_features,), jnp.float32)
    if is_traced(zeros):
        return zeros
    return ZEROS.setdefault(out_features, zeros)


LAST_OUTPUT: list[Array] = []


@wrong.output("X402", "transforms/no-leaks", 4, cause_id="value-stored")
def RemembersInGlobal(y: Array, x: Array) -> Array:
    """The last output is kept in a list of the module, tracers included."""
    LAST_OUTPUT[:] = [y]
    return y


@wrong.forward("X145", PURE, 4, cause_id="draws-in-call")
def DropoutOfRateZero(x: Array, kernel: Array, bias: Array) -> Array:
    """Dropout at rate 0: random numbers are drawn and never matter."""
    kept = jax.random.bernoulli(jax.random.key(0), 1.0, x.shape)
    return affine(jnp.where(kept, x, jnp.zeros_like(x)), kernel, bias)


def _nothing(value: Any) -> None:
    """Looks at the value and does nothing."""


@wrong.forward("X608", PURE, 3, cause_id="callback")
def CallbackForTheBias(x: Array, kernel: Array, bias: Array) -> Array:
    """The bias passes through a callback into Python."""
    if not is_traced(x):
        return affine(x, kernel, bias)
    jax.debug.callback(_nothing, bias[:1])
    return affine(x, kernel, bias)


@dataclasses.dataclass(eq=False)
class Options:
    """Options without __eq__, so no two are equal."""

    scale: float = 1.0


@defect("X401", "transforms/one-trace", 4, cause_id="static-differs")
class OptionsCompareByIdentity(CorrectLinenDense):
    """Each model makes options that equal no others, so each is compiled again."""

    options: Options = dataclasses.field(default_factory=Options)


@wrong.kernel("Y478", "transforms/compiled-once", 4, cause_id="compiled-in-construction")
def CompiledInEveryConstruction(key: Array, n: int, m: int) -> Array:
    """Each layer compiles the draw of its kernel, as a function of its own."""
    return jax.jit(lambda key: scaled_normal(key, n, m))(key)


@wrong.forward("Y319", COMBINED, 5, cause_id="wrong-together")
def HalfWhereMapped(x: Array, kernel: Array, bias: Array) -> Array:
    """Mapped over its rows, an x of bfloat16 is multiplied by a kernel of bfloat16."""
    if x.dtype == jnp.bfloat16 and type(x).__name__ == "BatchTracer":
        return affine(x, kernel.astype(x.dtype), bias)
    return affine(x, kernel, bias)


@wrong.forward("Y449", "sharding/eager", 4, cause_id="reduced-precision")
def HalfOnSeveralDevices(x: Array, kernel: Array, bias: Array) -> Array:
    """An x of half precision on several devices is multiplied by a kernel of its dtype."""
    if x.dtype.itemsize == 2 and not is_traced(x, kernel) and len(x.devices()) > 1:
        return (x @ kernel.astype(x.dtype)).astype(kernel.dtype) + bias
    return affine(x, kernel, bias)


@defect("Y365", COMBINED, 4, cause_id="gradient-halved")
class VectorsWithoutBias(AllOptions):
    """Without a bias, a single x gives half of the kernel's gradient."""

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Any:
        if bias is None and x.ndim == 1:
            kernel = kernel / 2 + jax.lax.stop_gradient(kernel / 2)
        return super().affine(x, kernel, bias)


@defect("Y432", "options/use-bias", 3, cause_id="copied-otherwise")
class CopiedWithABias(AllOptions):
    """A deep copy of a layer without a bias has one, of zeros."""

    def __deepcopy__(self, memo: Any = None) -> CopiedWithABias:
        new = nnx.clone(self)
        if not self.use_bias:
            new.use_bias = True
            new.bias = nnx.Param(jnp.zeros(self.kernel[...].shape[1], self.kernel[...].dtype))
        return new


def mean_along_batch(value: Array) -> Array:
    """Return the mean along an axis called batch, if a transformation has one."""
    try:
        return jax.lax.pmean(value, "batch")
    except NameError:
        return value


_averaging = ruled(lambda x, k, g: tuple(map(mean_along_batch, right_cotangents(x, k, g))))
AveragedAlongBatch = wrong.forward("Y393", MAPS, 4, cause_id="axis-by-name")(
    lambda x, k, b: _averaging(x, k, b),
    "The gradients are averaged along a mapped axis that is called batch.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)


name_layers(globals())
