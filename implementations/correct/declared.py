"""Layers as people write them, with declarations: other names, orders, dtypes."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import Array
from jax.typing import ArrayLike

from conformance.layers.adapters import adapt
from implementations.defects import hooks
from implementations.defects.base import (
    CorrectDense,
    CorrectLinenDense,
    affine,
    is_float,
    quantized_to,
    scaled_normal,
)


class KeyAndFeatures(nnx.Module):
    """Sizes in the other order, and a key."""

    def __init__(self, features: int, d_in: int, key: Array) -> None:
        self.kernel = nnx.Param(scaled_normal(key, d_in, features))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        return jnp.asarray(x) @ self.kernel[...] + self.bias[...]


class SeedAsNumber(KeyAndFeatures):
    """A seed instead of the key."""

    def __init__(self, features: int, d_in: int, seed: int = 0) -> None:
        super().__init__(features, d_in, jax.random.key(seed))


class HalfByItsWords(nnx.Module):
    """All in bfloat16, as arguments with Flax's names say."""

    def __init__(
        self, d_in: int, d_out: int, *, dtype: Any = jnp.bfloat16,
        param_dtype: Any = jnp.bfloat16, use_bias: bool = False, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        draw = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(draw(rngs.params(), (d_in, d_out), param_dtype))
        self.dtype = dtype

    def __call__(self, x: ArrayLike) -> Array:
        return jnp.asarray(x).astype(self.dtype) @ self.kernel[...].astype(self.dtype)


class RoundedResult(nnx.Module):
    """The result is a product of float32, rounded to bfloat16 once."""

    def __init__(self, d_in: int, d_out: int, *, dtype: Any = jnp.bfloat16, rngs: nnx.Rngs) -> None:
        draw = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(draw(rngs.params(), (d_in, d_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(d_out, jnp.float32))
        self.dtype = dtype

    def __call__(self, x: ArrayLike) -> Array:
        return (jnp.asarray(x) @ self.kernel[...] + self.bias[...]).astype(self.dtype)


class _WiderResult(nnx.Module):
    """The operands are bfloat16 and the result is float32, as a head's logits often are."""

    def __init__(self, d_in: int, d_out: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(scaled_normal(rngs.params(), d_in, d_out))
        self.bias = nnx.Param(jnp.zeros(d_out, jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        x, kernel = (jnp.asarray(each).astype(jnp.bfloat16) for each in (x, self.kernel[...]))
        product = jnp.matmul(x, kernel, preferred_element_type=jnp.float32)
        return product + self.bias[...]


class _CastResult(_WiderResult):
    """All is computed in bfloat16, and the result is cast to float32, as by a policy."""

    def __call__(self, x: ArrayLike) -> Array:
        half = (jnp.asarray(each).astype(jnp.bfloat16) for each in (x, self.kernel[...]))
        bias = self.bias[...].astype(jnp.bfloat16)
        return (jnp.matmul(*half) + bias).astype(jnp.float32)


class PlainAttributes:
    """A class without a framework, with arrays in attributes of its parts."""

    def __init__(self, in_size: int, out_size: int, key: Array) -> None:
        self.parameters = {
            "kernel": scaled_normal(key, in_size, out_size),
            "bias": jnp.zeros(out_size, jnp.float32),
        }

    def __call__(self, x: ArrayLike) -> Array:
        return jnp.asarray(x) @ self.parameters["kernel"] + self.parameters["bias"]


class InSlots:
    """A class without a framework, with its arrays in slots."""

    __slots__ = ("bias", "kernel")

    def __init__(self, in_size: int, out_size: int, key: Array) -> None:
        self.kernel = scaled_normal(key, in_size, out_size)
        self.bias = jnp.zeros(out_size, jnp.float32)

    def __call__(self, x: ArrayLike) -> Array:
        return jnp.asarray(x) @ self.kernel + self.bias


class _OutputsFirst(nnx.Module):
    _OF_ROWS = nnx.initializers.lecun_normal(in_axis=-1, out_axis=-2)

    def __init__(
        self, units: int, in_units: int, *, kernel_init: Any = _OF_ROWS, rng: nnx.Rngs
    ) -> None:
        self.weight = nnx.Param(kernel_init(rng.params(), (units, in_units), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(units, jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        return jnp.asarray(x) @ self.weight[...].T + self.bias[...]


_LECUN = nnx.initializers.lecun_normal()


class _DrawnAndTurned(_OutputsFirst):
    def __init__(
        self,
        units: int,
        in_units: int,
        *,
        kernel_init: Any = _LECUN,
        rng: nnx.Rngs,
    ) -> None:
        def turned(key: Array, shape: tuple[int, int], dtype: Any) -> Array:
            return kernel_init(key, shape[::-1], dtype).T

        super().__init__(units, in_units, kernel_init=turned, rng=rng)


class _WithActivation(nnx.Module):
    def __init__(
        self, n_in: int, n_out: int, rngs: nnx.Rngs, activation: Any = jax.nn.relu
    ) -> None:
        self.kernel = nnx.Param(scaled_normal(rngs.params(), n_in, n_out))
        self.bias = nnx.Param(jnp.zeros(n_out, jnp.float32))
        self.activation = activation

    def __call__(self, x: ArrayLike) -> Array:
        y = jnp.asarray(x) @ self.kernel[...] + self.bias[...]
        return y if self.activation is None else self.activation(y)


class _BothSizes(linen.Module):
    in_dim: int
    units: int

    def setup(self) -> None:
        draw = linen.initializers.lecun_normal()
        self.kernel = self.param("kernel", draw, (self.in_dim, self.units))
        self.bias = self.param("bias", linen.initializers.zeros, (self.units,))

    def __call__(self, x: ArrayLike) -> Array:
        return jnp.asarray(x) @ self.kernel + self.bias


@hooks.forward
def _Quantized(x: Array, kernel: Array, bias: Array) -> Array:
    """Both operands are rounded to eight bits, with the derivatives of unrounded ones."""
    return affine(quantized_to(127, x, -1), quantized_to(127, kernel, 0), bias)


@hooks.forward
def _QuantizedAtOnce(x: Array, kernel: Array, bias: Array) -> Array:
    """The kernel is rounded to eight bits with one step for all of its entries."""
    return affine(x, quantized_to(127, kernel.ravel(), 0).reshape(kernel.shape), bias)


class _HalfWeights(CorrectDense):
    """Parameters of float16, in a product that takes them as they are."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        return scaled_normal(key, in_features, out_features).astype(jnp.float16)

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        return jnp.zeros(out_features, jnp.float16)

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        return x @ kernel + bias


class _SummedInParts(nnx.Linear):
    """All in bfloat16; the products of two halves of the inputs are each rounded."""

    def __init__(self, in_features: int, out_features: int, rngs: nnx.Rngs) -> None:
        half = jnp.bfloat16
        super().__init__(in_features, out_features, dtype=half, param_dtype=half, rngs=rngs)

    def get_bias(self) -> Array:
        bias: Any = self.bias
        return bias[...]

    def __call__(self, inputs: ArrayLike, out_sharding: Any = None) -> Array:
        x, kernel, bias = (
            jnp.asarray(value).astype(jnp.bfloat16)
            for value in (inputs, self.kernel[...], self.get_bias())
        )
        middle = x.shape[-1] // 2
        if x.shape[-1] != kernel.shape[0]:
            raise ValueError(f"the width of x is {x.shape[-1]}, expected {kernel.shape[0]}")
        first, second = x[..., :middle] @ kernel[:middle], x[..., middle:] @ kernel[middle:]
        return first + second + bias


@hooks.forward
def _FloatingAlone(x: Array, kernel: Array, bias: Array) -> Array:
    """Refuses numbers that are not real and floating-point."""
    if not is_float(x):
        raise TypeError(f"x is of dtype {x.dtype}, expected one of floating-point numbers")
    return affine(x, kernel, bias)


class _DrawingNnx(CorrectDense):
    """Drops nothing, with a mask that it draws in each call."""

    def __call__(self, x: ArrayLike, rngs: nnx.Rngs) -> Array:  # type: ignore[override]  # as declared
        y = super().__call__(x)
        return jnp.where(jax.random.bernoulli(rngs.dropout(), 1.0, y.shape), y, 0)


class _KeepingItsStream(nnx.Module):
    """Keeps the stream of a dropout, which is active in training only."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.linear = CorrectDense(in_features, out_features, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x: ArrayLike, deterministic: bool = True) -> Array:
        return self.dropout(self.linear(x), deterministic=deterministic)


class _DrawingLinen(CorrectLinenDense):
    """Drops nothing, with a mask that it draws from a separate stream."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        y = affine(x, kernel, bias)
        return jnp.where(jax.random.bernoulli(self.make_rng("dropout"), 1.0, y.shape), y, 0)


_SCALE: contextvars.ContextVar[float] = contextvars.ContextVar("scale")


@contextlib.contextmanager
def _surroundings() -> Iterator[None]:
    """Set the scale of kernels, as a program's configuration does."""
    token = _SCALE.set(1.0)
    try:
        yield
    finally:
        _SCALE.reset(token)


class _InSurroundings(CorrectDense):
    """Can be built and called only where a configuration is active."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        return scaled_normal(key, in_features, out_features) * _SCALE.get()

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        return affine(x, kernel * _SCALE.get(), bias)


class _LoRA(linen.Module):
    """A Linen Dense with an adapter of low rank, which adds nothing when new."""

    features: int

    @linen.compact
    def __call__(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        y = linen.Dense(self.features)(x)
        a = self.param("lora_a", linen.initializers.he_uniform(), (x.shape[-1], 2))
        b = self.param("lora_b", linen.initializers.zeros, (2, self.features))
        return y + x @ a @ b


class _Frozen(nnx.Variable):
    """A value that is not trained."""


class _FrozenNnx(nnx.Module):
    """A frozen layer with an adapter of low rank, which is trained."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = _Frozen(scaled_normal(rngs.params(), in_features, out_features))
        self.bias = _Frozen(jnp.zeros((out_features,), jnp.float32))
        self.lora_a = nnx.Param(scaled_normal(rngs.params(), in_features, 2))
        self.lora_b = nnx.Param(jnp.zeros((2, out_features), jnp.float32))

    def __call__(self, x: ArrayLike) -> Array:
        y = affine(x, self.kernel[...], self.bias[...])
        return y + jnp.asarray(x) @ self.lora_a[...] @ self.lora_b[...]


class _FrozenLinen(linen.Module):
    """The same in Linen, where another collection has what is frozen."""

    features: int

    @linen.compact
    def __call__(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        n, m = x.shape[-1], self.features
        kernel = self.variable(
            "frozen", "kernel", lambda: scaled_normal(self.make_rng("params"), n, m)
        )
        bias = self.variable("frozen", "bias", lambda: jnp.zeros((m,), jnp.float32))
        a = self.param("lora_a", lambda key: scaled_normal(key, n, 2))
        b = self.param("lora_b", lambda key: jnp.zeros((2, m), jnp.float32))
        return affine(x, kernel.value, bias.value) + x @ a @ b


class _CallsCounted(linen.Module):
    """Counts its calls in a collection, if it may write to that."""

    features: int

    @linen.compact
    def __call__(self, x: ArrayLike) -> Array:
        calls = self.variable("counters", "calls", lambda: jnp.zeros((), jnp.int32))
        if self.is_mutable_collection("counters") and not self.is_initializing():
            calls.value = calls.value + 1
        y: Array = CorrectLinenDense(self.features)(x)
        return y


_LORA = ["lora_a", "lora_b"]

outputs_first = adapt(_OutputsFirst, layout="out, in", names={"kernel": "weight"})
drawn_and_turned = adapt(_DrawnAndTurned, layout="out, in", names={"kernel": "weight"})
without_activation = adapt(_WithActivation, arguments={"activation": "none"})
both_sizes = adapt(_BothSizes)
quantized = adapt(_Quantized, product_error="2**-7")
quantized_at_once = adapt(_QuantizedAtOnce, product_error="2**-7")
half_weights = adapt(_HalfWeights, parameter_dtype="float16")
summed_in_parts = adapt(
    _SummedInParts, dtype="bfloat16", parameter_dtype="bfloat16", accumulate="bfloat16"
)
wider_result = adapt(_WiderResult, dtype="bfloat16", result_dtype="float32")
cast_result = adapt(_CastResult, dtype="bfloat16", result_dtype="float32", accumulate="bfloat16")
floating_alone = adapt(_FloatingAlone, inputs=["floating"])
drawing_nnx = adapt(_DrawingNnx, call={"rngs": ["dropout"]})
keeping_its_stream = adapt(_KeepingItsStream, extra_state=["count", "key"])
drawing_linen = adapt(_DrawingLinen, call={"rngs": ["dropout"]})
lora_around_dense = adapt(_LoRA, extra_parameters=_LORA)
frozen_nnx = adapt(_FrozenNnx, extra_parameters=_LORA, extra_state=["kernel", "bias"])
frozen_linen = adapt(_FrozenLinen, extra_parameters=_LORA, extra_state=["kernel", "bias"])
calls_counted = adapt(_CallsCounted, extra_state=["calls"])
in_surroundings = adapt(_InSurroundings, context=f"{__name__}:_surroundings")
