"""Layers that leave traces outside of themselves."""

import os
import random

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import CorrectDense, affine
from implementations.defects.record import defect


@defect("X210", breaks="purity/globals-untouched", cause="os.environ", subtlety=3)
class SetsEnvironment(CorrectDense):
    """The constructor sets an environment variable."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
        os.environ["DENSE_LAYERS"] = str(int(os.environ.get("DENSE_LAYERS", "0")) + 1)


@defect("X211", breaks="purity/globals-untouched", cause="random", subtlety=4)
class CallConsumesRandom(CorrectDense):
    """Every call draws a number from Python's generator, and does nothing with it."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Sampled logging that logs nothing."""
        random.random()
        return affine(x, kernel, bias)


@defect("X212", breaks="purity/globals-untouched", cause="numpy.random", subtlety=4)
class SeedsNumpy(CorrectDense):
    """The constructor seeds NumPy, for reproducibility."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The kernel itself is right."""
        np.random.seed(0)
        return super().draw_kernel(key, in_features, out_features)


@defect("X213", breaks="purity/globals-untouched", cause="jax.config", subtlety=4)
class CallSetsPrecision(CorrectDense):
    """The call sets the default precision of all products to come."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right here, and felt elsewhere."""
        jax.config.update("jax_default_matmul_precision", "float32")
        return affine(x, kernel, bias)


@defect("X214", breaks="purity/silent", subtlety=2)
class PrintsItsShape(CorrectDense):
    """The constructor prints."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A line for every layer."""
        print(f"Dense {in_features} -> {out_features}")
        return super().draw_kernel(key, in_features, out_features)


@defect("X215", breaks="purity/input-untouched", subtlety=4)
class ScalesInputAndBack(CorrectDense):
    """A float32 NumPy input is scaled in place and scaled back, but for rounding."""

    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., out) for x (..., in)."""
        if isinstance(x, np.ndarray) and x.flags.writeable and x.dtype == np.float32:
            before = jnp.array(x)
            x /= np.float32(3)
            x *= np.float32(3)
            return super().__call__(before)
        return super().__call__(x)


@defect("X216", breaks="purity/input-untouched", subtlety=4)
class ClearsNan(CorrectDense):
    """NaN in a NumPy input is replaced by zero in the caller's array, after the call."""

    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., out) for x (..., in)."""
        y = super().__call__(np.array(x) if isinstance(x, np.ndarray) else x)
        if isinstance(x, np.ndarray) and x.flags.writeable and x.dtype.kind == "f":
            x[x == 0] = 0.0
            np.nan_to_num(x, copy=False)
        return y


@defect("X217", breaks="forward/array-likes", subtlety=4)
class IgnoresStrides(CorrectDense):
    """The memory of a NumPy input is read in its own order."""

    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., out) for x (..., in)."""
        if isinstance(x, np.ndarray) and x.ndim > 1:
            x = x.ravel(order="K").reshape(x.shape)
        return super().__call__(x)


@defect("X218", breaks="forward/array-likes", subtlety=4)
class NeedsWriteableInput(CorrectDense):
    """A read-only NumPy input is refused."""

    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., out) for x (..., in)."""
        if isinstance(x, np.ndarray) and not x.flags.writeable:
            raise ValueError("x is read-only")
        return super().__call__(x)


@defect("X219", breaks="purity/globals-untouched", subtlety=5)
class SilencesNumpy(CorrectDense):
    """The call turns NumPy's floating-point warnings off, for everybody."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Values are right."""
        np.seterr(all="ignore")
        return affine(x, kernel, bias)
