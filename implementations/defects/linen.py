"""Wrong Linen layers."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import (
    CorrectLinenDense,
    affine,
    normal,
    scaled_normal,
    standard_deviation,
)
from implementations.defects.record import defect


@defect("L001", breaks="construction/only-two-parameters", cause="collection", subtlety=2)
class KernelInStats(CorrectLinenDense):
    """The kernel is a variable of the collection "stats", not a parameter."""

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """The right value."""
        x = jnp.asarray(x)

        def draw() -> Array:
            return self.draw_kernel(self.make_rng("params"), x)

        kernel = self.variable("stats", "kernel", draw)
        bias = self.param("bias", self.draw_bias, x)
        return affine(x, kernel.value, bias)


@defect(
    "L002",
    breaks="initialization/kernel-variance",
    cause="not scaled",
    subtlety=1,
    seen="pitfall",
)
class UnscaledLinen(CorrectLinenDense):
    """The kernel has standard deviation 1."""

    def draw_kernel(self, key: Array, x: Array) -> Array:
        """A standard normal."""
        return normal(key, x.shape[-1], self.features)


@defect(
    "L003",
    breaks="construction/bias-shape",
    cause="one entry for each input",
    subtlety=1,
    seen="pitfall",
)
class LinenBiasOfInputLength(CorrectLinenDense):
    """The bias has shape (in,): right only when in == out."""

    def draw_bias(self, key: Array, x: Array) -> Array:
        """Zeros of the wrong length."""
        return jnp.zeros((x.shape[-1],), jnp.float32)


@defect("L004", breaks="construction/only-two-parameters", subtlety=2)
class KernelFromFixedKey(CorrectLinenDense):
    """The kernel is drawn from one fixed key in every call, and is no parameter."""

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """A layer that cannot learn."""
        x = jnp.asarray(x)
        kernel = self.draw_kernel(jax.random.key(0), x)
        return affine(x, kernel, self.param("bias", self.draw_bias, x))


@defect(
    "L005",
    breaks="initialization/data-free-init",
    cause="batch",
    subtlety=3,
    seen="xformers#303 (init not respecting the q/k/v dimensions)",
)
class FanFromFirstAxis(CorrectLinenDense):
    """The fan is read from the first axis of x: right for a vector, wrong for a batch."""

    def draw_kernel(self, key: Array, x: Array) -> Array:
        """Scaled by the size of the batch."""
        return normal(key, x.shape[-1], self.features) * standard_deviation(x.shape[0])


@defect(
    "L009",
    breaks="construction/only-two-parameters",
    collateral=("state/call-changes-nothing",),
    cause="collection",
    subtlety=3,
    seen='flax 0.3.4 "Don\'t update batch statistics during initialization"',
)
class CountsInStats(CorrectLinenDense):
    """A second collection counts the calls."""

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """The right value, and one more call where the collection is mutable."""
        x = jnp.asarray(x)
        calls = self.variable("stats", "calls", jnp.zeros, (), jnp.int32)
        if self.is_mutable_collection("stats"):
            calls.value = calls.value + 1
        kernel = self.param("kernel", self.draw_kernel, x)
        return affine(x, kernel, self.param("bias", self.draw_bias, x))


@defect(
    "L010",
    breaks="forward/output-shape",
    subtlety=3,
    seen='flax#3698 "added default params rng to .apply"',
)
class NeedsRngToApply(CorrectLinenDense):
    """Every call asks for a random key, so apply with the parameters alone raises."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The right value, where there is a key."""
        self.make_rng("noise")
        return affine(x, kernel, bias)


@defect(
    "L012",
    breaks="serialization/stable-names",
    cause="weight",
    subtlety=2,
    seen="keras-core#648",
)
class LinenWeight(CorrectLinenDense):
    """The kernel is named weight."""

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """The right value."""
        x = jnp.asarray(x)
        weight = self.param("weight", lambda key: scaled_normal(key, x.shape[-1], self.features))
        return affine(x, weight, self.param("bias", self.draw_bias, x))
