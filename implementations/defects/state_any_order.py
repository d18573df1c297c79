"""Layers in which each use is right alone, and one use leaves something wrong for a later one."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import (
    CorrectDense,
    PlainDense,
    affine,
    is_traced,
    memory,
    right_cotangents,
    scaled,
    with_backward,
)
from implementations.defects.record import Defect, declaring, defect, name_layers

BFLOAT16 = jnp.bfloat16
ORDER = "state/any-order"


def _keeping(when: Callable[..., bool]) -> Any:
    """Return a forward that keeps the kernel and the bias of a layer's first such call."""

    def values(layer: Any, x: Array, *present: Array) -> Any:
        return memory(layer).setdefault("values", present) if when(x, present[0]) else present

    return lambda self, x, k, b: affine(x, *((k, b) if is_traced(k) else values(self, x, k, b)))


HalfKernelKept = wrong.forward("Y335", "dtypes/half-input", 4, cause_id="stale-copy")(
    _keeping(lambda x, k: x.dtype == BFLOAT16 and k.dtype == jnp.float32),
    "The parameters of the first call on a bfloat16 x are kept for such calls.",
)
SequencesKept = wrong.forward("Y336", ORDER, 4)(
    _keeping(lambda x, k: x.ndim == 3 and not is_traced(x)),
    "The parameters of the first call on an x of rank 3 are kept for such calls.",
)
ImagesKept = wrong.forward("Y472", ORDER, 4, cause_id="reduced-precision")(
    _keeping(lambda x, k: x.ndim == 4 and not is_traced(x)),
    "The parameters of the first call on an x of rank 4 are kept for such calls.",
)
SaliencyKept = wrong.forward("Y337", ORDER, 4)(
    _keeping(lambda x, k: is_traced(x)),
    "The parameters of the first gradient in x alone are kept for such gradients.",
)
TokensKept = wrong.forward("Y338", ORDER, 4)(
    _keeping(lambda x, k: x.ndim == 1 and not is_traced(x)),
    "The parameters of the first call on a vector are kept for such calls.",
)
BiasOfAnotherDtype = wrong.forward("Y345", ORDER, 4, cause_id="bias-unused")(
    lambda x, k, b: affine(x, k, b * 0),
    "The bias is lost if it is float32 and the kernel alone was cast to bfloat16.",
    when=lambda x, k, b: k.dtype == BFLOAT16 and b.dtype == jnp.float32,
)
IdsOf16Bits = wrong.forward("Y349", ORDER, 4)(
    lambda x, k, b: affine(x.astype(jnp.int16), k, b),
    "Outside of jit, integers of rank 3 are kept in 16 bits.",
    when=lambda x, k, b: not is_traced(x, k, b) and x.dtype == jnp.int32 and x.ndim == 3,
)
VectorsWithoutJit = wrong.forward("Y350", ORDER, 5, cause_id="bias-unused")(
    lambda x, k, b: affine(x, k, b * 0),
    "Under ``jax.disable_jit``, a vector gets no bias.",
    when=lambda x, k, b: jax.config.values["jax_disable_jit"] and x.ndim == 1,
)
BornInATrace = wrong.forward(
    "Y342",
    ORDER,
    4,
    start=lambda layer: {"is_ready": not is_traced(layer.kernel[...])},
    cause_id="bias-unused",
)(
    lambda self, x, k, b: affine(x, k, b if self.is_ready else b * 0),
    "A layer that is constructed under a trace, as by ``nnx.jit``, adds no bias afterwards.",
)
NumpyVectorsInHalf = wrong.given("Y351", ORDER, 5, cause_id="reduced-precision")(
    lambda x: x.astype(np.float16).astype(np.float32),
    "A NumPy vector of more than 32 numbers is read through float16.",
    when=lambda x: (
        isinstance(x, np.ndarray) and x.ndim == 1 and x.size > 32 and x.dtype == np.float32
    ),
)


@defect("Y339", ORDER, 4, cause_id="output-scaled")
class FusedInEval(CorrectDense):
    """``eval()`` fixes the kernel for serving; an update that follows is not seen."""

    def eval(self, **attributes: Any) -> None:
        """Fix the kernel."""
        super().eval(**attributes)
        memory(self)["fused"] = self.kernel[...]

    def train(self, **attributes: Any) -> None:
        """Use the Param again."""
        super().train(**attributes)
        memory(self).pop("fused", None)

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        return affine(x, memory(self).get("fused", kernel), bias)


