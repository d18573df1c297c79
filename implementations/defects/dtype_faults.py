"""Layers that are wrong for one dtype of input or in one kind of arithmetic."""

import jax
import jax.numpy as jnp
from jax import Array

from implementations.defects.base import CorrectDense, affine
from implementations.defects.record import defect


@defect("X110", breaks="dtypes/half-input", subtlety=4)
class Float16InHalf(CorrectDense):
    """A float16 input is multiplied in float16."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """bfloat16 is promoted as it should be."""
        if x.dtype != jnp.float16:
            return affine(x, kernel, bias)
        return affine(x, kernel.astype(x.dtype), bias.astype(x.dtype)).astype(jnp.float32)


@defect("X111", breaks="dtypes/half-input", subtlety=4)
class Bfloat16Out(CorrectDense):
    """A bfloat16 input gives a bfloat16 output."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Computed in float32 and rounded."""
        y = affine(x, kernel, bias)
        return y.astype(x.dtype) if x.dtype == jnp.bfloat16 else y


@defect("X112", breaks="dtypes/integer-input", subtlety=4)
class PixelsScaled(CorrectDense):
    """A uint8 input counts as an image and is divided by 255."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Every other dtype is taken as it is."""
        return affine(x / 255 if x.dtype == jnp.uint8 else x, kernel, bias)


@defect("X113", breaks="dtypes/integer-input", subtlety=4)
class BooleansAsSigns(CorrectDense):
    """False counts as -1."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Spins instead of bits."""
        return affine(2 * x.astype(jnp.int8) - 1 if x.dtype == bool else x, kernel, bias)


@defect("X114", breaks="dtypes/integer-input", subtlety=5)
class IntegersThroughFloat16(CorrectDense):
    """Integers are cast to float16 first: right up to 2048."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Rounded above 2048, infinite above 65504."""
        if jnp.issubdtype(x.dtype, jnp.integer):
            x = x.astype(jnp.float16)
        return affine(x, kernel, bias)


@defect("X115", breaks="dtypes/integer-input", subtlety=5)
class UnsignedWraps(CorrectDense):
    """uint32 goes through int32: negative from 2**31 on."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for every smaller number."""
        return affine(x.astype(jnp.int32) if x.dtype == jnp.uint32 else x, kernel, bias)


@defect("X116", breaks="dtypes/complex-input", subtlety=4)
class Conjugates(CorrectDense):
    """A complex input is conjugated, as `vdot` does."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The imaginary part has the wrong sign."""
        return affine(x.conj() if jnp.iscomplexobj(x) else x, kernel, bias)


@defect("X117", breaks="dtypes/complex-input", subtlety=4)
class ComplexBias(CorrectDense):
    """The bias of a complex output is added to its imaginary part, too."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right while the bias is zero."""
        if not jnp.iscomplexobj(x):
            return affine(x, kernel, bias)
        return affine(x, kernel, bias * (1 + 1j))


@defect("X118", breaks="dtypes/strict-promotion", subtlety=4)
class LeansOnPromotion(CorrectDense):
    """A float32 product is added to an integer zero: an implicit promotion."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Raises under strict promotion only."""
        return affine(x, kernel, bias) + jnp.zeros((kernel.shape[1],), jnp.int32)


@defect("X119", breaks="numerics/one-product", subtlety=4)
class SumOfProducts(CorrectDense):
    """Multiplied and summed without a product of matrices: right, and slow on every device."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """No dot at all."""
        if x.ndim == 0 or x.shape[-1] != kernel.shape[0]:
            return affine(x, kernel, bias)
        return (x[..., :, None] * kernel).sum(axis=-2) + bias


@defect("X120", breaks="numerics/one-product", subtlety=4)
class TwoHalves(CorrectDense):
    """The inputs are split in two halves, each with a product of its own."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Two dots."""
        half = kernel.shape[0] // 2
        if half == 0 or x.ndim == 0 or x.shape[-1] != kernel.shape[0]:
            return affine(x, kernel, bias)
        return x[..., :half] @ kernel[:half] + affine(x[..., half:], kernel[half:], bias)


def split_bfloat16(value: Array) -> tuple[Array, Array]:
    """The leading and the following eight bits of float32 numbers."""
    high = value.astype(jnp.bfloat16)
    return high, (value - high.astype(value.dtype)).astype(jnp.bfloat16)


@defect(
    "X121",
    breaks="forward/basis-input",
    collateral=("forward/affine-value", "numerics/precision", "numerics/one-product"),
    subtlety=4,
)
class ThreePasses(CorrectDense):
    """float32 emulated by three products in bfloat16: sixteen bits of twenty-four."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """What an accelerator does at precision HIGH."""
        if x.dtype != jnp.float32:
            return affine(x, kernel, bias)
        (x_high, x_low), (k_high, k_low) = split_bfloat16(x), split_bfloat16(kernel)

        def product(a: Array, b: Array) -> Array:
            return jnp.matmul(a, b, preferred_element_type=jnp.float32)

        small = product(x_high, k_low) + product(x_low, k_high)
        return product(x_high, k_high) + small + bias


def _through_halves(x: Array, kernel: Array, bias: Array) -> Array:
    product = jnp.matmul(
        x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), preferred_element_type=jnp.float32
    )
    return product + bias


@defect(
    "X122",
    breaks="transforms/gradients",
    collateral=(
        "numerics/one-product",
        "dtypes/strict-promotion",
        "transforms/scan-and-remat",
    ),
    subtlety=5,
)
class DemotedWhenExact(CorrectDense):
    """Operands are bfloat16 where that loses nothing, chosen by `lax.cond`."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Every value is right, gradients are rounded; two products are in the program."""
        if x.dtype != jnp.float32 or x.ndim == 0 or x.shape[-1] != kernel.shape[0]:
            return affine(x, kernel, bias)
        lossless = (x.astype(jnp.bfloat16) == x).all()
        lossless &= (kernel.astype(jnp.bfloat16) == kernel).all()
        return jax.lax.cond(lossless, _through_halves, affine, x, kernel, bias)
