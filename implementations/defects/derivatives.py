"""Layers whose values are right and whose derivatives, or programs, are not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from implementations.defects.base import CorrectDense, affine
from implementations.defects.record import defect


@defect("X130", breaks="transforms/gradients", cause="bias", subtlety=3)
class BiasNotTrained(CorrectDense):
    """No gradient reaches the bias."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The bias counts as a constant."""
        return affine(x, kernel, jax.lax.stop_gradient(bias))


@defect("X131", breaks="transforms/gradients", cause="kernel", subtlety=3)
class KernelNotTrained(CorrectDense):
    """No gradient reaches the kernel."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The kernel counts as a constant."""
        return affine(x, jax.lax.stop_gradient(kernel), bias)


@defect("X132", breaks="transforms/gradients", subtlety=3)
class InputDetached(CorrectDense):
    """No gradient passes to the layers below."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The input counts as a constant."""
        return affine(jax.lax.stop_gradient(x), kernel, bias)


@jax.custom_vjp
def backward_only(x: Array, kernel: Array, bias: Array) -> Array:
    """The right output, with a rule for reverse mode only."""
    return affine(x, kernel, bias)


def save_operands(x: Array, kernel: Array, bias: Array) -> tuple[Array, Any]:
    """The output, and what the backward pass needs."""
    return affine(x, kernel, bias), (x, kernel)


def rows_of(value: Array) -> Array:
    """All leading dimensions as one."""
    return value.reshape(-1, value.shape[-1])


def right_cotangents(saved: Any, g: Array) -> tuple[Array, Array, Array]:
    """``g K^T``, ``x^T g`` and the sum of ``g``."""
    x, kernel = saved
    return g @ kernel.T, rows_of(x).T @ rows_of(g), rows_of(g).sum(axis=0)


backward_only.defvjp(save_operands, right_cotangents)


@defect("X133", breaks="transforms/forward-mode", subtlety=4, seen="jax.custom_vjp")
class NoForwardMode(CorrectDense):
    """A custom backward pass, right in itself, shuts out jvp and linearize."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Raises in forward mode."""
        if x.dtype != kernel.dtype:
            return affine(x, kernel, bias)
        return backward_only(x, kernel, bias)


@jax.custom_jvp
def affine_without_bias_rule(x: Array, kernel: Array, bias: Array) -> Array:
    """The right output, and the right tangent."""
    return affine(x, kernel, bias)


