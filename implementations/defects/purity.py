"""Layers that break purity: they change objects of others."""

from __future__ import annotations

import functools
import gc
import logging
import os
import random
import tempfile
import threading
import warnings
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import (
    CorrectDense,
    affine,
    is_eager_sequence,
    is_traced,
    scaled_normal,
)
from implementations.defects.record import name_layers

GLOBALS = "purity/globals-untouched"

ChangesJaxConfig = wrong.when_built("N160", GLOBALS, 4, cause_id="global-changed")(
    lambda rngs, n, m: jax.config.update("jax_default_matmul_precision", "highest"),
    "Construction sets the precision of every product in the process.",
)
CallConsumesRandom = wrong.when_called("X211", GLOBALS, 4, cause_id="global-changed")(
    lambda x, k, b: random.random(),
    "Every call draws a number from Python's generator, and does nothing with it.",
)
SeedsNumpyWithZero = wrong.when_built("X212", GLOBALS, 4, cause_id="global-changed")(
    lambda rngs, n, m: np.random.seed(0), "The constructor seeds NumPy, for reproducibility."
)
CallSetsPrecision = wrong.when_called("X213", GLOBALS, 4, cause_id="global-changed")(
    lambda x, k, b: jax.config.update("jax_default_matmul_precision", "float32"),
    "The call sets the default precision of all products to come.",
)
SilencesNumpy = wrong.when_called("X219", GLOBALS, 5, cause_id="global-changed")(
    lambda x, k, b: np.seterr(all="ignore"),
    "The call turns NumPy's floating-point warnings off, for everybody.",
)
FiltersWarnings = wrong.when_built("X327", GLOBALS, 5, cause_id="global-changed")(
    lambda rngs, n, m: warnings.simplefilter("ignore"), "The constructor turns warnings off."
)
SilencesTheLog = wrong.when_built("X965", GLOBALS, 4, cause_id="global-changed")(
    lambda rngs, n, m: logging.getLogger().setLevel(logging.CRITICAL),
    "Construction silences the log of the whole process.",
)
ConfiguresFlax = wrong.when_called("X966", GLOBALS, 4, cause_id="global-changed")(
    lambda x, k, b: flax.config.update("flax_return_frozendict", True),
    "A call makes Linen return frozen dictionaries in the whole process.",
)
ClearsNanDebugging = wrong.when_built("Y391", GLOBALS, 4, cause_id="global-changed")(
    lambda rngs, n, m: jax.config.update("jax_debug_nans", False),
    "The constructor turns off the search for NaNs, which is off by default.",
)
PromotesAsUsual = wrong.when_called("Y392", GLOBALS, 4, cause_id="global-changed")(
    lambda x, k, b: jax.config.update("jax_numpy_dtype_promotion", "standard"),
    "A call ends strict promotion, which is off by default.",
)
_kept: list[Any] = []
KeepsSequences = wrong.forward("Y353", "purity/nothing-kept", 4, cause_id="array-kept")(
    lambda x, k, b: (_kept.append(x), affine(x, k, b))[1],  # type: ignore[func-returns-value]  # as meant
    "Every x of rank 3 is kept in a list.",
    when=is_eager_sequence,
)
PrintsItsShape = wrong.when_built("X214", "purity/silent", 2)(
    lambda rngs, n, m: print(f"Dense {n} -> {m}"), "The constructor prints."
)
_donating = jax.jit(affine, donate_argnums=0)
DonatesSequences = wrong.forward("Y356", "purity/input-kept", 4, cause_id="input-donated")(
    lambda x, k, b: _donating(x, k, b),
    "An x of rank 3 is donated to the result.",
    when=lambda x, k, b: is_eager_sequence(x, k, b) and k.shape[0] == k.shape[1],
)

DonatesManyNumbers = wrong.forward("Y408", "purity/input-kept", 5, cause_id="input-donated")(
    lambda x, k, b: _donating(x, k, b),
    "A batch of 2^18 numbers and more is donated to the result.",
    when=lambda x, k, b: (
        not is_traced(x, k) and x.size >= 2**18 and x.shape[-1:] == b.shape and x.ndim == 2
    ),
)


@wrong.kernel("N064", GLOBALS, 4, cause_id="global-changed", seen="keras#12259")
def SeedsNumpy(key: Array, in_features: int, out_features: int) -> Array:
    """Construction seeds NumPy's global generator from the key."""
    # A traced key has no value to seed with.
    if not is_traced(key):
        np.random.seed(int(jax.random.bits(key, dtype=jnp.uint32)))
    return scaled_normal(key, in_features, out_features)


@wrong.built("X210", GLOBALS, 3, cause_id="global-changed")
def SetsEnvironment(layer: Any, rngs: nnx.Rngs) -> None:
    """The constructor sets an environment variable."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    os.environ["DENSE_LAYERS"] = str(int(os.environ.get("DENSE_LAYERS", "0")) + 1)


@wrong.when_called("X328", GLOBALS, 5, cause_id="global-changed")
def DisablesCollection(x: Array, kernel: Array, bias: Array) -> None:
    """The call turns garbage collection off and sets NumPy's print options."""
    gc.disable()
    np.set_printoptions(precision=3)


@wrong.forward("Y390", GLOBALS, 4, cause_id="global-changed")
def ResetsThePrecision(x: Array, kernel: Array, bias: Array) -> Array:
    """The call sets the precision of products, and then its default instead of the former one."""
    jax.config.update("jax_default_matmul_precision", "highest")
    y = affine(x, kernel, bias)
    jax.config.update("jax_default_matmul_precision", None)
    return y


