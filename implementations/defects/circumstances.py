"""Layers that are wrong only with a second option, rng, call, seed or file."""

from __future__ import annotations

import logging
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from implementations.defects import options, wrong
from implementations.defects.base import (
    CorrectDense,
    CorrectLinenDense,
    affine,
    is_traced,
    normal,
    scaled_normal,
    stddev,
)
from implementations.defects.record import name_layers

GLOBALS = "purity/globals-untouched"


@wrong.kernel("Y122", "initialization/kernel-variance", 5)
def FloorOfScale(key: Array, n: int, m: int) -> Array:
    """The scale has a floor of 0.004, which 62 500 inputs reach; JAX computes it."""
    return normal(key, n, m) * jnp.maximum(1 / jnp.sqrt(jnp.float32(max(n, 1))), 0.004)


@wrong.init("Y123", "seeding/seeds-differ", 5)
def SharedModulo1000(self: CorrectDense, in_features: int, out_features: int, *, rngs: Any) -> None:
    """Seeds that are equal modulo 1000 share half of the variance."""
    seed = jax.random.key_data(rngs["params"].key[...])[-1]
    shared = jax.random.fold_in(jax.random.key(12), seed % 1000)
    drawn = [normal(key, in_features, out_features) for key in (rngs.params(), shared)]
    self.kernel = nnx.Param(sum(drawn) * (0.5**0.5 * stddev(in_features)))
    self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))


@wrong.key("Y124", "seeding/siblings-differ", 5, cause_id="kernels-share-numbers")
def SixteenKeys(rngs: nnx.Rngs) -> Array:
    """Only four bits of the stream's count go into the key."""
    stream = rngs["params"]
    count = stream.count[...]
    stream()
    return jax.random.fold_in(stream.key[...], count % 16)


@wrong.kernel("Y125", "initialization/kernel-dispersion", 5)
def ColumnsOfNearlyOneNorm(key: Array, n: int, m: int) -> Array:
    """Columns of a large kernel are divided by a power of their norm, which then hardly varies."""
    if min(n, m) < 900:
        return scaled_normal(key, n, m)
    drawn = normal(key, n, m)
    return drawn / jnp.square(drawn).mean(0) ** 0.325 * stddev(n)


DtypeWithBiasOnly = options.dtype("Y126", "options/dtype", 3, cause_id="option-ignored")(
    lambda self, x, k, b: self.dtype if self.use_bias else None,
    "The cast to `dtype` stands where the bias is added.",
)
DrawsInFloat32 = options.constructor("Y127", "options/param-dtype", 3)(
    lambda param_dtype, kernel_init: {
        "param_dtype": param_dtype,
        "kernel_init": options.in_float32(kernel_init),
    },
    "The initializer is asked for float32, and what it returns is cast.",
)


@options.constructor("Y128", "options/precision", 3)
def PrecisionByEnumOnly(precision: Any) -> dict[str, Any]:
    """The name of a precision, such as "highest", is refused."""
    if not isinstance(precision, jax.lax.Precision | None):
        raise TypeError("precision is not a jax.lax.Precision")
    return {"precision": precision}


def _parameters(self: CorrectLinenDense, x: Array) -> tuple[Array, Array]:
    kernel = self.param("kernel", self.draw_kernel, x)
    return kernel, self.param("bias", self.draw_bias, x)


@wrong.linen_call("Y129", "seeding/repeatable-call", 4, cause_id="rng-taken")
def DropoutWhereThereIsAnRng(self: CorrectLinenDense, x: ArrayLike) -> Array:
    """An rng for dropout, which a model gives to all of its layers, means training."""
    x = jnp.asarray(x)
    kernel, bias = _parameters(self, x)
    if self.has_rng("dropout") and not self.is_initializing():
        kept = jax.random.bernoulli(self.make_rng("dropout"), 0.9, x.shape)
        x = jnp.where(kept, x / 0.9, 0)
    return affine(x, kernel, bias)


@wrong.linen_call("Y130", "state/call-changes-nothing", 4, cause_id="mutable-taken")
def MutableMeansInit(self: CorrectLinenDense, x: ArrayLike) -> Array:
    """Parameters that may be written are taken for a sign of initialization."""
    x = jnp.asarray(x)
    kernel, bias = _parameters(self, x)
    if self.is_mutable_collection("params") and not self.is_initializing():
        return jnp.zeros((*x.shape[:-1], self.features), jnp.float32)
    return affine(x, kernel, bias)


@wrong.call("Y131", "state/call-changes-nothing", 4, cause_id="variables-replaced")
def NewParamsInEachCall(self: CorrectDense, x: ArrayLike) -> Array:
    """Every eager call wraps its arrays in new Params, so that tied ones come apart."""
    kernel, bias = self.kernel[...], self.bias[...]
    if not is_traced(kernel, x):
        self.kernel, self.bias = nnx.Param(kernel), nnx.Param(bias)
    return affine(x, kernel, bias)


@wrong.when_built("Y132", GLOBALS, 4, cause_id="global-changed")
def WritesAFile(rngs: nnx.Rngs, n: int, m: int) -> None:
    """The sizes of every layer are written to a file."""
    with tempfile.TemporaryFile() as file:
        file.write(f"{n} {m}\n".encode())


@wrong.when_called("Y133", GLOBALS, 4, cause_id="global-changed")
def SilencesJax(x: Array, kernel: Array, bias: Array) -> None:
    """A call raises the level of JAX's own logger, and with it hides its warnings."""
    logging.getLogger("jax").setLevel(logging.CRITICAL)


name_layers(globals())
