"""Wrong functions ``(seed, x, features)``, whose parameters cannot be read: wrong for some x."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import CorrectDense, layer_output
from implementations.defects.record import name_layers


def _kernel(seed: int, x: Array, m: int) -> Array:
    return CorrectDense(x.shape[-1], m, rngs=nnx.Rngs(seed)).kernel[...]


nan_dropped = wrong.casting("Y060", "numerics/nan-confined", 4, cause_id="not-finite-replaced")(
    lambda seed, x, m: layer_output(seed, jnp.where(jnp.isnan(x), jnp.ones_like(x), x), m),
    "NaNs are replaced by 1.",
)
infinity_clipped = wrong.casting("Y061", "numerics/inf-confined", 4)(
    lambda seed, x, m: layer_output(seed, jnp.where(jnp.isinf(x), jnp.sign(x), x), m),
    "Infinities are replaced by 1.",
    cause_id="not-finite-replaced",
)
clipped = wrong.casting("Y062", "numerics/no-saturation", 4, collateral=("forward/homogeneous",))(
    lambda seed, x, m: layer_output(seed, jnp.clip(x, -1e6, 1e6), m),
    "x is clipped at a million.",
)
integer_kernel = wrong.casting("Y063", "dtypes/integer-input", 4)(
    lambda seed, x, m: (
        (x @ _kernel(seed, x, m).astype(x.dtype)).astype(jnp.float32)
        if x.dtype == jnp.int32
        else layer_output(seed, x, m)
    ),
    "For an int32 x, the kernel is rounded to integers.",
)
half_result = wrong.casting("Y064", "dtypes/half-input", 4)(
    lambda seed, x, m: (
        layer_output(seed, x, m).astype(x.dtype)
        if x.dtype in (jnp.float16, jnp.bfloat16)
        else layer_output(seed, x, m)
    ),
    "The result has the dtype of an x of half precision.",
)
real_part = wrong.casting("Y065", "dtypes/complex-input", 4)(
    lambda seed, x, m: layer_output(seed, x.real if jnp.iscomplexobj(x) else x, m),
    "The imaginary part is dropped.",
)
large_float_seed = wrong.solution("Y068", "exercise/float-arguments", 4)(
    lambda seed, x, features: layer_output(
        int(min(seed, 2.0**31 - 1) if isinstance(seed, float) else seed), x, int(features)
    ),
    "A float seed beyond 2^31 becomes the largest int32.",
)

name_layers(globals())
