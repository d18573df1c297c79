"""Wrong layers of other conventions: half precision, no bias, no framework.

Their declarations by arguments with Flax's names do not exempt them from any requirement that
applies.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import scaled_normal
from implementations.defects.record import defect

draw = nnx.initializers.lecun_normal()


class _Half(nnx.Module):
    """A right layer that declares its dtype as Flax does."""

    def __init__(
        self, d_in: int, d_out: int, *, dtype: Any = jnp.bfloat16,
        param_dtype: Any = jnp.bfloat16, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        self.kernel = nnx.Param(draw(rngs.params(), (d_in, d_out), param_dtype))
        self.bias = nnx.Param(jnp.zeros(d_out, param_dtype))
        self.dtype = dtype

    def __call__(self, x: ArrayLike) -> Array:
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        return self.affine(jnp.asarray(x).astype(self.dtype), kernel, bias)

    def affine(self, x: Array, kernel: Array, bias: Array) -> Array:
        return x @ kernel + bias


@defect("X780", "transforms/gradients", 3, cause_id="gradient-cut")
class HalfKernelStopped(_Half):
    """In bfloat16 the kernel gets no gradient."""

    def affine(self, x: Array, kernel: Array, bias: Array) -> Array:
        return x @ jax.lax.stop_gradient(kernel) + bias


@defect("X781", "transforms/gradients", 4, cause_id="gradient-doubled")
class HalfBiasTwice(_Half):
    """In bfloat16 the gradient of the bias is counted twice."""

    def affine(self, x: Array, kernel: Array, bias: Array) -> Array:
        return x @ kernel + (2 * bias - jax.lax.stop_gradient(bias))


@defect("Y220", "initialization/kernel-law", 4)
class HalfUniform(_Half):
    """In bfloat16 the kernel is uniform, of the right variance."""

    def __init__(
        self, d_in: int, d_out: int, *, dtype: Any = jnp.bfloat16,
        param_dtype: Any = jnp.bfloat16, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        super().__init__(d_in, d_out, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        drawn = jax.random.uniform(rngs.params(), (d_in, d_out), jnp.float32, -1, 1)
        self.kernel = nnx.Param((drawn * (3 / d_in) ** 0.5).astype(param_dtype))


class _WithoutBias(nnx.Module):
    """A correct layer without a bias, which it does not declare."""

    def __init__(self, d_in: int, d_out: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(scaled_normal(rngs.params(), d_in, d_out))

    def __call__(self, x: ArrayLike) -> Array:
        return jnp.asarray(x) @ self.kernel[...]


@defect("X782", "construction/bias-shape", 1, cause_id="bias-missing")
class ForgottenBias(_WithoutBias):
    """The bias was forgotten; all else is right."""


@defect("X783", "transforms/gradients", 3, cause_id="gradient-halved")
class HalfOfTheGradient(_WithoutBias):
    """The kernel of a layer without bias gets half of its gradient."""

    def __init__(self, d_in: int, d_out: int, *, use_bias: bool = False, rngs: nnx.Rngs) -> None:
        super().__init__(d_in, d_out, rngs=rngs)

    def __call__(self, x: ArrayLike) -> Array:
        kernel = self.kernel[...] / 2
        return jnp.asarray(x) @ (kernel + jax.lax.stop_gradient(kernel))


class _Plain:
    """A correct layer without a framework."""

    def __init__(self, in_size: int, out_size: int, key: Array) -> None:
        self.kernel = scaled_normal(key, in_size, out_size)
        self.bias = jnp.zeros(out_size, jnp.float32)

    def __call__(self, x: ArrayLike) -> Array:
        return jnp.asarray(x) @ self.kernel + self.bias


@defect("X784", "initialization/kernel-variance", 1, cause_id="scale-missing")
class PlainNotScaled(_Plain):
    """The kernel is not scaled."""

    def __init__(self, in_size: int, out_size: int, key: Array) -> None:
        super().__init__(in_size, out_size, key)
        self.kernel = jax.random.normal(key, (in_size, out_size))


@defect("X785", "construction/kernel-shape", 1, cause_id="kernel-transposed")
class PlainStoredByRows(_Plain):
    """The kernel is stored as (out, in), without a declaration; all else is right."""

    def __init__(self, in_size: int, out_size: int, key: Array) -> None:
        super().__init__(in_size, out_size, key)
        self.kernel = self.kernel.T

    def __call__(self, x: ArrayLike) -> Array:
        return jnp.asarray(x) @ self.kernel.T + self.bias
