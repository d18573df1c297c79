"""Layers that pass an option on to some of its places only, or go wrong beside one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.correct.options import LECUN, ZEROS, AllOptions, AllOptionsLinen
from implementations.defects.base import is_float, is_traced, memory
from implementations.defects.options import constructor, contracted, plain, product
from implementations.defects.record import also, defect, name_layers

Product = tuple[Callable[..., Array], Any]
"""A function such as ``jax.lax.dot_general``, and the precision that it gets."""


def _times(x: Array, kernel: Array, by: Product) -> Array:
    return by[0](x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision=by[1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _multiplied(x: Array, kernel: Array, by: Product, of_tangents: Product) -> Array:
    return _times(x, kernel, by)


@_multiplied.defjvp
def _rule(by: Product, of_tangents: Product, primals: Any, tangents: Any) -> Any:
    (x, kernel), (dx, dkernel) = primals, tangents
    tangent = _times(dx, kernel, of_tangents) + _times(x, dkernel, of_tangents)
    return _multiplied(x, kernel, by, of_tangents), tangent


def _affine(self: Any, x: Array, kernel: Array, bias: Array | None, *of_tangents: Any) -> Array:
    y = _multiplied(x, kernel, (self.dot_general, self.precision), of_tangents)
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


PrecisionOfTheCall = product("Y239", "options/precision", 5, cause_id="option-of-call-only")(
    lambda self, x, k, b: _affine(self, x, k, b, self.dot_general, None),
    "The rule of the derivative multiplies in the default precision.",
)
ProductOfTheCall = product("Y411", "options/dot-general", 5, cause_id="option-of-call-only")(
    lambda self, x, k, b: _affine(self, x, k, b, jax.lax.dot_general, self.precision),
    "The rule of the derivative multiplies by JAX's product, and the given one is ignored.",
)


def _of_one_deviation(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
    if dtype == jnp.float32:
        return LECUN(key, shape, dtype)
    wide = jax.random.truncated_normal(key, -2, 2, shape) * shape[0] ** -0.5
    return wide.astype(dtype)


@defect("Y412", "options/param-dtype", 5, cause_id="law-by-option")
class HalfWithoutCorrection(nnx.Linear):
    """Kernels of half precision miss the correction for the truncation; the constructor takes
    options that it passes on.
    """

    def __init__(self, in_features: int, out_features: int, **options: Any) -> None:
        super().__init__(in_features, out_features, **{"kernel_init": _of_one_deviation, **options})


@product("Y416", "options/precision", 4, cause_id="option-by-branch")
def PrecisionOfHalvesForgotten(self: Any, x: Array, kernel: Array, bias: Array | None) -> Array:
    """From 1024 inputs on, the product is split in two, which do not get the precision."""
    if kernel.shape[0] < 1024 or x.shape[-1] != kernel.shape[0]:
        return AllOptions.affine(self, x, kernel, bias)
    half = kernel.shape[0] // 2
    parts = ((x[..., :half], kernel[:half]), (x[..., half:], kernel[half:]))
    wide = jnp.promote_types(x.dtype, jnp.float32)
    first, second = (jnp.matmul(*part, preferred_element_type=wide) for part in parts)
    y = (first + second).astype(x.dtype)
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


XAloneIsCast = product("Y484", "options/dtype", 2, cause_id="dtype-for-x-alone")(
    lambda self, x, k, b: x @ self.kernel[...] + (0 if b is None else self.bias[...]),
    "x is cast to the `dtype` that is given, and the parameters are not.",
    collateral=("options/dot-general", "options/precision", "options/promote-dtype"),
)


NoBiasWithPrecision = product("Y534", "options/precision", 3, cause_id="bias-not-added")(
    lambda self, x, k, b: AllOptions.affine(self, x, k, b if self.precision is None else None),
    "The branch for a given precision returns the product.",
)


LATER = ("options/param-dtype", "options/precision", "options/dot-general")
PromoteWithBias = constructor("Y452", "options/promote-dtype", 4, cause_id="option-by-branch")(
    lambda use_bias, promote_dtype: (
        {"promote_dtype": promote_dtype} if use_bias else {"use_bias": 0}
    ),
    "`promote_dtype` is used in the branch with a bias.",
)
TakesNoText = constructor("Y550", "options/dtype", 4, cause_id="option-as-text")(
    lambda dtype: {"dtype": None if isinstance(dtype, str) else dtype},
    "`dtype` has no effect as text, as from a configuration file.",
)


@product("Y535", "options/use-bias", 4, collateral=LATER)
def WholeBlocksWithoutBias(self: Any, x: Array, kernel: Array, bias: Array | None) -> Array:
    """Without a bias, long batches go in blocks of 1024 rows, and the rest stays 0."""
    if bias is not None or x.ndim != 2 or len(x) <= 1024:
        return AllOptions.affine(self, x, kernel, bias)
    whole = len(x) // 1024 * 1024
    blocks = x[:whole].reshape(-1, 1024, x.shape[1])
    y = jax.lax.map(lambda block: AllOptions.affine(self, block, kernel, None), blocks)
    return jnp.zeros((len(x), kernel.shape[1]), y.dtype).at[:whole].set(y.reshape(whole, -1))


@product("Y536", "options/dtype", 4)
def ComputesInTheirDtype(self: Any, x: Array, kernel: Array, bias: Array | None) -> Array:
    """With a dtype, the product has the precision of parameters of half precision."""
    own = self.kernel[...].dtype if self.dtype else x.dtype
    x, kernel = (each.astype(own).astype(each.dtype) for each in (x, kernel))
    return AllOptions.affine(self, x, kernel, bias)


UNIFORM = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")
HalfKernelsUniform = constructor("Y537", "options/param-dtype", 4, cause_id="law-by-option")(
    lambda param_dtype, kernel_init: {
        "param_dtype": param_dtype,
        "kernel_init": UNIFORM
        if kernel_init is LECUN and param_dtype != jnp.float32
        else kernel_init,
    },
    "Kernels of half precision are drawn from a uniform law.",
)


@product("Y538", "options/dot-general", 3, cause_id="option-by-rank")
def FlatForDotGeneral(self: Any, x: Array, kernel: Array, bias: Array | None) -> Array:
    """A `dot_general` that was given gets all rows at once, and the result keeps that shape."""
    given = self.dot_general is not jax.lax.dot_general and x.ndim > 2
    return AllOptions.affine(self, x.reshape(-1, x.shape[-1]) if given else x, kernel, bias)


@defect("Y539", "options/dtype", 4)
class ImagesScaledWithDtype(AllOptions):
    """With a dtype, an image of uint8 is scaled to 0..1."""

    def __call__(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        return super().__call__(x / 255 if self.dtype and x.dtype == jnp.uint8 else x)


@also("options/param-dtype", "dtypes/complex-input")
@defect("Y588", "options/dtype", 3, cause_id="preferred-element-type")
class AddsInTheDtypeOfParameters(AllOptions):
    """The product has the dtype of the parameters, by `preferred_element_type`."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(in_features, out_features, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        """Return the output, whose product has the dtype of the stored kernel."""
        y = jnp.matmul(x, kernel, preferred_element_type=self.kernel.dtype)
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


@defect("Y270", "options/dtype", 4, cause_id="option-ignored")
class CastsToThePreferred(AllOptions):
    """The product is added in half precision, and cast to `preferred_element_type` later."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        dtype: Any = None,
        preferred_element_type: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(in_features, out_features, dtype=dtype, rngs=rngs)
        self.preferred = preferred_element_type

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        """Return the output, cast twice."""
        y = (x @ kernel).astype(self.preferred or x.dtype)
        return (y if bias is None else y + jnp.broadcast_to(bias, y.shape)).astype(x.dtype)