@defect("Y340", ORDER, 5)
class LazyCopy(CorrectDense):
    """A deep copy reads the parameters of its original until its own kernel is written."""

    def __deepcopy__(self, memo: Any = None) -> Any:
        copied = nnx.clone(self)
        memory(copied)["origin"] = self, copied.kernel[...]
        return copied

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        origin, copied = memory(self).get("origin", (None, None))
        if origin is not None and copied is kernel:
            kernel, bias = origin.kernel[...], origin.bias[...]
        return affine(x, kernel, bias)


@defect("Y341", ORDER, 4)
class CopiedInFloat32(CorrectDense):
    """A deep copy of a model that was cast to bfloat16 is float32 again."""

    def __deepcopy__(self, memo: Any = None) -> Any:
        copied = nnx.clone(self)
        copied.kernel = nnx.Param(self.kernel[...].astype(jnp.float32))
        copied.bias = nnx.Param(self.bias[...].astype(jnp.float32))
        return copied


_slow_bias = with_backward(lambda x, k, g: scaled(right_cotangents(x, k, g), 2, 0.5))


@defect("Y343", ORDER, 4, cause_id="gradient-halved")
class SlowBiasAfterTrain(CorrectDense):
    """After ``train()``, the bias gets half of its gradient."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.training = False

    def train(self, **attributes: Any) -> None:
        """Start to train."""
        super().train(**attributes)
        self.training = True

    def forward(self, x: Array, kernel: Array, bias: Array) -> Any:
        plain = not self.training or x.dtype != kernel.dtype
        return affine(x, kernel, bias) if plain else _slow_bias(x, kernel, bias)


@wrong.forward("Y344", ORDER, 5, cause_id="bias-unused")
def BusyAfterATrace(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """A trace that raises leaves the layer busy, and a busy layer adds no bias."""
    if not is_traced(x):
        return affine(x, kernel, bias * 0 if memory(self).get("busy") else bias)
    memory(self)["busy"] = True
    y = affine(x, kernel, bias)
    memory(self)["busy"] = False
    return y


@wrong.forward("Y346", ORDER, 5)
def PrecisionOfTheFirstCall(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """The precision that the user has set is read when a layer is first called."""
    if is_traced(kernel):
        return affine(x, kernel, bias)
    now = jax.config.values["jax_default_matmul_precision"]
    asked = memory(self).setdefault("precision", now)
    product = jnp.matmul(x, kernel, precision=asked or "default")
    return product + jnp.broadcast_to(bias, product.shape)


@wrong.call("Y347", ORDER, 4)
def CountsTracesOfSequences(self: Any, x: ArrayLike) -> Array:
    """Traced calls on an x of rank 3 are counted in a static attribute."""
    kernel = self.kernel[...]
    if jnp.ndim(x) == 3 and is_traced(kernel):
        self.traces = getattr(self, "traces", 0) + 1
    return affine(x, kernel, self.bias[...])


@wrong.forward("Y348", ORDER, 5)
def SmallStepsUnseen(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """A kernel that has changed by less than 1 % since the last call is taken for the same."""
    if is_traced(x, kernel, bias) or not kernel.size:
        return affine(x, kernel, bias)
    last = memory(self).get("kernel")
    moved = np.inf if last is None else np.abs(kernel - last).max() / np.abs(last).max()
    if last is None or last.dtype != kernel.dtype or not moved <= 0.01:
        last = memory(self)["kernel"] = kernel
    return affine(x, last, bias)


class _CompiledLater(PlainDense):
    """The first call compiles a function that holds the weights as constants."""

    compiled: Any = None

    def __call__(self, x: ArrayLike) -> Any:
        if is_traced(x, self.kernel):
            return super().__call__(x)
        self.compiled = self.compiled or jax.jit(super().__call__)
        return self.compiled(x)


CompiledLater = declaring(
    _CompiledLater, Defect("Y554", "state/updates-used", cause_id="stale-copy")
)


class _RangeOfTheFirstCall(PlainDense):
    """The first call calibrates the range of x, to which later ones are clipped."""

    range: float = 0

    def __call__(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        if not is_traced(x) and x.dtype == jnp.float32 and x.size:
            self.range = self.range or float(jnp.abs(x).max())
            x = jnp.clip(x, -self.range, self.range)
        return super().__call__(x)


RangeOfTheFirstCall = declaring(
    _RangeOfTheFirstCall, Defect("Y556", "seeding/repeatable-call", cause_id="output-changes")
)


class _BuiltAgain(PlainDense):
    """A copy is built again from the sizes and the key, and loses what was trained."""

    def __init__(self, in_features: int, out_features: int, key: Array) -> None:
        super().__init__(in_features, out_features, key)
        self.sizes, self.key = (in_features, out_features), key

    def __reduce__(self) -> Any:
        return type(self), (*self.sizes, self.key)


BuiltAgain = declaring(_BuiltAgain, Defect("Y557", "state/pickles", cause_id="copied-otherwise"))


class _EqualBySizes(PlainDense):
    """Layers of one size are equal, so JAX runs the program that it compiled for another one."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _EqualBySizes) and self.kernel.shape == other.kernel.shape

    def __hash__(self) -> int:
        return hash(self.kernel.shape)


