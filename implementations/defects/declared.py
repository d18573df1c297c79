"""Wrong layers that declare a convention, which excuses other faults and not theirs.

Some declare it by arguments with Flax's names, which exempt them from no requirement that applies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from conformance.jax_setup.compat import set_value
from implementations.defects import hooks
from implementations.defects.base import (
    CorrectDense,
    CorrectLinenDense,
    PlainDense,
    affine,
    normal,
    of_first_member,
    quantized_to,
    scaled_normal,
    stddev,
)
from implementations.defects.record import Defect, declaring, defect, name_layers

BFLOAT16 = jnp.bfloat16

draw = nnx.initializers.lecun_normal()


class _Half(nnx.Module):
    """A right layer that declares its dtype as Flax does."""

    def __init__(
        self, d_in: int, d_out: int, *, dtype: Any = jnp.bfloat16,
        param_dtype: Any = jnp.bfloat16, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        self.kernel = nnx.Param(draw(rngs.params(), (d_in, d_out), param_dtype))
        self.bias = nnx.Param(jnp.zeros(d_out, param_dtype))
        self.dtype = dtype

    def __call__(self, x: ArrayLike) -> Array:
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        return self.affine(jnp.asarray(x).astype(self.dtype), kernel, bias)

    def affine(self, x: Array, kernel: Array, bias: Array) -> Array:
        return x @ kernel + bias


@defect("X780", "transforms/gradients", 3, cause_id="gradient-cut")
class HalfKernelStopped(_Half):
    """In bfloat16 the kernel gets no gradient."""

    def affine(self, x: Array, kernel: Array, bias: Array) -> Array:
        return x @ jax.lax.stop_gradient(kernel) + bias


@defect("X781", "transforms/gradients", 4, cause_id="gradient-doubled")
class HalfBiasTwice(_Half):
    """In bfloat16 the gradient of the bias is counted twice."""

    def affine(self, x: Array, kernel: Array, bias: Array) -> Array:
        return x @ kernel + (2 * bias - jax.lax.stop_gradient(bias))


@defect("Y220", "initialization/kernel-law", 4)
class HalfUniform(_Half):
    """In bfloat16 the kernel is uniform, of the right variance."""

    def __init__(
        self, d_in: int, d_out: int, *, dtype: Any = jnp.bfloat16,
        param_dtype: Any = jnp.bfloat16, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        super().__init__(d_in, d_out, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        drawn = jax.random.uniform(rngs.params(), (d_in, d_out), jnp.float32, -1, 1)
        self.kernel = nnx.Param((drawn * (3 / d_in) ** 0.5).astype(param_dtype))


class _OneKey(nnx.Module):
    """Draws kernel and bias as PyTorch does, but both from the same key."""

    layout = "in,out"

    def __init__(self, d_in: int, d_out: int, *, rngs: nnx.Rngs) -> None:
        key, bound = rngs.params(), d_in**-0.5
        by_rows = self.layout == "in,out"
        shape = (d_in, d_out) if by_rows else (d_out, d_in)
        kernel = jax.random.uniform(key, shape, jnp.float32, -bound, bound)
        self.kernel = nnx.Param(kernel if by_rows else kernel.T)
        self.bias = nnx.Param(jax.random.uniform(key, (d_out,), jnp.float32, -bound, bound))

    def __call__(self, x: ArrayLike) -> Array:
        return jnp.asarray(x) @ self.kernel[...] + self.bias[...]


class _OneKeyByColumns(_OneKey):
    """Draws the kernel as (out, in), and the bias from the same key."""

    layout = "out,in"


class _WithoutBias(nnx.Module):
    """A correct layer without a bias, which it does not declare."""

    def __init__(self, d_in: int, d_out: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(scaled_normal(rngs.params(), d_in, d_out))

    def __call__(self, x: ArrayLike) -> Array:
        return jnp.asarray(x) @ self.kernel[...]


@defect("X782", "construction/bias-shape", 1, cause_id="bias-missing")
class ForgottenBias(_WithoutBias):
    """The bias was forgotten; all else is right."""


@defect("X783", "transforms/gradients", 3, cause_id="gradient-halved")
class HalfOfTheGradient(_WithoutBias):
    """The kernel of a layer without bias gets half of its gradient."""

    def __init__(self, d_in: int, d_out: int, *, use_bias: bool = False, rngs: nnx.Rngs) -> None:
        super().__init__(d_in, d_out, rngs=rngs)

    def __call__(self, x: ArrayLike) -> Array:
        kernel = self.kernel[...] / 2
        return jnp.asarray(x) @ (kernel + jax.lax.stop_gradient(kernel))


@defect("X784", "initialization/kernel-variance", 1, cause_id="scale-missing")
class PlainNotScaled(PlainDense):
    """The kernel is not scaled."""

    def __init__(self, in_features: int, out_features: int, key: Array) -> None:
        super().__init__(in_features, out_features, key)
        self.kernel = jax.random.normal(key, (in_features, out_features))


@defect("X785", "construction/kernel-shape", 1, cause_id="kernel-transposed")
class PlainStoredByRows(PlainDense):
    """The kernel is stored as (out, in), without a declaration; all else is right."""

    def __init__(self, in_features: int, out_features: int, key: Array) -> None:
        super().__init__(in_features, out_features, key)
        self.kernel = self.kernel.T

    def __call__(self, x: ArrayLike) -> Array:
        return jnp.asarray(x) @ self.kernel.T + self.bias


def _to_int8(values: Array, axis: int) -> Array:
    step = jnp.abs(values).max(axis=axis, keepdims=True) / 127
    return jnp.round(values / jnp.where(step == 0, 1, step)) * step


_RoundedToInt8 = hooks.forward(
    lambda x, k, b: affine(_to_int8(x, -1), _to_int8(k, 0), b),
    "Rounds x and the kernel to 255 levels, and has the gradient of the rounding.",
)
_Coarse = hooks.forward(
    lambda x, k, b: affine(quantized_to(31, x, -1), quantized_to(31, k, 0), b),
    "Rounds to six bits, and declares eight.",
)
_NotStraightThrough = hooks.forward(
    lambda x, k, b: affine(
        quantized_to(127, x, -1), jax.lax.stop_gradient(quantized_to(127, k, 0)), b
    ),
    "The result is as precise as declared, but rounding cuts the gradients off.",
)


class _TakesIntegers(CorrectDense):
    """Declares to refuse integers, and computes with them."""


class _TakesComplex(CorrectDense):
    """Refuses integers, and takes the real part of a complex x."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        if x.dtype.kind in "biu":
            raise TypeError(f"x is of dtype {x.dtype}")
        return affine(jnp.real(x), kernel, bias)


