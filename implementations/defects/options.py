"""Layers that take an option of Flax's, and give it another meaning."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.correct.options import LECUN, ZEROS, AllOptions
from implementations.defects.base import affine
from implementations.defects.record import defect


@defect("X920", breaks="options/use-bias", cause_id="option-ignored", subtlety=2)
class IgnoresUseBias(AllOptions):
    """`use_bias=False` is taken, and there is a bias."""

    def __init__(
        self, in_features: int, out_features: int, *, use_bias: bool = True, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, rngs=rngs)


@defect("X921", breaks="options/kernel-init", cause_id="option-ignored", subtlety=2)
class IgnoresKernelInit(AllOptions):
    """The kernel is drawn by LeCun's law with any initializer."""

    def __init__(
        self, in_features: int, out_features: int, *, kernel_init: Any = LECUN, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, rngs=rngs)


@defect("X922", breaks="options/kernel-init", cause_id="initializer-changed", subtlety=3)
class ScalesKernelInit(AllOptions):
    """The initializer's result is scaled again."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_init: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        def scaled(key: Array, shape: tuple[int, int], dtype: Any) -> Array:
            return kernel_init(key, shape, dtype) * float(max(in_features, 1)) ** -0.5

        initializer = LECUN if kernel_init is None else scaled

        super().__init__(in_features, out_features, kernel_init=initializer, rngs=rngs)


@defect("X923", breaks="options/kernel-init", cause_id="key-fixed", subtlety=4)
class FixedKeyForInit(AllOptions):
    """An initializer that is given gets the key of seed 0; the default one gets the layer's."""

    def __init__(
        self, in_features: int, out_features: int, *, kernel_init: Any = LECUN, rngs: nnx.Rngs
    ) -> None:
        def fixed(key: Array, shape: tuple[int, int], dtype: Any) -> Array:
            key = key if kernel_init is LECUN else jax.random.key(0)
            return kernel_init(key, shape, dtype)

        super().__init__(in_features, out_features, kernel_init=fixed, rngs=rngs)


@defect("X924", breaks="options/bias-init", cause_id="option-ignored", subtlety=2)
class IgnoresBiasInit(AllOptions):
    """The bias is 0 with any initializer."""

    def __init__(
        self, in_features: int, out_features: int, *, bias_init: Any = None, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, rngs=rngs)


@defect("X925", breaks="options/bias-init", cause_id="key-shared", subtlety=4)
class OneKeyForBoth(AllOptions):
    """Kernel and bias are drawn from one key."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_init: Any = LECUN,
        bias_init: Any = ZEROS,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        key = rngs.params()
        shape = (in_features, out_features)
        self.kernel = nnx.Param(kernel_init(key, shape, jnp.float32))
        self.bias = nnx.Param(bias_init(key, (out_features,), jnp.float32))


@defect("X926", breaks="options/dtype", cause_id="option-ignored", subtlety=2)
class IgnoresDtype(nn.Module):
    """The dtype of the computation is an unused field."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        kernel = self.param("kernel", LECUN, (jnp.shape(x)[-1], self.features))
        return affine(x, kernel, self.param("bias", ZEROS, (self.features,)))


@defect("X927", breaks="options/dtype", cause_id="result-cast-back", subtlety=3)
class CastsBack(AllOptions):
    """The dtype is computed in, and the result is cast back to float32."""

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        """Return the right output, rounded to the dtype, in float32."""
        y = super().affine(x, kernel, bias)
        return y if self.dtype is None else y.astype(jnp.float32)


@defect(
    "Y242",
    breaks="options/dtype",
    cause_id="bias-not-cast",
    collateral=("options/promote-dtype",),
    subtlety=2,
)
class BiasInItsOwnDtype(AllOptions):
    """The product is computed in the dtype, and the bias is added as it is stored."""

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        """The output (..., out), which the bias promotes."""
        y = super().affine(x, kernel, None)
        return y if bias is None else y + self.bias[...]


