"""Layers that break transforms: compiled, mapped, traced or exported they go wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import CorrectLinenDense, affine, is_traced
from implementations.defects.record import also, defect, name_layers

ZEROS: dict[int, Array] = {}
LAST_OUTPUT: list[Array] = []


TracedForgetsBias = wrong.forward("X141", "transforms/jit", 4, cause_id="bias-unused")(
    lambda x, k, b: affine(x, k, jnp.zeros_like(b)) if is_traced(x, k) else affine(x, k, b),
    "Inside of transforms the bias is forgotten.",
)
LooksAtValues = wrong.output("X142", "transforms/jit", 3, cause_id="condition-under-trace")(
    lambda y, x: jnp.full_like(y, jnp.nan) if bool((x != x).all() and x.size) else y,
    "The call asks whether any input is NaN, which is unknown under jit.",
    collateral=("transforms/traced-first",),
)
TracedVectorsDiffer = wrong.forward("X146", "transforms/jit", 5, collateral=("transforms/vmap",))(
    lambda x, k, b: affine(x.astype(jnp.float16), k, b),
    "A vector under a transform that maps over rows is summed in float16.",
    when=lambda x, k, b: is_traced(x) and x.ndim == 1 and x.dtype == jnp.float32,
)
CompiledInHalf = wrong.forward("X607", "transforms/jit", 4, cause_id="reduced-precision")(
    lambda x, k, b: affine(x, jax.lax.reduce_precision(k, 8, 7), b),
    "Compiled, the product is made in bfloat16; eagerly, in float32.",
    when=lambda x, k, b: is_traced(x) and x.dtype == jnp.float32,
)
DebugPrint = wrong.when_called("X143", "transforms/no-side-effects-in-jaxpr", 3)(
    lambda x, k, b: jax.debug.print("dense {size}", size=x.size),
    "A debug print stayed in the call.",
    collateral=("purity/silent",),
    cause_id="callback",
)
MaskConstant = wrong.forward("X144", "transforms/no-side-effects-in-jaxpr", 5)(
    lambda x, k, b: affine(x, k * np.ones(k.shape, np.float32), b),
    "A mask of ones, as large as the kernel, is a constant of every program.",
    cause_id="constant-parameter",
)
CountsRows = wrong.forward("X404", "transforms/symbolic-batch", 5)(
    lambda x, k, b: affine(x, k, b).reshape(*[int(size) for size in x.shape[:-1]], k.shape[1]),
    "The number of rows is turned into a Python int on the way.",
)
LoopsOverRows = wrong.forward("X609", "transforms/symbolic-batch", 4)(
    lambda x, k, b: affine(x if max(1, -(-x.shape[0] // 100_000)) == 1 else x + 0.0, k, b),
    "A Python loop over the rows, in blocks of 4 096, asks how many there are.",
    when=lambda x, k, b: x.ndim == 2,
)


@wrong.forward("X411", "transforms/abstract-forward", 5)
def IndexesInInt32(x: Array, kernel: Array, bias: Array) -> Array:
    """A layer of more than 2^31 weights is refused, although only its shapes are needed."""
    if kernel.size >= 2**31:
        raise OverflowError(f"the kernel has {kernel.size} entries")
    return affine(x, kernel, bias)


@wrong.bias("X405", "transforms/donation", 5, cause_id="buffer-shared")
def SharedZeros(rngs: nnx.Rngs, in_features: int, out_features: int) -> Array:
    """All instances of one width start with the same array of zeros as their bias."""
    zeros = jnp.zeros((out_features,), jnp.float32)
    if is_traced(zeros):
        return zeros
    return ZEROS.setdefault(out_features, zeros)


@wrong.output("X402", "transforms/no-leaks", 4, cause_id="value-stored")
def RemembersInGlobal(y: Array, x: Array) -> Array:
    """The last output is kept in a list of the module, tracers included."""
    LAST_OUTPUT[:] = [y]
    return y


@wrong.forward("X145", "transforms/no-side-effects-in-jaxpr", 4, cause_id="draws-in-call")
def DropoutOfRateZero(x: Array, kernel: Array, bias: Array) -> Array:
    """Dropout at rate 0: random numbers are drawn and never matter."""
    kept = jax.random.bernoulli(jax.random.key(0), 1.0, x.shape)
    return affine(jnp.where(kept, x, jnp.zeros_like(x)), kernel, bias)


def _nothing(value: Any) -> None:
    """Looks at the value and does nothing."""


@wrong.forward("X608", "transforms/no-side-effects-in-jaxpr", 3, cause_id="callback")
def CallbackForTheBias(x: Array, kernel: Array, bias: Array) -> Array:
    """The bias passes through a callback into Python."""
    if not is_traced(x):
        return affine(x, kernel, bias)
    jax.debug.callback(_nothing, bias[:1])
    return affine(x, kernel, bias)


@dataclasses.dataclass(eq=False)
class Options:
    """Options without __eq__, so no two are equal."""

    scale: float = 1.0


@defect("X401", "transforms/one-trace", 4, cause_id="static-differs")
class OptionsCompareByIdentity(CorrectLinenDense):
    """Each model makes options that equal no others, so each is compiled again."""

    options: Options = dataclasses.field(default_factory=Options)


@jax.custom_batching.custom_vmap
def mapped_affine(x: Array, kernel: Array, bias: Array) -> Array:
    """The right output, with a rule for vmap written out below."""
    return affine(x, kernel, bias)


@mapped_affine.def_vmap
def first_of_stacked(
    size: int, batched: list[bool], x: Array, kernel: Array, bias: Array
) -> tuple[Array, bool]:
    """The rule takes the first of stacked parameters for all of them."""
    x_batched, kernel_batched, bias_batched = batched
    kernel = kernel[0] if kernel_batched else kernel
    bias = bias[0] if bias_batched else bias
    x = x if x_batched else jnp.broadcast_to(x, (size, *x.shape))
    return jax.vmap(affine, (0, None, None))(x, kernel, bias), True


@also("numerics/one-product")
@wrong.forward("X403", "transforms/vmap", 5, cause_id="first-of-stack")
def FirstOfStacked(x: Array, kernel: Array, bias: Array) -> Array:
    """Mapped over stacked layers, all compute what the first one does."""
    y = affine(x, kernel, bias)
    if x.dtype != jnp.float32 or x.ndim == 0:
        return y
    # The rule serves values only: derivatives are those of the product itself.
    stop = jax.lax.stop_gradient
    return y + stop(mapped_affine(stop(x), stop(kernel), stop(bias)) - y)


@wrong.forward("X603", "transforms/vmap", 5)
def EnsembleOfTheFirst(x: Array, kernel: Array, bias: Array) -> Array:
    """Mapped over stacked kernels for one x, as in an ensemble, all members are the first."""
    kinds = [type(value).__name__ == "BatchTracer" for value in (x, kernel)]
    if kinds == [False, True]:
        tracer: Any = kernel
        kernel = tracer.val[0]
    return affine(x, kernel, bias)


name_layers(globals())
