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

from implementations.correct.options import LECUN, ZEROS, AllOptions
from implementations.defects.options import constructor, product
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


name_layers(globals())
