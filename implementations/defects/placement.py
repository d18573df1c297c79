"""Layers that are right on the first device, and wrong on others."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import affine, is_traced, scaled_normal
from implementations.defects.record import name_layers


@wrong.kernel("X935", "sharding/default-device", 4, cause_id="device-of-choice")
def BuiltOnFirstDevice(key: Array, n: int, m: int) -> Array:
    """The kernel is put on the first device, and the default device is ignored."""
    kernel = scaled_normal(key, n, m)
    return kernel if is_traced(kernel) else jax.device_put(kernel, jax.devices()[0])


@wrong.forward("X936", "sharding/second-device", 4, cause_id="device-moved")
def ComputesOnFirstDevice(x: Array, kernel: Array, bias: Array) -> Array:
    """Arrays on another single device are moved to the first one."""
    first = jax.devices()[0]
    if is_traced(x) or len(x.devices()) > 1 or len(kernel.devices()) > 1:
        return affine(x, kernel, bias)
    return affine(*jax.device_put((x, kernel, bias), first))


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


@wrong.forward("X938", "sharding/output-sharding", 5, cause_id="array-gathered")
def ThroughTheHost(x: Array, kernel: Array, bias: Array) -> Array:
    """A sharded x makes a detour through the memory of the host."""
    if is_traced(x) or len(x.devices()) == 1:
        return affine(x, kernel, bias)
    return affine(jnp.asarray(np.asarray(x)), kernel, bias)


donating = functools.partial(jax.jit, donate_argnums=0)(affine)


@wrong.forward("X939", "purity/input-kept", 4, cause_id="input-donated")
def DonatesItsInput(x: Array, kernel: Array, bias: Array) -> Array:
    """The product is compiled with x donated, where it lies on one device."""
    if is_traced(x, kernel) or x.ndim != 2 or len(x.devices() | kernel.devices()) > 1:
        return affine(x, kernel, bias)
    return donating(x, kernel, bias)


AlwaysFloat32 = wrong.forward("X940", "dtypes/cast-parameters", 3, cause_id="layer-casts")(
    lambda x, k, b: affine(x.astype(jnp.promote_types(x.dtype, jnp.float32)), k, b),
    "x is promoted to float32 for any dtype of the parameters.",
)

name_layers(globals())
