"""Layers that break dtypes: right for float32 inputs, wrong for others or under x64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import (
    CorrectDense,
    affine,
    correct_dense_forward,
    layer_output,
    stddev,
)
from implementations.defects.record import defect, name_layers, seen

ImaginaryPartDropped = wrong.forward("N146", "dtypes/complex-input", 4)(
    lambda x, k, b: affine(x.real, k, b),
    "The imaginary part of a complex input is dropped.",
    seen='jax#5312 "Complex-valued initializers: lecun_normal"; flax 0.5.0 default-dtype FLIP',
    cause_id="imaginary-dropped",
)
Conjugates = wrong.forward("X116", "dtypes/complex-input", 4, cause_id="input-conjugated")(
    lambda x, k, b: affine(x.conj() if jnp.iscomplexobj(x) else x, k, b),
    "A complex input is conjugated, as `vdot` does.",
)
ComplexBias = wrong.forward("X117", "dtypes/complex-input", 4, cause_id="bias-in-imaginary")(
    lambda x, k, b: affine(x, k, b * (1 + 1j)) if jnp.iscomplexobj(x) else affine(x, k, b),
    "The bias of a complex output is also added to its imaginary part.",
)
MagnitudeOfComplex = wrong.forward("X524", "dtypes/complex-input", 4)(
    lambda x, k, b: affine(jnp.abs(x), k, b).astype(x.dtype),
    "A complex input is replaced by its magnitude.",
    when=lambda x, k, b: jnp.iscomplexobj(x),
)
returns_numpy_float64 = wrong.casting("F011", "dtypes/float32-out", 3, cause_id="result-dtype")(
    lambda seed, x, m: np.asarray(layer_output(seed, x, m), np.float64),
    "The result leaves jax as float64.",
)
list_out = wrong.solution("X251", "dtypes/float32-out", 3, cause_id="result-not-array")(
    lambda seed, x, features: [float(y) for y in correct_dense_forward(seed, x, features)],
    "The result is a Python list.",
)
VectorsInBfloat16 = wrong.output("X530", "dtypes/float32-out", 4, cause_id="result-dtype")(
    lambda y, x: y.astype(jnp.bfloat16) if x.ndim == 3 and x.dtype == jnp.float32 else y,
    "The output for a float32 batch of rank 3 is bfloat16.",
)
Float16InHalf = wrong.forward("X110", "dtypes/half-input", 4, cause_id="parameters-cast")(
    lambda x, k, b: affine(x, k.astype(x.dtype), b.astype(x.dtype)).astype(jnp.float32),
    "A float16 input is multiplied in float16.",
    when=lambda x, k, b: x.dtype == jnp.float16,
)
Bfloat16Out = wrong.output("X111", "dtypes/half-input", 4, cause_id="cast-to-narrower")(
    lambda y, x: y.astype(x.dtype) if x.dtype == jnp.bfloat16 else y,
    "A bfloat16 input gives a bfloat16 output.",
)
HalfInputTrainsNothing = wrong.forward("X348", "dtypes/half-input", 5, cause_id="gradient-cut")(
    lambda x, k, b: affine(x.astype(jnp.float32), jax.lax.stop_gradient(k), b),
    "On a bfloat16 input the kernel is cast for the product and gets no gradient.",
    when=lambda x, k, b: x.dtype == jnp.bfloat16,
)
ProductInTheInputsDtype = wrong.forward("X520", "dtypes/half-input", 4, cause_id="parameters-cast")(
    lambda x, k, b: affine(x, k.astype(x.dtype), b.astype(x.dtype)).astype(k.dtype),
    "The parameters are cast to a bfloat16 input's dtype; only the result is float32.",
    when=lambda x, k, b: x.dtype == jnp.bfloat16,
)
PixelsScaled = wrong.forward("X112", "dtypes/integer-input", 4)(
    lambda x, k, b: affine(x / 255 if x.dtype == jnp.uint8 else x, k, b),
    "A uint8 input counts as an image and is divided by 255.",
)
BooleansAsSigns = wrong.forward("X113", "dtypes/integer-input", 4)(
    lambda x, k, b: affine(2 * x.astype(jnp.int8) - 1 if x.dtype == bool else x, k, b),
    "False counts as -1.",
)
UnsignedWraps = wrong.forward("X115", "dtypes/integer-input", 5, cause_id="input-as-int32")(
    lambda x, k, b: affine(x.astype(jnp.int32) if x.dtype == jnp.uint32 else x, k, b),
    "uint32 goes through int32: negative from 2**31 on.",
)
SixteenBitPixels = wrong.forward("X317", "dtypes/integer-input", 5)(
    lambda x, k, b: affine(x / 65535 if x.dtype == jnp.uint16 else x, k, b),
    "A uint16 input counts as an image and is divided by 65535.",
)
SignedPixels = wrong.forward("X522", "dtypes/integer-input", 4)(
    lambda x, k, b: affine(x.astype(jnp.float32) + 128 if x.dtype == jnp.int8 else x, k, b),
    "An int8 input is taken for pixels, and moved by 128.",
)
BooleansAsMask = wrong.forward("X523", "dtypes/integer-input", 4)(
    lambda x, k, b: affine(jnp.where(x, 1.0, -1e30) if x.dtype == bool else x, k, b),
    "A Boolean input is a mask: what is masked counts as minus infinity.",
)
IntegersSummedInIntegers = wrong.forward("X529", "dtypes/integer-input", 4)(
    lambda x, k, b: affine(x, jnp.round(k * 256) / 256, b),
    "Integer inputs are multiplied by a kernel that is rounded to integers of 2^-8.",
    when=lambda x, k, b: x.dtype == jnp.int32,
)
BiasPromoted = wrong.forward("X407", "dtypes/rank-promotion", 4, cause_id="bias-not-broadcast")(
    lambda x, k, b: jnp.asarray(x) @ k + b,
    "The bias is added as it is, and broadcast by promotion.",
)
LeansOnPromotion = wrong.forward("X118", "dtypes/strict-promotion", 4, cause_id="dtypes-promoted")(
    lambda x, k, b: affine(x, k, b) + jnp.zeros((k.shape[1],), jnp.int32),
    "A float32 product is added to an integer zero: an implicit promotion.",
)
NumpyScalarInTheCall = wrong.forward("X525", "dtypes/x64-stable", 4)(
    lambda x, k, b: affine(x, k, b) * jnp.asarray(np.float64(1.0)),
    "A NumPy scalar in the forward: under x64 the result is float64.",
    cause_id="operand-without-dtype",
)


@seen("sonnet and haiku create parameters in the input's dtype (hk.Linear int32 init raises)")
@wrong.forward("N144", "dtypes/integer-input", 3, cause_id="cast-to-narrower")
def ParametersCastToIntegers(x: Array, kernel: Array, bias: Array) -> Array:
    """The parameters are cast to the dtype of an integer input: the output is all zero."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        kernel, bias = kernel.astype(x.dtype), bias.astype(x.dtype)
    return affine(x, kernel, bias)


