"""Correct layers that come close to a bound, or meet the contract in an unusual way."""

import functools
import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from conformance.layers.adapters import adapt
from conformance.layers.implementation import Convention, Implementation
from conformance.layers.law import Law
from implementations.correct.functional import apply_dictionary, dictionary, pure_functions
from implementations.defects import hooks
from implementations.defects.base import CorrectDense, CorrectLinenDense, affine, normal, stddev

__all__ = [
    "AsAConvolution",
    "ByQuantiles",
    "CompiledLinen",
    "InBlocks",
    "Pairwise",
    "SlicedFromOneBlock",
    "dense_forward",
    "named_arrays",
    "roughly_declared",
    "scaled_in_the_forward",
    "unrounded_bias",
    "weight_normalized",
]


class UnroundedBias(CorrectDense):
    """Products of bfloat16 operands, accumulated in float32, to which a float32 bias is added."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        """The sum is rounded to bfloat16 once, at the end."""
        operands = (value.astype(jnp.bfloat16) for value in (x, kernel))
        product = jnp.matmul(*operands, preferred_element_type=jnp.float32)
        return (product + bias).astype(jnp.bfloat16)


unrounded_bias = adapt(
    UnroundedBias, convention=Convention("bfloat16", compute_dtype="bfloat16", casts_input=True)
)


@hooks.kernel
def ByQuantiles(key: Array, in_features: int, out_features: int) -> Array:
    """Normal by the inverse distribution function, whose polynomials round dozens of times."""
    shape = (in_features, out_features)
    p = jax.random.uniform(key, shape, jnp.float32, minval=2.0**-25, maxval=1.0 - 2.0**-24)
    quantiles: Array = jax.scipy.special.ndtri(p)
    return quantiles * stddev(in_features)


@hooks.kernel
def SlicedFromOneBlock(key: Array, in_features: int, out_features: int) -> Array:
    """Small kernels are cut from a block of 512 x 512, so that they are parts of larger ones."""
    if min(in_features, out_features) < 0:
        raise ValueError(f"sizes {in_features} and {out_features}; none may be negative")
    block = normal(key, max(512, in_features), max(512, out_features))
    return block[:in_features, :out_features] * stddev(in_features)


class CompiledLinen(CorrectLinenDense):
    """The call is compiled by `nn.jit`, whose cache takes a size of 10.0 for one of 10."""

    @nn.jit
    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        kernel = self.param("kernel", self.draw_kernel, x)
        return self.forward(x, kernel, self.param("bias", self.draw_bias, x))


@hooks.forward
def AsAConvolution(x: Array, kernel: Array, bias: Array) -> Array:
    """The product is a convolution of width 1."""
    dtype = jnp.result_type(x, kernel)
    rows = x.reshape(math.prod(x.shape[:-1]), 1, x.shape[-1]).astype(dtype)
    y = jax.lax.conv_general_dilated(
        rows, kernel[None].astype(dtype), (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
    )
    product = y.reshape(*x.shape[:-1], kernel.shape[1])
    return product + jnp.broadcast_to(bias, product.shape)


@hooks.forward
def InBlocks(x: Array, kernel: Array, bias: Array) -> Array:
    """The inputs are split into blocks of 128, whose products are added."""
    if x.shape[-1] != kernel.shape[0]:
        raise ValueError(f"x has the width {x.shape[-1]}, and the kernel {kernel.shape[0]}")
    places = range(0, max(kernel.shape[0], 1), 128)
    blocks = [x[..., i : i + 128] @ kernel[i : i + 128] for i in places]
    return functools.reduce(jnp.add, blocks) + jnp.broadcast_to(bias, blocks[0].shape)


@hooks.forward
def Pairwise(x: Array, kernel: Array, bias: Array) -> Array:
    """The two halves of the inputs are multiplied separately, and added."""
    if x.shape[-1] != kernel.shape[0]:
        raise ValueError(f"x has the width {x.shape[-1]}, and the kernel {kernel.shape[0]}")
    half = kernel.shape[0] // 2
    if not half:
        return affine(x, kernel, bias)
    product = x[..., :half] @ kernel[:half] + x[..., half:] @ kernel[half:]
    return product + jnp.broadcast_to(bias, product.shape)


@jax.tree_util.register_pytree_node_class
class Named:
    """An array with the names of its axes; its leaf has a number instead of a name."""

    def __init__(self, array: Array, axes: tuple[str, ...]) -> None:
        self.array, self.axes = array, axes

    def tree_flatten(self) -> tuple[tuple[Array], tuple[str, ...]]:
        """Return the array and the names."""
        return (self.array,), self.axes

    @classmethod
    def tree_unflatten(cls, axes: tuple[str, ...], children: tuple[Array]) -> "Named":
        """Return the array with its names."""
        return cls(children[0], axes)


def with_axes(parameters: dict[str, Array]) -> dict[str, Named]:
    """Return the parameters with the names of their axes."""
    return {
        "kernel": Named(parameters["kernel"], ("in", "out")),
        "bias": Named(parameters["bias"], ("out",)),
    }


named_arrays = Implementation(
    name="named arrays",
    init=lambda seed, in_features, out_features: with_axes(
        dictionary(seed, in_features, out_features)
    ),
    apply=lambda parameters, x: affine(x, parameters["kernel"].array, parameters["bias"].array),
    kernel=lambda parameters: parameters["kernel"].array,
    bias=lambda parameters: parameters["bias"].array,
    with_parameters=lambda parameters, kernel, bias: with_axes({"kernel": kernel, "bias": bias}),
    library="jax",
)


def _computed(name: str, new: Any, kernel: Any, write: Any) -> Implementation:
    """Return functions of a dictionary from which the kernel is computed."""
    return replace(
        pure_functions,
        name=name,
        init=new,
        apply=lambda parameters, x: affine(x, kernel(parameters), parameters["bias"]),
        kernel=kernel,
        with_parameters=write,
    )


def unscaled(seed: Any, in_features: int, out_features: int) -> dict[str, Array]:
    """Return new parameters, with a kernel that is stored with variance 1."""
    kernel = normal(jax.random.key(seed), in_features, out_features)
    return {"kernel": kernel, "bias": jnp.zeros((out_features,), jnp.float32)}


def scaled(parameters: dict[str, Array]) -> Array:
    """Return the kernel (in, out) that the forward uses."""
    kernel = parameters["kernel"]
    return kernel / float(max(kernel.shape[0], 1)) ** 0.5


def unscale(parameters: dict[str, Array], kernel: Array, bias: Array) -> dict[str, Array]:
    """Return parameters with this kernel, up to the rounding of the scale."""
    del parameters
    return {"kernel": kernel * float(max(kernel.shape[0], 1)) ** 0.5, "bias": bias}


scaled_in_the_forward = _computed("scaled in the forward", unscaled, scaled, unscale)


def directions(seed: Any, in_features: int, out_features: int) -> dict[str, Array]:
    """Return new lengths and directions of the columns (Salimans and Kingma, 2016)."""
    kernel = dictionary(seed, in_features, out_features)["kernel"]
    zeros = jnp.zeros((out_features,), jnp.float32)
    return {"kernel": kernel, "length": jnp.linalg.norm(kernel, axis=0), "bias": zeros}


def of_length(parameters: dict[str, Array]) -> Array:
    """Return the kernel (in, out), with its own length for each column."""
    columns = parameters["kernel"]
    return columns * (parameters["length"] / jnp.linalg.norm(columns, axis=0))[None, :]


def lengths(parameters: dict[str, Array], kernel: Array, bias: Array) -> dict[str, Array]:
    """Return parameters with this kernel, up to rounding; a column of zeros has length 0."""
    del parameters
    largest = jax.lax.stop_gradient(jnp.abs(kernel).max(axis=0))
    empty = largest == 0
    columns = jnp.where(empty, 1.0, kernel / jnp.where(empty, 1.0, largest))
    length = jnp.where(empty, 0.0, largest * jnp.linalg.norm(columns, axis=0))
    return {"kernel": columns, "length": length, "bias": bias}


weight_normalized = _computed("weight normalized", directions, of_length, lengths)


def truncated(seed: Any, in_features: int, out_features: int) -> dict[str, Array]:
    """Return new parameters, with an uncorrected kernel truncated at two deviations."""
    shape = (in_features, out_features)
    kernel = jax.random.truncated_normal(jax.random.key(seed), -2.0, 2.0, shape, jnp.float32)
    kernel *= stddev(in_features)
    return {"kernel": kernel, "bias": jnp.zeros((out_features,), jnp.float32)}


def about_three_quarters(fan_in: int, fan_out: int) -> float:
    """Return 0.7737 / fan_in, as in documentation; more exactly 0.77374."""
    return 0.7737 / fan_in


roughly_declared = replace(
    pure_functions,
    name="roughly declared",
    init=truncated,
    apply=apply_dictionary,
    convention=Convention(
        "truncated", kernel=Law.truncated_normal(about_three_quarters, "0.7737/fan_in")
    ),
)


class MyDense(CorrectDense):
    """The kernel by `lecun_normal`, which the law of the exercise's Linen layer allows."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        shape = (in_features, out_features)
        kernel: Array = nnx.initializers.lecun_normal()(key, shape, jnp.float32)
        return kernel


def dense_forward(seed: float, x: ArrayLike, features: float) -> Array:
    """Return the result (features,), which must be that of the file's own `MyDense`."""
    x = jnp.asarray(x)
    return MyDense(x.shape[-1], int(features), rngs=nnx.Rngs(int(seed)))(x)
