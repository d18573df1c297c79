"""Layers that break dtypes by a conversion: of x, or of a model, to another dtype or scale."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from implementations.defects import wrong
from implementations.defects.base import affine, is_float
from implementations.defects.record import name_layers

HALF, INTEGER = "dtypes/half-input", "dtypes/integer-input"
BFLOAT16 = jnp.bfloat16

SoundScaled = wrong.forward("Y592", INTEGER, 3, cause_id="integers-scaled")(
    lambda x, k, b: affine(x / 32768, k, b),
    "An x of int16 and rank 3 is taken for sound, and scaled to numbers from -1 to 1.",
    when=lambda x, k, b: x.dtype == jnp.int16 and x.ndim == 3,
)
NumPyImagesScaled = wrong.given("Y593", INTEGER, 3, cause_id="numpy-dtype")(
    lambda x: x / np.float32(255),
    "A NumPy array of uint8 is taken for an image, and scaled.",
    when=lambda x: isinstance(x, np.ndarray) and x.dtype == np.uint8,
)
ProductOfNumPy = wrong.call("Y624", "forward/array-likes", 2, cause_id="numpy-product")(
    lambda self, x: x.dot(self.kernel[...]) + self.bias[...],
    "NumPy computes the product of its own arrays, and rounds it otherwise.",
)
Bfloat16ThroughFloat16 = wrong.forward("Y600", HALF, 3, cause_id="input-through")(
    lambda x, k, b: affine(x.astype(jnp.float16), k, b),
    "An x of bfloat16 goes through float16, which does not hold large numbers.",
    when=lambda x, k, b: x.dtype == BFLOAT16 and k.dtype == jnp.float32,
)
Bfloat16ByFloat16 = wrong.forward("Y602", "dtypes/cast-parameters", 3)(
    lambda x, k, b: affine(*(v.astype(jnp.float16) for v in (x, k, b))).astype(BFLOAT16),
    "A model that was cast to bfloat16 computes in float16, and casts the result.",
    when=lambda x, k, b: x.dtype == k.dtype == BFLOAT16,
)
CastToParameters = wrong.forward("Y615", "dtypes/cast-parameters", 3)(
    lambda x, k, b: affine(x.astype(k.dtype), k, b),
    "Numbers of x are cast to the dtype of the kernel, also to a narrower one.",
    when=lambda x, k, b: is_float(x),
    cause_id="input-cast-to-parameters",
)
Float64SequencesInHalf = wrong.given("Y646", "forward/array-likes", 5)(
    lambda x: x.astype(np.float16).astype(np.float32),
    "Sequences of NumPy's float64 go to the device as float16.",
    when=lambda x: isinstance(x, np.ndarray) and x.ndim == 3 and x.dtype == np.float64,
)


name_layers(globals())
