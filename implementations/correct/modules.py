"""Unusual nnx modules: built on `nnx.Linear`, other Param types, more attributes."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import CorrectDense, affine, scaled_normal

__all__ = [
    "BorrowedParameters",
    "ExtendedRepr",
    "IdentityEquality",
    "LinearSubclass",
    "LinearWithOptions",
    "OwnParamType",
    "ParamMetadata",
    "Properties",
    "StaticAttributes",
    "TypeAnnotated",
    "WrappedLinear",
]


def lecun_normal(key: Array, shape: tuple[int, ...], dtype: Any, **options: Any) -> Array:
    """Flax's default initializer as a function of this module.

    Flax's own is a closure made anew by every call, which old versions of `nnx.Linear` keep: it can
    neither be pickled nor be equal to another layer's.
    """
    return nnx.initializers.lecun_normal()(key, shape, dtype, **options)


class LinearSubclass(nnx.Linear):
    """`nnx.Linear` under another name, its constructor reduced to what a Dense needs."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, kernel_init=lecun_normal, rngs=rngs)


class LinearWithOptions(nnx.Linear):
    """`nnx.Linear` with every option spelled out, as the defaults have it."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(
            in_features,
            out_features,
            use_bias=True,
            param_dtype=jnp.float32,
            precision="highest",
            kernel_init=lecun_normal,
            bias_init=nnx.initializers.zeros_init(),
            rngs=rngs,
        )


class BorrowedParameters(nnx.Module):
    """The parameters of an `nnx.Linear` that is made for them and dropped."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        linear = nnx.Linear(in_features, out_features, rngs=rngs)
        self.kernel = linear.kernel
        self.bias = nnx.Param(linear.bias[...])  # type: ignore[index]

    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., out) for x (..., in)."""
        return affine(x, self.kernel[...], self.bias[...])


class WrappedLinear(nnx.Module):
    """An `nnx.Linear` one level down: the parameters are `linear.kernel` and `linear.bias`."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(in_features, out_features, kernel_init=lecun_normal, rngs=rngs)

    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., out) for x (..., in)."""
        return self.linear(jnp.asarray(x))


class Weight(nnx.Param):
    """A kind of Param, for filters that tell weights from biases."""


class OwnParamType(nnx.Module):
    """The kernel is a subclass of `nnx.Param`: every filter for Params finds it."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = Weight(scaled_normal(rngs.params(), in_features, out_features))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., out) for x (..., in)."""
        return affine(x, self.kernel[...], self.bias[...])


class ParamMetadata(nnx.Module):
    """The Params carry metadata of their own."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(
            scaled_normal(rngs.params(), in_features, out_features),
            description="weights",
            decay=0.01,
        )
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32), decay=0.0)

    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., out) for x (..., in)."""
        return affine(x, self.kernel[...], self.bias[...])


class StaticAttributes(CorrectDense):
    """Numbers, strings, tuples, None and a dtype beside the parameters."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.in_features = in_features
        self.out_features = out_features
        self.shape = (in_features, out_features)
        self.name = "dense"
        self.scale = 1.0
        self.use_bias = True
        self.dtype = jnp.dtype("float32")
        self.activation: Any = None


class Properties(CorrectDense):
    """Sizes and other names for the parameters, as properties."""

    @property
    def features(self) -> int:
        """The number of outputs."""
        return int(self.bias.shape[0])

    @property
    def weight(self) -> Array:
        """The kernel as PyTorch has it: (out, in)."""
        return self.kernel[...].T


class ExtendedRepr(CorrectDense):
    """A representation of its own."""

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
        """The output (..., out) for x (..., in)."""
        return affine(x, self.kernel[...], self.bias[...] if self.use_bias else jnp.float32(0))
