"""Plain faults, one for each cause that no other defect has."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from conformance import Implementation
from implementations.correct.functional import apply_dictionary, dictionary
from implementations.correct.options import AllOptions
from implementations.defects import wrong
from implementations.defects.base import (
    CorrectDense,
    affine,
    is_float,
    is_traced,
    normal,
    right_cotangents,
    scaled_normal,
    stddev,
    with_backward,
)
from implementations.defects.record import Defect, also, declaring, defect, name_layers

ZERO, BASIS = "forward/zero-input", "forward/basis-input"


def is_square(x: Array, kernel: Array, bias: Array) -> bool:
    """Return whether a layer has as many inputs as outputs."""
    return kernel.shape[0] == kernel.shape[1]


@defect("Y622", "construction/kernel-shape", 2, cause_id="kernel-padded")
class KernelPadded(CorrectDense):
    """The kernel is stored with rows and columns of zeros up to a multiple of eight."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        kernel = scaled_normal(key, in_features, out_features)
        return jnp.pad(kernel, ((0, -in_features % 8), (0, -out_features % 8)))

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        return affine(x, kernel[: x.shape[-1], : bias.size], bias)


KernelNegated = wrong.forward("Y417", BASIS, 2, cause_id="kernel-negated")(
    lambda x, k, b: affine(x, -k, b), "The kernel is subtracted."
)
KernelUnused = wrong.forward("Y418", BASIS, 1, cause_id="kernel-unused")(
    lambda x, k, b: affine(x, 0 * k, b), "The result is the bias."
)
OutputsReversed = wrong.forward("Y419", ZERO, 2, cause_id="outputs-reversed")(
    lambda x, k, b: affine(x, k[:, ::-1], b[::-1]), "The outputs are in the other order."
)
InputRounded = wrong.forward("Y420", "numerics/precision", 3, cause_id="input-rounded")(
    lambda x, k, b: affine(jnp.round(x) if is_float(x) else x, k, b), "x is rounded to integers."
)
BiasInInput = wrong.forward("Y421", ZERO, 3, cause_id="bias-in-input")(
    lambda x, k, b: affine(x + b, k, 0 * b),
    "The bias is added to x in a square layer.",
    when=is_square,
)
BiasHalved = wrong.forward("Y422", ZERO, 2, cause_id="bias-scaled")(
    lambda x, k, b: affine(x, k, b / 2), "Half of the bias is added."
)
BiasRounded = wrong.forward("Y423", ZERO, 4, cause_id="bias-rounded")(
    lambda x, k, b: affine(x, k, b.astype(jnp.bfloat16).astype(b.dtype)),
    "The bias goes through bfloat16.",
)
ReluOfAll = wrong.output("Y424", ZERO, 2, cause_id="relu")(
    lambda y, x: jnp.maximum(y, 0) if is_float(y) else y, "A relu is part of the layer."
)
TanhOfKernel = wrong.forward("Y428", BASIS, 3, cause_id="kernel-transformed")(
    lambda x, k, b: affine(x, jnp.tanh(k), b), "The weights are kept within -1 and 1."
)

BiasAsCondition = wrong.forward("Y522", "forward/output-shape", 1, cause_id="array-as-condition")(
    lambda x, k, b: x @ k + b if b else x @ k,
    "The bias is asked for its truth, which it has only for a single output.",
)
RoundsFloat64 = wrong.forward("Y519", "dtypes/x64-stable", 3, cause_id="float64-rounded")(
    lambda x, k, b: affine(x.astype(jnp.float32), k, b).astype(x.dtype),
    "Where 64-bit types are enabled, x is rounded all the same.",
    when=lambda x, k, b: x.dtype == jnp.float64,
)