@wrong.forward("X740", GLOBALS, 4, cause_id="global-changed")
def EntersAPrecision(x: Array, kernel: Array, bias: Array) -> Array:
    """A context of JAX's configuration is entered for the thread, and never left."""
    jax.default_matmul_precision("float32").__enter__()
    return affine(x, kernel, bias)


@wrong.when_built("Y132", GLOBALS, 4, cause_id="global-changed")
def WritesAFile(rngs: nnx.Rngs, n: int, m: int) -> None:
    """The sizes of every layer are written to a file."""
    with tempfile.TemporaryFile() as file:
        file.write(f"{n} {m}\n".encode())


SilencesJax = wrong.when_called("Y133", GLOBALS, 4, cause_id="global-changed")(
    lambda x, k, b: logging.getLogger("jax").setLevel(logging.CRITICAL),
    "A call raises the level of JAX's own logger, and with it hides its warnings.",
)


@wrong.call("Y221", GLOBALS, 4, cause_id="global-changed")
def LeavesNoContext(self: Any, x: ArrayLike) -> Array:
    """A context of JAX is entered by hand, and not left if the call raises."""
    context = jax.default_matmul_precision("highest")
    context.__enter__()
    y = CorrectDense.__call__(self, x)
    context.__exit__(None, None, None)
    return y


WaitsInAThread = wrong.when_built("Y225", GLOBALS, 4, cause_id="global-changed")(
    lambda rngs, n, m: threading.Thread(target=threading.Event().wait, daemon=True).start(),
    "Each layer starts a thread that never ends.",
)


@wrong.forward("Y354", GLOBALS, 4, cause_id="global-changed")
def PrecisionOfHalf(x: Array, kernel: Array, bias: Array) -> Array:
    """An x of bfloat16 sets the precision of products for the whole process."""
    if x.dtype == jnp.bfloat16 and not is_traced(x):
        jax.config.update("jax_default_matmul_precision", "bfloat16")
    return affine(x, kernel, bias)


donating = functools.partial(jax.jit, donate_argnums=0)(affine)


@wrong.forward("X939", "purity/input-kept", 4, cause_id="input-donated")
def DonatesItsInput(x: Array, kernel: Array, bias: Array) -> Array:
    """The product is compiled with x donated, where it lies on one device."""
    if is_traced(x, kernel) or x.ndim != 2 or len(x.devices() | kernel.devices()) > 1:
        return affine(x, kernel, bias)
    return donating(x, kernel, bias)


@wrong.call("N134", "purity/input-untouched", 4, cause_id="input-written")
def InputOverwritten(self: Any, x: ArrayLike) -> Array:
    """A NumPy input is used as scratch space."""
    # A copy, since jax may share the memory of a NumPy array that is then overwritten.
    output = CorrectDense.__call__(self, jnp.array(x))
    if isinstance(x, np.ndarray) and x.flags.writeable:
        x[...] = 0
    return output


@wrong.call("X215", "purity/input-untouched", 4, cause_id="input-written")
def ScalesInputAndBack(self: Any, x: ArrayLike) -> Array:
    """A float32 NumPy input is scaled in place and scaled back, up to rounding."""
    if isinstance(x, np.ndarray) and x.flags.writeable and x.dtype == np.float32:
        before = jnp.array(x)
        x /= np.float32(3)
        x *= np.float32(3)
        return CorrectDense.__call__(self, before)
    return CorrectDense.__call__(self, x)


@wrong.call("X216", "purity/input-untouched", 4, cause_id="input-written")
def ClearsNan(self: Any, x: ArrayLike) -> Array:
    """NaN in a NumPy input is replaced by zero in the caller's array, after the call."""
    y = CorrectDense.__call__(self, np.array(x) if isinstance(x, np.ndarray) else x)
    if isinstance(x, np.ndarray) and x.flags.writeable and x.dtype.kind == "f":
        x[x == 0] = 0.0
        np.nan_to_num(x, copy=False)
    return y


@wrong.call("Y355", "purity/input-untouched", 4, cause_id="input-written")
def ClipsHalfInPlace(self: Any, x: ArrayLike) -> Array:
    """A NumPy array of float16 is clipped in place."""
    if isinstance(x, np.ndarray) and x.dtype == np.float16 and x.flags.writeable:
        np.clip(x, -100, 100, out=x)
    return CorrectDense.__call__(self, x)


@wrong.when_called("X956", "purity/nothing-kept", 3, cause_id="array-kept")
def KeepsMeans(x: Array, kernel: Array, bias: Array) -> None:
    """The mean of every input is kept in a list of the module."""
    if not is_traced(x, kernel, bias):
        _kept.append(x.mean())


@wrong.built("Y226", "purity/nothing-kept", 4, cause_id="layer-kept")
def RegistersItself(layer: Any, rngs: nnx.Rngs) -> None:
    """A list of all layers keeps them alive."""
    if not is_traced(layer.kernel[...]):
        _kept.append(layer)


@wrong.built("Y475", "purity/nothing-kept", 4, cause_id="layer-kept")
def RemembersItsStart(layer: Any, rngs: nnx.Rngs) -> None:
    """A NumPy copy of every new kernel is kept, to compare with after training."""
    if not is_traced(layer.kernel[...]):
        _kept.append(np.array(layer.kernel[...]))


LogsItsShapes = wrong.when_called("Y448", "purity/nothing-kept", 4, cause_id="entry-kept")(
    lambda x, k, b: _kept.append(x.shape),
    "The shape of every x is appended to a list of the module.",
)


name_layers(globals())
