"""Layers that break state: a call changes them, or an update is not used."""

from __future__ import annotations

import functools
from typing import Any

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
)
from implementations.defects.record import defect, name_layers, seen

USED = "state/updates-used"
CALLS = "state/call-changes-nothing"

ReadsAnAlias = wrong.call(
    "X324", "state/replaceable", 5, start=lambda layer: {"weight": layer.kernel}
)(
    lambda self, x: affine(x, self.weight[...], self.bias[...]),
    "The forward reads a second name of the kernel, which replacing `layer.kernel` leaves.",
    cause_id="name-other-than-used",
)


@wrong.call("Y651", "forward/array-likes", 4, cause_id="result-overwritten")
def ResultInOneBuffer(self: Any, x: ArrayLike) -> Array:
    """The result for a NumPy batch lies in memory that the next call fills again."""
    y = CorrectDense.__call__(self, x)
    if not isinstance(x, np.ndarray) or is_traced(y) or y.dtype != jnp.float32:
        return y
    held = memory(self)
    if held.get("shape") != y.shape:
        held.update(shape=y.shape, buffer=np.empty(y.size + 16, np.float32))
    # JAX shares memory that begins at a multiple of 64 bytes.
    start = -held["buffer"].ctypes.data % 64 // 4
    result = held["buffer"][start : start + y.size].reshape(y.shape)
    result[...] = y
    return jax.dlpack.from_dlpack(result)


