"""Layers that break sharding: wrong on other devices, or on more than one."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from conformance.jax_setup.compat import inside_some_mesh
from implementations.defects import wrong
from implementations.defects.base import (
    FORWARD_MODE,
    CorrectDense,
    affine,
    is_traced,
    one_dtype,
    right_cotangents,
    scaled_normal,
    with_backward,
)
from implementations.defects.record import defect, name_layers

ThroughTheHost = wrong.forward("X938", "sharding/output-sharding", 5, cause_id="array-gathered")(
    lambda x, k, b: affine(jnp.asarray(np.asarray(x)), k, b),
    "A sharded x makes a detour through the memory of the host.",
    when=lambda x, k, b: not is_traced(x) and len(x.devices()) != 1,
)
ComputesOnFirstDevice = wrong.forward("X936", "sharding/second-device", 4, cause_id="device-moved")(
    lambda x, k, b: affine(*jax.device_put((x, k, b), jax.devices()[0])),
    "Arrays on another single device are moved to the first one.",
    when=lambda x, k, b: (
        not is_traced(x, k) and all(len(jnp.asarray(v).devices()) == 1 for v in (x, k))
    ),
)


@wrong.kernel("X935", "sharding/default-device", 4, cause_id="device-of-choice")
def BuiltOnFirstDevice(key: Array, n: int, m: int) -> Array:
    """The kernel is put on the first device, and the default device is ignored."""
    kernel = scaled_normal(key, n, m)
    return kernel if is_traced(kernel) else jax.device_put(kernel, jax.devices()[0])


@wrong.forward("X937", "sharding/eager", 5)
def FirstPartForTheWhole(x: Array, kernel: Array, bias: Array) -> Array:
    """The sum over devices is forgotten for a kernel that is sharded by inputs."""
    if is_traced(x) or is_traced(kernel) or len(kernel.devices()) == 1:
        return affine(x, kernel, bias)
    part = kernel.addressable_data(0)
    if part.shape[0] == kernel.shape[0]:
        return affine(x, kernel, bias)
    rows = np.asarray(x)[..., : part.shape[0]]
    return affine(jnp.asarray(rows), jnp.asarray(np.asarray(part)), jnp.asarray(np.asarray(bias)))


@wrong.forward("Y310", "sharding/eager", 5)
def FirstPartOfSequences(x: Array, kernel: Array, bias: Array) -> Array:
    """The part on one device stands for the whole of a sharded x of rank 3."""
    if is_traced(x, kernel) or x.ndim != 3 or len(x.devices()) == 1:
        return affine(x, kernel, bias)
    part = np.asarray(x.addressable_data(0))
    values = (np.concatenate([part] * (len(x) // len(part))), kernel, bias)
    return affine(*(jnp.asarray(np.asarray(value)) for value in values))


@wrong.linen_call("X963", "sharding/linen-annotations", 4, cause_id="bias-along-inputs")
def BiasAlongInputs(self: Any, x: ArrayLike) -> Array:
    """Kernel and bias are annotated; the bias by the name of the kernel's inputs."""
    x, draw = jnp.asarray(x), nn.with_partitioning(self.draw_kernel, ("embed", "mlp"))
    kernel: Any = self.param("kernel", draw, x)
    bias: Any = self.param("bias", nn.with_partitioning(self.draw_bias, ("embed",)), x)
    return affine(x, kernel, bias)


@defect("Y201", "sharding/nnx-annotations", 4, cause_id="bias-along-inputs")
class BiasAlongTheInputs(CorrectDense):
    """The same in nnx."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        # Recent versions of Flax place an annotated Param at once, for which they need a mesh.
        self.kernel = nnx.Param(self.kernel[...], sharding=("embed", "mlp"), eager_sharding=False)
        self.bias = nnx.Param(self.bias[...], sharding=("embed",), eager_sharding=False)


@defect("Y579", "sharding/nnx-annotations", 3, cause_id="annotation-too-long")
class BiasAnnotatedAsTheKernel(CorrectDense):
    """The bias has the kernel's annotation, of two axes."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        axes = ("embed", "mlp")
        self.kernel = nnx.Param(self.kernel[...], sharding=axes, eager_sharding=False)
        self.bias = nnx.Param(self.bias[...], sharding=axes, eager_sharding=False)


@wrong.forward("X412", "sharding/sharded-equals-local", 4)
def PinnedToFirstDevice(x: Array, kernel: Array, bias: Array) -> Array:
    """The kernel is moved to the first device in every call."""
    first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return affine(x, jax.device_put(kernel, first), bias)