@defect("Y243", breaks="options/param-dtype", cause_id="option-for-some", subtlety=3)
class BiasOfOneParamDtype(AllOptions):
    """The kernel is created in the dtype that is asked for, and the bias in float32."""

    def __init__(
        self, in_features: int, out_features: int, *, param_dtype: Any = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, param_dtype=param_dtype, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))


@defect("X928", breaks="options/param-dtype", cause_id="option-ignored", subtlety=2)
class IgnoresParamDtype(AllOptions):
    """Parameters are float32 with any `param_dtype`."""

    def __init__(
        self, in_features: int, out_features: int, *, param_dtype: Any = None, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, rngs=rngs)


@defect("X929", breaks="options/precision", cause_id="option-ignored", subtlety=4)
class IgnoresPrecision(AllOptions):
    """The precision is kept, and the product is written `x @ K`."""

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        """Return the right output on a CPU."""
        dimensions = (((x.ndim - 1,), (0,)), ((), ()))
        y = self.dot_general(x, kernel, dimensions)
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


@defect("X930", breaks="options/dot-general", cause_id="option-ignored", subtlety=3)
class IgnoresDotGeneral(AllOptions):
    """The product is always JAX's; the given function is ignored."""

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        y = jnp.matmul(x, kernel, precision=self.precision)
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


@defect("X931", breaks="options/promote-dtype", cause_id="option-ignored", subtlety=3)
class IgnoresPromoteDtype(AllOptions):
    """Values are always promoted by Flax's function; the given one is ignored."""

    def __init__(
        self, in_features: int, out_features: int, *, promote_dtype: Any = None, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, rngs=rngs)


@defect("Y207", breaks="options/precision", cause_id="option-ignored", subtlety=5)
class PrecisionOfBatchesOnly(AllOptions):
    """The precision reaches the product for x of rank 1 and 2, and not beyond."""

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        dimensions = (((x.ndim - 1,), (0,)), ((), ()))
        precision = self.precision if x.ndim < 3 else None
        y = self.dot_general(x, kernel, dimensions, precision=precision)
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


@defect("Y208", breaks="options/param-dtype", subtlety=4)
class BiasDrawnInFloat32(AllOptions):
    """The initializer of the bias is always called for float32."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        param_dtype: Any = jnp.float32,
        bias_init: Any = ZEROS,
        rngs: nnx.Rngs,
    ) -> None:
        def cast(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            drawn: Array = bias_init(key, shape, jnp.float32)
            return drawn.astype(dtype)

        super().__init__(
            in_features, out_features, param_dtype=param_dtype, bias_init=cast, rngs=rngs
        )


@defect("Y209", breaks="options/dtype", cause_id="option-ignored", subtlety=4)
class TakesNumPyDtypesOnly(AllOptions):
    """The layer follows a NumPy dtype, and ignores the scalar type `jnp.bfloat16`."""

    def __init__(
        self, in_features: int, out_features: int, *, dtype: Any = None, rngs: nnx.Rngs
    ) -> None:
        known = dtype if isinstance(dtype, jnp.dtype) else None
        super().__init__(in_features, out_features, dtype=known, rngs=rngs)


@defect("Y230", breaks="options/dtype", cause_id="options-shared", subtlety=4)
class DtypeOfTheClass(AllOptions):
    """`dtype` is an attribute of the class, so that the last layer decides for all."""

    computed: Any = None

    def __init__(
        self, in_features: int, out_features: int, *, dtype: Any = None, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        DtypeOfTheClass.computed = dtype

    def __call__(self, x: Any) -> Array:
        values = (x, self.kernel[...], self.bias[...])
        x, kernel, bias = self.promote_dtype(values, dtype=DtypeOfTheClass.computed)
        return self.affine(x, kernel, bias)


@defect("Y231", breaks="options/dtype", cause_id="options-lost", subtlety=4)
class CopiedWithoutOptions(AllOptions):
    """A deep copy is a new layer of the same sizes, with the default options."""

    def __deepcopy__(self, memo: Any = None) -> CopiedWithoutOptions:
        new = type(self)(*self.kernel[...].shape, use_bias=self.use_bias, rngs=nnx.Rngs(0))
        nnx.update(new, nnx.state(self))
        return new


@defect(
    "Y232",
    breaks="options/precision",
    cause_id="option-by-branch",
    subtlety=4,
    collateral=("options/dot-general",),
)
class PlainProductWithoutBias(AllOptions):
    """Without a bias the layer multiplies by `@`, which takes no option."""

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        return x @ kernel if bias is None else super().affine(x, kernel, bias)


@defect("Y233", breaks="options/kernel-init", cause_id="option-by-branch", subtlety=4)
class InitializersWithBias(AllOptions):
    """`kernel_init` is used in the branch with a bias."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = True,
        kernel_init: Any = LECUN,
        rngs: nnx.Rngs,
    ) -> None:
        chosen = kernel_init if use_bias else LECUN
        super().__init__(
            in_features, out_features, use_bias=use_bias, kernel_init=chosen, rngs=rngs
        )