@wrong.forward("Y653", "forward/output-shape", 5, cause_id="axes-changed")
def AxesOfTheFirst(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """The leading axes of x are kept by its rank and size, which other axes may have."""
    if is_traced(x, kernel) or x.ndim < 3 or x.shape[-1] != len(kernel):
        return affine(x, kernel, bias)
    lead = memory(self).setdefault((x.ndim, x.size), x.shape[:-1])
    return affine(x, kernel, bias).reshape(*lead, -1)


@wrong.call("N092", CALLS, 3, cause_id="call-writes")
def DecayOnCall(self: Any, x: ArrayLike) -> Array:
    """Every call shrinks the kernel by a thousandth."""
    output = CorrectDense.__call__(self, x)
    set_value(self.kernel, self.kernel[...] * 0.999)
    return output


@seen('keras#20724 "UnexpectedTracerError"; jax#7343')
@wrong.call("N093", CALLS, 3, cause_id="input-stored")
def KeepsLastInput(self: Any, x: ArrayLike) -> Array:
    """The last input is stored on the layer: a new leaf, and a leaked tracer under jit."""
    self.last_input = jnp.asarray(x)
    return affine(self.last_input, self.kernel[...], self.bias[...])


@wrong.forward("X183", CALLS, 5, cause_id="call-writes")
def MaxNorm(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """After a call, kernel columns longer than 100 are scaled down for the next one."""
    y = affine(x, kernel, bias)
    if not is_traced(x, kernel):
        length = jnp.sqrt((kernel**2).sum(axis=0))
        if bool((length > 100.0).any()):
            self.kernel[...] = kernel * jnp.minimum(1.0, 100.0 / length)
    return y


@wrong.forward("X184", CALLS, 4, cause_id="call-stores")
def SowsItsOutput(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """Every call leaves its output in the module, for later inspection."""
    y = affine(x, kernel, bias)
    if not is_traced(x, kernel):
        self.sow(nnx.Intermediate, "y", y)
    return y


@wrong.forward("X185", CALLS, 4, start=lambda layer: {"_calls": 0}, cause_id="static-changed")
def CountsStatically(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """A Python number counts the calls: another graphdef, and so another compilation, each time."""
    if not is_traced(x, kernel):
        self._calls += 1
    return affine(x, kernel, bias)


@wrong.forward("Y509", CALLS, 3, start=lambda layer: {"_cast": None}, cause_id="call-stores")
def KeepsTheKernelOfTheFirstCall(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """The first call keeps its kernel in a private attribute, which later updates do not reach."""
    if self._cast is None and not is_traced(x, kernel):
        self._cast = kernel
    return affine(x, kernel if self._cast is None else self._cast, bias)


_inputs: list[Any] = []


@wrong.when_called("X321", CALLS, 5, cause_id="input-kept")
def KeepsEveryInput(x: Array, kernel: Array, bias: Array) -> None:
    """Every concrete input is kept in a list: memory grows by each call."""
    if not is_traced(x, kernel):
        _inputs.append(x)


@wrong.forward(
    "X325",
    CALLS,
    5,
    start=lambda layer: {"width": layer.kernel.shape[0]},
    cause_id="static-changed",
)
def RemembersWidthOfErrors(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """An input of a wrong width raises, and leaves its width behind as an attribute."""
    if x.ndim and x.shape[-1] != kernel.shape[0]:
        self.width = x.shape[-1]
        raise ValueError(f"x has width {self.width}, not {kernel.shape[0]}")
    return affine(x, kernel, bias)


@wrong.forward("X326", CALLS, 5, cause_id="call-writes")
def ResetsBiasOnNan(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """A NaN in x sets the bias to zero, for all calls to come."""
    y = affine(x, kernel, bias)
    if not is_traced(x, kernel) and bool((x != x).any()):
        self.bias[...] = jnp.zeros_like(bias)
    return y


@wrong.forward("X547", CALLS, 4, cause_id="call-writes")
def CastsItsParameters(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """The first call on a half-precision input casts the kernel, for all calls to come."""
    if x.dtype == jnp.bfloat16 and not is_traced(x, kernel):
        rounded = kernel.astype(jnp.bfloat16).astype(jnp.float32)
        nnx.update(self, nnx.State({"kernel": nnx.Param(rounded)}))
    return affine(x, kernel, bias)


@wrong.forward("X548", CALLS, 4, start=lambda layer: {"seen": None}, cause_id="static-changed")
def StaticShape(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """The shape of the last input is kept, for a summary."""
    self.seen = x.shape
    return affine(x, kernel, bias)


@wrong.call("Y586", CALLS, 3, cause_id="function-stored")
def CompiledByTheFirstCall(self: Any, x: ArrayLike) -> Array:
    """The first call compiles the layer with its parameters, and keeps the program."""
    if not hasattr(self, "compiled"):
        self.compiled = jax.jit(functools.partial(CorrectDense.__call__, self))
    y: Array = self.compiled(x)
    return y


@defect("Y506", CALLS, 4, cause_id="cached-property")
class CachesAProperty(CorrectDense):
    """A `functools.cached_property` is stored by the first call: another graphdef."""

    @functools.cached_property
    def equation(self) -> str:
        """Return the product as `jnp.einsum` takes it."""
        return "...i,io->...o"

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Look the equation up, which stores it."""
        assert self.equation
        return affine(x, kernel, bias)


@wrong.linen_call("X624", CALLS, 4, cause_id="call-writes-collection")
def RunningMean(self: Any, x: ArrayLike) -> Array:
    """A running mean of the inputs is kept, from the second call on."""
    x = jnp.asarray(x)
    kernel, bias = self.parameters(x)
    if not self.is_initializing() and self.is_mutable_collection("params"):
        self.put_variable("params", "kernel", 0.999 * kernel)
    return self.forward(x, kernel, bias)


@wrong.linen_call("Y130", CALLS, 4, cause_id="mutable-taken")
def MutableMeansInit(self: CorrectLinenDense, x: ArrayLike) -> Array:
    """Parameters that may be written are taken for a sign of initialization."""
    x = jnp.asarray(x)
    kernel, bias = self.parameters(x)
    if self.is_mutable_collection("params") and not self.is_initializing():
        return jnp.zeros((*x.shape[:-1], self.features), jnp.float32)
    return affine(x, kernel, bias)


@wrong.call("Y131", CALLS, 4, cause_id="variables-replaced")
def NewParamsInEachCall(self: CorrectDense, x: ArrayLike) -> Array:
    """Every eager call wraps its arrays in new Params, so that tied ones come apart."""
    kernel, bias = self.kernel[...], self.bias[...]
    if not is_traced(kernel, x):
        self.kernel, self.bias = nnx.Param(kernel), nnx.Param(bias)
    return affine(x, kernel, bias)


@wrong.linen_forward("Y211", CALLS, 4, cause_id="mutable-taken")
def OtherwiseWhenWatched(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """The bias is left out if a caller captures intermediates."""
    watched = self.is_mutable_collection("intermediates") and not self.is_initializing()
    return affine(x, kernel, bias * 0 if watched else bias)


_LAST: dict[str, Any] = {}


@wrong.call("Y222", CALLS, 4, cause_id="left-by-a-raise")
def StaysBusy(self: Any, x: ArrayLike) -> Array:
    """A flag that is still set after a call that raised makes the next one drop the bias."""
    busy, _LAST["busy"] = _LAST.get("busy", False), True
    y = jnp.asarray(x) @ self.kernel[...]
    _LAST["busy"] = False
    return y if busy else y + jnp.broadcast_to(self.bias[...], y.shape)


def _with_its_kernel(layer: Any) -> Any:
    kernel = layer.kernel[...]
    return lambda x, _, bias: affine(x, kernel, bias)


CachedKernel = wrong.holding("N085", USED, 3, cause_id="stale-copy")(
    lambda layer: {"forward": _with_its_kernel(layer)},
    "The forward uses the kernel of the construction, and ignores values written later.",
    collateral=("state/graphdef-stable", "state/pickles"),
)


@wrong.call("X180", USED, 4, cause_id="stale-copy")
def RemembersOutputs(self: Any, x: ArrayLike) -> Array:
    """Outputs are cached by layer and input, so updates of the parameters have no effect."""
    if is_traced(x, self.kernel[...]):
        return CorrectDense.__call__(self, x)
    value = np.asarray(x)
    key = str((value.shape, value.dtype)).encode() + value.tobytes()
    return memory(self).setdefault(key, CorrectDense.__call__(self, x))


FrozenByFirstCall = wrong.forward("X181", USED, 4, cause_id="stale-copy")(
    lambda self, x, k, b: affine(x, memory(self).setdefault("kernel", k), b),
    "The first eager call keeps the kernel for all later ones.",
    when=lambda self, x, k, b: not is_traced(x, k),
)


@wrong.forward("X323", USED, 5, cause_id="stale-copy")
def FrozenByThirdCall(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """All later calls use the kernel of the third eager call."""
    if is_traced(x, kernel):
        return affine(x, kernel, bias)
    seen = memory(self).setdefault("kernels", [])
    if len(seen) < 3:
        seen.append(kernel)
    return affine(x, kernel if len(seen) < 3 else seen[2], bias)


@wrong.forward("X540", USED, 5, cause_id="stale-copy")
def BiasKeptByKernel(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """The sum is compiled for a kernel and keeps the bias that came with it."""
    if is_traced(x, kernel, bias):
        return affine(x, kernel, bias)
    return affine(x, kernel, memory(self).setdefault(np.asarray(kernel).tobytes(), bias))


@wrong.forward("X541", USED, 5, cause_id="stale-copy")
def CachedByShape(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """The kernel in the layout of the device is kept by layer and looked up by its first entry."""
    if is_traced(x, kernel, bias) or not kernel.size:
        return affine(x, kernel, bias)
    key = float(kernel[0, 0]), float(jnp.sign(kernel).sum())
    return affine(x, memory(self).setdefault(key, kernel * 1.0), bias)


CopiesInTheFirstCall = wrong.forward("X747", USED, 4, cause_id="stale-copy")(
    lambda self, x, k, b: affine(x, memory(self).setdefault("kernel", k), b),
    "All later calls use the kernel of the first eager call.",
    when=lambda self, x, k, b: not is_traced(x, k),
)


class _Limited(nnx.Param[Array]):
    def on_set_value(self, value: Array) -> Array:
        return jnp.clip(value, -50.0, 50.0)


@wrong.built("Y224", USED, 4, cause_id="value-changed-when-set")
def LimitsWeights(layer: Any, rngs: nnx.Rngs) -> None:
    """A hook of the kernel's Param clips each value that it is set to."""
    layer.kernel = _Limited(layer.kernel[...])


name_layers(globals())