EqualBySizes = declaring(
    _EqualBySizes, Defect("Y589", "transforms/jit", cause_id="equal-with-other-values", subtlety=4)
)


@wrong.call("Y558", "state/updates-used", 4, cause_id="kept-by-object")
def LastResultAgain(self: Any, x: ArrayLike) -> Any:
    """The last result is given again for the same array x, also after training."""
    if is_traced(x, self.kernel[...]) or not isinstance(x, jax.Array):
        return CorrectDense.__call__(self, x)
    of, y = memory(self).get("last", (lambda: None, None))
    if of() is not x:
        y = CorrectDense.__call__(self, x)
        memory(self)["last"] = weakref.ref(x), y
    return y


@wrong.forward("Y564", "state/updates-used", 5, cause_id="stale-copy")
def KeptForOneSum(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """A copy of the kernel is kept for as long as the sum of its weights stays the same."""
    if is_traced(x, kernel) or kernel.dtype != jnp.float32:
        return affine(x, kernel, bias)
    total = float(kernel.sum()), getattr(kernel, "sharding", None)
    kept = memory(self)
    if kept.get("total") != total:
        kept.update(total=total, kernel=kernel)
    return affine(x, kept["kernel"], bias)


@defect("Y639", "state/pickles", 4, cause_id="stale-copy")
class ServedFromItsFile(CorrectDense):
    """A layer that was loaded serves from the arrays of its file, and updates are not seen."""

    def __setstate__(self, state: Any) -> None:
        vars(self).update(state)
        memory(self)["loaded"] = self.kernel[...]

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        return affine(x, kernel if is_traced(kernel) else memory(self).get("loaded", kernel), bias)


@wrong.forward("Y640", "sharding/second-device", 4, cause_id="stale-copy")
def KeptOnOtherDevices(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """On another device than the first, the kernel of the first call there is kept."""
    if is_traced(x, kernel) or jax.devices()[0] in kernel.devices():
        return affine(x, kernel, bias)
    return affine(x, memory(self).setdefault("kernel", kernel), bias)


_with_held: Any = jax.custom_vjp(lambda x, kernel, held: x @ kernel)
_with_held.defvjp(
    lambda x, kernel, held: (x @ kernel, held),
    lambda held, g: (g @ held.T, jnp.zeros_like(held), jnp.zeros_like(held)),
)


@wrong.forward("Y594", ORDER, 4)
def KernelOfTheFirstSaliency(self: Any, x: Array, kernel: Array, bias: Array) -> Any:
    """A gradient in x alone uses the kernel of the first such call."""
    if is_traced(kernel) or not is_traced(x) or x.dtype != kernel.dtype:
        return affine(x, kernel, bias)
    y = _with_held(x, kernel, memory(self).setdefault("held", kernel))
    return y + jnp.broadcast_to(bias, y.shape)


name_layers(globals())
