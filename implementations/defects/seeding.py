"""Layers whose randomness comes from the wrong place, or at the wrong time."""

import itertools
import random

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.defects.base import CorrectDense, affine, scaled_normal
from implementations.defects.record import defect


@defect(
    "N066",
    breaks="seeding/same-across-processes",
    cause="hash",
    subtlety=4,
    seen="ray#59662 (hash() breaks cross-process seeds)",
)
class FoldedHash(CorrectDense):
    """The hash of a string is folded into the key: it differs from process to process."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """A key that depends on PYTHONHASHSEED."""
        return jax.random.fold_in(rngs.params(), hash("kernel") & 0x7FFFFFFF)


@defect(
    "N068",
    breaks="seeding/params-stream",
    subtlety=4,
    seen="jasmine#36 (explicitly set params rng keys)",
)
class DropoutStream(CorrectDense):
    """The kernel is drawn from the stream of dropout."""

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """Right only where dropout falls back to the default stream."""
        return rngs.dropout()


@defect("N070", breaks="seeding/constant-key-count", subtlety=4)
class KeysByTheSize(CorrectDense):
    """Takes more keys from the stream the more inputs there are: later layers shift."""

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        """Zeros, after one key for every doubling of in."""
        for _ in range(int(in_features).bit_length()):
            rngs.params()
        return super().draw_bias(rngs, in_features, out_features)


@defect("N073", breaks="seeding/repeatable-call", cause="random", subtlety=2)
class DropoutLeftOn(CorrectDense):
    """Every call drops other inputs."""

    calls = itertools.count()

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Inverted dropout at a rate of 0.1, with a fresh key."""
        kept = jax.random.bernoulli(jax.random.key(next(self.calls)), 0.9, x.shape)
        return affine(jnp.where(kept, x / 0.9, 0), kernel, bias)


@defect(
    "N074",
    breaks="seeding/global-rng-ignored",
    collateral=("purity/globals-untouched",),
    cause="random",
    subtlety=3,
    seen="keras.layers.Dense consumes global random state (measured)",
)
class SignFromPythonRandom(CorrectDense):
    """Python's ``random`` chooses the sign of the kernel."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The right kernel or its negative."""
        return scaled_normal(key, in_features, out_features) * random.choice((-1.0, 1.0))
