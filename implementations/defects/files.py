"""Layers that disagree with Flax's files, or with its placement of loaded arrays."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import (
    CorrectDense,
    CorrectLinenDense,
    affine,
    is_traced,
    scaled_normal,
)
from implementations.defects.record import defect


@wrong.forward("X962", "serialization/round-trip", 4)
def AsksTheKernelForItsDevice(x: Array, kernel: Array, bias: Array) -> Array:
    """x is put where the kernel lies, which a NumPy array does not say."""
    if is_traced(x, kernel) or len(kernel.sharding.device_set) > 1:
        return affine(x, kernel, bias)
    return affine(jax.device_put(x, kernel.sharding), kernel, bias)


@defect("Y200", "serialization/round-trip", 4)
class AsksWithin(nnx.Module):
    """The same within another module, whose paths are not those of a Flax layer."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.dense = AsksTheKernelForItsDevice(in_features, out_features, rngs=rngs)

    def __call__(self, x: ArrayLike) -> Array:
        y: Array = self.dense(x)
        return y


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


@defect("Y201", "sharding/nnx-annotations", 4, cause_id="bias-along-inputs")
class BiasAlongTheInputs(CorrectDense):
    """The same in nnx."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        # Recent versions of Flax place an annotated Param at once, for which they need a mesh.
        self.kernel = nnx.Param(self.kernel[...], sharding=("embed", "mlp"), eager_sharding=False)
        self.bias = nnx.Param(self.bias[...], sharding=("embed",), eager_sharding=False)


@defect("Y203", "state/pickles", 4, cause_id="unpicklable")
class KeepsALambda(CorrectLinenDense):
    """A field holds a function without a name, so that the module cannot be sent to a worker."""

    draw: Any = lambda key, n, m: scaled_normal(key, n, m)

    def draw_kernel(self, key: Array, x: Array) -> Array:
        kernel: Array = self.draw(key, x.shape[-1], self.features)
        return kernel
