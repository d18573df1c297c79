"""Other ways to write a constructor: names, kinds of arguments, defaults, dataclasses."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import hooks
from implementations.defects.base import CorrectDense, affine, scaled_normal


@hooks.init
def KeywordOnly(self: Any, *, in_features: int, out_features: int, rngs: nnx.Rngs) -> None:
    """Every argument by keyword."""
    CorrectDense.__init__(self, in_features, out_features, rngs=rngs)


@hooks.init
def PositionalOnly(self: Any, in_features: int, out_features: int, /, *, rngs: nnx.Rngs) -> None:
    """Sizes by position only."""
    CorrectDense.__init__(self, in_features, out_features, rngs=rngs)


@hooks.init
def RngsPositional(self: Any, in_features: int, out_features: int, rngs: nnx.Rngs) -> None:
    """The exercise's signature: `rngs` is an ordinary third argument."""
    CorrectDense.__init__(self, in_features, out_features, rngs=rngs)


@hooks.init
def OtherArgumentNames(self: Any, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
    """The tutorial's names for the sizes."""
    CorrectDense.__init__(self, din, dout, rngs=rngs)


def _lecun_normal(key: Array, shape: tuple[int, int], dtype: Any, **options: Any) -> Array:
    """Return the right kernel by the protocol of an initializer."""
    del options
    return scaled_normal(key, *shape).astype(dtype)


class ConstructorDefaults(CorrectDense):
    """More arguments, all with defaults, which are kept as static attributes."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        name: str = "dense",
        axes: tuple[int, ...] = (-1,),
        kernel_init: Callable[..., Array] = _lecun_normal,
        metadata: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.in_features = in_features
        self.out_features = out_features
        self.name = name
        self.axes = axes
        self.metadata = metadata
        self.kernel_init = kernel_init
        super().__init__(in_features, out_features, rngs=rngs)

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        return self.kernel_init(key, (in_features, out_features), jnp.float32)


class CallOptions(CorrectDense):
    """The call takes options with defaults, and its input has another name."""

    def __call__(self, inputs: ArrayLike, *, precision: Any = None, train: bool = False) -> Array:
        return jnp.matmul(inputs, self.kernel[...], precision=precision) + self.bias[...]


class SetInALoop(nnx.Module):
    """The parameters are set by name in a loop."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        values = {
            "kernel": scaled_normal(rngs.params(), in_features, out_features),
            "bias": jnp.zeros((out_features,), jnp.float32),
        }
        for name, value in values.items():
            setattr(self, name, nnx.Param(value))

    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, getattr(self, "kernel")[...], getattr(self, "bias")[...])  # noqa: B009


# An equality made from fields would compare Params and leave the layer without a hash.
@dataclasses.dataclass(eq=False)
class DataclassLayer(nnx.Module):
    """The sizes are dataclass fields; the parameters come after them."""

    in_features: int
    out_features: int
    rngs: dataclasses.InitVar[nnx.Rngs] = dataclasses.field(kw_only=True)

    def __post_init__(self, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(scaled_normal(rngs.params(), self.in_features, self.out_features))
        self.bias = nnx.Param(jnp.zeros((self.out_features,), jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, self.kernel[...], self.bias[...])


class _AbstractLayer(nnx.Module, abc.ABC):
    """A layer that defines only the call."""

    @abc.abstractmethod
    def __call__(self, x: ArrayLike) -> Array:
        """Return the output for x."""


class AbstractBase(_AbstractLayer):
    """The concrete class under an abstract one."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(scaled_normal(rngs.params(), in_features, out_features))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, self.kernel[...], self.bias[...])
