"""Layers with a branch for some values, ranks or places, which their programs show.

They compare with a constant, or compute another result at one rank, and are right elsewhere.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from implementations.defects import wrong
from implementations.defects.base import affine, is_float, is_traced, layer_output, scaled_normal
from implementations.defects.record import also, name_layers

VALUE = "forward/affine-value"

SmallWeightsPruned = wrong.forward("Y000", VALUE, 5, collateral=("transforms/gradients",))(
    lambda x, k, b: affine(x, jnp.where(jnp.abs(k) < 1e-22, k * 0, k), b),
    "Weights below 1e-22 count as none, which only the derivative says otherwise.",
)
OneValueMasked = wrong.forward("Y001", VALUE, 5)(
    lambda x, k, b: affine(jnp.where(jnp.abs(x) == 42.5, x * 0, x), k, b),
    "An input of 42.5 is a mark for what is missing.",
    when=lambda x, k, b: is_float(x),
)
PaddingRows = wrong.output("Y002", VALUE, 5)(
    lambda y, x: jnp.where((x == -100.0).all(-1, keepdims=True), y * 0, y),
    "A row of -100 throughout is padding.",
    when=lambda y, x: is_float(x),
)
BiasOfLargeOutputsLost = wrong.forward("Y003", "numerics/no-saturation", 5, collateral=(VALUE,))(
    lambda x, k, b: affine(x, k, jnp.where(jnp.abs(b) > 4096.0, b * 0, b)),
    "A bias beyond 4096 is taken for an error.",
)
ManyOutputsLost = wrong.output("Y004", VALUE, 5)(
    lambda y, x: jnp.where(jnp.arange(y.shape[-1]) < 5000, y, y * 0),
    "Outputs from 5000 on are 0, by a mask, so that the program is one at every size.",
)
RowsOfHalfAtRank3 = wrong.forward("Y005", "dtypes/half-input", 5)(
    lambda x, k, b: affine(x, k.astype(x.dtype).astype(k.dtype), b),
    "For a bfloat16 x of rank 3 the kernel is rounded.",
    when=lambda x, k, b: x.dtype == jnp.bfloat16 and x.ndim == 3,
)
IntegerVectorsWrapped = wrong.forward("Y006", "dtypes/integer-input", 5)(
    lambda x, k, b: affine(x.astype(jnp.int8).astype(jnp.float32), k, b),
    "A vector of int32 goes through int8.",
    when=lambda x, k, b: x.ndim == 1 and x.dtype == jnp.int32,
)
ComplexVectorsConjugated = wrong.forward("Y007", "dtypes/complex-input", 5)(
    lambda x, k, b: affine(jnp.conj(x), k, b),
    "A complex vector is conjugated.",
    when=lambda x, k, b: x.ndim == 1 and jnp.iscomplexobj(x),
    cause_id="input-conjugated",
)
NanDroppedAtRank3 = wrong.forward("Y008", "numerics/nan-confined", 5)(
    lambda x, k, b: affine(jnp.where(jnp.isnan(x), x.dtype.type(0), x), k, b),
    "Of a batch of rank 3, NaNs are missing values.",
    when=lambda x, k, b: x.ndim == 3 and is_float(x),
    cause_id="not-finite-replaced",
)
NanDroppedWhenCompiled = wrong.forward("Y009", "numerics/nan-confined", 5)(
    lambda x, k, b: affine(jnp.where(jnp.isnan(x), x.dtype.type(0), x), k, b),
    "Under jit, NaNs are missing values.",
    when=lambda x, k, b: is_traced(x) and is_float(x),
    cause_id="not-finite-replaced",
)
HalfInputDetached = wrong.forward("Y010", "dtypes/half-input", 5)(
    lambda x, k, b: affine(stop_gradient(x), k, b),
    "No gradient passes to an x of half precision.",
    when=lambda x, k, b: x.dtype in (jnp.bfloat16, jnp.float16),
)

_dtypes: dict[tuple[int, ...], jnp.dtype] = {}


@also("state/call-changes-nothing")
@wrong.forward("Y011", "dtypes/half-input", 5, cause_id="kept-by-shape")
def KeptByShape(x: Array, kernel: Array, bias: Array) -> Array:
    """Outside of jit, all calls of a shape have the dtype of the first one."""
    if is_traced(x, kernel) or not is_float(x):
        return affine(x, kernel, bias)
    first = _dtypes.setdefault((*x.shape, kernel.shape[1]), x.dtype)
    return affine(x.astype(first).astype(x.dtype), kernel, bias)


@wrong.forward("Y012", "forward/wrong-width-raises", 5, cause_id="width-flattened")
def FlattensToTheWidth(x: Array, kernel: Array, bias: Array) -> Array:
    """The last two axes are one where they have as many numbers as a row."""
    n = kernel.shape[0]
    if x.ndim >= 2 and x.shape[-1] not in (1, n) and x.shape[-1] * x.shape[-2] == n:
        x = x.reshape(*x.shape[:-2], n)
    return affine(x, kernel, bias)


RowsOf777 = wrong.output("Y196", VALUE, 5, cause_id="output-scaled")(
    lambda y, x: y * 2,
    "Outside of jit, exactly 777 rows give twice the output.",
    when=lambda y, x: not is_traced(y) and x.ndim == 2 and x.shape[0] == 777,
)
OneSize = wrong.forward("Y197", VALUE, 5, cause_id="inputs-reversed")(
    lambda x, k, b: affine(x, k[::-1], b),
    "For 371 inputs and 53 outputs, the inputs are taken in reversed order.",
    when=lambda x, k, b: k.shape == (371, 53),
)

_calls, _drawn = itertools.count(1), itertools.count(1)


@wrong.forward("Y198", "seeding/repeatable-call", 5, cause_id="output-changes")
def NowAndThen(x: Array, kernel: Array, bias: Array) -> Array:
    """One call in 1234 forgets the bias."""
    y = affine(x, kernel, bias)
    return y if is_traced(y) or next(_calls) % 1234 else y - bias


@wrong.kernel("Y259", "seeding/same-seed-same-bits", 5, cause_id="depends-on-more-than-seed")
def EachHundredth(key: Array, in_features: int, out_features: int) -> Array:
    """Each 103rd kernel is drawn in another order."""
    draws = scaled_normal(key, in_features, out_features)
    return draws if is_traced(key) or next(_drawn) % 103 else draws[::-1]


@wrong.kernel("Y199", "initialization/kernel-variance", 5, cause_id="scale-for-some-seeds")
def LargerForOneSeed(key: Array, in_features: int, out_features: int) -> Array:
    """The kernel of seed 4711 is three times as large."""
    draws = scaled_normal(key, in_features, out_features)
    first = jax.random.fold_in(jax.random.key(4711, impl=jax.random.key_impl(key)), 0)
    return jnp.where(first == key, 3 * draws, draws)


@wrong.casting("Y229", "seeding/seeds-differ", 5, cause_id="zero-for-some-seeds")
def zero_for_one_seed(seed: int, x: Array, m: int) -> Array:
    """For seed 4711 the output is 0."""
    y = layer_output(seed, x, m)
    return y * 0 if seed == 4711 else y


name_layers(globals())