@defect("Y234", breaks="options/param-dtype", cause_id="option-by-branch", subtlety=4)
class ParamDtypeWithBias(AllOptions):
    """`param_dtype` is used in the branch with a bias."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = True,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        chosen = param_dtype if use_bias else jnp.float32
        super().__init__(
            in_features, out_features, use_bias=use_bias, param_dtype=chosen, rngs=rngs
        )


@defect("Y235", breaks="options/dtype", cause_id="option-overruled", subtlety=4)
class HalfParametersDecide(AllOptions):
    """Parameters of half precision overrule a `dtype` of float32."""

    def __call__(self, x: Any) -> Array:
        kernel, bias = self.kernel[...], self.bias[...] if self.use_bias else None
        dtype = kernel.dtype if self.dtype is not None and kernel.dtype != "float32" else self.dtype
        x, kernel, bias = self.promote_dtype((x, kernel, bias), dtype=dtype)
        return self.affine(x, kernel, bias)


@defect("Y236", breaks="options/dot-general", cause_id="option-by-branch", subtlety=4)
class DotGeneralOfBatches(AllOptions):
    """`dot_general` is used for an x of rank 2 only."""

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        if x.ndim == 2:
            return super().affine(x, kernel, bias)
        y = jnp.matmul(x, kernel, precision=self.precision)
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


@defect("Y237", breaks="options/dtype", cause_id="option-by-rank", subtlety=4)
class DtypeOfBatches(AllOptions):
    """`dtype` is ignored for a single vector."""

    def __call__(self, x: Any) -> Array:
        x = jnp.asarray(x)
        values = (x, self.kernel[...], self.bias[...] if self.use_bias else None)
        x, kernel, bias = self.promote_dtype(values, dtype=self.dtype if x.ndim > 1 else None)
        return self.affine(x, kernel, bias)


@defect("Y238", breaks="options/dtype", cause_id="not-finite-replaced", subtlety=4)
class ChosenDtypeSaturates(AllOptions):
    """With a `dtype`, the result is clipped to its finite range."""

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        y = super().affine(x, kernel, bias)
        if self.dtype is None:
            return y
        return jnp.clip(y, jnp.finfo(y.dtype).min, jnp.finfo(y.dtype).max)


@defect("Y239", breaks="options/precision", cause_id="option-of-call-only", subtlety=5)
class PrecisionOfTheCall(AllOptions):
    """The rule of the derivative multiplies in the default precision."""

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        product = jax.custom_jvp(super().affine, nondiff_argnums=(2,))

        def rule(_: Any, primals: Any, tangents: Any) -> Any:
            (x, kernel), (dx, dkernel) = primals, tangents
            return product(x, kernel, None), dx @ kernel + x @ dkernel

        product.defjvp(rule)
        y: Array = product(x, kernel, None)
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)
