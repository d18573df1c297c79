"""Correct layers with hooks, from which every defect departs in one place.

They meet the whole contract, including optional requirements, so that a defect causes any failure
on it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

FORWARD_MODE = ("transforms/forward-mode-offered",)
"""What a layer with a custom_vjp fails besides."""


def stddev(in_features: int) -> float:
    """Return 1/sqrt(in), the standard deviation of a kernel entry; 1 for in = 0."""
    # A Python float is weakly typed: a NumPy scalar would turn the kernel into float64 under x64.
    return float(max(in_features, 1)) ** -0.5


def normal(key: Array, in_features: int, out_features: int) -> Array:
    """Return a standard normal array (in, out), float32 under x64 as well."""
    return jax.random.normal(key, (in_features, out_features), jnp.float32)


def scaled_normal(key: Array, in_features: int, out_features: int) -> Array:
    """Return the right kernel (in, out): normal with variance 1/in."""
    return normal(key, in_features, out_features) * stddev(in_features)


def scaled_uniform(key: Array, in_features: int, out_features: int) -> Array:
    """Return a kernel (in, out), uniform with variance 1/in."""
    shape, end = (in_features, out_features), 3.0**0.5 * stddev(in_features)
    return jax.random.uniform(key, shape, jnp.float32, minval=-end, maxval=end)


def affine(x: ArrayLike, kernel: Array, bias: Array) -> Array:
    """Return the right output (..., out) for x (..., in): ``x @ kernel + bias``."""
    product = jnp.asarray(x) @ kernel
    return product + jnp.broadcast_to(bias, product.shape)


def with_backward(cotangents: Callable[..., Any], value: Callable[..., Any] = affine) -> Any:
    """Return :func:`affine` with ``cotangents(x, kernel, g)``; value goes with the gradient."""
    rule: Any = jax.custom_vjp(affine)
    rule.defvjp(lambda x, k, b: (value(x, k, b), (x, k)), lambda saved, g: cotangents(*saved, g))
    return rule


def right_cotangents(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    """Return those of x, kernel and bias for a layer of any rank."""
    rows, weights = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    dx, dkernel, dbias = g @ kernel.T, rows.T @ weights, weights.sum(axis=0)
    return dx.astype(x.dtype), dkernel.astype(kernel.dtype), dbias.astype(kernel.dtype)


def scaled(cotangents: tuple[Array, Array, Array], which: int, factor: Any) -> Any:
    """Return cotangents of x, kernel and bias, the one at this place multiplied by the factor."""
    return tuple(value * factor if i == which else value for i, value in enumerate(cotangents))


def one_dtype(x: Array, kernel: Array, bias: Array) -> bool:
    """Return whether the three have one dtype, and x has the width of the kernel."""
    right = x.ndim > 0 and x.shape[-1] == kernel.shape[0]
    return right and x.dtype == kernel.dtype == bias.dtype


def rarely_scaled(key: Array, share: float, factor: float, n: int, m: int) -> Array:
    """Return the right kernel (n, m), multiplied by the factor for this share of the keys."""
    own, chance = jax.random.split(key)
    rare = jax.random.uniform(chance) < share
    return scaled_normal(own, n, m) * jnp.where(rare, jnp.float32(factor), jnp.float32(1))


def computed_in(dtype: Any) -> Callable[[Array, Array, Array], Array]:
    """Return an arithmetic that rounds x and the kernel to a dtype."""
    return lambda x, k, b: affine(x.astype(dtype), k.astype(dtype), b).astype(jnp.float32)


def through_halves(x: Array, kernel: Array, bias: Array) -> Array:
    """Return the output, the product made in bfloat16 and accumulated in float32."""
    half = (x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    return jnp.matmul(*half, preferred_element_type=jnp.float32) + bias


def quantized_to(levels: int, values: Array, axis: int) -> Array:
    """Return values as multiples of max abs(values) / levels along an axis.

    Derivatives pass through as if nothing was rounded.
    """
    largest = jnp.max(jnp.abs(values), axis, keepdims=True, initial=0.0)
    step = jnp.where(largest == 0, 1.0, largest / levels)
    held = jnp.round(values / step) * step
    return values + jax.lax.stop_gradient(held - values)


_MEMORIES: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


def memory(layer: Any) -> Any:
    """Return the dictionary of what is remembered of a layer outside of it, while it lives."""
    return _MEMORIES.setdefault(layer, {})


def counted_on(rngs: Any) -> tuple[Array, Array]:
    """Return key and count of the stream of parameters, which then counts on."""
    found = rngs.params.key[...], jnp.asarray(rngs.params.count[...], jnp.uint32)
    rngs.params()
    return found


def is_traced(*values: Any) -> bool:
    """Return whether a transformation is at work on one of the values."""
    return any(isinstance(value, jax.core.Tracer) for value in values)


def of_first_member(x: Array, kernel: Array) -> Array:
    """Return the kernel, or where vmap maps kernels alone, the first of them."""
    kinds = [type(value).__name__ == "BatchTracer" for value in (x, kernel)]
    tracer: Any = kernel
    first: Array = tracer.val[0] if kinds == [False, True] else kernel
    return first


def is_eager_sequence(x: Array, kernel: Array, bias: Array) -> bool:
    """Return whether x is of rank 3 and no transformation is at work."""
    return x.ndim == 3 and not is_traced(x, kernel, bias)


def is_float(x: Array) -> bool:
    """Return whether x is an array of real floating-point numbers."""
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


class PlainDense:
    """A right layer without a framework."""

    def __init__(self, in_features: int, out_features: int, key: Array) -> None:
        self.kernel = scaled_normal(key, in_features, out_features)
        self.bias = jnp.zeros((out_features,), jnp.float32)

    def __call__(self, x: ArrayLike) -> Array:
        """Return the output (..., out) for x (..., in)."""
        return affine(x, self.kernel, self.bias)


class CorrectDense(nnx.Module):
    """A right nnx layer; a defect overrides one of its hooks."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(self.draw_kernel(self.kernel_key(rngs), in_features, out_features))
        self.bias = nnx.Param(self.draw_bias(rngs, in_features, out_features))

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        """Return the key from which the kernel is drawn."""
        return rngs.params()

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """Return the initial kernel (in, out)."""
        return scaled_normal(key, in_features, out_features)

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        """Return the initial bias (out,)."""
        return jnp.zeros((out_features,), jnp.float32)

    def __call__(self, x: ArrayLike) -> Array:
        """Return the output (..., out) for x (..., in)."""
        return self.forward(jnp.asarray(x), self.kernel[...], self.bias[...])

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Return the output (..., out) from x (..., in) and the values of the two parameters."""
        return affine(x, kernel, bias)


class CorrectLinenDense(nn.Module):
    """A right Linen layer; a defect overrides one of its hooks."""

    features: int

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """Return the output (..., features) for x (..., in)."""
        x = jnp.asarray(x)
        return self.forward(x, *self.parameters(x))

    def parameters(self, x: Array) -> tuple[Array, Array]:
        """Return kernel (in, features) and bias (features,) for inputs like x."""
        return self.param("kernel", self.draw_kernel, x), self.param("bias", self.draw_bias, x)

    def draw_kernel(self, key: Array, x: Array) -> Array:
        """Return the initial kernel (in, features) for inputs like x."""
        return scaled_normal(key, x.shape[-1], self.features)

    def draw_bias(self, key: Array, x: Array) -> Array:
        """Return the initial bias (features,)."""
        return jnp.zeros((self.features,), jnp.float32)

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Return the output (..., features) from x (..., in) and the parameters."""
        return affine(x, kernel, bias)


def layer_output(seed: int, x: ArrayLike, features: int) -> Array:
    """Return the exercise's result (features,): the right layer of this seed, applied to x."""
    x = jnp.asarray(x)
    return CorrectDense(x.shape[-1], features, rngs=nnx.Rngs(seed))(x)


def layer_kernel(seed: int, x: Array, features: int) -> Array:
    """Return the kernel (in, features) of the right layer of this seed."""
    return CorrectDense(x.shape[-1], features, rngs=nnx.Rngs(seed)).kernel[...]


def correct_dense_forward(seed: float, x: ArrayLike, features: float) -> Array:
    """Return the exercise's result; both numbers arrive as floats and act as integers."""
    return layer_output(int(seed), x, int(features))
