"""Layers whose new parameters are wrong from one size on, and right before it."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import normal, scaled_normal, stddev
from implementations.defects.record import name_layers

VARIANCE, LAW = "initialization/kernel-variance", "initialization/kernel-law"
INDEPENDENCE = "initialization/kernel-independence"

X860 = wrong.kernel("X860", INDEPENDENCE, 5, cause_id="lines-permuted")(
    lambda key, n, m: jnp.resize(jax.random.normal(key, (8192,), jnp.float32), (n, m)) * stddev(n),
    "A table of 8192 numbers, repeated.",
)


@wrong.kernel("X861", "initialization/kernel-homogeneity", 5, collateral=(VARIANCE, LAW))
def X861(key: Array, n: int, m: int) -> Array:
    """Box and Muller's pairs; of an odd number the last is 0."""
    pairs = n * m // 2
    if not pairs:
        return scaled_normal(key, n, m)
    radius, angle = jax.random.split(key)
    r = jnp.sqrt(-2.0 * jnp.log1p(-jax.random.uniform(radius, (pairs,), jnp.float32)))
    t = 2.0 * jnp.pi * jax.random.uniform(angle, (pairs,), jnp.float32)
    z = jnp.concatenate([r * jnp.cos(t), r * jnp.sin(t), jnp.zeros(n * m % 2, jnp.float32)])
    return z.reshape(n, m) * stddev(n)


X862 = wrong.kernel("X862", VARIANCE, 5)(
    lambda key, n, m: normal(key, n, m) * stddev(min(n, 2048)), "A fan that is capped at 2048."
)
X863 = wrong.kernel("X863", VARIANCE, 5)(
    lambda key, n, m: normal(key, n, m) * stddev(n if n < 600 else 1 << (n.bit_length() - 1)),
    "A fan that is a power of two beyond 600.",
)
X864 = wrong.kernel("X864", VARIANCE, 5)(
    lambda key, n, m: normal(key, n, m) * (round(stddev(n), 2) or 0.01),
    "A deviation that is rounded to two digits beyond the point.",
)
X865 = wrong.kernel("X865", LAW, 5)(
    lambda key, n, m: (
        jax.random.uniform(key, (n, m), jnp.float32, -(3.0**0.5), 3.0**0.5) * stddev(n)
    ),
    "Uniform numbers where the outputs are a multiple of 100.",
    when=lambda key, n, m: m % 100 == 0,
)
X866 = wrong.kernel("X866", VARIANCE, 5)(
    lambda key, n, m: normal(key, n, m) * stddev(n if n < 700 else (n + m) // 2),
    "The mean of both fans from 700 inputs on.",
)
X867 = wrong.kernel("X867", "initialization/kernel-resolution", 5)(
    lambda key, n, m: scaled_normal(key, n, m).astype(jnp.bfloat16).astype(jnp.float32),
    "Numbers of half precision from 2^18 weights on.",
    when=lambda key, n, m: n * m >= 2**18,
    cause_id="kernel-of-half-precision",
)
X868 = wrong.kernel("X868", INDEPENDENCE, 5)(
    lambda key, n, m: jnp.tile(normal(key, min(n, 2000), m), (-(-n // 2000), 1))[:n] * stddev(n),
    "Rows repeat after 2000.",
)
X870 = wrong.kernel("X870", "initialization/kernel-dispersion", 5)(
    lambda key, n, m: nnx.initializers.orthogonal()(key, (n, m), jnp.float32),
    "Orthogonal where square beyond 100.",
    when=lambda key, n, m: n == m > 100,
)
X871 = wrong.kernel("X871", "initialization/kernel-mean", 5, collateral=(VARIANCE, LAW))(
    lambda key, n, m: scaled_normal(key, n, m) + 0.5 * stddev(n),
    "A mean of half a deviation from 1000 outputs on, at multiples of 10.",
    when=lambda key, n, m: m >= 1000 and m % 10 == 0,
)
X872 = wrong.kernel("X872", "construction/finite", 5, cause_id="rare-draw-not-finite")(
    lambda key, n, m: scaled_normal(key, n, m).at[-1, -1].set(jnp.nan),
    "The last weight is NaN beyond 2^15 weights.",
    when=lambda key, n, m: n * m > 2**15,
)
X873 = wrong.kernel("X873", "construction/parameter-dtype", 5, cause_id="parameter-dtype")(
    lambda key, n, m: scaled_normal(key, n, m).astype(jnp.float16),
    "Kept in float16 from 2^19 weights on, up to 10^6.",
    when=lambda key, n, m: 2**19 <= n * m < 10**6,
)
BiasWhereInputsAreMany = wrong.bias("X874", "initialization/bias-zero", 5)(
    lambda rngs, n, m: jnp.full((m,), 0.1 if n >= 900 else 0.0, jnp.float32),
    "From 900 inputs on, a new bias is not zero.",
    cause_id="bias-constant",
)

name_layers(globals())
