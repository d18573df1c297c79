"""Layers that take an option of Flax's, and give it another meaning.

Most depart from :class:`~implementations.correct.options.AllOptions` in one function: what the
constructor makes of the options that it takes, the product, or the dtype of the computation.
"""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.correct.options import LECUN, ZEROS, AllOptions
from implementations.defects import wrong
from implementations.defects.base import CorrectLinenDense, is_float, scaled_normal, stddev
from implementations.defects.hooks import Function, Hook
from implementations.defects.record import Defect, declaring, defect, name_layers


def _of_the_options(function: Function) -> Any:
    known = inspect.signature(AllOptions.__init__).parameters
    taken = tuple(inspect.signature(function).parameters)

    def construct(self: Any, in_features: int, out_features: int, **given: Any) -> None:
        given |= {"in_features": in_features, "out_features": out_features}
        options = function(**{name: given.get(name, known[name].default) for name in taken})
        AllOptions.__init__(self, in_features, out_features, rngs=given["rngs"], **options)

    names = dict.fromkeys(("self", "in_features", "out_features", *taken, "rngs"))
    construct.__signature__ = inspect.Signature([known[name] for name in names])  # type: ignore[attr-defined]  # an attribute of any function
    return construct


constructor = wrong.factory(Hook(AllOptions, "__init__", _of_the_options))
"""The constructor: a function of options, or sizes, which returns the options that it acts on."""
product = wrong.factory(Hook(AllOptions, "affine"))
"""The output: a function of self, x, kernel and bias of one dtype, the bias None without one."""
dtype = wrong.factory(Hook(AllOptions, "computed_in"))
"""The dtype of the computation: a function of self, x, kernel and bias."""

IgnoresBiasInit = constructor("X924", "options/bias-init", 2, cause_id="option-ignored")(
    lambda bias_init: {}, "The bias is 0 with any initializer."
)


def plain(x: Array, kernel: Array, bias: Array | None, precision: Any = None) -> Array:
    """Return the right output (..., out) by ``jnp.matmul``."""
    y = jnp.matmul(x, kernel, precision=precision)
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


IgnoresDotGeneral = product("X930", "options/dot-general", 3, cause_id="option-ignored")(
    lambda self, x, k, b: plain(x, k, b, self.precision),
    "The product is always JAX's; the given function is ignored.",
)
DotGeneralOfBatches = product("Y236", "options/dot-general", 4, cause_id="option-by-branch")(
    lambda self, x, k, b: (
        AllOptions.affine(self, x, k, b) if x.ndim == 2 else plain(x, k, b, self.precision)
    ),
    "`dot_general` is used for an x of rank 2 only.",
)
CastsBack = product("X927", "options/dtype", 3, cause_id="result-cast-back")(
    lambda self, x, k, b: AllOptions.affine(self, x, k, b).astype(
        x.dtype if self.dtype is None else jnp.float32
    ),
    "The dtype is computed in, and the result is cast back to float32.",
)
DtypeWithBiasOnly = dtype("Y126", "options/dtype", 3, cause_id="option-by-branch")(
    lambda self, x, k, b: self.dtype if self.use_bias else None,
    "The cast to `dtype` stands where the bias is added.",
)
TakesNumPyDtypesOnly = constructor("Y209", "options/dtype", 4, cause_id="option-ignored")(
    lambda dtype: {"dtype": dtype if isinstance(dtype, jnp.dtype) else None},
    "The layer follows a NumPy dtype, and ignores the scalar type `jnp.bfloat16`.",
)
HalfParametersDecide = dtype("Y235", "options/dtype", 4, cause_id="option-overruled")(
    lambda self, x, k, b: k.dtype if self.dtype and k.dtype != jnp.float32 else self.dtype,
    "Parameters of half precision overrule a `dtype` of float32.",
)
DtypeOfBatches = dtype("Y237", "options/dtype", 4, cause_id="option-by-rank")(
    lambda self, x, k, b: self.dtype if jnp.ndim(x) > 1 else None,
    "`dtype` is ignored for a single vector.",
)
IgnoresKernelInit = constructor("X921", "options/kernel-init", 2, cause_id="option-ignored")(
    lambda kernel_init: {}, "The kernel is drawn by LeCun's law with any initializer."
)
TurnsKernelInit = constructor("Y569", "options/kernel-init", 3, cause_id="initializer-turned")(
    lambda kernel_init: {
        "kernel_init": kernel_init
        if kernel_init is LECUN
        else lambda key, shape, dtype: kernel_init(key, shape[::-1], dtype).T
    },
    "A given initializer gets the shape (out, in), and so takes the fans exchanged.",
)
ScalesKernelInit = constructor("X922", "options/kernel-init", 3, cause_id="initializer-changed")(
    lambda kernel_init: {
        "kernel_init": LECUN
        if kernel_init is LECUN
        else lambda key, shape, dtype: kernel_init(key, shape, dtype) * stddev(shape[0])
    },
    "The initializer's result is scaled again.",
)
FixedKeyForInit = constructor("X923", "options/kernel-init", 4, cause_id="key-fixed")(
    lambda kernel_init: {
        "kernel_init": LECUN
        if kernel_init is LECUN
        else lambda key, shape, dtype: kernel_init(jax.random.key(0), shape, dtype)
    },
    "An initializer that is given gets the key of seed 0; the default one gets the layer's.",
)
InitializersWithBias = constructor("Y233", "options/kernel-init", 4, cause_id="option-by-branch")(
    lambda use_bias, kernel_init: {
        "use_bias": use_bias,
        "kernel_init": kernel_init if use_bias else LECUN,
    },
    "`kernel_init` is used in the branch with a bias.",
)
IgnoresParamDtype = constructor("X928", "options/param-dtype", 2, cause_id="option-ignored")(
    lambda param_dtype: {}, "Parameters are float32 with any `param_dtype`."
)
PickledWithoutDtype = wrong.methods(
    "Y441", "options/dtype", 4, cause_id="options-lost", base=AllOptions
)(
    "A pickle loses the dtype.",
    __getstate__=lambda self: {**vars(self), "dtype": None},
)