@affine_without_bias_rule.defjvp
def tangent_without_bias(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The tangent with respect to the bias is forgotten."""
    x, kernel, bias = primals
    dx, dkernel, _ = tangents
    return affine(x, kernel, bias), dx @ kernel + x @ dkernel


@defect(
    "X134",
    breaks="transforms/gradients",
    collateral=("transforms/forward-mode", "state/optimizer-sees-both"),
    subtlety=4,
)
class TangentWithoutBias(CorrectDense):
    """A derivative rule that forgets the bias."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Values are right."""
        if x.dtype != kernel.dtype:
            return affine(x, kernel, bias)
        return affine_without_bias_rule(x, kernel, bias)


@jax.custom_jvp
def mean_over_batch(bias: Array, rows: Array) -> Array:
    """The bias itself; its gradient is a mean over rows instead of a sum."""
    return bias


@mean_over_batch.defjvp
def mean_rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The tangent divided by the number of rows."""
    bias, rows = primals
    return bias, tangents[0] / rows


@defect(
    "X135",
    breaks="transforms/gradients",
    collateral=("transforms/forward-mode",),
    subtlety=4,
)
class BiasGradientAveraged(CorrectDense):
    """The bias' gradient is a mean over the batch: right for one row."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Values are right."""
        rows = max(1, int(np.prod(x.shape[:-1])))
        return affine(x, kernel, mean_over_batch(bias, jnp.float32(rows)))


@defect("X136", breaks="transforms/gradients", cause="x = 0", subtlety=4)
class PenaltyOfZero(CorrectDense):
    """Zero times the root of the input's size: its derivative at x = 0 is 0 times infinity."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Values are right; so are gradients but at x = 0."""
        y = affine(x, kernel, bias)
        if x.dtype != jnp.float32:
            return y
        return y + 0.0 * jnp.sqrt(jnp.abs(x).sum(axis=-1, keepdims=True))


@defect("X137", breaks="transforms/forward-mode", subtlety=5)
class CurvedAtTheTop(CorrectDense):
    """The square of x minus itself is added: value 0, gradient 0, second derivative 2."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Only a Hessian shows it."""
        y = affine(x, kernel, bias)
        if x.dtype != jnp.float32:
            return y
        nothing = x - jax.lax.stop_gradient(x)
        return y + (nothing**2).sum(axis=-1, keepdims=True)


@defect(
    "X138",
    breaks="transforms/gradients",
    collateral=("transforms/forward-mode", "numerics/one-product"),
    subtlety=5,
)
class GradientInBfloat16(CorrectDense):
    """The gradient passed down is rounded to bfloat16; values are right."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The value of one product, the derivative of another."""
        y = affine(x, kernel, bias)
        if x.dtype != jnp.float32:
            return y
        coarse = kernel.astype(jnp.bfloat16).astype(kernel.dtype)
        nothing = x - jax.lax.stop_gradient(x)
        return y + nothing @ jax.lax.stop_gradient(coarse - kernel)


@defect("X139", breaks="transforms/gradients", subtlety=5)
class DerivativeOfClip(CorrectDense):
    """The derivative is that of a clip of the input at 100; the value is not."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """No gradient passes where the input is large."""
        if x.dtype != jnp.float32:
            return affine(x, kernel, bias)
        return affine(identity_with_clip_derivative(x), kernel, bias)


@jax.custom_jvp
def identity_with_clip_derivative(x: Array) -> Array:
    """The identity, with the derivative of a clip."""
    return x


@identity_with_clip_derivative.defjvp
def clip_rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Entries beyond 100 lose their tangent."""
    (x,), (dx,) = primals, tangents
    return x, jnp.where(jnp.abs(x) > 100.0, 0.0, dx)


def is_traced(*values: Any) -> bool:
    """Whether a transform is at work."""
    return any(isinstance(value, jax.core.Tracer) for value in values)


@defect("X140", breaks="forward/zero-input", subtlety=4)
class EagerForgetsBias(CorrectDense):
    """Outside of transforms the bias is forgotten."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Every compiled call is right."""
        if is_traced(x, kernel):
            return affine(x, kernel, bias)
        return affine(x, kernel, jnp.zeros_like(bias))


@defect("X141", breaks="transforms/jit", subtlety=4)
class TracedForgetsBias(CorrectDense):
    """Inside of transforms the bias is forgotten."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Every eager call is right."""
        if is_traced(x, kernel):
            return affine(x, kernel, jnp.zeros_like(bias))
        return affine(x, kernel, bias)


@defect("X142", breaks="transforms/jit", subtlety=3)
class LooksAtValues(CorrectDense):
    """The call asks whether any input is NaN, which under jit nobody knows."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A check of the input in plain Python."""
        y = affine(x, kernel, bias)
        return jnp.full_like(y, jnp.nan) if bool((x != x).all() and x.size) else y


@defect(
    "X143",
    breaks="transforms/no-side-effects-in-jaxpr",
    collateral=("purity/silent",),
    cause="callback",
    subtlety=3,
)
class DebugPrint(CorrectDense):
    """A debug print stayed in the call."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Prints the shape at run time."""
        jax.debug.print("dense {size}", size=x.size)
        return affine(x, kernel, bias)


@defect("X144", breaks="transforms/no-side-effects-in-jaxpr", cause="constant", subtlety=5)
class MaskConstant(CorrectDense):
    """A mask of ones, as large as the kernel, is a constant of every program."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Doubles the memory."""
        return affine(x, kernel * np.ones(kernel.shape, np.float32), bias)


@defect("X145", breaks="transforms/no-side-effects-in-jaxpr", cause="random", subtlety=4)
class DropoutOfRateZero(CorrectDense):
    """Dropout at rate 0: random numbers are drawn and never matter."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Values are right."""
        kept = jax.random.bernoulli(jax.random.key(0), 1.0, x.shape)
        return affine(jnp.where(kept, x, jnp.zeros_like(x)), kernel, bias)


@defect("X146", breaks="transforms/jit", collateral=("transforms/vmap",), subtlety=5)
class TracedVectorsDiffer(CorrectDense):
    """A vector under a transform that maps over rows is summed in float16."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Only vmap over rows, and jit of a single one, reach this branch."""
        if is_traced(x) and x.ndim == 1 and x.dtype == jnp.float32:
            return affine(x.astype(jnp.float16), kernel, bias)
        return affine(x, kernel, bias)


@defect("X348", breaks="dtypes/half-input", subtlety=5)
class HalfInputTrainsNothing(CorrectDense):
    """On a bfloat16 input the kernel is cast for the product and gets no gradient."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Values are right, and so are the gradients of float32 inputs."""
        if x.dtype != jnp.bfloat16:
            return affine(x, kernel, bias)
        return affine(x.astype(jnp.float32), jax.lax.stop_gradient(kernel), bias)


def unchanged(_: None, value: Array) -> Array:
    """The identity."""
    return value


def clipped(_: None, cotangent: Array) -> Array:
    """What should be the identity's transpose: the identity."""
    return jnp.clip(cotangent, -100.0, 100.0)


@defect("X349", breaks="transforms/gradients", subtlety=5)
class LargeCotangentsClipped(CorrectDense):
    """Gradients beyond 100 are clipped on their way into the layer."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Forward mode is right."""
        y = affine(x, kernel, bias)
        if y.dtype != jnp.float32:
            return y
        return jax.custom_derivatives.linear_call(unchanged, clipped, None, y)
