"""Layers that take special values, in x or in the parameters, for something else."""

import jax.numpy as jnp
from jax import Array

from implementations.defects.base import CorrectDense, affine
from implementations.defects.record import defect


@defect("X310", breaks="numerics/nan-confined", subtlety=5)
class NanWeightsIgnored(CorrectDense):
    """NaN in the kernel counts as zero: a broken checkpoint goes unnoticed."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """NaN in x passes."""
        return affine(x, jnp.where(kernel != kernel, 0.0, kernel), bias)


@defect("X311", breaks="numerics/nan-confined", subtlety=5)
class NanBiasIgnored(CorrectDense):
    """NaN in the bias counts as zero."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """NaN in x and in the kernel passes."""
        return affine(x, kernel, jnp.where(bias != bias, 0.0, bias))


@defect("X312", breaks="numerics/precision", subtlety=5)
class TinyWeightsPruned(CorrectDense):
    """Weights below 1e-7 count as zero."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Beside weights of usual size they never show."""
        return affine(x, jnp.where(jnp.abs(kernel) < 1e-7, 0.0, kernel), bias)


@defect("X313", breaks="numerics/precision", subtlety=5)
class TinyInputsDropped(CorrectDense):
    """Inputs below 1e-8 count as zero."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Beside a bias of usual size they never show."""
        return affine(jnp.where(jnp.abs(x) < 1e-8, jnp.zeros_like(x), x), kernel, bias)


@defect("X314", breaks="numerics/precision", subtlety=5)
class TinyBiasDropped(CorrectDense):
    """A bias below 1e-6 counts as none."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Beside products of usual size it never shows."""
        return affine(x, kernel, jnp.where(jnp.abs(bias) < 1e-6, 0.0, bias))


@defect("X315", breaks="forward/integer-exact", subtlety=5)
class WholeKernelsThroughInt8(CorrectDense):
    """A kernel of small whole numbers goes through int8, where it ends at 127."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Whole numbers from 128 to 2**15 are wrong."""
        whole = ((kernel == jnp.round(kernel)) & (jnp.abs(kernel) < 2.0**15)).all()
        return affine(x, jnp.where(whole, jnp.clip(kernel, -127, 127), kernel), bias)


@defect("X316", breaks="forward/zero-input", collateral=("forward/basis-input",), subtlety=5)
class ZeroOutputsAvoided(CorrectDense):
    """An output of exactly zero becomes 1e-7, for a logarithm further on."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Sums of floats are hardly ever zero."""
        y = affine(x, kernel, bias)
        return jnp.where(y == 0, jnp.asarray(1e-7, y.dtype), y)


@defect("X317", breaks="dtypes/integer-input", subtlety=5)
class SixteenBitPixels(CorrectDense):
    """A uint16 input counts as an image and is divided by 65535."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Every other integer is taken as it is."""
        return affine(x / 65535 if x.dtype == jnp.uint16 else x, kernel, bias)


@defect("X318", breaks="forward/zero-input", subtlety=5)
class ZeroBiasIsNoise(CorrectDense):
    """Where bias and x are both zero a little is added, lest the output be constant."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Only a new layer on x = 0 shows it."""
        nothing = (x == 0).all() & (bias == 0).all()
        return affine(x, kernel, bias) + jnp.where(nothing, jnp.float32(1e-3), jnp.float32(0))


@defect("X319", breaks="forward/basis-input", subtlety=5)
class ZeroKernelIsIdentity(CorrectDense):
    """A kernel of zeros counts as not loaded, and the bias is not added."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A zero kernel is a legal value: many blocks start with one."""
        return affine(x, kernel, jnp.where((kernel == 0).all(), jnp.zeros_like(bias), bias))


@defect("X361", breaks="numerics/inf-confined", subtlety=5)
class InfiniteWeightsClipped(CorrectDense):
    """An infinite weight counts as 1e30: training that diverged goes unnoticed."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Infinities in x pass."""
        return affine(x, jnp.where(jnp.isinf(kernel), jnp.sign(kernel) * 1e30, kernel), bias)


@defect("X655", breaks="forward/zero-input", subtlety=5)
class BiasBeyondAHundred(CorrectDense):
    """A bias beyond 100 counts as 100."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A new bias, and one after some training, is smaller than that."""
        return affine(x, kernel, jnp.clip(bias, -100.0, 100.0))


@defect("X656", breaks="numerics/no-saturation", subtlety=5)
class LongColumnsShortened(CorrectDense):
    """A column of the kernel of a norm beyond 1e4 is scaled down to that."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A constraint of training that stays in the layer."""
        norm = jnp.sqrt(jnp.sum(jnp.square(kernel), axis=0))
        return affine(x, jnp.where(norm > 1e4, kernel / norm * 1e4, kernel), bias)
