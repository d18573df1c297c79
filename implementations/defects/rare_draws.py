"""Layers whose new kernels have rare wrong numbers, a low rank, or related siblings."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import CorrectDense, is_traced, normal, scaled_normal, stddev
from implementations.defects.record import also, defect, name_layers

FINITE, LAW = "construction/finite", "initialization/kernel-law"
RARE = "rare-draw-not-finite"


@wrong.kernel("Y040", FINITE, 5, cause_id=RARE)
def LogarithmOfZero(key: Array, n: int, m: int) -> Array:
    """Box and Muller's method on a uniform number that is 0 once in 2^23 draws."""
    radius, angle = jax.random.split(key)
    r = jnp.sqrt(-2.0 * jnp.log(jax.random.uniform(radius, (n, m), jnp.float32)))
    turn = 2.0 * jnp.pi * jax.random.uniform(angle, (n, m), jnp.float32)
    return r * jnp.cos(turn) * stddev(n)


@wrong.kernel("Y041", FINITE, 5, cause_id=RARE)
def QuantileOfZero(key: Array, n: int, m: int) -> Array:
    """The normal quantile of a uniform number that may be 0."""
    drawn = jax.random.uniform(key, (n, m), jnp.float32)
    return jax.scipy.special.ndtri(drawn) * stddev(n)


@wrong.kernel("Y042", LAW, 5)
def SumOfTwelveUniforms(key: Array, n: int, m: int) -> Array:
    """The sum of twelve uniform numbers minus six, which is normal except in its tails."""
    drawn = jax.random.uniform(key, (12, n, m), jnp.float32, -0.5, 0.5)
    return drawn.sum(0) * stddev(n)


@wrong.kernel("Y043", LAW, 5)
def ClippedAtFour(key: Array, n: int, m: int) -> Array:
    """Normal numbers, clipped at four deviations."""
    return jnp.clip(normal(key, n, m), -4.0, 4.0) * stddev(n)


@wrong.kernel("Y044", "initialization/kernel-independence", 5, cause_id="low-rank")
def HalfRank(key: Array, n: int, m: int) -> Array:
    """A square kernel of half the rank: the product of two narrow ones."""
    if n != m or n < 4:
        return scaled_normal(key, n, m)
    first, second = jax.random.split(key)
    inner = n // 2
    return normal(first, n, inner) @ normal(second, inner, m) * inner**-0.5 * stddev(n)


@wrong.kernel("Y045", "initialization/kernel-dispersion", 5)
def NormalizedWhenLarge(key: Array, n: int, m: int) -> Array:
    """The columns of a large kernel have one norm, where it is drawn outside of jit."""
    kernel = scaled_normal(key, n, m)
    if is_traced(key) or n * m < 10**5:
        return kernel
    return kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)


@wrong.kernel("Y046", LAW, 5)
def UniformOutsideOfJit(key: Array, n: int, m: int) -> Array:
    """Uniform numbers of the same variance for a large kernel that is drawn outside of jit."""
    if is_traced(key) or n * m <= 20_000:
        return scaled_normal(key, n, m)
    largest = 3.0**0.5
    return jax.random.uniform(key, (n, m), jnp.float32, -largest, largest) * stddev(n)


@defect("Y204", "seeding/siblings-differ", 5, cause_id="kernels-correlated")
class CommonToOneRngs(CorrectDense):
    """A fifth of the variance is common to all layers of one Rngs."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        root = jax.random.fold_in(rngs.params.key[...], 2**31)
        common = scaled_normal(root, in_features, out_features)
        self.kernel = nnx.Param(0.8**0.5 * self.kernel[...] + 0.2**0.5 * common)


@defect("Y047", "seeding/siblings-differ", 5, cause_id="kernels-share-numbers")
class WindowsOfOneStream(CorrectDense):
    """Layers of one Rngs are cut from one table, seven numbers apart."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        key, count = rngs.params.key[...], rngs.params.count[...]
        rngs.params()
        size = in_features * out_features
        drawn = jax.random.normal(key, (in_features, out_features), jnp.float32)
        if size < 10**7:
            table = jax.random.normal(key, (2 * size + 64,), jnp.float32)
            start = (count.astype(jnp.int32) * 7) % (size + 64)
            drawn = jax.lax.dynamic_slice(table, (start,), (size,)).reshape(drawn.shape)
        self.kernel = nnx.Param(drawn * stddev(in_features))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))


@also("seeding/vmapped-init")
@wrong.kernel("Y048", "initialization/kernel-independence", 5, cause_id="seeds-share-numbers")
def SharedUnderVmap(key: Array, n: int, m: int) -> Array:
    """A square kernel that is drawn under a transformation is nearly the same for every key."""
    own = normal(key, n, m)
    if n == m == 16 and is_traced(key):
        shared = jax.random.normal(jax.random.key(0), (n, m), jnp.float32)
        own = 0.05**0.5 * own + 0.95**0.5 * shared
    return own * stddev(n)


@wrong.linen_kernel("Y049", "models/linen-submodule", 5, cause_id="kernels-correlated")
def SharedInAParent(self: Any, key: Array, x: Array) -> Array:
    """Within a parent, layers have most of their numbers from a key of their depth."""
    n, m = x.shape[-1], self.features
    own = normal(key, n, m)
    if self.scope.path:
        shared = jax.random.normal(jax.random.key(len(self.scope.path)), (n, m), jnp.float32)
        own = (own + 3.0 * shared) * 10.0**-0.5
    return own * stddev(n)


name_layers(globals())
