"""Layers that take an option of Flax's, and give it another meaning."""

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
