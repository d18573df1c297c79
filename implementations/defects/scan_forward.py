"""Layers whose forward pass is wrong from one size, batch or dtype on, and right before it.

Each is a wrong arithmetic and a condition on the shapes: see :func:`computes`.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import affine
from implementations.defects.record import name_layers

Arithmetic = Callable[[Array, Array, Array], Array]
Condition = Callable[[Array, Array], bool]


def computes(arithmetic: Arithmetic, cause_id: str = "") -> Callable[..., type]:
    """Return a factory of layers that compute it from x, kernel and bias under a condition."""

    def branch(id: str, doc: str, when: Condition, breaks: str = "forward/affine-value") -> Any:
        return wrong.forward(id, breaks, 5, cause_id=cause_id)(
            lambda x, k, b: arithmetic(x, k, b), doc, when=lambda x, k, b: when(x, k)
        )

    return branch


def computed_in(dtype: Any) -> Arithmetic:
    """Return an arithmetic that rounds x and the kernel to a dtype."""
    return lambda x, k, b: affine(x.astype(dtype), k.astype(dtype), b).astype(jnp.float32)


def _ragged_tile_lost(x: Array, kernel: Array, bias: Array) -> Array:
    kept = (jnp.arange(x.shape[0]) < x.shape[0] // 256 * 256).astype(jnp.float32)
    return affine(x * kept[:, None], kernel, bias)


no_bias = computes(lambda x, k, b: affine(x, k, jnp.zeros_like(b)), "bias-unused")
in_bfloat16 = computes(computed_in(jnp.bfloat16), "reduced-precision")
in_float16 = computes(computed_in(jnp.float16))
last_input_lost = computes(lambda x, k, b: affine(x, k.at[-1].set(0.0), b), "input-left-out")
clipped = computes(lambda x, k, b: affine(jnp.clip(x, -100.0, 100.0), k, b))

X820 = no_bias("X820", "No bias at multiples of 256.", lambda x, k: k.shape[0] % 256 == 0)
X821 = no_bias("X821", "No bias at multiples of 100.", lambda x, k: k.shape[0] % 100 == 0)
X822 = no_bias(
    "X822",
    "No bias where both sides are multiples of 48.",
    lambda x, k: k.shape[0] % 48 == 0 and k.shape[1] % 48 == 0,
)
X823 = in_bfloat16(
    "X823",
    "Bfloat16 from 2^16 weights on.",
    lambda x, k: k.size >= 2**16 and x.dtype == jnp.float32,
)
X824 = in_float16(
    "X824",
    "Float16 from 300 inputs and 300 outputs on.",
    lambda x, k: min(k.shape) >= 300 and x.dtype == jnp.float32,
)
X825 = computes(lambda x, k, b: affine(x, k, b).at[..., -1].set(0.0))(
    "X825",
    "The last output is 0 from 1000 outputs on, where they are a multiple of 8.",
    lambda x, k: k.shape[1] >= 1000 and k.shape[1] % 8 == 0,
)
X826 = last_input_lost(
    "X826", "The last input is lost beyond 2000.", lambda x, k: k.shape[0] > 2000
)
X827 = computes(lambda x, k, b: affine(x, k.T, b), "kernel-used-transposed")(
    "X827",
    "A square kernel of more than 150 inputs is transposed.",
    lambda x, k: k.shape[0] == k.shape[1] > 150,
)
X828 = computes(lambda x, k, b: x @ k + b[:, None])(
    "X828",
    "The bias goes along the last batch axis where it is as long as the output.",
    lambda x, k: x.ndim >= 3 and x.shape[-2] == k.shape[1],
)
X829 = computes(lambda x, k, b: affine(jnp.swapaxes(x, 0, 1), k, b))(
    "X829",
    "Two equal batch axes of more than 8 are swapped.",
    lambda x, k: x.ndim == 3 and x.shape[0] == x.shape[1] > 8,
)
X830 = computes(_ragged_tile_lost)(
    "X830",
    "The last, incomplete tile of 256 rows is lost.",
    lambda x, k: x.ndim == 2 and x.shape[0] > 300,
)
X831 = no_bias(
    "X831",
    "No bias for a multiple of 125 rows.",
    lambda x, k: x.ndim == 2 and x.shape[0] % 125 == 0 and x.shape[0] > 0,
)
X832 = computes(lambda x, k, b: affine(x.T, k, b))(
    "X832",
    "As many rows as inputs, more than 20, are mistaken for the kernel's axis.",
    lambda x, k: x.ndim == 2 and x.shape[0] == x.shape[1] > 20,
)
X833 = no_bias(
    "X833",
    "No bias at rank 4 beyond 100 rows.",
    lambda x, k: x.ndim == 4 and x.size > 100 * x.shape[-1],
)
X834 = clipped(
    "X834",
    "Inputs are clipped where a sequence is longer than 64.",
    lambda x, k: x.ndim == 3 and x.shape[1] > 64 and x.dtype == jnp.float32,
)
X835 = in_bfloat16(
    "X835",
    "Bfloat16 beyond 2^17 numbers of x.",
    lambda x, k: x.size > 2**17 and x.dtype == jnp.float32,
    "forward/basis-input",
)
X836 = no_bias(
    "X836",
    "No bias where the outputs are a multiple of 7, beyond 60.",
    lambda x, k: k.shape[1] % 7 == 0 and k.shape[1] > 60,
)
X837 = last_input_lost(
    "X837",
    "The last input is lost where there are four times as many as outputs, beyond 100 of these.",
    lambda x, k: k.shape[0] > 4 * k.shape[1] > 400,
)
X838 = last_input_lost(
    "X838",
    "The last input is lost where inputs are odd and outputs even, both beyond 100.",
    lambda x, k: k.shape[0] % 2 == 1 and k.shape[1] % 2 == 0 and min(k.shape) > 100,
)
X839 = computes(lambda x, k, b: affine(x, k, b) * 1.001, "output-scaled")(
    "X839",
    "The result is 1.001 times as large from 600 inputs on.",
    lambda x, k: k.shape[0] >= 600,
    "forward/basis-input",
)
X840 = in_float16(
    "X840",
    "Float16 from 784 inputs on, at multiples of 16.",
    lambda x, k: k.shape[0] >= 784 and k.shape[0] % 16 == 0 and x.dtype == jnp.float32,
)
X841 = in_bfloat16(
    "X841",
    "Bfloat16 from 4096 rows on.",
    lambda x, k: x.ndim == 2 and x.shape[0] >= 4096 and x.dtype == jnp.float32,
)
X842 = no_bias(
    "X842",
    "No bias where rows, inputs and outputs are all multiples of 64.",
    lambda x, k: (
        x.ndim == 2
        and x.shape[0] % 64 == 0
        and k.shape[0] % 64 == 0
        and k.shape[1] % 64 == 0
        and x.shape[0] > 0
    ),
)
X843 = clipped(
    "X843",
    "A single vector of more than 500 inputs is clipped.",
    lambda x, k: x.ndim == 1 and x.shape[0] > 500 and x.dtype == jnp.float32,
)
X844 = computes(lambda x, k, b: affine(x, k.astype(jnp.bfloat16), b).astype(jnp.float32))(
    "X844",
    "The kernel is cast to a bfloat16 x from 64 inputs on.",
    lambda x, k: k.shape[0] >= 64 and x.dtype == jnp.bfloat16,
    "dtypes/half-input",
)
X845 = in_float16(
    "X845",
    "A float16 x is computed in float16 from 100 outputs on.",
    lambda x, k: k.shape[1] >= 100 and x.dtype == jnp.float16,
    "dtypes/half-input",
)
X846 = in_float16(
    "X846",
    "A float16 x of more than 200 rows is computed in float16.",
    lambda x, k: x.ndim == 2 and x.shape[0] > 200 and x.dtype == jnp.float16,
    "dtypes/half-input",
)
X847 = computes(computed_in(jnp.bfloat16))(
    "X847",
    "Integers are computed in bfloat16 from 200 inputs on.",
    lambda x, k: k.shape[0] >= 200 and x.dtype == jnp.int32,
    "dtypes/integer-input",
)
X848 = computes(lambda x, k, b: affine(x.real, k, b).astype(x.dtype), "imaginary-dropped")(
    "X848",
    "The imaginary part is lost beyond 100 rows.",
    lambda x, k: x.ndim == 2 and x.shape[0] > 100 and x.dtype == jnp.complex64,
    "dtypes/complex-input",
)

name_layers(globals())
