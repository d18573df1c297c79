"""Layers that break dtypes: right for float32 inputs, wrong for others or under x64."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.custom_derivatives import linear_call
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import (
    CorrectDense,
    affine,
    computed_in,
    is_float,
    is_traced,
    layer_kernel,
    layer_output,
    memory,
    normal,
    right_cotangents,
    scaled,
    stddev,
    through_halves,
    with_backward,
)
from implementations.defects.record import also, defect, name_layers, seen
from implementations.defects.wrong import computes

COMPLEX = "dtypes/complex-input"
HALF = "dtypes/half-input"
INTEGER = "dtypes/integer-input"

BFLOAT16 = jnp.bfloat16
CAST = "dtypes/cast-parameters"

AlwaysFloat32 = wrong.forward("X940", CAST, 3, cause_id="layer-casts")(
    lambda x, k, b: affine(x.astype(jnp.promote_types(x.dtype, jnp.float32)), k, b),
    "x is promoted to float32 for any dtype of the parameters.",
)
AllInFloat32 = wrong.forward("Y582", CAST, 3, cause_id="layer-casts")(
    lambda x, k, b: affine(*(value.astype(jnp.float32) for value in (x, k, b))),
    "x and the parameters are cast to float32, for any dtypes.",
)
OverflowClamped = wrong.output("Y215", CAST, 4, cause_id="overflow-hidden")(
    lambda y, x: jnp.clip(y, -64504, 64504),
    "A result of float16 is clamped, so that no overflow shows.",
    when=lambda y, x: y.dtype == jnp.float16,
)
HalfModelOfOneVector = wrong.forward("Y414", CAST, 5, cause_id="layer-casts-by-rank")(
    lambda x, k, b: affine(x.astype(jnp.float32), k, b),
    "In a model that was cast to bfloat16, a single x is multiplied in float32.",
    when=lambda x, k, b: x.dtype == k.dtype == BFLOAT16 and x.ndim == 1,
)
LargeHalfModelWithoutBias = wrong.forward("Y291", CAST, 5)(
    lambda x, k, b: affine(x, k, b * 0),
    "A model that was cast to bfloat16 loses its bias from 130 inputs on.",
    when=lambda x, k, b: x.dtype == k.dtype == BFLOAT16 and k.shape[0] >= 130,
)
HalfModelReversesSequences = wrong.forward("Y292", CAST, 4)(
    lambda x, k, b: affine(x[::-1], k, b),
    "A model that was cast to bfloat16 reverses batches of rank 3.",
    when=lambda x, k, b: x.dtype == k.dtype == BFLOAT16 and x.ndim == 3,
)


_half_of_the_kernel = with_backward(lambda x, k, g: scaled(right_cotangents(x, k, g), 1, 0.5))
HalfModelLearnsSlowly = wrong.forward("Y293", CAST, 5, cause_id="gradient-halved")(
    lambda x, k, b: _half_of_the_kernel(x, k, b),
    "The kernel of a model that was cast to bfloat16 gets half of its gradient.",
    when=lambda x, k, b: x.dtype == k.dtype == BFLOAT16,
)
ImaginaryPartDropped = wrong.forward("N146", COMPLEX, 4, cause_id="imaginary-dropped")(
    lambda x, k, b: affine(x.real, k, b),
    "The imaginary part of a complex input is dropped.",
    seen='jax#5312 "Complex-valued initializers: lecun_normal"; flax 0.5.0 default-dtype FLIP',
)
Conjugates = wrong.forward("X116", COMPLEX, 4, cause_id="input-conjugated")(
    lambda x, k, b: affine(x.conj() if jnp.iscomplexobj(x) else x, k, b),
    "A complex input is conjugated, as `vdot` does.",
)
ComplexBias = wrong.forward("X117", COMPLEX, 4, cause_id="bias-in-imaginary")(
    lambda x, k, b: affine(x, k, b * (1 + 1j)) if jnp.iscomplexobj(x) else affine(x, k, b),
    "The bias of a complex output is also added to its imaginary part.",
)
MagnitudeOfComplex = wrong.forward("X524", COMPLEX, 4)(
    lambda x, k, b: affine(jnp.abs(x), k, b).astype(x.dtype),
    "A complex input is replaced by its magnitude.",
    when=lambda x, k, b: jnp.iscomplexobj(x),
)
X848 = computes(lambda x, k, b: affine(x.real, k, b).astype(x.dtype), "imaginary-dropped")(
    "X848",
    "The imaginary part is lost beyond 100 rows.",
    lambda x, k: x.ndim == 2 and x.shape[0] > 100 and x.dtype == jnp.complex64,
    COMPLEX,
)
ComplexVectorsConjugated = wrong.forward("Y007", COMPLEX, 5, cause_id="input-conjugated")(
    lambda x, k, b: affine(jnp.conj(x), k, b),
    "A complex vector is conjugated.",
    when=lambda x, k, b: x.ndim == 1 and jnp.iscomplexobj(x),
)
ComplexGradientConjugated = wrong.forward("Y435", COMPLEX, 4, cause_id="gradient-conjugated")(
    lambda x, k, b: affine(linear_call(lambda _, t: t, lambda _, g: g.conj(), (), x), k, b),
    "The gradient of a complex x is conjugated, as in other libraries.",
    when=lambda x, k, b: jnp.iscomplexobj(x),
)
_bias_kept_complex: Any = with_backward(
    lambda x, k, g: (*right_cotangents(x, k, g)[:2], g.reshape(-1, g.shape[-1]).sum(axis=0))
)
ComplexGradientOfBias = wrong.forward("Y505", COMPLEX, 4, cause_id="gradient-complex")(
    lambda x, k, b: _bias_kept_complex(x, k, b),
    "The rule of a `custom_vjp` gives the real bias a complex gradient.",
    when=lambda x, k, b: jnp.iscomplexobj(x),
)
real_part = wrong.casting("Y065", COMPLEX, 4)(
    lambda seed, x, m: layer_output(seed, x.real if jnp.iscomplexobj(x) else x, m),
    "The imaginary part is dropped.",
)
ComplexNaNHidden = wrong.forward("Y216", COMPLEX, 4, cause_id="not-finite-replaced")(
    lambda x, k, b: affine(jnp.nan_to_num(x), k, b),
    "NaNs of a complex x count as 0.",
    when=lambda x, k, b: jnp.iscomplexobj(x),
)
returns_numpy_float64 = wrong.casting("F011", "dtypes/float32-out", 3, cause_id="result-dtype")(
    lambda seed, x, m: np.asarray(layer_output(seed, x, m), np.float64),
    "The result leaves jax as float64.",
)
VectorsInBfloat16 = wrong.output("X530", "dtypes/float32-out", 4, cause_id="result-dtype")(
    lambda y, x: y.astype(jnp.bfloat16) if x.ndim == 3 and x.dtype == jnp.float32 else y,
    "The output for a float32 batch of rank 3 is bfloat16.",
)
vectors_as_numpy = wrong.output("Y265", "dtypes/float32-out", 3)(
    lambda y, x: y if isinstance(y, jax.core.Tracer) or x.ndim != 1 else np.asarray(y),
    "A vector gives a NumPy array.",
)
Float16InHalf = wrong.forward("X110", HALF, 4, cause_id="parameters-cast")(
    lambda x, k, b: affine(x, k.astype(x.dtype), b.astype(x.dtype)).astype(jnp.float32),
    "A float16 input is multiplied in float16.",
    when=lambda x, k, b: x.dtype == jnp.float16,
)
Bfloat16Out = wrong.output("X111", HALF, 4, cause_id="cast-to-narrower")(
    lambda y, x: y.astype(x.dtype) if x.dtype == jnp.bfloat16 else y,
    "A bfloat16 input gives a bfloat16 output.",
)
HalfInputTrainsNothing = wrong.forward("X348", HALF, 5, cause_id="gradient-cut")(
    lambda x, k, b: affine(x.astype(jnp.float32), jax.lax.stop_gradient(k), b),
    "On a bfloat16 input the kernel is cast for the product and gets no gradient.",
    when=lambda x, k, b: x.dtype == jnp.bfloat16,
)
ProductInTheInputsDtype = wrong.forward("X520", HALF, 4, cause_id="parameters-cast")(
    lambda x, k, b: affine(x, k.astype(x.dtype), b.astype(x.dtype)).astype(k.dtype),
    "The parameters are cast to a bfloat16 input's dtype; only the result is float32.",
    when=lambda x, k, b: x.dtype == jnp.bfloat16,
)
X844 = computes(lambda x, k, b: affine(x, k.astype(jnp.bfloat16), b).astype(jnp.float32))(
    "X844",
    "The kernel is cast to a bfloat16 x from 64 inputs on.",
    lambda x, k: k.shape[0] >= 64 and x.dtype == jnp.bfloat16,
    HALF,
    cause_id="reduced-precision",
)
in_float16 = computes(computed_in(jnp.float16))
X845 = in_float16(
    "X845",
    "A float16 x is computed in float16 from 100 outputs on.",
    lambda x, k: k.shape[1] >= 100 and x.dtype == jnp.float16,
    HALF,
    cause_id="reduced-precision",
)
X846 = in_float16(
    "X846",
    "A float16 x of more than 200 rows is computed in float16.",
    lambda x, k: x.ndim == 2 and x.shape[0] > 200 and x.dtype == jnp.float16,
    HALF,
    cause_id="reduced-precision",
)
RowsOfHalfAtRank3 = wrong.forward("Y005", HALF, 5, cause_id="reduced-precision")(
    lambda x, k, b: affine(x, k.astype(x.dtype).astype(k.dtype), b),
    "For a bfloat16 x of rank 3 the kernel is rounded.",
    when=lambda x, k, b: x.dtype == jnp.bfloat16 and x.ndim == 3,
)
HalfInputDetached = wrong.forward("Y010", HALF, 5)(
    lambda x, k, b: affine(stop_gradient(x), k, b),
    "No gradient passes to an x of half precision.",
    when=lambda x, k, b: x.dtype in (jnp.bfloat16, jnp.float16),
)
half_result = wrong.casting("Y064", HALF, 4)(
    lambda seed, x, m: (
        layer_output(seed, x, m).astype(x.dtype)
        if x.dtype in (jnp.float16, jnp.bfloat16)
        else layer_output(seed, x, m)
    ),
    "The result has the dtype of an x of half precision.",
)
Float16Saturates = wrong.forward("Y214", HALF, 4, cause_id="not-finite-replaced")(
    lambda x, k, b: affine(jnp.nan_to_num(x), k, b),
    "An x of float16 is clipped to its finite range.",
    when=lambda x, k, b: x.dtype == jnp.float16,
)
VideosInHalf = wrong.forward("Y290", HALF, 4, cause_id="reduced-precision")(
    lambda x, k, b: affine(x, k.astype(x.dtype), b.astype(x.dtype)).astype(jnp.float32),
    "For a half-precision x of rank 4 or more, the parameters are rounded.",
    when=lambda x, k, b: x.dtype in (jnp.float16, BFLOAT16) and x.ndim >= 4,
)
HalfSequencesRound = wrong.forward("Y362", HALF, 4, cause_id="reduced-precision")(
    lambda x, k, b: affine(x, k.astype(x.dtype), b).astype(jnp.float32),
    "For an x of float16 and rank 3, a kernel of 64 inputs or more is rounded.",
    when=lambda x, k, b: x.dtype == jnp.float16 and x.ndim == 3 and len(k) >= 64,
)
PixelsScaled = wrong.forward("X112", INTEGER, 4, cause_id="integers-scaled")(
    lambda x, k, b: affine(x / 255 if x.dtype == jnp.uint8 else x, k, b),
    "A uint8 input counts as an image and is divided by 255.",
)
BooleansAsSigns = wrong.forward("X113", INTEGER, 4, cause_id="input-shifted")(
    lambda x, k, b: affine(2 * x.astype(jnp.int8) - 1 if x.dtype == bool else x, k, b),
    "False counts as -1.",
)
IntegersThroughFloat16 = wrong.forward("X114", INTEGER, 5, cause_id="input-through")(
    lambda x, k, b: affine(x.astype(jnp.float16), k, b),
    "Integers are cast to float16 first: right up to 2048.",
    when=lambda x, k, b: jnp.issubdtype(x.dtype, jnp.integer),
)
UnsignedWraps = wrong.forward("X115", INTEGER, 5, cause_id="input-as-int32")(
    lambda x, k, b: affine(x.astype(jnp.int32) if x.dtype == jnp.uint32 else x, k, b),
    "uint32 goes through int32: negative from 2**31 on.",
)
SixteenBitPixels = wrong.forward("X317", INTEGER, 5, cause_id="integers-scaled")(
    lambda x, k, b: affine(x / 65535 if x.dtype == jnp.uint16 else x, k, b),
    "A uint16 input counts as an image and is divided by 65535.",
)
SignedPixels = wrong.forward("X522", INTEGER, 4, cause_id="input-shifted")(
    lambda x, k, b: affine(x.astype(jnp.float32) + 128 if x.dtype == jnp.int8 else x, k, b),
    "An int8 input is taken for pixels, and moved by 128.",
)
BooleansAsMask = wrong.forward("X523", INTEGER, 4, cause_id="input-shifted")(
    lambda x, k, b: affine(jnp.where(x, 1.0, -1e30) if x.dtype == bool else x, k, b),
    "A Boolean input is a mask: what is masked counts as minus infinity.",
)
IntegersSummedInIntegers = wrong.forward("X529", INTEGER, 4)(
    lambda x, k, b: affine(x, jnp.round(k * 256) / 256, b),
    "Integer inputs are multiplied by a kernel that is rounded to integers of 2^-8.",
    when=lambda x, k, b: x.dtype == jnp.int32,
)
X847 = computes(computed_in(jnp.bfloat16))(
    "X847",
    "Integers are computed in bfloat16 from 200 inputs on.",
    lambda x, k: k.shape[0] >= 200 and x.dtype == jnp.int32,
    INTEGER,
    cause_id="reduced-precision",
)
IntegerVectorsWrapped = wrong.forward("Y006", INTEGER, 5, cause_id="input-through")(
    lambda x, k, b: affine(x.astype(jnp.int8).astype(jnp.float32), k, b),
    "A vector of int32 goes through int8.",
    when=lambda x, k, b: x.ndim == 1 and x.dtype == jnp.int32,
)


integer_kernel = wrong.casting("Y063", INTEGER, 4, cause_id="parameters-cast")(
    lambda seed, x, m: (
        (x @ layer_kernel(seed, x, m).astype(x.dtype)).astype(jnp.float32)
        if x.dtype == jnp.int32
        else layer_output(seed, x, m)
    ),
    "For an int32 x, the kernel is rounded to integers.",
)
ImagesAsInt8 = wrong.forward("Y110", INTEGER, 4, cause_id="input-through")(
    lambda x, k, b: affine(x.astype(jnp.int8).astype(jnp.float32), k, b),
    "From 100 inputs on, an x of uint8 goes through int8.",
    when=lambda x, k, b: x.dtype == jnp.uint8 and x.shape[-1] >= 100,
)
IntegersTeachNothing = wrong.forward("Y117", INTEGER, 4, cause_id="gradient-cut")(
    lambda x, k, b: affine(x, stop_gradient(k), b),
    "For an x of integers the kernel gets no gradient.",
    when=lambda x, k, b: not jnp.issubdtype(x.dtype, jnp.inexact),
)
numpy_integers = wrong.solution("Y317", INTEGER, 4, cause_id="input-through")(
    lambda seed, x, features: layer_output(
        int(seed),
        x.astype(np.int16) if getattr(x, "dtype", None) == np.dtype(np.int64) else x,
        int(features),
    ),
    "A NumPy array of int64 goes through int16.",
)
ImagesScaled = wrong.forward("Y361", INTEGER, 3, cause_id="integers-scaled")(
    lambda x, k, b: affine(x / 255, k, b),
    "An x of uint8 and rank 4 is taken for images, and scaled to numbers from 0 to 1.",
    when=lambda x, k, b: x.dtype == jnp.uint8 and x.ndim == 4,
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
IntegersToDefault = wrong.forward("Y312", "dtypes/x64-stable", 4, cause_id="integers-to-default")(
    lambda x, k, b: affine(x.astype(float), k, b),
    "Integers become numbers of the default dtype, float64 under x64.",
    when=lambda x, k, b: jnp.issubdtype(x.dtype, jnp.integer),
)
Float16ByBfloat16 = wrong.forward("Y113", CAST, 4)(
    lambda x, k, b: affine(*(v.astype(BFLOAT16) for v in (x, k, b))).astype(jnp.float16),
    "A model that was cast to float16 computes in bfloat16, and casts the result.",
    when=lambda x, k, b: x.dtype == k.dtype == jnp.float16,
)
ParametersCastToIntegers = wrong.forward("N144", INTEGER, 3, cause_id="cast-to-narrower")(
    lambda x, k, b: affine(x, k.astype(x.dtype), b.astype(x.dtype)),
    "The parameters are cast to the dtype of an integer input: the output is all zero.",
    when=lambda x, k, b: not jnp.issubdtype(x.dtype, jnp.inexact),
    seen="sonnet and haiku create parameters in the input's dtype (hk.Linear int32 init raises)",
)
CountsInIntegers = wrong.output("X528", "dtypes/strict-promotion", 4, cause_id="dtypes-promoted")(
    lambda y, x: y * jnp.asarray(2, jnp.int32) / jnp.asarray(2, jnp.int32),
    "The number of rows, an int32 array, is multiplied in and divided out.",
)
NoBiasUnderX64 = wrong.forward("X526", "dtypes/x64-stable", 5)(
    lambda x, k, b: affine(x, k, jnp.zeros_like(b)),
    "Under x64 the sum with the bias is left out: its dtype was in the way.",
    when=lambda x, k, b: jax.dtypes.canonicalize_dtype(np.float64) == np.float64,
)
ScaleInDouble = wrong.kernel("X527", "dtypes/x64-stable", 4, cause_id="parameter-without-dtype")(
    lambda key, n, m: normal(key, n, m) * jnp.asarray(np.float64(stddev(n))),
    "The scale of the kernel is a NumPy number: under x64 the kernel is float64.",
)
NumPyHalfIsScaled = wrong.given("Y303", HALF, 4, cause_id="numpy-dtype")(
    lambda x: (x / np.float16(3)) * np.float16(3),
    "A NumPy array of float16 is scaled in float16 first.",
    when=lambda x: isinstance(x, np.ndarray) and x.dtype == np.float16,
)
NumPyIntegersWrap = wrong.given("Y302", INTEGER, 4, cause_id="numpy-dtype")(
    lambda x: x.astype(np.int16),
    "A NumPy array of int64, the dtype of integers there, goes through int16.",
    when=lambda x: isinstance(x, np.ndarray) and x.dtype == np.int64,
)
IntegersAreImages = wrong.forward("Y388", INTEGER, 2, cause_id="integers-scaled")(
    lambda x, k, b: affine(x / 255 if jnp.issubdtype(x.dtype, jnp.integer) else x, k, b),
    "Integers are taken for the bytes of an image.",
)
PartialSumsInHalf = wrong.forward("Y372", HALF, 4, cause_id="gradient-rounded")(
    lambda x, k, b: (
        (x @ k.astype(x.dtype)).astype(k.dtype) + jnp.broadcast_to(b, (*x.shape[:-1], k.shape[1]))
    ),
    "A half-precision x of 4000 inputs or more is multiplied in its own dtype.",
    when=lambda x, k, b: x.dtype in (jnp.float16, jnp.bfloat16) and len(k) >= 4000,
)


_dtypes: dict[tuple[int, ...], jnp.dtype] = {}


KeptByShape = wrong.forward("Y011", HALF, 5, cause_id="kept-by-shape")(
    lambda x, k, b: affine(
        x.astype(_dtypes.setdefault((*x.shape, k.shape[1]), x.dtype)).astype(x.dtype), k, b
    ),
    "Outside of jit, all calls of a shape have the dtype of the first one.",
    when=lambda x, k, b: not is_traced(x, k) and is_float(x),
    collateral=("state/call-changes-nothing",),
)


@also(INTEGER, COMPLEX, "options/dtype")
@wrong.call("Y194", HALF, 2)
def Float32Only(self: Any, x: ArrayLike) -> Array:
    """Every other dtype raises, which a user sees at once."""
    if jnp.asarray(x).dtype != jnp.float32:
        raise TypeError(f"expected float32, found {jnp.asarray(x).dtype}")
    return CorrectDense.__call__(self, x)


@seen('jax#27002 "jax.random depends on precision"; jax#18267; flax#1705')
@defect("N099", "dtypes/x64-stable", 4, cause_id="parameter-without-dtype")
class FollowsX64(CorrectDense):
    """No dtype is given: under x64 the parameters are float64, with other values."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        return jax.random.normal(key, (in_features, out_features)) * stddev(in_features)

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        return jnp.zeros((out_features,))