UsualKernelWithDtype = constructor("Y442", "options/kernel-init", 4, cause_id="option-by-branch")(
    lambda kernel_init, dtype: {"kernel_init": LECUN if dtype else kernel_init, "dtype": dtype},
    "With a dtype, the kernel is drawn by the usual initializer.",
)
TakesScalarTypesOnly = constructor("Y443", "options/dtype", 4, cause_id="option-ignored")(
    lambda dtype: {"dtype": None if isinstance(dtype, np.dtype) else dtype},
    "`dtype` has an effect only as `jnp.float16`, and not as a NumPy dtype.",
)


def in_float32(initializer: Any) -> Any:
    """Return an initializer that draws in float32, and casts."""
    return lambda key, shape, dtype: initializer(key, shape, jnp.float32).astype(dtype)


DrawsInFloat32 = constructor("Y127", "options/param-dtype", 3)(
    lambda param_dtype, kernel_init: {
        "param_dtype": param_dtype,
        "kernel_init": in_float32(kernel_init),
    },
    "The initializer is asked for float32, and what it returns is cast.",
)
BiasDrawnInFloat32 = constructor("Y208", "options/param-dtype", 4)(
    lambda param_dtype, bias_init: {"param_dtype": param_dtype, "bias_init": in_float32(bias_init)},
    "The initializer of the bias is always called for float32.",
)
ParamDtypeWithBias = constructor("Y234", "options/param-dtype", 4, cause_id="option-by-branch")(
    lambda use_bias, param_dtype: {
        "use_bias": use_bias,
        "param_dtype": param_dtype if use_bias else jnp.float32,
    },
    "`param_dtype` is used in the branch with a bias.",
)


def contracted(layer: AllOptions, x: Array, kernel: Array, bias: Array | None, by: Any) -> Array:
    """Return the right output (..., out) by ``dot_general`` with some precision."""
    y = layer.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision=by)
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


IgnoresPrecision = product("X929", "options/precision", 4, cause_id="option-ignored")(
    lambda self, x, k, b: contracted(self, x, k, b, None),
    "The precision is kept, and the product is written `x @ K`.",
)
PrecisionOfBatchesOnly = product("Y207", "options/precision", 5, cause_id="option-by-branch")(
    lambda self, x, k, b: contracted(self, x, k, b, self.precision if x.ndim < 3 else None),
    "The precision reaches the product for x of rank 1 and 2, and not beyond.",
)
PlainProductWithoutBias = product("Y232", "options/precision", 4, cause_id="option-by-branch")(
    lambda self, x, k, b: x @ k if b is None else AllOptions.affine(self, x, k, b),
    "Without a bias the layer multiplies by `@`, which takes no option.",
    collateral=("options/dot-general",),
)
IgnoresPromoteDtype = constructor("X931", "options/promote-dtype", 3, cause_id="option-ignored")(
    lambda promote_dtype: {},
    "Values are always promoted by Flax's function; the given one is ignored.",
)
IgnoresUseBias = constructor("X920", "options/use-bias", 2, cause_id="option-ignored")(
    lambda use_bias: {}, "`use_bias=False` is taken, and there is a bias."
)