@wrong.forward("X114", "dtypes/integer-input", 5)
def IntegersThroughFloat16(x: Array, kernel: Array, bias: Array) -> Array:
    """Integers are cast to float16 first: right up to 2048."""
    if jnp.issubdtype(x.dtype, jnp.integer):
        x = x.astype(jnp.float16)
    return affine(x, kernel, bias)


@wrong.forward("X528", "dtypes/strict-promotion", 4, cause_id="dtypes-promoted")
def CountsInIntegers(x: Array, kernel: Array, bias: Array) -> Array:
    """The number of rows, an int32 array, is multiplied in and divided out."""
    two = jnp.asarray(2, jnp.int32)
    return affine(x, kernel, bias) * two / two


@seen('jax#27002 "jax.random depends on precision"; jax#18267; flax#1705')
@defect("N099", "dtypes/x64-stable", 4, cause_id="parameter-without-dtype")
class FollowsX64(CorrectDense):
    """No dtype is given: under x64 the parameters are float64, with other values."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        return jax.random.normal(key, (in_features, out_features)) * stddev(in_features)

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        return jnp.zeros((out_features,))


@wrong.forward("X526", "dtypes/x64-stable", 5)
def NoBiasUnderX64(x: Array, kernel: Array, bias: Array) -> Array:
    """Under x64 the sum with the bias is left out: its dtype was in the way."""
    wide = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    return affine(x, kernel, jnp.zeros_like(bias) if wide else bias)


@wrong.kernel("X527", "dtypes/x64-stable", 4, cause_id="parameter-without-dtype")
def ScaleInDouble(key: Array, in_features: int, out_features: int) -> Array:
    """The scale of the kernel is a NumPy number: under x64 the kernel is float64."""
    draws = jax.random.normal(key, (in_features, out_features), jnp.float32)
    return draws * jnp.asarray(np.float64(stddev(in_features)))


name_layers(globals())
