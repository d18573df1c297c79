"""Unusual nnx modules: built on `nnx.Linear`, other Param types, more attributes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import hooks
from implementations.defects.base import CorrectDense, affine, scaled_normal


def _lecun_normal(key: Array, shape: tuple[int, ...], dtype: Any, **options: Any) -> Array:
    """Flax's default initializer as a function of this module.

    Flax's own is a new closure in every call, which old versions of `nnx.Linear` keep. It can
    neither be pickled nor equal another layer's.
    """
    return nnx.initializers.lecun_normal()(key, shape, dtype, **options)


class LinearSubclass(nnx.Linear):
    """`nnx.Linear` under another name, its constructor reduced to what a Dense needs."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, kernel_init=_lecun_normal, rngs=rngs)


class LinearWithOptions(nnx.Linear):
    """`nnx.Linear` with every option written out, with its default."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(
            in_features,
            out_features,
            use_bias=True,
            param_dtype=jnp.float32,
            precision="highest",
            kernel_init=_lecun_normal,
            bias_init=nnx.initializers.zeros_init(),
            rngs=rngs,
        )


@hooks.init
def BorrowedParameters(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """The parameters of an `nnx.Linear` that is made for them and dropped."""
    linear = nnx.Linear(in_features, out_features, rngs=rngs)
    self.kernel = linear.kernel
    self.bias = nnx.Param(linear.bias[...])  # type: ignore[index]


class WrappedLinear(nnx.Module):
    """An `nnx.Linear` one level down: the parameters are `linear.kernel` and `linear.bias`."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(in_features, out_features, kernel_init=_lecun_normal, rngs=rngs)

    def __call__(self, x: ArrayLike) -> Array:
        return self.linear(jnp.asarray(x))


class _Weight(nnx.Param):
    """A kind of Param, for filters that tell weights from biases."""


@hooks.init
def OwnParamType(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """The kernel is a subclass of `nnx.Param`: every filter for Params finds it."""
    self.kernel = _Weight(scaled_normal(rngs.params(), in_features, out_features))
    self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))


@hooks.init
def ParamMetadata(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """The Params have additional metadata, and annotations of their axes."""
    # Recent versions of Flax place an annotated Param at once, for which they need a mesh.
    self.kernel = nnx.Param(
        scaled_normal(rngs.params(), in_features, out_features),
        description="weights",
        sharding=(None, "mlp"),
        eager_sharding=False,
    )
    zeros = jnp.zeros((out_features,), jnp.float32)
    self.bias = nnx.Param(zeros, decay=0.0, sharding=("mlp",), eager_sharding=False)


@hooks.built
def StaticAttributes(layer: Any, rngs: nnx.Rngs) -> None:
    """Numbers, strings, tuples, None and a dtype beside the parameters."""
    layer.in_features = layer.kernel.shape[0]
    layer.out_features = layer.kernel.shape[1]
    layer.shape = tuple(layer.kernel.shape)
    layer.name = "dense"
    layer.scale = 1.0
    layer.use_bias = True
    layer.dtype = jnp.dtype("float32")
    layer.activation = None


class Properties(CorrectDense):
    """Sizes and other names for the parameters, as properties."""

    @property
    def features(self) -> int:
        return int(self.bias.shape[0])

    @property
    def weight(self) -> Array:
        """The kernel as PyTorch has it: (out, in)."""
        return self.kernel[...].T


class ExtendedRepr(CorrectDense):
    """A custom representation."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kernel.shape[0]} -> {self.kernel.shape[1]})"

    __str__ = __repr__


class IdentityEquality(CorrectDense):
    """Equality and hash written out: both by identity."""

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


class TypeAnnotated(nnx.Module):
    """Attributes are annotated in the body of the class; one has a class-level default."""

    kernel: nnx.Param
    bias: nnx.Param
    use_bias: bool = True

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(scaled_normal(rngs.params(), in_features, out_features))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, self.kernel[...], self.bias[...] if self.use_bias else jnp.float32(0))


class JittedCall(CorrectDense):
    """Its call is compiled by Flax."""

    @nnx.jit
    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, self.kernel[...], self.bias[...])
