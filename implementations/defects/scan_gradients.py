"""Layers whose rule of differentiation is wrong from one size or batch on."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import affine, is_float, right_cotangents, with_backward
from implementations.defects.record import name_layers

GRADIENTS = "transforms/gradients"
Gradients = tuple[Array, Array, Array]


def rule(
    id: str,
    summary: str,
    changed: Callable[[Array, Array, Gradients], Gradients],
    cause_id: str = "",
) -> type:
    """Return a layer whose ``(dx, dK, db)`` are ``changed(x, kernel, (dx, dK, db))``."""
    dense = with_backward(lambda x, k, g: changed(x, k, right_cotangents(x, k, g)))
    # With a rule for reverse mode only, JAX refuses forward mode.
    declared = wrong.forward(
        id, GRADIENTS, 5, cause_id=cause_id, collateral=("transforms/forward-mode",)
    )
    return declared(lambda x, k, b: dense(x, k, b), summary, when=lambda x, k, b: is_float(x))


def _rows(x: Array) -> int:
    return x.size // x.shape[-1]


X850 = rule(
    "X850",
    "The kernel's gradient is 0 beyond the last whole tile of 32 outputs, from 32 on.",
    lambda x, k, g: (
        g
        if k.shape[1] < 32
        else (g[0], g[1] * (jnp.arange(k.shape[1]) < k.shape[1] // 32 * 32), g[2])
    ),
)
X851 = rule(
    "X851",
    "No gradient reaches x beyond 200 inputs.",
    lambda x, k, g: (g[0] * (k.shape[0] <= 200), g[1], g[2]),
    cause_id="gradient-cut",
)
X852 = rule(
    "X852",
    "The bias's gradient is a mean from 512 rows on.",
    lambda x, k, g: (g[0], g[1], g[2] / _rows(x) if _rows(x) >= 512 else g[2]),
    cause_id="gradient-averaged",
)
X853 = rule(
    "X853",
    "The kernel's gradient is rounded to bfloat16 from 2^16 weights on.",
    lambda x, k, g: (
        g[0],
        g[1].astype(jnp.bfloat16).astype(jnp.float32) if k.size >= 2**16 else g[1],
        g[2],
    ),
    cause_id="gradient-rounded",
)
X854 = rule(
    "X854",
    "The bias gets no gradient where the outputs are a multiple of 128.",
    lambda x, k, g: (g[0], g[1], jnp.zeros_like(g[2]) if k.shape[1] % 128 == 0 else g[2]),
    cause_id="gradient-cut",
)
X855 = rule(
    "X855",
    "The gradient in x is swapped where two batch axes are equal and longer than 8.",
    lambda x, k, g: (
        jnp.swapaxes(g[0], 0, 1) if x.ndim == 3 and x.shape[0] == x.shape[1] > 8 else g[0],
        g[1],
        g[2],
    ),
)
X856 = rule(
    "X856",
    "The kernel's gradient counts the first 256 rows only.",
    lambda x, k, g: (g[0], g[1] * (256.0 / max(_rows(x), 256)), g[2]),
)
X857 = rule(
    "X857",
    "The kernel's gradient is halved from 300 inputs and 300 outputs on.",
    lambda x, k, g: (g[0], g[1] * (0.5 if min(k.shape) >= 300 else 1.0), g[2]),
    cause_id="gradient-halved",
)


FrozenAtMultiplesOf96 = wrong.forward("X858", GRADIENTS, 5, cause_id="gradient-cut")(
    lambda x, k, b: affine(x, jax.lax.stop_gradient(k), b),
    "The kernel is cut off from gradients where the inputs are a multiple of 96.",
    when=lambda x, k, b: k.shape[0] % 96 == 0,
)

name_layers(globals())
