"""Layers that break purity: they change objects of others."""

from __future__ import annotations

import gc
import os
import random
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import CorrectDense, is_traced, scaled_normal
from implementations.defects.record import name_layers

ChangesJaxConfig = wrong.when_built("N160", "purity/globals-untouched", 4)(
    lambda rngs, n, m: jax.config.update("jax_default_matmul_precision", "highest"),
    "Construction sets the precision of every product in the process.",
    cause_id="global-changed",
)
CallConsumesRandom = wrong.when_called("X211", "purity/globals-untouched", 4)(
    lambda x, k, b: random.random(),
    "Every call draws a number from Python's generator, and does nothing with it.",
    cause_id="global-changed",
)
SeedsNumpyWithZero = wrong.when_built("X212", "purity/globals-untouched", 4)(
    lambda rngs, n, m: np.random.seed(0),
    "The constructor seeds NumPy, for reproducibility.",
    cause_id="global-changed",
)
CallSetsPrecision = wrong.when_called("X213", "purity/globals-untouched", 4)(
    lambda x, k, b: jax.config.update("jax_default_matmul_precision", "float32"),
    "The call sets the default precision of all products to come.",
    cause_id="global-changed",
)
SilencesNumpy = wrong.when_called("X219", "purity/globals-untouched", 5, cause_id="global-changed")(
    lambda x, k, b: np.seterr(all="ignore"),
    "The call turns NumPy's floating-point warnings off, for everybody.",
)
FiltersWarnings = wrong.when_built("X327", "purity/globals-untouched", 5)(
    lambda rngs, n, m: warnings.simplefilter("ignore"),
    "The constructor turns warnings off.",
    cause_id="global-changed",
)
PrintsItsShape = wrong.when_built("X214", "purity/silent", 2)(
    lambda rngs, n, m: print(f"Dense {n} -> {m}"), "The constructor prints."
)


@wrong.kernel("N064", "purity/globals-untouched", 4, cause_id="global-changed", seen="keras#12259")
def SeedsNumpy(key: Array, in_features: int, out_features: int) -> Array:
    """Construction seeds NumPy's global generator from the key."""
    # A traced key has no value to seed with.
    if not is_traced(key):
        np.random.seed(int(jax.random.bits(key, dtype=jnp.uint32)))
    return scaled_normal(key, in_features, out_features)


@wrong.built("X210", "purity/globals-untouched", 3, cause_id="global-changed")
def SetsEnvironment(layer: Any, rngs: nnx.Rngs) -> None:
    """The constructor sets an environment variable."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    os.environ["DENSE_LAYERS"] = str(int(os.environ.get("DENSE_LAYERS", "0")) + 1)


@wrong.when_called("X328", "purity/globals-untouched", 5, cause_id="global-changed")
def DisablesCollection(x: Array, kernel: Array, bias: Array) -> None:
    """The call turns garbage collection off and sets NumPy's print options."""
    gc.disable()
    np.set_printoptions(precision=3)


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


name_layers(globals())
