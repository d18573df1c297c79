"""Layers that are right for tame numbers only."""

import jax
import jax.numpy as jnp
from jax import Array

from implementations.defects.base import CorrectDense, affine
from implementations.defects.record import defect


@defect(
    "N114",
    breaks="numerics/no-saturation",
    collateral=("numerics/inf-confined",),
    cause="clipped",
    subtlety=4,
)
class OutputClipped(CorrectDense):
    """The output is clipped to +-1e6."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right while outputs are small."""
        output = affine(x, kernel, bias)
        # Complex numbers have no order to clip by.
        return output if jnp.iscomplexobj(output) else jnp.clip(output, -1e6, 1e6)


@defect(
    "N115",
    breaks="numerics/nan-confined",
    cause="replaced by a number",
    subtlety=4,
    seen='flax 0933c2e8 "remove Embed nan casting"',
)
class NanInputSwallowed(CorrectDense):
    """NaN in the input counts as 0."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A NaN goes unnoticed."""
        return affine(jnp.where(jnp.isnan(x), 0, x), kernel, bias)


@defect("N116", breaks="numerics/nan-confined", cause="replaced by a number", subtlety=4)
class NanOutputSwallowed(CorrectDense):
    """NaN in the output becomes 0."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A NaN goes unnoticed."""
        output = affine(x, kernel, bias)
        return jnp.where(jnp.isnan(output), 0, output)


@defect("N143", breaks="forward/basis-input", cause="reduced precision", subtlety=3)
class QuantisedKernel(CorrectDense):
    """The forward rounds the kernel to 255 levels, as int8 arithmetic would."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Fake quantisation, with the usual straight-through gradient."""
        step = jnp.maximum(jnp.max(jnp.abs(kernel), initial=0.0) / 127, jnp.finfo(jnp.float32).tiny)
        quantised = jnp.round(kernel / step) * step
        return affine(x, kernel + jax.lax.stop_gradient(quantised - kernel), bias)
