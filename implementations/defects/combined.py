"""Layers that are wrong only where two conditions meet, such as a rank and a dtype."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.correct.options import AllOptions
from implementations.defects import wrong
from implementations.defects.base import CorrectDense, CorrectLinenDense, affine, is_traced
from implementations.defects.record import defect, name_layers

_kept: list[Array] = []
_donating = jax.jit(affine, donate_argnums=0)


def _is_eager_sequence(x: Array, kernel: Array, bias: Array) -> bool:
    return x.ndim == 3 and not is_traced(x, kernel, bias)


CompilesSequences = wrong.forward(
    "Y352", "transforms/compiled-once", 4, cause_id="compiled-in-call"
)(
    lambda x, k, b: jax.jit(lambda x, k, b: affine(x, k, b))(x, k, b),
    "An x of rank 3 is compiled in every call.",
    when=_is_eager_sequence,
)
KeepsSequences = wrong.forward("Y353", "purity/nothing-kept", 4, cause_id="array-kept")(
    lambda x, k, b: (_kept.append(x), affine(x, k, b))[1],  # type: ignore[func-returns-value]  # as meant
    "Every x of rank 3 is kept in a list.",
    when=_is_eager_sequence,
)


@wrong.forward("Y354", "purity/globals-untouched", 4, cause_id="global-changed")
def PrecisionOfHalf(x: Array, kernel: Array, bias: Array) -> Array:
    """An x of bfloat16 sets the precision of products for the whole process."""
    if x.dtype == jnp.bfloat16 and not is_traced(x):
        jax.config.update("jax_default_matmul_precision", "bfloat16")
    return affine(x, kernel, bias)


@wrong.call("Y355", "purity/input-untouched", 4, cause_id="input-written")
def ClipsHalfInPlace(self: Any, x: ArrayLike) -> Array:
    """A NumPy array of float16 is clipped in place."""
    if isinstance(x, np.ndarray) and x.dtype == np.float16 and x.flags.writeable:
        np.clip(x, -100, 100, out=x)
    return CorrectDense.__call__(self, x)


DonatesSequences = wrong.forward("Y356", "purity/input-kept", 4, cause_id="input-donated")(
    _donating,
    "An x of rank 3 is donated to the result.",
    when=lambda x, k, b: _is_eager_sequence(x, k, b) and k.shape[0] == k.shape[1],
)


@defect("Y357", "options/precision", 4)
class PrecisionWithoutDtype(AllOptions):
    """With ``dtype``, the precision is not used."""

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        if self.dtype is None:
            return super().affine(x, kernel, bias)
        y = self.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


@defect("Y358", "options/dot-general", 4, cause_id="option-by-branch")
class DotGeneralWithoutDtype(AllOptions):
    """With ``dtype``, ``dot_general`` does not compute the product."""

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        if self.dtype is None:
            return super().affine(x, kernel, bias)
        y = jnp.matmul(x, kernel, precision=self.precision)
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


def _product(x: Array, kernel: Array) -> Array:
    return x @ kernel


def _back(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = kept
    rows = x.reshape(-1, x.shape[-1]).T @ g.reshape(-1, g.shape[-1])
    return g @ kernel.T, rows * 0.5


_halving: Any = jax.custom_vjp(_product)
_halving.defvjp(lambda x, k: (x @ k, (x, k)), _back)


@defect("Y359", "options/use-bias", 4, cause_id="gradient-halved")
class SlowWithoutBias(AllOptions):
    """Without a bias, the kernel gets half of its gradient."""

    def __init__(
        self, in_features: int, out_features: int, *, use_bias: bool = True, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, use_bias=use_bias, rngs=rngs)

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Any:
        if bias is None and x.dtype == kernel.dtype == jnp.float32:
            return _halving(x, kernel)
        return super().affine(x, kernel, bias)


@defect("Y363", "options/use-bias", 4, cause_id="law-by-option")
class AnotherLawWithoutBias(AllOptions):
    """Without a bias, kernels are drawn for a ReLU."""

    def __init__(
        self, in_features: int, out_features: int, *, use_bias: bool = True, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, use_bias=use_bias, rngs=rngs)
        if not use_bias:
            self.kernel = nnx.Param(self.kernel[...] * 2**0.5)


@defect("Y360", "models/linen-submodule", 4)
class RankOfTheFirstCall(CorrectLinenDense):
    """Used twice in one model, the layer adds no bias to an x of another rank than the first."""

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        kernel = self.param("kernel", self.draw_kernel, x)
        bias = self.param("bias", self.draw_bias, x)
        first = getattr(self, "_rank", x.ndim)
        object.__setattr__(self, "_rank", first)
        return affine(x, kernel, bias if x.ndim == first else bias * 0)


ImagesScaled = wrong.forward("Y361", "dtypes/integer-input", 3)(
    lambda x, k, b: affine(x / 255, k, b),
    "An x of uint8 and rank 4 is taken for images, and scaled to numbers from 0 to 1.",
    when=lambda x, k, b: x.dtype == jnp.uint8 and x.ndim == 4,
)
HalfSequencesRound = wrong.forward("Y362", "dtypes/half-input", 4)(
    lambda x, k, b: affine(x, k.astype(x.dtype), b).astype(jnp.float32),
    "For an x of float16 and rank 3, a kernel of 64 inputs or more is rounded.",
    when=lambda x, k, b: x.dtype == jnp.float16 and x.ndim == 3 and len(k) >= 64,
)

name_layers(globals())
