"""Wrong layers with a declaration that would excuse another fault, but not theirs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import (
    CorrectDense,
    CorrectLinenDense,
    affine,
    normal,
    quantized_to,
    scaled_normal,
)
from implementations.defects.record import Defect, declaring

HALF = {"dtype": "bfloat16", "parameter_dtype": "bfloat16"}


class _Coarse(CorrectDense):
    """Rounds to six bits, and declares eight."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        return affine(quantized_to(31, x, -1), quantized_to(31, kernel, 0), bias)


class _NotStraightThrough(CorrectDense):
    """The result is as precise as declared, but rounding cuts the gradients off."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        held = jax.lax.stop_gradient(quantized_to(127, kernel, 0))
        return affine(quantized_to(127, x, -1), held, bias)


class _TakesIntegers(CorrectDense):
    """Declares to refuse integers, and computes with them."""


class _TakesComplex(CorrectDense):
    """Refuses integers, and takes the real part of a complex x."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        if x.dtype.kind in "biu":
            raise TypeError(f"x is of dtype {x.dtype}")
        return affine(jnp.real(x), kernel, bias)


class _Half(nnx.Module):
    """A right layer, all in bfloat16."""

    def __init__(self, d_in: int, d_out: int, *, rngs: nnx.Rngs) -> None:
        kernel = scaled_normal(rngs.params(), d_in, d_out)
        self.kernel = nnx.Param(kernel.astype(jnp.bfloat16))
        self.bias = nnx.Param(jnp.zeros(d_out, jnp.bfloat16))

    def __call__(self, x: ArrayLike) -> Array:
        return self.affine(jnp.asarray(x).astype(jnp.bfloat16), self.kernel[...], self.bias[...])

    def affine(self, x: Array, kernel: Array, bias: Array) -> Array:
        return x @ kernel + bias


class _SumsInHalf(_Half):
    """The products of one input at a time are added in bfloat16, without a declaration."""

    def affine(self, x: Array, kernel: Array, bias: Array) -> Array:
        if x.shape[-1] != kernel.shape[0]:
            raise ValueError(f"the width of x is {x.shape[-1]}, expected {kernel.shape[0]}")
        y = jnp.zeros((*x.shape[:-1], kernel.shape[1]), x.dtype)
        for i in range(kernel.shape[0]):
            y = y + x[..., i : i + 1] * kernel[i]
        return y + bias


class _SumsInLess(_Half):
    """Declares to add in bfloat16, and rounds the kernel to six bits."""

    def affine(self, x: Array, kernel: Array, bias: Array) -> Array:
        held = quantized_to(31, kernel.astype(jnp.float32), 0).astype(x.dtype)
        return x @ held + bias


class _HalfUnderVmap(_Half):
    """In bfloat16, mapped over stacked kernels for one x, all members are the first."""

    def affine(self, x: Array, kernel: Array, bias: Array) -> Array:
        kinds = [type(value).__name__ == "BatchTracer" for value in (x, kernel)]
        if kinds == [False, True]:
            tracer: Any = kernel
            kernel = tracer.val[0]
        return x @ kernel + bias


class _HalfOfIntegers(_Half):
    """In bfloat16, integers go through eight bits."""

    def __call__(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        return super().__call__(x.astype(jnp.int8) if x.dtype.kind in "iu" else x)


class _DropsNnx(CorrectDense):
    """Given a stream for its mask, drops a half of its outputs."""

    def __call__(self, x: ArrayLike, rngs: nnx.Rngs) -> Array:  # type: ignore[override]  # declared
        y = super().__call__(x)
        return 2 * y * jax.random.bernoulli(rngs.dropout(), 0.5, y.shape)


class _DropsLinen(CorrectLinenDense):
    """Drops half of its outputs, with a mask from a separate stream."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        y = affine(x, kernel, bias)
        return 2 * y * jax.random.bernoulli(self.make_rng("dropout"), 0.5, y.shape)


@contextlib.contextmanager
def surroundings() -> Iterator[None]:
    """Set a precision, which does not matter on a CPU."""
    with jax.default_matmul_precision("highest"):
        yield


class _NotScaled(CorrectDense):
    """Its kernel is not scaled in the declared context; without the context it cannot be built."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        if jax.config.values["jax_default_matmul_precision"] != "highest":
            raise RuntimeError("no precision is set")
        return normal(key, in_features, out_features)


class _RoundedResult(CorrectDense):
    """Declares a result of float32, and rounds it to bfloat16."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        half = (each.astype(jnp.bfloat16) for each in (x, kernel, bias))
        return affine(*half).astype(jnp.float32)


class _WideBias(CorrectDense):
    """Casts x and the kernel, and forgets the bias."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        return affine(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), bias)


class _HalfResult(CorrectDense):
    """Declares a result of float32, and returns bfloat16."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        return affine(*(each.astype(jnp.bfloat16) for each in (x, kernel, bias)))


PROMISE = {"product_error": "2**-7"}
FLOATING = {"inputs": ["floating"]}
DRAWS = {"call": {"rngs": ["dropout"]}}

CoarserThanPromised = declaring(_Coarse, Defect("Y170", "forward/integer-exact"), **PROMISE)
PromisedAndCut = declaring(
    _NotStraightThrough,
    Defect("Y171", "transforms/gradients", cause_id="gradient-cut"),
    **PROMISE,
)
TakesIntegers = declaring(
    _TakesIntegers,
    Defect("Y172", "dtypes/integer-input", cause_id="input-not-refused"),
    inputs=["floating", "complex"],
)
TakesComplex = declaring(
    _TakesComplex,
    Defect("Y173", "dtypes/complex-input", cause_id="input-not-refused"),
    **FLOATING,
)
SumsInHalf = declaring(_SumsInHalf, Defect("Y174", "numerics/no-saturation"), **HALF)
SumsInLess = declaring(
    _SumsInLess, Defect("Y175", "forward/basis-input"), **HALF, accumulate="bfloat16"
)
HalfUnderVmap = declaring(_HalfUnderVmap, Defect("Y176", "transforms/vmap"), **HALF)
HalfOfIntegers = declaring(_HalfOfIntegers, Defect("Y177", "dtypes/integer-input"), **HALF)
WIDER = {"dtype": "bfloat16", "result_dtype": "float32"}
RoundedResult = declaring(
    _RoundedResult, Defect("Y262", "forward/basis-input", cause_id="result-rounded"), **WIDER
)
HalfResult = declaring(
    _HalfResult, Defect("Y263", "dtypes/float32-out", cause_id="result-dtype"), **WIDER
)
WideBias = declaring(
    _WideBias, Defect("Y380", "dtypes/float32-out", cause_id="bias-not-cast"), dtype="bfloat16"
)
DropsNnx = declaring(_DropsNnx, Defect("Y178", "forward/zero-input"), **DRAWS)
DropsLinen = declaring(_DropsLinen, Defect("Y179", "forward/zero-input"), **DRAWS)
NotScaled = declaring(
    _NotScaled,
    Defect("Y180", "initialization/kernel-variance", cause_id="scale-missing"),
    context=f"{__name__}:surroundings",
)
