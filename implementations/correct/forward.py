"""Other ways to write ``x @ K + b``; each has one product and no other mathematics."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from implementations.defects import hooks
from implementations.defects.base import affine
from implementations.defects.record import name_layers

Tensordot = hooks.forward(
    lambda x, k, b: b + jnp.tensordot(x, k, axes=1), "`jnp.tensordot` over the last axis of x."
)
HighestPrecision = hooks.forward(
    lambda x, k, b: jnp.matmul(x, k, precision=jax.lax.Precision.HIGHEST) + b,
    "The product at ``Precision.HIGHEST``.",
)
ReversedInputs = hooks.forward(
    lambda x, k, b: x[..., ::-1] @ k[::-1] + b, "The inputs summed from last to first."
)
Vectorized = hooks.forward(
    lambda x, k, b: jnp.vectorize(affine, signature="(i),(i,o),(o)->(o)")(x, k, b),
    "One row's formula, vectorized over all leading dimensions.",
)
Jitted = hooks.forward(lambda x, k, b: jax.jit(affine)(x, k, b), "The formula compiled on its own.")


def _require_width(x: Array, kernel: Array) -> None:
    """Raise ValueError unless x is (..., in), for products that would broadcast or pad it."""
    if x.ndim == 0 or x.shape[-1] != kernel.shape[0]:
        raise ValueError(f"x has shape {x.shape}; its last dimension should be {kernel.shape[0]}")


@hooks.forward
def Einsum(x: Array, kernel: Array, bias: Array) -> Array:
    """The product by `jnp.einsum`, which broadcasts a width of 1, so the width is checked."""
    _require_width(x, kernel)
    return jnp.einsum("...i,io->...o", x, kernel) + bias


@hooks.forward
def DotGeneral(x: Array, kernel: Array, bias: Array) -> Array:
    """The product by `lax.dot_general`, which promotes nothing by itself."""
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    dimensions = (((x.ndim - 1,), (0,)), ((), ()))
    return jax.lax.dot_general(x.astype(dtype), kernel.astype(dtype), dimensions) + bias


@hooks.forward
def PromotedByLax(x: Array, kernel: Array, bias: Array) -> Array:
    """Mixed operands accumulated into the promoted type by ``preferred_element_type``."""
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    product = jnp.matmul(x.astype(dtype), kernel, preferred_element_type=dtype)
    return jax.lax.add(product, jax.lax.broadcast(bias.astype(dtype), product.shape[:-1]))


@hooks.forward
def Matmul(x: Array, kernel: Array, bias: Array) -> Array:
    """`jnp.matmul`, the bias broadcast by hand."""
    product = jnp.matmul(x, kernel)
    return jnp.add(product, jnp.broadcast_to(bias, product.shape))


@hooks.forward
def ColumnVector(x: Array, kernel: Array, bias: Array) -> Array:
    """``K.T @ x`` on column vectors, as mathematics writes it."""
    _require_width(x, kernel)
    return jnp.matmul(kernel.T, x[..., None])[..., 0] + bias


@hooks.forward
def Augmented(x: Array, kernel: Array, bias: Array) -> Array:
    """The bias as the last row of the kernel, for an input extended by a one."""
    one = jnp.ones((*x.shape[:-1], 1), x.dtype)
    return jnp.concatenate([x, one], axis=-1) @ jnp.concatenate([kernel, bias[None]])


@hooks.forward
def PaddedToTile(x: Array, kernel: Array, bias: Array) -> Array:
    """The inputs padded with zeros to a multiple of eight, as an accelerator likes them."""
    _require_width(x, kernel)
    missing = -kernel.shape[0] % 8
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return padded @ jnp.pad(kernel, [(0, missing), (0, 0)]) + bias


@hooks.forward
def Flattened(x: Array, kernel: Array, bias: Array) -> Array:
    """Leading dimensions flattened into one, and restored."""
    _require_width(x, kernel)
    rows = x.reshape(-1, kernel.shape[0]) @ kernel + bias
    return rows.reshape(*x.shape[:-1], kernel.shape[1])


@hooks.forward
def MappedRows(x: Array, kernel: Array, bias: Array) -> Array:
    """The batch worked through row by row with `lax.map`."""
    if x.ndim < 2:
        return affine(x, kernel, bias)
    return jax.lax.map(lambda row: affine(row, kernel, bias), x)


@hooks.forward
def Checkpointed(x: Array, kernel: Array, bias: Array) -> Array:
    """The product rematerialized in the backward pass, its result given a name."""
    policy = jax.checkpoint_policies.save_only_these_names("dense")

    @functools.partial(jax.checkpoint, policy=policy)
    def named(x: Array, kernel: Array, bias: Array) -> Array:
        return checkpoint_name(affine(x, kernel, bias), "dense")

    return named(x, kernel, bias)


@hooks.forward
def NamedScope(x: Array, kernel: Array, bias: Array) -> Array:
    """The operations carry a name for profilers."""
    with jax.named_scope("dense"):
        return affine(x, kernel, bias)


@jax.custom_jvp
def _affine_with_rule(x: Array, kernel: Array, bias: Array) -> Array:
    """The right output, whose derivative is written out below."""
    return affine(x, kernel, bias)


@_affine_with_rule.defjvp
def _affine_rule(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    """The product rule: ``dx K + x dK + db``."""
    x, kernel, bias = primals
    dx, dkernel, dbias = tangents
    return affine(x, kernel, bias), dx @ kernel + affine(x, dkernel, dbias)


@hooks.forward
def CustomJvp(x: Array, kernel: Array, bias: Array) -> Array:
    """A hand-written derivative rule, which is correct."""
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    return _affine_with_rule(x.astype(dtype), kernel.astype(dtype), bias.astype(dtype))


name_layers(globals())
