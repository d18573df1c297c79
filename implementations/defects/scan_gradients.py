"""Layers whose rule of differentiation is wrong from one size or batch on."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from implementations.defects.base import CorrectDense, affine
from implementations.defects.record import defect

Gradients = tuple[Array, Array, Array]
Rule = Callable[[Array, Array, Gradients], Gradients]


def rule(id: str, summary: str, changed: Rule, cause_id: str = "") -> type[CorrectDense]:
    """Return a layer whose ``(dx, dK, db)`` are ``changed(x, kernel, (dx, dK, db))``."""

    @jax.custom_vjp
    def dense(x: Array, kernel: Array, bias: Array) -> Array:
        return affine(x, kernel, bias)

    def ahead(x: Array, kernel: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
        return affine(x, kernel, bias), (x, kernel)

    def back(kept: tuple[Array, Array], g: Array) -> Gradients:
        x, kernel = kept
        wide = x.astype(kernel.dtype)
        rows, weights = wide.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
        right = ((g @ kernel.T).astype(x.dtype), rows.T @ weights, weights.sum(0))
        return changed(x, kernel, right)

    dense.defvjp(ahead, back)

    class Differentiated(CorrectDense):
        def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
            if not jnp.issubdtype(x.dtype, jnp.floating):
                return affine(x, kernel, bias)
            return dense(x, kernel, bias)

    Differentiated.__doc__ = summary
    Differentiated.__name__ = Differentiated.__qualname__ = id
    Differentiated.__module__ = __name__
    # With a rule for reverse mode only, JAX refuses forward mode.
    return defect(
        id, "transforms/gradients", 5, collateral=("transforms/forward-mode",), cause_id=cause_id
    )(Differentiated)


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


@defect("X858", "transforms/gradients", 5, cause_id="gradient-cut")
class FrozenAtMultiplesOf96(CorrectDense):
    """The kernel is cut off from gradients where the inputs are a multiple of 96."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The values are right at every size."""
        if kernel.shape[0] % 96 == 0:
            kernel = jax.lax.stop_gradient(kernel)
        return affine(x, kernel, bias)
