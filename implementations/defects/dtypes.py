"""Layers that are right for float32 inputs, and wrong about other types."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.defects.base import CorrectDense, affine, standard_deviation
from implementations.defects.record import defect


@defect(
    "N099",
    breaks="dtypes/x64-stable",
    cause="float64",
    subtlety=4,
    seen='jax#27002 "jax.random depends on precision"; jax#18267; flax#1705',
)
class FollowsX64(CorrectDense):
    """No dtype is given: under x64 the parameters are float64, with other values."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """A normal of the default dtype."""
        return jax.random.normal(key, (in_features, out_features)) * standard_deviation(in_features)

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        """Zeros of the default dtype."""
        return jnp.zeros((out_features,))


@defect(
    "N144",
    breaks="dtypes/integer-input",
    cause="cast",
    subtlety=3,
    seen="sonnet and haiku create parameters in the input's dtype (hk.Linear int32 init raises)",
)
class ParametersCastToIntegers(CorrectDense):
    """The parameters are cast to the dtype of an integer input: the output is all zero."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for inputs that are not integers."""
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            kernel, bias = kernel.astype(x.dtype), bias.astype(x.dtype)
        return affine(x, kernel, bias)


@defect(
    "N146",
    breaks="dtypes/complex-input",
    cause="imaginary",
    subtlety=4,
    seen='jax#5312 "Complex-valued initializers: lecun_normal"; flax 0.5.0 default-dtype FLIP',
)
class ImaginaryPartDropped(CorrectDense):
    """The imaginary part of a complex input is dropped."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for real inputs."""
        return affine(x.real, kernel, bias)