class _AllHalf(CorrectDense):
    """A layer that holds and computes everything in bfloat16."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.kernel = nnx.Param(self.kernel[...].astype(BFLOAT16))
        self.bias = nnx.Param(self.bias[...].astype(BFLOAT16))

    def __call__(self, x: ArrayLike) -> Array:
        return self.forward(jnp.asarray(x, BFLOAT16), self.kernel[...], self.bias[...])


class _SumsInHalf(_AllHalf):
    """The products of one input at a time are added in bfloat16, without a declaration."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        if x.shape[-1] != kernel.shape[0]:
            raise ValueError(f"the width of x is {x.shape[-1]}, expected {kernel.shape[0]}")
        y = jnp.zeros((*x.shape[:-1], kernel.shape[1]), x.dtype)
        for i in range(kernel.shape[0]):
            y = y + x[..., i : i + 1] * kernel[i]
        return y + bias


_half = hooks.Hook(_AllHalf, "forward")
_half_kernel = hooks.Hook(_AllHalf, "draw_kernel")
_Clipped = _half_kernel(
    lambda key, n, m: jnp.clip(normal(key, n, m), -2, 2) / 0.9594 * stddev(n),
    "In bfloat16, weights are clipped at two deviations.",
)
_OfFewBits = _half_kernel(
    lambda key, n, m: normal(key, n, m).astype(jnp.float8_e4m3fn).astype(jnp.float32) * stddev(n),
    "In bfloat16, weights are drawn in eight bits.",
)
_SumsInLess = _half(
    lambda x, k, b: x @ quantized_to(31, k.astype(jnp.float32), 0).astype(x.dtype) + b,
    "Declares to add in bfloat16, and rounds the kernel to six bits.",
)


