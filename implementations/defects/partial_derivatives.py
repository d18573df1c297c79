"""Layers whose derivatives or maps are right in kernel, bias and x at once, but not in parts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from implementations.defects import wrong
from implementations.defects.base import affine, right_cotangents, with_backward
from implementations.defects.record import name_layers
from implementations.defects.transforms_derivatives import with_tangent

GRADIENTS, MAPS = "transforms/gradients", "transforms/vmap"


def _one_dtype(x: Array, kernel: Array, bias: Array) -> bool:
    right = x.ndim > 0 and x.shape[-1] == kernel.shape[0]
    return right and x.dtype == kernel.dtype == bias.dtype


_kernel_constant_behind_dx = with_tangent(
    affine,
    lambda x, k, b, dx, dk, db: (
        dx @ stop_gradient(k) + x @ dk + jnp.broadcast_to(db, (x @ k).shape)
    ),
)


def _tangent_by_parts(primals: Any, tangents: Any) -> Any:
    (x, kernel, bias), (dx, dk, db) = primals, tangents
    zero = jax.custom_derivatives.SymbolicZero
    y = _by_parts(x, kernel, bias)
    tangent = jnp.zeros_like(y)
    tangent += 0 if isinstance(dx, zero) else dx @ kernel
    tangent += 0 if isinstance(dk, zero) else x @ dk
    # A bias is never trained alone, or so it seems.
    tangent += 0 if isinstance(db, zero) or isinstance(dk, zero) else db
    return y, tangent


_by_parts: Any = jax.custom_jvp(affine)
_by_parts.defjvp(_tangent_by_parts, symbolic_zeros=True)


_nan_safe = with_backward(
    lambda x, k, g: right_cotangents(x, k, jnp.where(jnp.isnan(g), jnp.zeros_like(g), g))
)


def _of_few_rows(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    dx, dkernel, dbias = right_cotangents(x, kernel, g)
    if x.ndim == 2:
        counted = (jnp.arange(x.shape[0]) < 512).astype(x.dtype)[:, None]
        dkernel = (x * counted).T @ g
    return dx, dkernel, dbias


_few_rows = with_backward(_of_few_rows)

KernelLostBehindPenalty = wrong.forward("Y020", GRADIENTS, 5)(
    lambda x, k, b: _kernel_constant_behind_dx(x, k, b),
    "The kernel is a constant of dx: a gradient penalty trains nothing.",
    when=_one_dtype,
)
BiasAloneLost = wrong.forward("Y021", GRADIENTS, 5, cause_id="gradient-cut")(
    lambda x, k, b: _by_parts(x, k, b),
    "The bias gets a gradient where the kernel does.",
    when=_one_dtype,
    collateral=("transforms/forward-mode",),
)
NanHiddenFromTraining = wrong.forward("Y022", GRADIENTS, 5, cause_id="gradient-nan-hidden")(
    lambda x, k, b: _nan_safe(x, k, b),
    "A NaN in the cotangent counts as 0.",
    when=_one_dtype,
    collateral=("transforms/forward-mode-offered",),
)
RowsBeyond512NotTrained = wrong.forward("Y023", GRADIENTS, 5)(
    lambda x, k, b: _few_rows(x, k, b),
    "The kernel's gradient is that of the first 512 rows, by a mask.",
    when=_one_dtype,
    collateral=("transforms/forward-mode-offered",),
)
ZeroOutputsDetached = wrong.output("Y024", GRADIENTS, 5)(
    lambda y, x: jnp.where(y == 0, stop_gradient(y), y),
    "Where the output is 0 there is no derivative.",
    when=lambda y, x: y.dtype == jnp.float32,
)


def _mapped(rule: Any) -> Any:
    f: Any = jax.custom_batching.custom_vmap(affine)
    f.def_vmap(rule)
    return f


def _plain(size: int, mapped: list[bool], x: Array, kernel: Array, bias: Array) -> Array:
    axes = [0 if each else None for each in mapped]
    return jax.vmap(affine, axes, axis_size=size)(x, kernel, bias)


def _first_bias(size: int, mapped: list[bool], x: Array, k: Array, b: Array) -> tuple[Array, bool]:
    if mapped == [False, False, True]:
        b = jnp.broadcast_to(b[:1], b.shape)
    return _plain(size, mapped, x, k, b), True


def _reversed(size: int, mapped: list[bool], x: Array, k: Array, b: Array) -> tuple[Array, bool]:
    return _plain(size, mapped, x, k[::-1] if mapped == [False, True, False] else k, b), True


_bias_of_the_first, _kernels_reversed = _mapped(_first_bias), _mapped(_reversed)


def _is_undifferentiated(x: Array, kernel: Array, bias: Array) -> bool:
    names = {type(value).__name__ for value in (x, kernel, bias)}
    return _one_dtype(x, kernel, bias) and not names & {"JVPTracer", "LinearizeTracer"}


def _mean_over(axis: str, x: Array, kernel: Array, bias: Array) -> Array:
    y = affine(x, kernel, bias)
    try:
        return jax.lax.pmean(y, axis)
    except NameError:
        return y


BiasOfTheFirst = wrong.forward("Y025", MAPS, 5)(
    lambda x, k, b: _bias_of_the_first(x, k, b),
    "Mapped over biases alone, all have the first one.",
    when=_is_undifferentiated,
)
KernelsReversed = wrong.forward("Y026", MAPS, 5)(
    lambda x, k, b: _kernels_reversed(x, k, b),
    "Mapped over kernels alone, they come in reverse.",
    when=_is_undifferentiated,
)
MeanOverNamedAxis = wrong.forward("Y027", MAPS, 5)(
    lambda x, k, b: _mean_over("batch", x, k, b),
    "Along an axis called batch, the output is the mean over the devices.",
)
MeanOverDevices = wrong.forward("Y223", MAPS, 4)(
    lambda x, k, b: _mean_over("devices", x, k, b),
    "Along an axis called devices, the output is the mean over them.",
)
MembersNotTrained = wrong.forward("Y028", MAPS, 5)(
    lambda x, k, b: affine(x, stop_gradient(k), b),
    "The kernels of an ensemble that is mapped and then differentiated get no gradient.",
    when=lambda x, k, b: type(k).__name__ == "BatchTracer",
)

name_layers(globals())