def _transposed(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    dx, dkernel, dbias = right_cotangents(x, kernel, g)
    return dx, dkernel.T, dbias


_turning = with_backward(_transposed)
GradientTransposed = wrong.forward(
    "Y425", "transforms/gradients", 3, cause_id="gradient-transposed"
)(
    lambda x, k, b: _turning(x, k, b),
    "In a square layer the gradient of the kernel is transposed.",
    when=is_square,
)


@wrong.call("Y426", "forward/output-shape", 2, cause_id="batches-only")
def BatchesOnly(self: Any, x: ArrayLike) -> Array:
    """A single vector is refused."""
    if np.ndim(x) == 1:
        raise ValueError("x is a batch of rows")
    return CorrectDense.__call__(self, x)


_narrow: weakref.WeakSet[Any] = weakref.WeakSet()


@wrong.forward("Y429", "dtypes/cast-parameters", 4, cause_id="former-dtype-kept")
def StaysNarrow(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """Once its parameters were of bfloat16, the layer computes in it from then on."""
    if kernel.dtype == jnp.bfloat16 and not is_traced(x, kernel):
        _narrow.add(self)
    y = affine(x, kernel, bias)
    return y.astype(jnp.bfloat16).astype(y.dtype) if self in _narrow else y


@wrong.kernel("Y467", "construction/integral-sizes", 4, cause_id="size-rounded")
def ScaleOfTheSizesType(key: Array, in_features: int, out_features: int) -> Array:
    """The scale is computed in half precision where the sizes are NumPy's."""
    scale = stddev(in_features)
    if isinstance(in_features, np.integer):
        scale = float(np.float16(scale))
    return normal(key, in_features, out_features) * scale


@wrong.kernel("Y468", "initialization/kernel-independence", 5, cause_id="runs-repeat")
def RunsFromATable(key: Array, in_features: int, out_features: int) -> Array:
    """A large kernel is put together of runs of four weights, from a table of them."""
    count = in_features * out_features
    if count < 2**20 or count % 4 or in_features > 4096:
        return scaled_normal(key, in_features, out_features)
    of_table, of_places = jax.random.split(key)
    table = jax.random.normal(of_table, (2**15, 4), jnp.float32) * stddev(in_features)
    places = jax.random.randint(of_places, (count // 4,), 0, len(table))
    return table[places].reshape(in_features, out_features)


@wrong.key("Y469", "seeding/key-kinds", 3, cause_id="key-part-unused")
def KeysOfTwoWords(rngs: nnx.Rngs) -> Array:
    """Only a key of two words is used; every other one counts as the same."""
    key = rngs.params()
    return key if jax.random.key_data(key).shape[-1:] == (2,) else jax.random.key(0)


_kept: list[Array] = []


@wrong.forward("Y485", "forward/affine-value", 3, cause_id="tracer-kept")
def SumOfTheLastKernel(x: Array, kernel: Array, bias: Array) -> Array:
    """The kernel of the last call is kept in a global list."""
    y = affine(x, kernel, bias)
    if _kept:
        y = y + 0 * _kept.pop().sum().astype(y.dtype)
    _kept.append(kernel)
    return y


_donating = jax.jit(affine, donate_argnums=(2,))


@also("forward/output-shape")
@wrong.forward("Y486", "state/call-changes-nothing", 3, cause_id="array-deleted")
def DonatesItsBias(x: Array, kernel: Array, bias: Array) -> Array:
    """The call donates its own bias."""
    return _donating(x, kernel, bias) if not is_traced(x, kernel, bias) else affine(x, kernel, bias)


DeviceAsked = wrong.forward("Y488", "transforms/jit", 3, cause_id="device-under-trace")(
    lambda x, k, b: affine(jax.device_put(x, next(iter(x.devices()))), k, b),
    "The call asks x for its device.",
)


@defect("Y489", "construction/builds", 3, cause_id="mesh-missing")
class ShardedByNames(CorrectDense):
    """The kernel is annotated with axes of a mesh that is not there."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        value = scaled_normal(rngs.params(), in_features, out_features)
        self.kernel = nnx.Param(value, out_sharding=(None, "model"))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))


@defect("Y490", "serialization/stable-names", 2, cause_id="names-none")
class ParametersInAList(nnx.Module):
    """Kernel and bias are in a list."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        kernel = scaled_normal(rngs.params(), in_features, out_features)
        self.both = nnx.List([nnx.Param(kernel), nnx.Param(jnp.zeros((out_features,)))])

    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, self.both[0][...], self.both[1][...])


@defect("Y493", "construction/only-two-parameters", 2, cause_id="kernel-in-parts")
class OneArray(nnx.Module):
    """The bias is the last column of a kernel that is stored as (out, in)."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        kernel = scaled_normal(rngs.params(), in_features, out_features)
        self.weights = nnx.Param(jnp.concatenate([kernel, jnp.zeros((1, out_features))]).T)

    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, self.weights[...].T[:-1], self.weights[...].T[-1])


@defect("Y494", "construction/only-two-parameters", 2, cause_id="kernel-in-parts")
class TwoBlocks(CorrectDense):
    """The kernel is in two parameters, for the first and the other outputs."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        kernel = scaled_normal(rngs.params(), in_features, out_features)
        self.first = nnx.Param(kernel[:, : out_features // 2])
        self.others = nnx.Param(kernel[:, out_features // 2 :])
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, jnp.concatenate([self.first[...], self.others[...]], 1), self.bias[...])


@defect("Y492", BASIS, 3, cause_id="kernel-scaled")
class ScaledInTheCall(CorrectDense):
    """The kernel is of variance 1, and is multiplied by 1/sqrt(in) in the call."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        return normal(key, in_features, out_features)

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        return affine(x, kernel * stddev(kernel.shape[0]), bias)


@defect("Y491", "construction/only-two-parameters", 3, cause_id="no-one-kernel")
class LowRank(nnx.Module):
    """The kernel is the product of two parameters."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.down = nnx.Param(scaled_normal(rngs.params(), in_features, 2))
        self.up = nnx.Param(scaled_normal(rngs.params(), 2, out_features))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, self.down[...] @ self.up[...], self.bias[...])


@defect("Y495", "models/inspected", 2, cause_id="dataclass-eq")
@dataclasses.dataclass
class ComparedByFields(nnx.Module):
    """A dataclass compares by its fields, and has no hash."""

    in_features: int
    out_features: int
    rngs: dataclasses.InitVar[nnx.Rngs]

    def __post_init__(self, rngs: nnx.Rngs) -> None:
        kernel = scaled_normal(rngs.params(), self.in_features, self.out_features)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros((self.out_features,), jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, self.kernel[...], self.bias[...])


@defect("Y496", "construction/builds", 1, cause_id="array-static")
class ArraysInADict(nnx.Module):
    """The parameters are in a dict, where nnx looks for none."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        kernel = scaled_normal(rngs.params(), in_features, out_features)
        self.both = {"kernel": nnx.Param(kernel), "bias": nnx.Param(jnp.zeros(out_features))}

    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, self.both["kernel"][...], self.both["bias"][...])


@defect("Y497", "construction/builds", 1, cause_id="array-in-tuple")
class CommaAtTheEnd(CorrectDense):
    """A comma at the end of a line makes a tuple of the kernel."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        kernel = scaled_normal(rngs.params(), in_features, out_features)
        self.kernel = nnx.Param(kernel),  # type: ignore[assignment]  # fmt: skip
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))


@defect("Y498", ZERO, 2, cause_id="activation-by-default")
class ActivatedByDefault(CorrectDense):
    """An activation is applied unless it is declined."""

    def __init__(
        self, in_features: int, out_features: int, *, activate: bool = True, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.activate = activate

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        y = affine(x, kernel, bias)
        return jax.nn.gelu(y) if self.activate else y


@defect("Y499", "options/dtype", 3, cause_id="dtype-for-parameters-alone")
class CastsItsParametersAlone(AllOptions):
    """The parameters are rounded to dtype, and x is not."""

    def __call__(self, x: Any) -> Array:
        rounded = self.dtype if self.dtype is not None else self.kernel[...].dtype
        kernel = self.kernel[...].astype(rounded)
        bias = self.bias[...].astype(rounded) if self.use_bias else jnp.zeros((), rounded)
        return jnp.asarray(x) @ kernel.astype(jnp.float32) + bias.astype(jnp.float32)


WritesTheBiasAlone = Implementation(
    name="WritesTheBiasAlone",
    library="jax",
    init=dictionary,
    apply=apply_dictionary,
    kernel=lambda parameters: parameters["kernel"],
    bias=lambda parameters: parameters["bias"],
    with_parameters=lambda parameters, kernel, bias: {**parameters, "bias": bias},
)
object.__setattr__(WritesTheBiasAlone, "__module__", __name__)
declaring(
    WritesTheBiasAlone,
    Defect("Y516", "construction/only-two-parameters", cause_id="not-written", subtlety=2),
)
BiasOfTwoAxes = wrong.bias("Y427", "construction/bias-shape", 2, cause_id="bias-rank")(
    lambda rngs, n, m: jnp.zeros((m, 1), jnp.float32), "The bias is a column."
)


name_layers(globals())
