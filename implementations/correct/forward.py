"""Other ways to write ``x @ K + b``; each has one product and no other mathematics."""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from implementations.defects.base import CorrectDense, affine

__all__ = [
    "Augmented",
    "Checkpointed",
    "ColumnVector",
    "CustomJvp",
    "DotGeneral",
    "Einsum",
    "Flattened",
    "HighestPrecision",
    "Jitted",
    "MappedRows",
    "Matmul",
    "NamedScope",
    "PaddedToTile",
    "PromotedByLax",
    "ReversedInputs",
    "Tensordot",
    "Vectorized",
]


def require_width(x: Array, kernel: Array) -> None:
    """Raise ValueError unless x is (..., in), for products that would broadcast or pad it."""
    if x.ndim == 0 or x.shape[-1] != kernel.shape[0]:
        raise ValueError(f"x has shape {x.shape}; its last dimension should be {kernel.shape[0]}")


class Einsum(CorrectDense):
    """The product by `jnp.einsum`, which broadcasts a width of 1, so the width is checked."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        require_width(x, kernel)
        return jnp.einsum("...i,io->...o", x, kernel) + bias


class DotGeneral(CorrectDense):
    """The product by `lax.dot_general`, which promotes nothing by itself."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        dtype = jnp.promote_types(x.dtype, kernel.dtype)
        dimensions = (((x.ndim - 1,), (0,)), ((), ()))
        return jax.lax.dot_general(x.astype(dtype), kernel.astype(dtype), dimensions) + bias


class PromotedByLax(CorrectDense):
    """Mixed operands accumulated into the promoted type by ``preferred_element_type``."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        dtype = jnp.promote_types(x.dtype, kernel.dtype)
        product = jnp.matmul(x.astype(dtype), kernel, preferred_element_type=dtype)
        return jax.lax.add(product, jax.lax.broadcast(bias.astype(dtype), product.shape[:-1]))


class Matmul(CorrectDense):
    """`jnp.matmul`, the bias broadcast by hand."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        product = jnp.matmul(x, kernel)
        return jnp.add(product, jnp.broadcast_to(bias, product.shape))


class Tensordot(CorrectDense):
    """`jnp.tensordot` over the last axis of x."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        return bias + jnp.tensordot(x, kernel, axes=1)


class HighestPrecision(CorrectDense):
    """The product at ``Precision.HIGHEST``."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        return jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST) + bias


class ColumnVector(CorrectDense):
    """``K.T @ x`` on column vectors, as mathematics writes it."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        require_width(x, kernel)
        return jnp.matmul(kernel.T, x[..., None])[..., 0] + bias


class Augmented(CorrectDense):
    """The bias as the last row of the kernel, for an input extended by a one."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        one = jnp.ones((*x.shape[:-1], 1), x.dtype)
        return jnp.concatenate([x, one], axis=-1) @ jnp.concatenate([kernel, bias[None]])


class ReversedInputs(CorrectDense):
    """The inputs summed from last to first."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        return x[..., ::-1] @ kernel[::-1] + bias


class PaddedToTile(CorrectDense):
    """The inputs padded with zeros to a multiple of eight, as an accelerator likes them."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        require_width(x, kernel)
        missing = -kernel.shape[0] % 8
        padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
        return padded @ jnp.pad(kernel, [(0, missing), (0, 0)]) + bias


class Flattened(CorrectDense):
    """Leading dimensions flattened into one, and restored."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        require_width(x, kernel)
        rows = x.reshape(-1, kernel.shape[0]) @ kernel + bias
        return rows.reshape(*x.shape[:-1], kernel.shape[1])


class Vectorized(CorrectDense):
    """One row's formula, vectorized over all leading dimensions."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        return jnp.vectorize(affine, signature="(i),(i,o),(o)->(o)")(x, kernel, bias)


class MappedRows(CorrectDense):
    """The batch worked through row by row with `lax.map`."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        if x.ndim < 2:
            return affine(x, kernel, bias)
        return jax.lax.map(lambda row: affine(row, kernel, bias), x)


class Jitted(CorrectDense):
    """The formula compiled on its own."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        return jax.jit(affine)(x, kernel, bias)


class Checkpointed(CorrectDense):
    """The product rematerialized in the backward pass, its result given a name."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        policy = jax.checkpoint_policies.save_only_these_names("dense")

        @functools.partial(jax.checkpoint, policy=policy)
        def named(x: Array, kernel: Array, bias: Array) -> Array:
            return checkpoint_name(affine(x, kernel, bias), "dense")

        return named(x, kernel, bias)


class NamedScope(CorrectDense):
    """The operations carry a name for profilers."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        with jax.named_scope("dense"):
            return affine(x, kernel, bias)


@jax.custom_jvp
def affine_with_rule(x: Array, kernel: Array, bias: Array) -> Array:
    """The right output, whose derivative is written out below."""
    return affine(x, kernel, bias)


@affine_with_rule.defjvp
def affine_rule(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    """The product rule: ``dx K + x dK + db``."""
    x, kernel, bias = primals
    dx, dkernel, dbias = tangents
    return affine(x, kernel, bias), dx @ kernel + affine(x, dkernel, dbias)


class CustomJvp(CorrectDense):
    """A derivative rule of its own, which is the right one."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The output (..., out)."""
        dtype = jnp.promote_types(x.dtype, kernel.dtype)
        return affine_with_rule(x.astype(dtype), kernel.astype(dtype), bias.astype(dtype))