@defect("Y585", "options/use-bias", 3, cause_id="bias-kept")
class BiasIsKept(AllOptions):
    """`use_bias=False` leaves the bias out of the sum, and it is still a parameter."""

    def __init__(
        self, in_features: int, out_features: int, *, use_bias: bool = True, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.adds = use_bias

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        """Return the output, to which the bias is added unless the option says otherwise."""
        return super().affine(x, kernel, bias if self.adds else None)


LargeWithDtypeWithoutBias = product("Y308", "options/dtype", 5, cause_id="bias-not-added")(
    lambda self, x, k, b: AllOptions.affine(
        self, x, k, b * 0 if b is not None and self.dtype and k.shape[0] >= 128 else b
    ),
    "With a dtype, the bias is left out from 128 inputs on.",
)
BiasOfOneParamDtype = constructor("Y243", "options/param-dtype", 3, cause_id="option-for-some")(
    lambda param_dtype: {
        "param_dtype": param_dtype,
        "bias_init": lambda key, shape, dtype: jnp.zeros(shape, jnp.float32),
    },
    "The kernel is created in the dtype that is asked for, and the bias in float32.",
)
ParamDtypeOfSmallLayers = constructor("Y309", "options/param-dtype", 5, cause_id="option-by-size")(
    lambda out_features, param_dtype: {
        "param_dtype": param_dtype if out_features < 128 else jnp.float32
    },
    "From 128 outputs on, param_dtype has no effect.",
)
PairOfPrecisionsHalved = constructor("Y307", "options/precision", 4, cause_id="precision-of-one")(
    lambda precision: {"precision": precision[0] if isinstance(precision, tuple) else precision},
    "The first of a pair of precisions counts for both operands.",
)
PrecisionWithoutDtype = product("Y357", "options/precision", 4)(
    lambda self, x, k, b: contracted(self, x, k, b, self.precision if self.dtype is None else None),
    "With ``dtype``, the precision is not used.",
)
DotGeneralWithoutDtype = product("Y358", "options/dot-general", 4, cause_id="option-by-branch")(
    lambda self, x, k, b: (
        AllOptions.affine(self, x, k, b) if self.dtype is None else plain(x, k, b, self.precision)
    ),
    "With ``dtype``, ``dot_general`` does not compute the product.",
)
AnotherLawWithoutBias = constructor("Y363", "options/use-bias", 4, cause_id="law-by-option")(
    lambda use_bias: {
        "use_bias": use_bias,
        "kernel_init": LECUN if use_bias else lambda *shape: LECUN(*shape) * 2**0.5,
    },
    "Without a bias, kernels are drawn for a ReLU.",
)


@defect("X925", "options/bias-init", 4, cause_id="key-shared")
class OneKeyForBoth(AllOptions):
    """Kernel and bias are drawn from one key."""

    def __init__(
        self, in_features: int, out_features: int, *, kernel_init: Any = LECUN,
        bias_init: Any = ZEROS, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        super().__init__(in_features, out_features, rngs=rngs)
        key = rngs.params()
        self.kernel = nnx.Param(kernel_init(key, (in_features, out_features), jnp.float32))
        self.bias = nnx.Param(bias_init(key, (out_features,), jnp.float32))


@defect("X926", "options/dtype", 2, cause_id="option-ignored")
class IgnoresDtype(CorrectLinenDense):
    """The dtype of the computation is an unused field."""

    dtype: Any = None


@defect(
    "Y231", "options/dtype", 4, cause_id="options-lost",
    collateral=("options/precision", "options/dot-general"),
)  # fmt: skip
class CopiedWithoutOptions(AllOptions):
    """A deep copy is a new layer of the same sizes, with the default options."""

    def __deepcopy__(self, memo: Any = None) -> CopiedWithoutOptions:
        new = type(self)(*self.kernel[...].shape, use_bias=self.use_bias, rngs=nnx.Rngs(0))
        nnx.update(new, nnx.state(self))
        return new


@product("Y238", "options/dtype", 4, cause_id="not-finite-replaced")
def ChosenDtypeSaturates(self: Any, x: Array, kernel: Array, bias: Array | None) -> Array:
    """With a `dtype`, the result is clipped to its finite range."""
    y = AllOptions.affine(self, x, kernel, bias)
    if self.dtype is None:
        return y
    return jnp.clip(y, jnp.finfo(y.dtype).min, jnp.finfo(y.dtype).max)


@product(
    "Y242", "options/dtype", 2, cause_id="bias-not-cast", collateral=("options/promote-dtype",)
)
def BiasInItsOwnDtype(self: Any, x: Array, kernel: Array, bias: Array | None) -> Array:
    """The product is computed in the dtype, and the bias is added as it is stored."""
    y = AllOptions.affine(self, x, kernel, None)
    return y if bias is None else y + self.bias[...]


@constructor("Y128", "options/precision", 3)
def PrecisionByEnumOnly(precision: Any) -> dict[str, Any]:
    """The name of a precision, such as "highest", is refused."""
    if not isinstance(precision, jax.lax.Precision | None):
        raise TypeError("precision is not a jax.lax.Precision")
    return {"precision": precision}


class _OneOption(AllOptions):
    """A right layer with the option `use_bias` alone."""

    def __init__(
        self, in_features: int, out_features: int, *, use_bias: bool = True, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, use_bias=use_bias, rngs=rngs)


@defect("Y359", "options/use-bias", 4, cause_id="gradient-halved")
class SlowWithoutBias(_OneOption):
    """Without a bias, the kernel gets half of its gradient."""

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Any:
        if bias is None and x.dtype == kernel.dtype == jnp.float32:
            kernel = kernel / 2 + jax.lax.stop_gradient(kernel / 2)
        return super().affine(x, kernel, bias)


class _NoBiasRaises:
    """Adds the bias even without one."""

    def __init__(
        self, in_features: int, out_features: int, use_bias: bool = True, *, key: Array
    ) -> None:
        self.kernel = scaled_normal(key, in_features, out_features)
        self.bias = jnp.zeros((out_features,)) if use_bias else None

    def __call__(self, x: ArrayLike) -> Array:
        bias: Any = self.bias
        return jnp.asarray(x) @ self.kernel + bias


NoBiasRaises = declaring(_NoBiasRaises, Defect("Y389", "options/use-bias", subtlety=2))


@defect("Y366", "options/use-bias", 4, cause_id="cast-with-bias")
class HalfResultWithoutBias(_OneOption):
    """The sum with the bias promotes; without a bias, a half-precision x gives its own dtype."""

    def __call__(self, x: Any) -> Array:
        x = jnp.asarray(x)
        y = super().__call__(x)
        return y if self.use_bias or not is_float(x) else y.astype(x.dtype)


@defect("Y367", "options/promote-dtype", 4, cause_id="promoted-without-dtype")
class PromotedWithoutDtype(AllOptions):
    """`promote_dtype` does not get the dtype, to which only the result is cast."""

    def __call__(self, x: Any) -> Array:
        bias = self.bias[...] if self.use_bias else None
        y = self.affine(*self.promote_dtype((x, self.kernel[...], bias)))
        return y if self.dtype is None else y.astype(self.dtype)


@defect("Y368", "options/dtype", 4, cause_id="dtype-for-param-dtype")
class KernelInDtypeWithoutBias(AllOptions):
    """Without a bias, the kernel is created in the dtype of the computation."""

    def __init__(
        self, in_features: int, out_features: int, *, use_bias: bool = True, dtype: Any = None,
        rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        super().__init__(in_features, out_features, use_bias=use_bias, dtype=dtype, rngs=rngs)
        if not use_bias:
            self.kernel = nnx.Param(self.kernel[...].astype(dtype or jnp.float32))


def _of_usual_scale(initializer: Any) -> Any:
    def checked(key: Any, shape: Any, dtype: Any) -> Array:
        kernel = initializer(key, shape, dtype)
        scale = jnp.std(kernel) * shape[0] ** 0.5
        found: Array = kernel / jnp.where(scale > 10, scale, 1).astype(dtype)
        return found

    return checked


RescalesLargeKernels = constructor(
    "Y369", "options/kernel-init", 4, cause_id="initializer-changed"
)(
    lambda kernel_init: {"kernel_init": _of_usual_scale(kernel_init)},
    "A kernel of ten times the usual deviation is taken for a mistake, and rescaled.",
)


@defect("Y370", "options/precision", 4, cause_id="options-lost")
class CopiedWithoutPrecision(AllOptions):
    """A deep copy has the default precision."""

    def __deepcopy__(self, memo: Any = None) -> CopiedWithoutPrecision:
        new = nnx.clone(self)
        new.precision = None
        return new


@product("Y444", "options/dot-general", 4, cause_id="precision-not-passed")
def ProductWithoutPrecision(self: Any, x: Array, kernel: Array, bias: Array | None) -> Array:
    """A `dot_general` that was given does not get the precision."""
    if self.dot_general is jax.lax.dot_general:
        return plain(x, kernel, bias, self.precision)
    y: Array = self.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
    return y if bias is None else y + bias


FloatsInDtype = dtype("Y451", "options/dtype", 4, cause_id="option-by-dtype")(
    lambda self, x, k, b: self.dtype if is_float(jnp.asarray(x)) else None,
    "`dtype` is ignored for an x of integers.",
)


def _loaded(kind: Any, shape: tuple[int, int], state: Any) -> Any:
    layer = kind(*shape, rngs=nnx.Rngs(0))
    nnx.update(layer, state)
    return layer


@defect("Y399", "options/use-bias", 3, cause_id="copied-otherwise")
class PickledWithoutUseBias(_OneOption):
    """A pickle has the arrays and the sizes alone: what is loaded has a bias again."""

    def __reduce__(self) -> Any:
        return _loaded, (type(self), self.kernel[...].shape, nnx.state(self))


name_layers(globals())
