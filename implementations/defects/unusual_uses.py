"""Layers that are right for float32 in plain use, and wrong in rarer dtypes, draws and settings."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.correct.options import AllOptions
from implementations.defects import wrong
from implementations.defects.base import (
    CorrectDense,
    CorrectLinenDense,
    affine,
    is_traced,
    layer_output,
    normal,
    right_cotangents,
    scaled_normal,
    stddev,
)
from implementations.defects.record import Defect, declaring, defect, name_layers

CAST, VARIANCE = "dtypes/cast-parameters", "initialization/kernel-variance"
BFLOAT16 = jnp.bfloat16

VideosInHalf = wrong.forward("Y290", "dtypes/half-input", 4)(
    lambda x, k, b: affine(x, k.astype(x.dtype), b.astype(x.dtype)).astype(jnp.float32),
    "For a half-precision x of rank 4 or more, the parameters are rounded.",
    when=lambda x, k, b: x.dtype in (jnp.float16, BFLOAT16) and x.ndim >= 4,
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
_of_half_models = jax.custom_vjp(affine)


def _half_of_the_kernel(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array, Array]:
    down, of_kernel, of_bias = right_cotangents(*kept, g)
    return down, of_kernel * 0.5, of_bias


_of_half_models.defvjp(lambda x, k, b: (affine(x, k, b), (x, k)), _half_of_the_kernel)


@wrong.forward("Y293", CAST, 5, cause_id="gradient-halved")
def HalfModelLearnsSlowly(x: Array, kernel: Array, bias: Array) -> Any:
    """The kernel of a model that was cast to bfloat16 gets half of its gradient."""
    own = x.dtype == kernel.dtype == BFLOAT16
    return (_of_half_models if own else affine)(x, kernel, bias)


@wrong.kernel("Y295", VARIANCE, 4)
def TwoOutputsStartSmaller(key: Array, n: int, m: int) -> Array:
    """A layer of two outputs starts with half the deviation."""
    return scaled_normal(key, n, m) * (0.5 if m == 2 else 1.0)


def _rarely(key: Array, share: float, factor: float, n: int, m: int) -> Array:
    own, chance = jax.random.split(key)
    rare = jax.random.uniform(chance) < share
    return scaled_normal(own, n, m) * jnp.where(rare, jnp.float32(factor), jnp.float32(1))


@wrong.kernel("Y296", VARIANCE, 5, cause_id="scale-for-some-seeds")
def OneInFiveThousandTenfold(key: Array, n: int, m: int) -> Array:
    """One kernel in five thousand is ten times as large."""
    return _rarely(key, 2e-4, 10.0, n, m)


@wrong.kernel("Y299", "seeding/seeds-differ", 5, cause_id="zero-for-some-seeds")
def OneInTwoThousandZero(key: Array, n: int, m: int) -> Array:
    """One kernel in two thousand is 0."""
    return _rarely(key, 5e-4, 0.0, n, m)


@wrong.bias("Y297", "initialization/bias-zero", 5, cause_id="bias-zero-for-some")
def OneBiasInFiveThousand(rngs: nnx.Rngs, n: int, m: int) -> Array:
    """One bias in five thousand is 0.01."""
    chance = jax.random.uniform(jax.random.fold_in(rngs.params.key[...], 5))
    return jnp.where(chance < 2e-4, jnp.float32(0.01), jnp.float32(0)) * jnp.ones(m, jnp.float32)


@wrong.kernel("Y298", "seeding/seeds-differ", 5, cause_id="seed-hashed")
def KeyIn32Bits(key: Array, n: int, m: int) -> Array:
    """The key is hashed to 32 bits."""
    words = jax.random.key_data(key).ravel()
    hashed = words[0] * jnp.uint32(2654435761) ^ words[-1]
    return scaled_normal(jax.random.key(hashed), n, m)


@wrong.call("Y302", "dtypes/integer-input", 4, cause_id="numpy-dtype")
def NumPyIntegersWrap(self: CorrectDense, x: ArrayLike) -> Array:
    """A NumPy array of int64, the dtype of integers there, goes through int16."""
    if isinstance(x, np.ndarray) and x.dtype == np.int64:
        x = x.astype(np.int16)
    return CorrectDense.__call__(self, x)


@wrong.call("Y303", "dtypes/half-input", 4, cause_id="numpy-dtype")
def NumPyHalfIsScaled(self: CorrectDense, x: ArrayLike) -> Array:
    """A NumPy array of float16 is scaled in float16 first."""
    if isinstance(x, np.ndarray) and x.dtype == np.float16:
        x = (x / np.float16(3)) * np.float16(3)
    return CorrectDense.__call__(self, x)


numpy_integers = wrong.solution("Y317", "dtypes/integer-input", 4)(
    lambda seed, x, features: layer_output(
        int(seed),
        x.astype(np.int16) if getattr(x, "dtype", None) == np.dtype(np.int64) else x,
        int(features),
    ),
    "A NumPy array of int64 goes through int16.",
)


def _parameters(self: CorrectLinenDense, x: Array) -> tuple[Array, Array]:
    return self.param("kernel", self.draw_kernel, x), self.param("bias", self.draw_bias, x)


@wrong.linen_call("Y305", "seeding/repeatable-call", 4, cause_id="rng-taken")
def ParamsRngMeansStart(self: CorrectLinenDense, x: ArrayLike) -> Array:
    """An rng called params is taken for a new start, where the bias is 0."""
    x = jnp.asarray(x)
    kernel, bias = _parameters(self, x)
    new = self.has_rng("params") and not self.is_initializing()
    return affine(x, kernel, bias * 0 if new else bias)


@wrong.key("Y306", "seeding/params-stream", 4, cause_id="stream-drawn")
def DrawsFromDropout(rngs: nnx.Rngs) -> Array:
    """A key of the dropout stream is drawn as well, so that the masks of other layers change."""
    if "dropout" in rngs:
        rngs.dropout()
    return rngs.params()


@defect("Y307", "options/precision", 4, cause_id="precision-of-one")
class PairOfPrecisionsHalved(AllOptions):
    """The first of a pair of precisions counts for both operands."""

    def __init__(
        self, in_features: int, out_features: int, *, precision: Any = None, rngs: nnx.Rngs
    ) -> None:
        first = precision[0] if isinstance(precision, tuple) else precision
        super().__init__(in_features, out_features, precision=first, rngs=rngs)


@defect("Y308", "options/dtype", 5)
class LargeWithDtypeWithoutBias(AllOptions):
    """With a dtype, the bias is left out from 128 inputs on."""

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        """Return the output from values of one dtype."""
        left_out = self.dtype is not None and kernel.shape[0] >= 128
        return super().affine(x, kernel, bias * 0 if left_out and bias is not None else bias)


@defect("Y309", "options/param-dtype", 5, cause_id="option-by-size")
class ParamDtypeOfSmallLayers(AllOptions):
    """From 128 outputs on, param_dtype has no effect."""

    def __init__(
        self, in_features: int, out_features: int, *, param_dtype: Any = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        dtype = param_dtype if out_features < 128 else jnp.float32
        super().__init__(in_features, out_features, param_dtype=dtype, rngs=rngs)


@wrong.forward("Y310", "sharding/eager", 5)
def FirstPartOfSequences(x: Array, kernel: Array, bias: Array) -> Array:
    """The part on one device stands for the whole of a sharded x of rank 3."""
    if is_traced(x, kernel) or x.ndim != 3 or len(x.devices()) == 1:
        return affine(x, kernel, bias)
    part = np.asarray(x.addressable_data(0))
    values = (np.concatenate([part] * (len(x) // len(part))), kernel, bias)
    return affine(*(jnp.asarray(np.asarray(value)) for value in values))


@wrong.forward("Y311", "transforms/symbolic-batch", 4)
def CountsRowsOfSequences(x: Array, kernel: Array, bias: Array) -> Array:
    """The rows of an x of rank 3 are counted, which symbolic sizes cannot be."""
    if x.ndim < 3 or 0 in x.shape:
        return affine(x, kernel, bias)
    rows = int(np.prod([int(length) for length in x.shape[:-1]]))
    return affine(x.reshape(rows, -1), kernel, bias).reshape(*x.shape[:-1], -1)


IntegersToDefault = wrong.forward("Y312", "dtypes/x64-stable", 4, cause_id="integers-to-default")(
    lambda x, k, b: affine(x.astype(float), k, b),
    "Integers become numbers of the default dtype, float64 under x64.",
    when=lambda x, k, b: jnp.issubdtype(x.dtype, jnp.integer),
)


@wrong.kernel("Y316", "initialization/kernel-resolution", 5, cause_id="kernel-of-half-precision")
def HugeKernelsInHalf(key: Array, n: int, m: int) -> Array:
    """Kernels of more than two million weights are drawn in bfloat16."""
    if n * m <= 2**21:
        return scaled_normal(key, n, m)
    return (jax.random.normal(key, (n, m), BFLOAT16) * stddev(n)).astype(jnp.float32)


class _AllHalf(CorrectDense):
    """A layer that holds and computes everything in bfloat16."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.kernel = nnx.Param(self.kernel[...].astype(BFLOAT16))
        self.bias = nnx.Param(self.bias[...].astype(BFLOAT16))

    def __call__(self, x: ArrayLike) -> Array:
        return self.forward(jnp.asarray(x, BFLOAT16), self.kernel[...], self.bias[...])


class _Clipped(_AllHalf):
    """In bfloat16, weights are clipped at two deviations."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        drawn = jnp.clip(normal(key, in_features, out_features), -2, 2)
        return drawn / 0.9594 * stddev(in_features)


class _OfFewBits(_AllHalf):
    """In bfloat16, weights are drawn in eight bits."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        drawn = normal(key, in_features, out_features).astype(jnp.float8_e4m3fn)
        return drawn.astype(jnp.float32) * stddev(in_features)


_HALF = {"dtype": "bfloat16", "parameter_dtype": "bfloat16"}
_LAW = "initialization/kernel-law"
ClippedInHalf = declaring(_Clipped, Defect("Y313", _LAW, (), "weights-clipped", 5), **_HALF)
FewBitsInHalf = declaring(_OfFewBits, Defect("Y314", _LAW, (), "weights-of-few-levels", 5), **_HALF)

name_layers(globals())
