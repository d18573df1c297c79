"""Layers that are right in plain use, and wrong beside it: after an error, for NaN, in a map."""

from __future__ import annotations

import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import CorrectDense, affine, is_traced, layer_output
from implementations.defects.record import name_layers

LAYERS: list[Any] = []
_LAST: dict[str, Any] = {}
_BUILT: dict[Any, CorrectDense] = {}

Float16Saturates = wrong.forward("Y214", "dtypes/half-input", 4, cause_id="not-finite-replaced")(
    lambda x, k, b: affine(jnp.nan_to_num(x), k, b),
    "An x of float16 is clipped to its finite range.",
    when=lambda x, k, b: x.dtype == jnp.float16,
)
OverflowClamped = wrong.output("Y215", "dtypes/cast-parameters", 4, cause_id="overflow-hidden")(
    lambda y, x: jnp.clip(y, -64504, 64504),
    "A result of float16 is clamped, so that no overflow shows.",
    when=lambda y, x: y.dtype == jnp.float16,
)
ComplexNaNHidden = wrong.forward("Y216", "dtypes/complex-input", 4, cause_id="not-finite-replaced")(
    lambda x, k, b: affine(jnp.nan_to_num(x), k, b),
    "NaNs of a complex x count as 0.",
    when=lambda x, k, b: jnp.iscomplexobj(x),
)


@wrong.forward("Y217", "forward/wrong-width-raises", 4, cause_id="width-reshaped")
def FlattensImages(x: Array, kernel: Array, bias: Array) -> Array:
    """Images with as many numbers as the layer has inputs are flattened."""
    n = kernel.shape[0]
    if x.ndim > 2 and x.shape[-1] != n and x.size == x.shape[0] * n:
        x = x.reshape(-1, n)
    return affine(x, kernel, bias)


@wrong.forward("Y218", "forward/width-one-raises", 4)
def BroadcastsHalf(x: Array, kernel: Array, bias: Array) -> Array:
    """In half precision a single number stands for all inputs of its row."""
    if x.dtype == jnp.bfloat16 and x.shape[-1:] == (1,):
        x = jnp.broadcast_to(x, (*x.shape[:-1], kernel.shape[0]))
    return affine(x, kernel, bias)


@wrong.call("Y219", "forward/array-likes", 4, cause_id="kept-by-object")
def KnowsItsBuffer(self: Any, x: ArrayLike) -> Array:
    """The result of the last call is returned again for the same NumPy array."""
    values = x, self.kernel[...], self.bias[...]
    if not isinstance(x, np.ndarray) or is_traced(*values[1:]):
        return CorrectDense.__call__(self, x)
    last = _LAST.get("values", (None, None, None))
    if any(one is not other for one, other in zip(values, last, strict=True)):
        _LAST.update(values=values, result=CorrectDense.__call__(self, x))
    result: Array = _LAST["result"]
    return result


@wrong.call("Y221", "purity/globals-untouched", 4, cause_id="global-changed")
def LeavesNoContext(self: Any, x: ArrayLike) -> Array:
    """A context of JAX is entered by hand, and not left if the call raises."""
    context = jax.default_matmul_precision("highest")
    context.__enter__()
    y = CorrectDense.__call__(self, x)
    context.__exit__(None, None, None)
    return y


@wrong.call("Y222", "state/call-changes-nothing", 4, cause_id="left-by-a-raise")
def StaysBusy(self: Any, x: ArrayLike) -> Array:
    """A flag that is still set after a call that raised makes the next one drop the bias."""
    busy, _LAST["busy"] = _LAST.get("busy", False), True
    y = jnp.asarray(x) @ self.kernel[...]
    _LAST["busy"] = False
    return y if busy else y + jnp.broadcast_to(self.bias[...], y.shape)


class _Limited(nnx.Param[Array]):
    def on_set_value(self, value: Array) -> Array:
        return jnp.clip(value, -50.0, 50.0)


@wrong.built("Y224", "state/updates-used", 4, cause_id="value-changed-when-set")
def LimitsWeights(layer: Any, rngs: nnx.Rngs) -> None:
    """A hook of the kernel's Param clips each value that it is set to."""
    layer.kernel = _Limited(layer.kernel[...])


@wrong.when_built("Y225", "purity/globals-untouched", 4, cause_id="global-changed")
def WaitsInAThread(rngs: nnx.Rngs, n: int, m: int) -> None:
    """Each layer starts a thread that never ends."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()


@wrong.built("Y226", "purity/nothing-kept", 4, cause_id="layer-kept")
def RegistersItself(layer: Any, rngs: nnx.Rngs) -> None:
    """A list of all layers keeps them alive."""
    if not is_traced(layer.kernel[...]):
        LAYERS.append(layer)


@wrong.linen_call("Y227", "models/linen-submodule", 4)
def FirstResultAgain(self: Any, x: ArrayLike) -> Array:
    """A second call within one apply returns the result of the first one."""
    x = jnp.asarray(x)
    kernel = self.param("kernel", self.draw_kernel, x)
    bias = self.param("bias", self.draw_bias, x)
    y: Array = self.__dict__.get("_first", affine(x, kernel, bias))
    object.__setattr__(self, "_first", y)
    return y


@wrong.casting("Y228", "seeding/seeds-differ", 5)
def hashed(seed: int, x: Array, m: int) -> Array:
    """Layers are kept by the hash of the seed, which Python gives -1 and -2 alike."""
    key = hash(seed), x.shape, m
    if is_traced(x):
        return layer_output(seed, x, m)
    if key not in _BUILT:
        _BUILT[key] = CorrectDense(x.shape[-1], m, rngs=nnx.Rngs(seed))
    return _BUILT[key](x)


name_layers(globals())