@wrong.output("Y436", "sharding/eager", 4)
def SummedOverBothAxes(y: Array, x: Array) -> Array:
    """Outside of jit, a batch that is sharded over two axes of a mesh is counted twice."""
    spec = getattr(getattr(x, "sharding", None), "spec", ())
    return 2 * y if any(isinstance(names, tuple) and len(names) > 1 for names in spec) else y


LECUN = nnx.initializers.lecun_normal()


@defect("X408", "sharding/sharding-metadata", 5, cause_id="annotation-lost")
class AnnotationDropped(CorrectDense):
    """An initializer can be given, but its annotation is dropped."""

    def __init__(
        self, in_features: int, out_features: int, *, kernel_init: Any = LECUN, rngs: nnx.Rngs
    ) -> None:
        kernel = kernel_init(rngs.params(), (in_features, out_features), jnp.float32)
        self.kernel = nnx.Param(self.kept(kernel))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    def kept(self, kernel: Any) -> Any:
        """Return what the layer keeps of an initializer's value, which may be annotated."""
        return getattr(kernel, "raw_value", kernel)

    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, self.kernel[...], self.bias[...])


@defect("Y248", "sharding/sharding-metadata", 5, cause_id="annotation-exchanged")
class AnnotationExchanged(AnnotationDropped):
    """The axes of an initializer's annotation are given in reverse."""

    def kept(self, kernel: Any) -> Any:
        if not hasattr(kernel, "raw_value"):
            return kernel
        said = kernel.metadata.items()
        turned = {key: value[::-1] if isinstance(value, tuple) else value for key, value in said}
        return dataclasses.replace(kernel, metadata=turned)


def _of_own_rows(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    down, of_kernel, of_bias = right_cotangents(x, kernel, g)
    if is_traced(g) or g.is_fully_replicated:
        return down, of_kernel, of_bias
    part = np.asarray(g.addressable_data(0))
    return down, of_kernel, jnp.asarray(part.reshape(-1, part.shape[-1]).sum(axis=0))


_own_rows: Any = with_backward(_of_own_rows)
LearnsFromOwnRows = wrong.forward("Y459", "sharding/eager", 5, collateral=FORWARD_MODE)(
    lambda x, k, b: _own_rows(x, k, b),
    "Outside of jit, the gradient of the bias adds the rows of the first device alone.",
    when=one_dtype,
)


def _of_own_outputs(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    down, of_kernel, of_bias = right_cotangents(x, kernel, g)
    if is_traced(g, kernel) or kernel.is_fully_replicated:
        return down, of_kernel, of_bias
    part = np.asarray(kernel.addressable_data(0))
    if part.shape[0] == kernel.shape[0]:
        down = jnp.asarray(np.asarray(g)[..., : part.shape[1]] @ part.T)
    return down, of_kernel, of_bias


_own_outputs: Any = with_backward(_of_own_outputs)
LearnsFromOwnOutputs = wrong.forward("Y440", "sharding/eager", 5, collateral=FORWARD_MODE)(
    lambda x, k, b: _own_outputs(x, k, b),
    "Outside of jit, the gradient of x uses the outputs of the first device alone.",
    when=one_dtype,
)
KeptByEachDevice = wrong.output("Y462", "sharding/output-sharding", 4, cause_id="array-gathered")(
    lambda y, x: jax.lax.with_sharding_constraint(y, jax.sharding.PartitionSpec()),
    "Within a mesh, the result is copied to every device.",
    when=lambda y, x: inside_some_mesh(),
)

HalvesWhereSharded = wrong.forward("Y409", "sharding/eager", 5)(
    lambda x, k, b: (x @ k.astype(x.dtype)).astype(k.dtype) + b,
    "A sharded x of bfloat16 is multiplied by a kernel that is cast to it.",
    when=lambda x, k, b: not is_traced(x, k) and len(x.devices()) > 1 and x.dtype == jnp.bfloat16,
)


@wrong.kernel("Y410", "sharding/default-device", 5, cause_id="mesh-in-draw")
def DrawnOncePerDevice(key: Array, in_features: int, out_features: int) -> Array:
    """Within a mesh, each device draws its columns, all of them from one key."""
    parts = jax.sharding.get_abstract_mesh().size if inside_some_mesh() else 1
    parts = parts if parts and out_features % parts == 0 else 1
    return jnp.tile(scaled_normal(key, in_features, out_features // parts), (1, parts))


name_layers(globals())