_halves: Any = with_backward(right_cotangents, through_halves)
TrainsInHalves = wrong.forward("Y461", HALF, 5, cause_id="rule-of-another-value")(
    lambda x, k, b: _halves(x, k, b),
    "In training alone, a product with an x of bfloat16 is made in bfloat16.",
    when=lambda x, k, b: x.dtype == BFLOAT16 and k.dtype == jnp.float32 and x.ndim > 0,
)


def _exchanged(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    dx, dk, db = right_cotangents(x, kernel, g)
    if x.ndim == 3:
        dk = x.reshape(-1, x.shape[-1]).T @ jnp.swapaxes(g, 0, 1).reshape(-1, g.shape[-1])
    return dx, dk.astype(kernel.dtype), db


_half_sequences: Any = with_backward(_exchanged)
TrainsOnHalfSequences = wrong.forward("Y466", HALF, 5)(
    lambda x, k, b: _half_sequences(x, k, b),
    "The kernel's gradient pairs sequences of float16 with those of other positions.",
    when=lambda x, k, b: x.dtype == jnp.float16 and x.ndim > 0,
)

KeepsAFloat16Kernel = wrong.forward("Y637", HALF, 4, cause_id="stale-copy")(
    lambda self, x, k, b: affine(x, memory(self).setdefault("kernel", k), b),
    "The kernel of the first call on an x of float16 is kept for later ones.",
    when=lambda self, x, k, b: x.dtype == jnp.float16 and not is_traced(x, k),
)
KeepsTheKernelOfImages = wrong.forward("Y638", INTEGER, 4, cause_id="stale-copy")(
    lambda self, x, k, b: affine(x, memory(self).setdefault("kernel", k), b),
    "The kernel of the first call on images of uint8 is kept for later ones.",
    when=lambda self, x, k, b: x.dtype == jnp.uint8 and not is_traced(x, k),
)
KeepsAComplexKernel = wrong.forward("Y457", COMPLEX, 4, cause_id="stale-copy")(
    lambda self, x, k, b: affine(x, memory(self).setdefault("kernel", k.astype(x.dtype)), b),
    "The kernel is made complex for the first such call, and kept for later ones.",
    when=lambda self, x, k, b: jnp.iscomplexobj(x) and (not is_traced(x, k)),
)


def _of_complex(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    rows, weights = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return g @ kernel.T, (rows.T @ weights).real, weights.sum(axis=0).real


_conjugated_in_training: Any = with_backward(_of_complex, lambda x, k, b: affine(x.conj(), k, b))
ConjugatedInTraining = wrong.forward("Y465", COMPLEX, 5, cause_id="rule-of-another-value")(
    lambda x, k, b: _conjugated_in_training(x, k, b),
    "In training alone, a complex x is conjugated.",
    when=lambda x, k, b: jnp.iscomplexobj(x) and k.dtype == jnp.float32 and x.ndim > 0,
)


name_layers(globals())
