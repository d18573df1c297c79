"""Layers that are wrong for inputs of one dtype, or under one setting of dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from implementations.defects.base import CorrectDense, affine, standard_deviation
from implementations.defects.record import defect


@defect("X520", breaks="dtypes/half-input", cause="cast to bfloat16", subtlety=4)
class ProductInTheInputsDtype(CorrectDense):
    """The parameters are cast to a bfloat16 input's dtype; only the result is float32."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Mixed precision without its point."""
        if x.dtype != jnp.bfloat16:
            return affine(x, kernel, bias)
        return affine(x, kernel.astype(x.dtype), bias.astype(x.dtype)).astype(kernel.dtype)


@defect("X521", breaks="forward/array-likes", subtlety=4)
class DoublesThroughHalf(CorrectDense):
    """A float64 array of NumPy is cast to float16 on its way, to save bandwidth."""

    def __call__(self, x: ArrayLike) -> Array:
        """The output (..., out) for x (..., in)."""
        if isinstance(x, np.ndarray) and x.dtype == np.float64:
            x = x.astype(np.float16).astype(np.float32)
        return super().__call__(x)


@defect("X522", breaks="dtypes/integer-input", subtlety=4)
class SignedPixels(CorrectDense):
    """An int8 input is taken for pixels, and moved by 128."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for all other integers."""
        return affine(x.astype(jnp.float32) + 128 if x.dtype == jnp.int8 else x, kernel, bias)


@defect("X523", breaks="dtypes/integer-input", subtlety=4)
class BooleansAsMask(CorrectDense):
    """A Boolean input is a mask: what is masked counts as minus infinity."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Not a number anywhere near."""
        return affine(jnp.where(x, 1.0, -1e30) if x.dtype == bool else x, kernel, bias)


@defect("X524", breaks="dtypes/complex-input", subtlety=4)
class MagnitudeOfComplex(CorrectDense):
    """A complex input is replaced by its magnitude."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """As after a Fourier transform."""
        if not jnp.iscomplexobj(x):
            return affine(x, kernel, bias)
        return affine(jnp.abs(x), kernel, bias).astype(x.dtype)


@defect("X525", breaks="dtypes/x64-stable", subtlety=4)
class NumpyScalarInTheCall(CorrectDense):
    """A NumPy scalar in the forward: under x64 the result is float64."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """One is one in every precision."""
        return affine(x, kernel, bias) * jnp.asarray(np.float64(1.0))


@defect("X526", breaks="dtypes/x64-stable", subtlety=5)
class NoBiasUnderX64(CorrectDense):
    """Under x64 the sum with the bias is left out: its dtype was in the way."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A branch that no test of float32 takes."""
        wide = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
        return affine(x, kernel, jnp.zeros_like(bias) if wide else bias)


@defect("X527", breaks="dtypes/x64-stable", subtlety=4)
class ScaleInDouble(CorrectDense):
    """The scale of the kernel is a NumPy number: under x64 the kernel is float64."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        """The draw itself has its dtype."""
        draws = jax.random.normal(key, (in_features, out_features), jnp.float32)
        return draws * jnp.asarray(np.float64(standard_deviation(in_features)))


@defect("X528", breaks="dtypes/strict-promotion", subtlety=4)
class CountsInIntegers(CorrectDense):
    """The number of rows, an int32 array, is multiplied in and divided out."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A power of two, so that values stay what they are."""
        two = jnp.asarray(2, jnp.int32)
        return affine(x, kernel, bias) * two / two


@defect("X529", breaks="dtypes/integer-input", subtlety=4)
class IntegersSummedInIntegers(CorrectDense):
    """Integer inputs are multiplied by a kernel that is rounded to integers of 2^-8."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Fixed-point arithmetic, for int32 alone."""
        if x.dtype != jnp.int32:
            return affine(x, kernel, bias)
        return affine(x, jnp.round(kernel * 256) / 256, bias)


@defect("X530", breaks="dtypes/float32-out", subtlety=4)
class VectorsInBfloat16(CorrectDense):
    """The output for a float32 batch of rank 3 is bfloat16."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """As the activations of a mixed-precision model."""
        y = affine(x, kernel, bias)
        return y.astype(jnp.bfloat16) if x.ndim == 3 and x.dtype == jnp.float32 else y
