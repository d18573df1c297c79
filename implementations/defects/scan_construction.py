"""Layers whose new parameters are wrong from one size on, and right before it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.defects.base import CorrectDense, normal, scaled_normal, stddev
from implementations.defects.record import defect

Draw = Callable[[Array, int, int], Array]
VARIANCE = "initialization/kernel-variance"
INDEPENDENCE = "initialization/kernel-independence"


def drawn(
    id: str, summary: str, draw: Draw, breaks: str, *collateral: str, cause_id: str = ""
) -> type[CorrectDense]:
    """Return a layer whose new kernel is ``draw(key, in_features, out_features)``."""

    class Drawn(CorrectDense):
        def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
            return draw(key, in_features, out_features)

    Drawn.__doc__ = summary
    Drawn.__name__ = Drawn.__qualname__ = id
    Drawn.__module__ = __name__
    return defect(id, breaks, 5, collateral=collateral, cause_id=cause_id)(Drawn)


def _noise_table(key: Array, i: int, o: int) -> Array:
    table = jax.random.normal(key, (8192,), jnp.float32)
    return jnp.resize(table, (i, o)) * stddev(i)


def _box_muller(key: Array, i: int, o: int) -> Array:
    n = i * o
    if n < 2:
        return scaled_normal(key, i, o)
    radius, angle = jax.random.split(key)
    r = jnp.sqrt(-2.0 * jnp.log1p(-jax.random.uniform(radius, (n // 2,), jnp.float32)))
    t = 2.0 * jnp.pi * jax.random.uniform(angle, (n // 2,), jnp.float32)
    z = jnp.concatenate([r * jnp.cos(t), r * jnp.sin(t), jnp.zeros(n % 2, jnp.float32)])
    return z.reshape(i, o) * stddev(i)


def _orthogonal(key: Array, i: int, o: int) -> Array:
    if not i == o > 100:
        return scaled_normal(key, i, o)
    return nnx.initializers.orthogonal()(key, (i, o), jnp.float32)


X860 = drawn(
    "X860",
    "A table of 8192 numbers, repeated.",
    _noise_table,
    INDEPENDENCE,
    cause_id="lines-permuted",
)
X861 = drawn(
    "X861",
    "Box and Muller's pairs; of an odd number the last is 0.",
    _box_muller,
    "initialization/kernel-homogeneity",
    VARIANCE,
    "initialization/kernel-law",
)
X862 = drawn(
    "X862",
    "A fan that is capped at 2048.",
    lambda key, i, o: normal(key, i, o) * stddev(min(i, 2048)),
    VARIANCE,
)
X863 = drawn(
    "X863",
    "A fan that is a power of two beyond 600.",
    lambda key, i, o: normal(key, i, o) * stddev(i if i < 600 else 1 << (i.bit_length() - 1)),
    VARIANCE,
)
X864 = drawn(
    "X864",
    "A deviation that is rounded to two digits beyond the point.",
    lambda key, i, o: normal(key, i, o) * (round(stddev(i), 2) or 0.01),
    VARIANCE,
)
X865 = drawn(
    "X865",
    "Uniform numbers where the outputs are a multiple of 100.",
    lambda key, i, o: (
        jax.random.uniform(key, (i, o), jnp.float32, -(3.0**0.5), 3.0**0.5) * stddev(i)
        if o % 100 == 0
        else scaled_normal(key, i, o)
    ),
    "initialization/kernel-law",
)
X866 = drawn(
    "X866",
    "The mean of both fans from 700 inputs on.",
    lambda key, i, o: normal(key, i, o) * stddev(i if i < 700 else (i + o) // 2),
    VARIANCE,
)
X867 = drawn(
    "X867",
    "Numbers of half precision from 2^18 weights on.",
    lambda key, i, o: (
        scaled_normal(key, i, o).astype(jnp.bfloat16).astype(jnp.float32)
        if i * o >= 2**18
        else scaled_normal(key, i, o)
    ),
    "initialization/kernel-resolution",
    cause_id="kernel-of-half-precision",
)
X868 = drawn(
    "X868",
    "Rows repeat after 2000.",
    lambda key, i, o: jnp.tile(normal(key, min(i, 2000), o), (-(-i // 2000), 1))[:i] * stddev(i),
    INDEPENDENCE,
)
X870 = drawn(
    "X870",
    "Orthogonal where square beyond 100.",
    _orthogonal,
    "initialization/kernel-dispersion",
)
X871 = drawn(
    "X871",
    "A mean of half a deviation from 1000 outputs on, at multiples of 10.",
    lambda key, i, o: (
        scaled_normal(key, i, o) + (0.5 * stddev(i) if o >= 1000 and o % 10 == 0 else 0.0)
    ),
    "initialization/kernel-mean",
    VARIANCE,
    "initialization/kernel-law",
)
X872 = drawn(
    "X872",
    "The last weight is NaN beyond 2^15 weights.",
    lambda key, i, o: (
        scaled_normal(key, i, o).at[-1, -1].set(jnp.nan)
        if i * o > 2**15
        else scaled_normal(key, i, o)
    ),
    "construction/finite",
    cause_id="rare-draw-not-finite",
)
X873 = drawn(
    "X873",
    "Kept in float16 from 2^19 weights on, up to 10^6.",
    lambda key, i, o: (
        scaled_normal(key, i, o).astype(jnp.float16)
        if 2**19 <= i * o < 10**6
        else scaled_normal(key, i, o)
    ),
    "construction/parameter-dtype",
    cause_id="parameter-dtype",
)


@defect("X874", "initialization/bias-zero", 5, cause_id="bias-constant")
class BiasWhereInputsAreMany(CorrectDense):
    """From 900 inputs on, a new bias is not zero."""

    def draw_bias(self, rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
        """Zeros for every layer that fits a small test."""
        return jnp.full((out_features,), 0.1 if in_features >= 900 else 0.0, jnp.float32)