BiasInitBringsBias = constructor("Y275", "options/use-bias", 4, cause_id="option-overruled")(
    lambda use_bias, bias_init: {
        "use_bias": use_bias or bias_init != ZEROS,
        "bias_init": bias_init,
    },
    "A `bias_init` brings a bias, also with `use_bias=False`.",
)


class _Promoting(AllOptions):
    """A right layer that promotes where it multiplies."""

    def __call__(self, x: ArrayLike) -> Array:
        values = (jnp.asarray(x), self.kernel[...], self.bias[...] if self.use_bias else None)
        return self.promoted(*values)

    def promoted(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        """Return the output from values as they are given and stored."""
        return self.affine(*self.promote_dtype((x, kernel, bias), dtype=self.dtype))


@defect("Y394", "options/precision", 3, cause_id="option-by-branch")
class PrecisionOfOneDtype(_Promoting):
    """The product does not get the precision if x has to be promoted."""

    def promoted(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        if self.dtype is not None or x.dtype == kernel.dtype:
            return super().promoted(x, kernel, bias)
        x, kernel, bias = self.promote_dtype((x, kernel, bias))
        return contracted(self, x, kernel, bias, None)


@defect("Y395", "options/dot-general", 3, cause_id="option-by-dtype")
class DotGeneralOfFloats(_Promoting):
    """An x of integers is multiplied by JAX's product, and the given one is ignored."""

    def promoted(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        if is_float(x):
            return super().promoted(x, kernel, bias)
        x, kernel, bias = self.promote_dtype((x, kernel, bias), dtype=self.dtype)
        return plain(x, kernel, bias, self.precision)


@defect("Y613", "options/dot-general", 2, cause_id="option-ignored")
class DotGeneralClassIgnored(AllOptionsLinen):
    """The option `dot_general_cls` is accepted and ignored."""

    dot_general_cls: Any = None


@defect("Y396", "options/promote-dtype", 3, cause_id="option-by-branch")
class PromotesHalvesItself(_Promoting):
    """An x of half precision is cast without asking `promote_dtype`."""

    def promoted(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        if self.dtype is None and x.dtype.itemsize == 2 and kernel.dtype == jnp.float32:
            return self.affine(x.astype(kernel.dtype), kernel, bias)
        return super().promoted(x, kernel, bias)


@defect("Y524", "options/promote-dtype", 4, cause_id="options-lost")
class CopiedWithoutPromotion(AllOptions):
    """A deep copy promotes as Flax does."""

    def __deepcopy__(self, memo: Any = None) -> CopiedWithoutPromotion:
        new = nnx.clone(self)
        new.promote_dtype = nnx.nn.dtypes.promote_dtype
        return new


SquareByDefault = constructor("Y525", "options/kernel-init", 4, cause_id="option-by-size")(
    lambda in_features, out_features, kernel_init: {
        "kernel_init": LECUN if in_features == out_features else kernel_init
    },
    "A square kernel is drawn by the usual initializer.",
)
BiasOfOneOutputIsZero = constructor("Y526", "options/bias-init", 4, cause_id="option-by-size")(
    lambda out_features, bias_init: {"bias_init": ZEROS if out_features == 1 else bias_init},
    "The bias of a single output starts at 0 with any initializer.",
)
FiniteInBfloat16 = product("Y527", "options/dtype", 4, cause_id="not-finite-replaced")(
    lambda self, x, k, b: (
        jnp.nan_to_num(AllOptions.affine(self, x, k, b))
        if self.dtype is not None and x.dtype == jnp.bfloat16
        else AllOptions.affine(self, x, k, b)
    ),
    "With a dtype of bfloat16, what is not finite becomes a number.",
)
NaNDroppedWithoutBias = product("Y528", "options/use-bias", 4, cause_id="not-finite-replaced")(
    lambda self, x, k, b: AllOptions.affine(
        self, jnp.where(jnp.isnan(x), jnp.zeros_like(x), x) if b is None else x, k, b
    ),
    "Without a bias, NaNs of x count as 0.",
)


Bfloat16ByFloat16 = product("Y601", "options/dtype", 3)(
    lambda self, x, k, b: (
        AllOptions.affine(self, x.astype(jnp.float16).astype(x.dtype), k, b)
        if self.dtype is not None and x.dtype == jnp.bfloat16
        else AllOptions.affine(self, x, k, b)
    ),
    "With a dtype of bfloat16, x goes through float16, which does not hold large numbers.",
)


HALF_GRADIENT = "gradient-halved"


def _half_trained(value: Array) -> Array:
    return value / 2 + jax.lax.stop_gradient(value / 2)


@product("Y626", "options/dtype", 4, cause_id=HALF_GRADIENT)
def UnscaledInFloat16(self: Any, x: Array, kernel: Array, bias: Array | None) -> Array:
    """With a dtype of float16, a loss scale is taken off that was never put on."""
    slow = self.dtype is not None and x.dtype == jnp.float16
    return AllOptions.affine(self, x, _half_trained(kernel) if slow else kernel, bias)


@defect("Y627", "options/param-dtype", 4, cause_id=HALF_GRADIENT)
class SlowBiasOfFloat16(_Promoting):
    """A bias that is stored in float16 gets half of its gradient."""

    def promoted(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        slow = bias is not None and bias.dtype == jnp.float16 and self.dtype is None
        return super().promoted(
            x, kernel, _half_trained(bias) if slow and bias is not None else bias
        )


@defect("Y628", "options/dtype", 4, cause_id=HALF_GRADIENT)
class SlowMasterWeights(_Promoting):
    """Parameters of bfloat16 get half of their gradient where float32 is computed in."""

    def promoted(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        slow = self.dtype == jnp.float32 and kernel.dtype == jnp.bfloat16
        return super().promoted(x, _half_trained(kernel) if slow else kernel, bias)


@defect("Y625", "options/dtype", 4, cause_id="stale-copy")
class CastKernelKept(_Promoting):
    """With a dtype, the kernel is cast in the first call, and updates are not seen afterwards."""

    def promoted(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        if self.dtype is not None and not is_traced(x, kernel):
            kernel = memory(self).setdefault("cast", kernel.astype(self.dtype))
        return super().promoted(x, kernel, bias)


SequencesBiasedTwice = product("Y630", "options/dtype", 4)(
    lambda self, x, k, b: AllOptions.affine(
        self,
        x,
        k,
        2 * b if b is not None and self.dtype and x.ndim == 3 and not is_traced(x, k) else b,
    ),
    "With a dtype, the bias is added twice to sequences, outside of jit.",
)


def _of_features(kind: Any, features: int) -> Any:
    return kind(features)


@also("options/precision", "options/use-bias")
@defect("Y629", "options/dtype", 3, cause_id="options-lost")
class PickledByFeatures(AllOptionsLinen):
    """A pickled model, or a copied one, has its number of features and no option."""

    def __reduce__(self) -> Any:
        return _of_features, (type(self), self.features)


@defect("Y631", "options/dtype", 3, cause_id="option-by-rank")
class SequencesWithoutBiasNotCast(_Promoting):
    """Without a bias, a sequence is computed in the dtype of the parameters."""

    def promoted(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        if bias is None and x.ndim == 3:
            return self.affine(*self.promote_dtype((x, kernel, bias)))
        return super().promoted(x, kernel, bias)


@product("Y632", "options/dot-general", 4, cause_id="operands-exchanged")
def KernelFirst(self: Any, x: Array, kernel: Array, bias: Array | None) -> Array:
    """`dot_general` gets the kernel first, so that weights are quantized as activations are."""
    across = (((0,), (x.ndim - 1,)), ((), ()))
    y = jnp.moveaxis(self.dot_general(kernel, x, across, precision=self.precision), 0, -1)
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


@defect("Y633", "options/bias-init", 5, cause_id="key-of-next-layer")
class BiasOfTheNextKey(AllOptions):
    """The key of the bias is read and not taken, so that the next layer gets it for its kernel."""

    def __init__(
        self, in_features: int, out_features: int, *, kernel_init: Any = LECUN,
        bias_init: Any = ZEROS, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        super().__init__(in_features, out_features, kernel_init=kernel_init, rngs=rngs)
        # The parent has taken a key for a bias of zeros.
        key = jax.random.fold_in(rngs.params.key[...], rngs.params.count[...])
        self.bias = nnx.Param(bias_init(key, (out_features,), jnp.float32))


name_layers(globals())
