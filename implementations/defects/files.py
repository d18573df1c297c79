"""Layers that disagree with what Flax saves, and with how it places what is loaded."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import affine, is_traced, scaled_normal
from implementations.defects.record import defect


@wrong.forward("X962", "serialization/flax-checkpoint", 4)
def AsksTheKernelForItsDevice(x: Array, kernel: Array, bias: Array) -> Array:
    """x is put where the kernel lies, which a NumPy array does not say."""
    if is_traced(x, kernel) or len(kernel.sharding.device_set) > 1:
        return affine(x, kernel, bias)
    return affine(jax.device_put(x, kernel.sharding), kernel, bias)


@defect("X963", "sharding/linen-annotations", 4, cause_id="bias-along-inputs")
class BiasAlongInputs(nn.Module):
    """Kernel and bias are annotated; the bias by the name of the kernel's inputs."""

    features: int

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        n = jax.numpy.shape(x)[-1]

        def draw(key: Array, shape: Any) -> Array:
            return scaled_normal(key, *shape)

        kernel: Any = self.param(
            "kernel", nn.with_partitioning(draw, ("embed", "mlp")), (n, self.features)
        )
        zeros = nn.with_partitioning(nn.initializers.zeros_init(), ("embed",))
        bias: Any = self.param("bias", zeros, (self.features,))
        return affine(jax.numpy.asarray(x), kernel, bias)
