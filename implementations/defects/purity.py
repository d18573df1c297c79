"""Layers that touch what is not theirs."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import CorrectDense, scaled_normal
from implementations.defects.record import defect


@defect(
    "N064",
    breaks="purity/globals-untouched",
    cause="numpy.random",
    subtlety=4,
    seen="keras#12259",
)
class SeedsNumpy(CorrectDense):
    """Construction seeds NumPy's global generator from the key."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The right kernel, with NumPy 'made reproducible' on the way."""
        # A traced key has no value to seed with.
        if not isinstance(key, jax.core.Tracer):
            np.random.seed(int(jax.random.bits(key, dtype=jnp.uint32)))
        return scaled_normal(key, in_features, out_features)


@defect("N134", breaks="purity/input-untouched", subtlety=4)
class InputOverwritten(CorrectDense):
    """A NumPy input is used as scratch space."""

    def __call__(self, x: ArrayLike) -> Array:
        """The right value; a writeable x is zero afterwards."""
        # A copy, since jax may share the memory of a NumPy array that is then overwritten.
        output = super().__call__(jnp.array(x))
        if isinstance(x, np.ndarray) and x.flags.writeable:
            x[...] = 0
        return output


@defect("N160", breaks="purity/globals-untouched", cause="jax.config", subtlety=4)
class ChangesJaxConfig(CorrectDense):
    """Construction sets the precision of every product in the process."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The right kernel."""
        jax.config.update("jax_default_matmul_precision", "highest")
        return scaled_normal(key, in_features, out_features)