class _HalfUnderVmap(_AllHalf):
    """In bfloat16, mapped over stacked kernels for one x, all members are the first."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        return x @ of_first_member(x, kernel) + bias


class _HalfOfIntegers(_AllHalf):
    """In bfloat16, integers go through eight bits."""

    def __call__(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        return super().__call__(x.astype(jnp.int8) if x.dtype.kind in "iu" else x)


class _PaddingInHalf(_AllHalf):
    """In bfloat16, a row of -100 throughout is padding, whose output is 0."""

    def __call__(self, x: ArrayLike) -> Array:
        padding = (jnp.asarray(x) == -100.0).all(-1, keepdims=True)
        return jnp.where(padding, 0, super().__call__(x))


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


_RoundedResult = hooks.forward(
    lambda x, k, b: affine(*(v.astype(BFLOAT16) for v in (x, k, b))).astype(jnp.float32),
    "Declares a result of float32, and rounds it to bfloat16.",
)
_WideBias = hooks.forward(
    lambda x, k, b: affine(x.astype(BFLOAT16), k.astype(BFLOAT16), b),
    "Casts x and the kernel, and forgets the bias.",
)
_DtypeOfX = hooks.forward(
    lambda x, k, b: affine(*(v.astype(BFLOAT16) for v in (x, k, b))).astype(x.dtype),
    "Computes in bfloat16, and returns the dtype of x.",
)
_HalfResult = hooks.forward(
    lambda x, k, b: affine(*(v.astype(BFLOAT16) for v in (x, k, b))),
    "Declares a result of float32, and returns bfloat16.",
)


class _CountsInPlace(CorrectDense):
    """Counts its calls, and writes the number into an array that was loaded."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        calls: Any = self.calls[...]
        if isinstance(calls, Array):
            set_value(self.calls, calls + 1)
        else:
            self.calls[...] = calls + 1
        return affine(x, kernel, bias)


name_layers(globals())

RoundedToInt8 = declaring(
    _RoundedToInt8, Defect("Y334", "transforms/gradients", subtlety=1), product_error="2**-4"
)
HALF = {"dtype": "bfloat16", "parameter_dtype": "bfloat16"}
PROMISE = {"product_error": "2**-7"}
FLOATING = {"inputs": ["floating"]}
DRAWS = {"call": {"rngs": ["dropout"]}}
CoarserThanPromised = declaring(_Coarse, Defect("Y170", "forward/integer-exact"), **PROMISE)
PromisedAndCut = declaring(
    _NotStraightThrough, Defect("Y171", "transforms/gradients", cause_id="gradient-cut"), **PROMISE
)
TakesIntegers = declaring(
    _TakesIntegers,
    Defect("Y172", "dtypes/integer-input", cause_id="input-not-refused"),
    inputs=["floating", "complex"],
)
TakesComplex = declaring(
    _TakesComplex, Defect("Y173", "dtypes/complex-input", cause_id="input-not-refused"), **FLOATING
)
SumsInHalf = declaring(_SumsInHalf, Defect("Y174", "numerics/no-saturation"), **HALF)
SumsInLess = declaring(
    _SumsInLess, Defect("Y175", "forward/basis-input"), **HALF, accumulate="bfloat16"
)
HalfUnderVmap = declaring(_HalfUnderVmap, Defect("Y176", "transforms/vmap"), **HALF)
HalfOfIntegers = declaring(_HalfOfIntegers, Defect("Y177", "dtypes/integer-input"), **HALF)
PaddingInHalf = declaring(
    _PaddingInHalf, Defect("Y532", "forward/affine-value", cause_id="rows-replaced"), **HALF
)
CountsInPlace = declaring(
    _CountsInPlace,
    Defect("Y623", "serialization/round-trip", cause_id="variable-written-in-place"),
    extra_state=["calls"],
)
WIDER = {"dtype": "bfloat16", "result_dtype": "float32"}
RoundedResult = declaring(
    _RoundedResult, Defect("Y262", "forward/basis-input", cause_id="result-rounded"), **WIDER
)
HalfResult = declaring(
    _HalfResult, Defect("Y263", "dtypes/float32-out", cause_id="result-dtype"), **WIDER
)
DtypeOfX = declaring(
    _DtypeOfX, Defect("Y515", "dtypes/float32-out", cause_id="dtype-of-x"), dtype="bfloat16"
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


UNIFORM = {"kernel": "uniform, 1/(3*fan_in)", "bias": "uniform, 1/(3*fan_in)"}
ONE_KEY = "bias-of-the-kernels-key"
OneKey = declaring(
    _OneKey, Defect("Y565", "initialization/bias-zero", cause_id=ONE_KEY, subtlety=2), **UNIFORM
)
OneKeyByColumns = declaring(
    _OneKeyByColumns,
    Defect("Y566", "initialization/bias-zero", cause_id=ONE_KEY, subtlety=4),
    **UNIFORM,
)
LAW = "initialization/kernel-law"
ClippedInHalf = declaring(_Clipped, Defect("Y313", LAW, (), "weights-clipped", 5), **HALF)
FewBitsInHalf = declaring(_OfFewBits, Defect("Y314", LAW, (), "weights-of-few-levels", 5), **HALF)
