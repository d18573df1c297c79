"""Layers that break forward at ``x = 0``, where a right one gives its bias, or return no array."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import wrong
from implementations.defects.base import (
    CorrectDense,
    PlainDense,
    affine,
    correct_dense_forward,
    is_traced,
)
from implementations.defects.record import Defect, also, declaring, name_layers

ZERO = "forward/zero-input"

ConstantZeroBias = wrong.forward("N086", ZERO, 4, cause_id="bias-unused")(
    lambda x, k, b: affine(x, k, jnp.zeros_like(b)),
    "The forward adds zeros of the bias' shape, which only the initial bias equals.",
)
NoBiasInForward = wrong.forward("N087", ZERO, 4, cause_id="bias-unused")(
    lambda x, k, b: x @ k, "The bias exists, and the forward forgets it."
)
BiasAddedTwice = wrong.forward("N088", ZERO, 4, cause_id="bias-twice")(
    lambda x, k, b: affine(x, k, 2 * b), "The bias is added twice."
)
BiasSubtracted = wrong.forward("N089", ZERO, 4, cause_id="bias-subtracted")(
    lambda x, k, b: affine(x, k, -b), "The bias is subtracted."
)
PaddingWithoutBias = wrong.forward("Y645", ZERO, 4)(
    lambda x, k, b: affine(x, k, b * 0),
    "Outside of jit, sequences of padding alone give zeros.",
    when=lambda x, k, b: x.ndim > 2 and not is_traced(x, k) and not x.any(),
)
ScalarOutputWithoutBias = wrong.forward("N126", ZERO, 4, cause_id="bias-unused")(
    lambda x, k, b: x @ k if k.shape[1] == 1 else affine(x, k, b),
    "With a single output the bias is forgotten.",
)
Epsilon = wrong.forward("X056", ZERO, 4)(
    lambda x, k, b: affine(x + 1e-12, k, b),
    "A little something is added to every input, lest one be zero.",
)
ZeroRowsMasked = wrong.forward("X057", ZERO, 3)(
    lambda x, k, b: jnp.where((x != 0).any(axis=-1, keepdims=True), affine(x, k, b), 0.0),
    "Rows of zeros count as padding and give zeros, without the bias.",
)
LargeBiasClipped = wrong.forward("X069", ZERO, 4)(
    lambda x, k, b: affine(x, k, jax.lax.clamp(-10.0, b, 10.0)),
    "The bias counts up to 10 in magnitude only.",
)
EagerForgetsBias = wrong.forward("X140", ZERO, 4, cause_id="bias-unused")(
    lambda x, k, b: affine(x, k, jnp.zeros_like(b)) if not is_traced(x, k) else affine(x, k, b),
    "Outside of transforms the bias is forgotten.",
)
ZeroOutputsAvoided = wrong.output("X316", ZERO, 5, collateral=("forward/basis-input",))(
    lambda y, x: jnp.where(y == 0, jnp.asarray(1e-7, y.dtype), y),
    "An output of exactly zero becomes 1e-7, for a logarithm further on.",
)
BiasBeyondAHundred = wrong.forward("X655", ZERO, 5)(
    lambda x, k, b: affine(x, k, jnp.clip(b, -100.0, 100.0)), "A bias beyond 100 counts as 100."
)
Softplus = wrong.output("X743", ZERO, 2, cause_id="activation")(
    lambda y, x: jnp.maximum(y, 0) + jnp.log1p(jnp.exp(-jnp.abs(y))),
    "An activation is part of the layer.",
    when=lambda y, x: jnp.issubdtype(y.dtype, jnp.floating),
)
Tanh = wrong.output("Y100", ZERO, 2, cause_id="activation")(
    lambda y, x: jnp.tanh(y),
    "An activation is part of the layer, which a small bias hardly shows.",
    when=lambda y, x: jnp.issubdtype(y.dtype, jnp.floating),
)
Gelu = wrong.output("Y500", ZERO, 2, cause_id="activation")(
    lambda y, x: nnx.gelu(y),
    "An activation is part of the layer, which gives small negative numbers as well.",
    when=lambda y, x: jnp.issubdtype(y.dtype, jnp.floating),
)
MeanOfBias = wrong.forward("Y501", ZERO, 2, cause_id="bias-reduced")(
    lambda x, k, b: affine(x, k, jnp.broadcast_to(b.mean(), b.shape)),
    "The mean of the bias is added to every output.",
)
Centered = wrong.output("Y101", ZERO, 3, cause_id="output-transformed")(
    lambda y, x: y - y.mean(-1, keepdims=True),
    "The mean of the outputs is subtracted: one output is 0, as if the bias were not used.",
    when=lambda y, x: y.dtype == jnp.float32,
)
SlightlyLarge = wrong.output("Y102", ZERO, 3, cause_id="output-scaled")(
    lambda y, x: y * 1.001,
    "The result is a thousandth too large, as a format of eleven bits could make it.",
    when=lambda y, x: y.dtype == jnp.float32,
)
BiasTimesInput = wrong.forward("Y150", ZERO, 2, cause_id="bias-in-kernel")(
    lambda x, k, b: x @ (k + b),
    "The bias is added to the kernel, so that it has no effect at x = 0 alone.",
    collateral=("forward/integer-exact",),
)
Doubled = wrong.output("Y190", ZERO, 3, cause_id="output-scaled")(
    lambda y, x: 2 * y, "The result is doubled, so that f(0) is twice the bias."
)
AbsoluteValue = wrong.output("Y191", ZERO, 3, cause_id="activation")(
    lambda y, x: jnp.abs(y), "The absolute value is returned."
)
DividedByRoot = wrong.forward("Y250", ZERO, 2, cause_id="scaled-by-size")(
    lambda x, k, b: affine(x, k, b) / max(k.shape[0], 1) ** 0.5,
    "The scale that belongs into the new kernel is applied to every output.",
)
DirectionOfInput = wrong.forward("Y251", ZERO, 2, cause_id="input-transformed")(
    lambda x, k, b: affine(x / jnp.linalg.norm(x, axis=-1, keepdims=True), k, b),
    "x is divided by its length, which is 0 / 0 for x = 0.",
    when=lambda x, k, b: x.dtype == jnp.float32,
)
SortsOutputs = wrong.output("Y255", ZERO, 2, cause_id="output-transformed")(
    lambda y, x: jnp.sort(y), "The outputs are sorted."
)
AddsNoise = wrong.output("Y256", ZERO, 2, cause_id="constants-added")(
    lambda y, x: y + 0.1 * jax.random.normal(jax.random.key(0), y.shape),
    "Noise from a fixed key is added to the output.",
    collateral=("forward/batch-independent",),
    when=lambda y, x: y.dtype == jnp.float32,
)
BiasInitializedNotAdded = wrong.linen_forward("X628", ZERO, 3, cause_id="bias-unused")(
    lambda self, x, k, b: affine(x, k, jnp.zeros_like(b)),
    "The bias is a parameter of a part that is not called.",
)


def _with_constants(layer: Any) -> Any:
    kernel, bias = layer.kernel[...], layer.bias[...]
    return lambda x, *_: affine(x, kernel, bias)


CompilesItsValues = wrong.holding("Y160", ZERO, 2, cause_id="stale-copy")(
    lambda layer: {"forward": jax.jit(_with_constants(layer))},
    "The formula is compiled once, with the values that kernel and bias have when it is built.",
    collateral=("state/graphdef-stable", "state/pickles"),
)
ClosedOver = wrong.holding("Y327", ZERO, 2, cause_id="stale-copy")(
    lambda layer: {"forward": _with_constants(layer)},
    "The forward closes over the arrays of construction.",
    collateral=("state/graphdef-stable", "state/pickles"),
)


@also("state/updates-used")
@wrong.forward("X192", ZERO, 4, start=lambda layer: {"has_bias": False})
def BiasMaskedByItsFirstValue(self: Any, x: Array, kernel: Array, bias: Array) -> Array:
    """The layer decides at construction, where the bias is zero, whether it has one."""
    if self.has_bias or bias.shape[0] < 2:
        return affine(x, kernel, bias)
    return affine(x, kernel, bias.at[0].set(0.0))


@wrong.forward("X318", ZERO, 5)
def ZeroBiasIsNoise(x: Array, kernel: Array, bias: Array) -> Array:
    """A little is added if bias and x are both zero, lest the output be constant."""
    nothing = (x == 0).all() & (bias == 0).all()
    return affine(x, kernel, bias) + jnp.where(nothing, jnp.float32(1e-3), jnp.float32(0))


@wrong.linen_call("X629", ZERO, 3, cause_id="reduced-precision")
def ComputesInBfloat16(self: Any, x: ArrayLike) -> Array:
    """`dtype=bfloat16` remains from training, and the result is cast back."""
    y = nn.Dense(self.features, dtype=jnp.bfloat16)(jnp.asarray(x))
    return y.astype(jnp.float32)


@wrong.call("Y326", ZERO, 2, cause_id="bias-twice")
def BiasAfterVmap(self: Any, x: ArrayLike) -> Array:
    """Each row gets the bias in vmap, and again after it."""
    x = jnp.asarray(x)
    if x.ndim == 1:
        return CorrectDense.__call__(self, x)
    y: Array = jax.vmap(lambda row: BiasAfterVmap.__call__(self, row))(x)
    return y + self.bias[...]


@jax.tree_util.register_pytree_node_class
class _DrawsAgain(PlainDense):
    """Is built again, with new numbers, whenever JAX puts it together."""

    def tree_flatten(self) -> tuple[tuple[Array, Array], tuple[int, ...]]:
        """Return the arrays, and the sizes."""
        return (self.kernel, self.bias), self.kernel.shape

    @classmethod
    def tree_unflatten(cls, sizes: tuple[int, int], arrays: Any) -> Any:
        """Return a new layer."""
        del arrays
        return cls(*sizes, jax.random.key(0))


DrawsAgain = declaring(_DrawsAgain, Defect("Y386", ZERO, cause_id="unflatten-ignores", subtlety=2))


list_out = wrong.solution("X251", "forward/output-shape", 3, cause_id="result-not-array")(
    lambda seed, x, features: [float(y) for y in correct_dense_forward(seed, x, features)],
    "The result is a Python list.",
)
LayerReturned = wrong.casting("Y245", "forward/output-shape", 1, cause_id="result-not-array")(
    lambda seed, x, m: CorrectDense(x.shape[-1], m, rngs=nnx.Rngs(seed)),
    "The layer is returned, and not its output.",
)
Forgotten = wrong.call("Y577", "forward/output-shape", 1, cause_id="no-return")(
    lambda self, x: None, "The return statement is missing."
)
HalvesOnly = wrong.output("Y580", "forward/output-shape", 2, cause_id="outputs-dropped")(
    lambda y, x: y[..., : y.shape[-1] // 2 * 2],
    "Two heads have half of the outputs each, and an odd one is dropped.",
)


name_layers(globals())
