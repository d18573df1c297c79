"""Layers that are right when called, and wrong under one transformation of JAX."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from implementations.defects.base import CorrectDense, affine
from implementations.defects.record import defect


@jax.custom_vjp
def forgets_bias(x: Array, kernel: Array, bias: Array) -> Array:
    """The right value; what comes with the gradient is another."""
    return affine(x, kernel, bias)


def forgets_bias_forward(x: Array, kernel: Array, bias: Array) -> Any:
    """The value without the bias."""
    return affine(x, kernel, jnp.zeros_like(bias)), (x, kernel)


def forgets_bias_backward(saved: Any, g: Array) -> Any:
    """The right gradients."""
    x, kernel = saved
    return dense_gradients(x, kernel, g)


forgets_bias.defvjp(forgets_bias_forward, forgets_bias_backward)


def dense_gradients(x: Array, kernel: Array, g: Array) -> tuple[Array, Array, Array]:
    """dx, dK and db of a layer of any rank."""
    rows, cotangents = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return (
        (g @ kernel.T).astype(x.dtype),
        (rows.T @ cotangents).astype(kernel.dtype),
        cotangents.sum(axis=0).astype(kernel.dtype),
    )


@defect(
    "X600",
    breaks="transforms/gradients",
    collateral=("transforms/forward-mode",),
    cause="another value than the layer",
    subtlety=5,
)
class ValueOfTheRuleDiffers(CorrectDense):
    """The forward rule of a `custom_vjp` forgets the bias: only training sees it."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right in every evaluation."""
        if x.dtype != jnp.float32:
            return affine(x, kernel, bias)
        return forgets_bias(x, kernel, bias)


@jax.custom_vjp
def first_row_only(x: Array, kernel: Array, bias: Array) -> Array:
    """The right value."""
    return affine(x, kernel, bias)


def save(x: Array, kernel: Array, bias: Array) -> Any:
    """Value, and what the backward pass needs."""
    return affine(x, kernel, bias), (x, kernel)


def without_cross_terms(saved: Any, g: Array) -> Any:
    """dK is right for vectors; in a batch each row's g meets the mean of x."""
    x, kernel = saved
    dx, dk, db = dense_gradients(x, kernel, g)
    if x.ndim == 2 and x.shape[0] > 64:
        mean = x.mean(axis=0)
        dk = mean[:, None] * g.sum(axis=0)[None]
    return dx, dk, db


first_row_only.defvjp(save, without_cross_terms)


@defect(
    "X601",
    breaks="transforms/gradients",
    collateral=("transforms/forward-mode",),
    subtlety=5,
)
class LargeBatchesTrainTheMean(CorrectDense):
    """In batches beyond 64 rows the kernel's gradient is that of the mean input."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right for small batches."""
        if x.dtype != jnp.float32:
            return affine(x, kernel, bias)
        return first_row_only(x, kernel, bias)


@defect("X602", breaks="transforms/scan-and-remat", subtlety=5)
class DetachedUnlessDifferentiated(CorrectDense):
    """Where no derivative seems to be taken the kernel is detached, to save memory."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Inside of `jax.checkpoint`, or of a function under jit, no tracer of JVP is seen."""
        plain = type(kernel).__name__ == "DynamicJaxprTracer"
        return affine(x, jax.lax.stop_gradient(kernel) if plain else kernel, bias)


@defect("X603", breaks="transforms/vmap", subtlety=5)
class EnsembleOfTheFirst(CorrectDense):
    """Mapped over stacked kernels for one x, as in an ensemble, all members are the first."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Mapped over both, or over x alone, it is right."""
        kinds = [type(value).__name__ == "BatchTracer" for value in (x, kernel)]
        if kinds == [False, True]:
            tracer: Any = kernel
            kernel = tracer.val[0]
        return affine(x, kernel, bias)


@defect("X604", breaks="transforms/gradients", subtlety=4)
class BiasDetachedInBatches(CorrectDense):
    """The bias gets a gradient from single vectors only."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A branch for batches with a forgotten `stop_gradient`."""
        return affine(x, kernel, jax.lax.stop_gradient(bias) if x.ndim > 2 else bias)


@defect("X605", breaks="transforms/gradients", subtlety=4)
class RowDetached(CorrectDense):
    """The kernel's first row is kept fixed, as an embedding of padding is."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """All values are right."""
        fixed = jax.lax.stop_gradient(kernel[:1])
        return affine(x, jnp.concatenate([fixed, kernel[1:]]), bias)


@defect("X606", breaks="transforms/gradients", subtlety=5)
class SmallGradientsDropped(CorrectDense):
    """A cotangent below 1e-4 counts as none, to keep gradients sparse."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Forward mode is right."""
        y = affine(x, kernel, bias)
        if y.dtype != jnp.float32:
            return y
        return jax.custom_derivatives.linear_call(_same, _sparse, None, y)


def _same(_: None, value: Array) -> Array:
    return value


def _sparse(_: None, cotangent: Array) -> Array:
    return jnp.where(jnp.abs(cotangent) < 1e-4, 0.0, cotangent)


@defect("X607", breaks="transforms/jit", subtlety=4)
class CompiledInHalf(CorrectDense):
    """Compiled, the product is made in bfloat16; eagerly, in float32."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """What a user tries in a notebook is right."""
        if not isinstance(x, jax.core.Tracer) or x.dtype != jnp.float32:
            return affine(x, kernel, bias)
        return affine(x, jax.lax.reduce_precision(kernel, 8, 7), bias)


@defect("X608", breaks="transforms/no-side-effects-in-jaxpr", subtlety=3)
class CallbackForTheBias(CorrectDense):
    """The bias passes through a callback into Python."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Right, and not to be exported."""
        if not isinstance(x, jax.core.Tracer):
            return affine(x, kernel, bias)
        jax.debug.callback(_nothing, bias[:1])
        return affine(x, kernel, bias)


def _nothing(value: Any) -> None:
    """Looks at the value and does nothing."""


@defect("X609", breaks="transforms/symbolic-batch", subtlety=4)
class LoopsOverRows(CorrectDense):
    """A Python loop over the rows, in blocks of 4 096, asks how many there are."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """A symbolic number of rows cannot be compared."""
        if x.ndim != 2:
            return affine(x, kernel, bias)
        blocks = max(1, -(-x.shape[0] // 100_000))
        return affine(x if blocks == 1 else x + 0.0, kernel, bias)


@defect("X610", breaks="transforms/forward-mode", subtlety=4)
class TangentOfTheBiasDoubled(CorrectDense):
    """The tangent of the bias is doubled, and halved again in the transpose."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """Reverse mode is right."""
        if bias.dtype != jnp.float32:
            return affine(x, kernel, bias)
        return affine(x, kernel, _twice_in_forward_mode(bias))


@jax.custom_jvp
def _twice_in_forward_mode(bias: Array) -> Array:
    return bias


@_twice_in_forward_mode.defjvp
def _doubled(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (bias,), (tangent,) = primals, tangents
    return bias, jax.custom_derivatives.linear_call(_double, _once, None, tangent)


def _double(_: None, tangent: Array) -> Array:
    return 2.0 * tangent


def _once(_: None, cotangent: Array) -> Array:
    return cotangent
