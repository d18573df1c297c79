"""Other ways to draw a kernel of variance 1/in from a normal or a truncated normal law."""

from __future__ import annotations

import functools
import math
import operator

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.defects import hooks
from implementations.defects.base import scaled_normal, stddev
from implementations.defects.record import name_layers

DrawnTransposed = hooks.kernel(
    lambda key, n, m: jax.random.normal(key, (m, n), jnp.float32).T * stddev(n),
    "Drawn as (out, in) and transposed.",
)
LecunNormal = hooks.kernel(
    lambda key, n, m: nnx.initializers.lecun_normal()(key, (n, m), jnp.float32),
    "Flax's `lecun_normal`: truncated, its scale corrected.",
)
NegativeZeroBias = hooks.bias(
    lambda rngs, n, m: -jnp.zeros((m,), jnp.float32), "A bias of -0.0, which equals 0."
)
ZeroTimesNoiseBias = hooks.bias(
    lambda rngs, n, m: 0.0 * jax.random.normal(rngs.params(), (m,), jnp.float32),
    "A bias drawn with standard deviation 0: zeros of both signs.",
)


@hooks.kernel
def VarianceScalingNormal(key: Array, in_features: int, out_features: int) -> Array:
    """`variance_scaling` with fan_in and a plain normal."""
    initializer = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")
    return initializer(key, (in_features, out_features), jnp.float32)


@hooks.kernel
def VarianceScalingTruncated(key: Array, in_features: int, out_features: int) -> Array:
    """`jax.nn`'s `variance_scaling` with fan_in, truncated, axes named the other way round."""
    initializer = jax.nn.initializers.variance_scaling(
        1.0, "fan_in", "truncated_normal", in_axis=1, out_axis=0
    )
    return initializer(key, (out_features, in_features), jnp.float32).T


@hooks.kernel
def TruncatedByHand(key: Array, in_features: int, out_features: int) -> Array:
    """A normal truncated at two standard deviations, divided by its own deviation."""
    shape = (in_features, out_features)
    # Var = 1 - 4 phi(2) / (2 Phi(2) - 1) for a standard normal truncated to [-2, 2].
    density = math.exp(-2.0) / math.sqrt(2.0 * math.pi)
    left = math.sqrt(1.0 - 4.0 * density / math.erf(math.sqrt(2.0)))
    draws = jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)
    return draws * (stddev(in_features) / left)


@hooks.kernel
def InverseErrorFunction(key: Array, in_features: int, out_features: int) -> Array:
    """A normal from uniform draws on (-1, 1) by the inverse error function."""
    shape = (in_features, out_features)
    # The draws include the lower end, where the inverse is infinite: begin just above it.
    above = -1.0 + 2.0**-24
    uniform = jax.random.uniform(key, shape, jnp.float32, minval=above, maxval=1.0)
    return jax.lax.erf_inv(uniform) * (math.sqrt(2.0) * stddev(in_features))


@hooks.kernel
def BoxMuller(key: Array, in_features: int, out_features: int) -> Array:
    """A normal as radius and angle of a point in the plane."""
    shape = (in_features, out_features)
    radius_key, angle_key = jax.random.split(key)
    # 1 - uniform is in (0, 1]: its logarithm is finite.
    radius = jnp.sqrt(-2.0 * jnp.log(1.0 - jax.random.uniform(radius_key, shape, jnp.float32)))
    angle = jax.random.uniform(angle_key, shape, jnp.float32, maxval=2.0 * math.pi)
    return radius * jnp.cos(angle) * stddev(in_features)


@hooks.kernel
def RandomSigns(key: Array, in_features: int, out_features: int) -> Array:
    """A normal multiplied by independent random signs is the same normal."""
    sign_key, value_key = jax.random.split(key)
    signs = jax.random.rademacher(sign_key, (in_features, out_features), jnp.float32)
    return signs * scaled_normal(value_key, in_features, out_features)


@hooks.kernel
def RowsFromSplitKeys(key: Array, in_features: int, out_features: int) -> Array:
    """Every row from a key of its own, all split from the one that `rngs` gave."""
    draw = functools.partial(jax.random.normal, shape=(out_features,), dtype=jnp.float32)
    rows = jax.vmap(draw)(jax.random.split(key, in_features))
    return rows * stddev(in_features)


@hooks.kernel
def JittedInitializer(key: Array, in_features: int, out_features: int) -> Array:
    """The kernel drawn by a compiled function."""
    # A static argument of 4.0 would find the program of 4: only true integers pass.
    sizes = operator.index(in_features), operator.index(out_features)
    return jax.jit(scaled_normal, static_argnums=(1, 2))(key, *sizes)


name_layers(globals())
