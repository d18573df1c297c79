"""Layers that are pure functions, or that a factory makes of arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax import Array
from jax.typing import ArrayLike

from conformance.layers.adapters import adapt
from conformance.layers.implementation import Convention, Implementation
from conformance.layers.law import Law
from implementations.defects.base import affine, scaled_normal, stddev

__all__ = [
    "by_an_equation",
    "numbered_leaves",
    "partial_of_arrays",
    "pure_functions",
    "stored_transposed",
    "tuple_of_parameters",
    "uniform_by_declaration",
    "vectors_only",
    "without_bias",
]


def dictionary(seed: Any, in_features: int, out_features: int) -> dict[str, Array]:
    """Return new parameters by name."""
    kernel = scaled_normal(jax.random.key(seed), in_features, out_features)
    return {"kernel": kernel, "bias": jnp.zeros((out_features,), jnp.float32)}


def apply_dictionary(parameters: dict[str, Array], x: ArrayLike) -> Array:
    """Return the output (..., out)."""
    return affine(x, parameters["kernel"], parameters["bias"])


def _implementation(name: str, **others: Any) -> Implementation:
    """Return pure functions on a dictionary of kernel and bias, for the layers below."""
    functions: dict[str, Any] = {
        "init": dictionary,
        "apply": apply_dictionary,
        "kernel": lambda parameters: parameters["kernel"],
        "bias": lambda parameters: parameters["bias"],
        "with_parameters": lambda parameters, kernel, bias: {"kernel": kernel, "bias": bias},
    }
    return Implementation(name=name, library="jax", **(functions | others))


def _pair(seed: Any, in_features: int, out_features: int) -> tuple[Array, Array]:
    """Return new parameters without names."""
    parameters = dictionary(seed, in_features, out_features)
    return parameters["kernel"], parameters["bias"]


def _transposed(seed: Any, in_features: int, out_features: int) -> dict[str, Array]:
    """Return new parameters, the kernel stored as (out, in)."""
    parameters = dictionary(seed, in_features, out_features)
    return {"weight": parameters["kernel"].T, "bias": parameters["bias"]}


def _to_a_vector(parameters: dict[str, Array], x: ArrayLike) -> Array:
    """Return the output (out,); batches are for vmap."""
    x = jnp.asarray(x)
    if x.ndim != 1:
        raise ValueError(f"x has shape {x.shape}; it should be a vector")
    return apply_dictionary(parameters, x)


def _uniform(seed: Any, in_features: int, out_features: int) -> dict[str, Array]:
    """Return new parameters by LeCun's uniform law, the bias drawn from a third of it."""
    kernel_key, bias_key = jax.random.split(jax.random.key(seed))
    end = math.sqrt(3.0) * stddev(in_features)
    draw = functools.partial(jax.random.uniform, dtype=jnp.float32, minval=-end, maxval=end)
    bias = draw(bias_key, (out_features,)) / 3.0
    return {"kernel": draw(kernel_key, (in_features, out_features)), "bias": bias}


def _ninth_of_fan_in_variance(fan_in: int, fan_out: int) -> float:
    """Return 1 / (9 fan_in): the bias has a third of the kernel's scale."""
    return 1 / fan_in / 9.0


@jax.tree_util.register_pytree_node_class
class _NumberedLeaves:
    """A pytree whose leaves JAX numbers, because it gives them no names."""

    def __init__(self, weight: Array, bias: Array) -> None:
        self.weight, self.bias = weight, bias

    @classmethod
    def create(cls, in_size: int, out_size: int, *, key: Array) -> _NumberedLeaves:
        """Return a new layer, by the first of two keys."""
        first, _ = jax.random.split(key)
        bias = jnp.zeros((out_size,), jnp.float32)
        return cls(scaled_normal(first, in_size, out_size).T, bias)

    def tree_flatten(self) -> tuple[tuple[Array, Array], None]:
        """Return the arrays."""
        return (self.weight, self.bias), None

    @classmethod
    def tree_unflatten(cls, _: None, children: tuple[Array, Array]) -> _NumberedLeaves:
        """Return the layer with these arrays."""
        return cls(*children)

    def __call__(self, x: ArrayLike) -> Array:
        return affine(x, self.weight.T, self.bias)


def _partial(in_dim: int, out_dim: int, key: Array) -> Callable[..., Array]:
    """Return a function whose parameters are an argument of a partial."""
    kernel = scaled_normal(key, in_dim, out_dim)
    return functools.partial(apply_dictionary, {"kernel": kernel, "bias": jnp.zeros(out_dim)})


class _Einsum(linen.Module):
    """A product by an equation, which is the first argument of the call."""

    shape: tuple[int, ...]

    @linen.compact
    def __call__(self, equation: str, x: ArrayLike) -> Array:
        w = self.param("w", linen.initializers.lecun_normal(), self.shape, jnp.float32)
        return jnp.einsum(equation, x, w)


def _einsum(in_features: int, out_features: int) -> _Einsum:
    """Return the product of an x and a kernel (in, out)."""
    return _Einsum((in_features, out_features))


numbered_leaves = adapt(_NumberedLeaves.create, layout="out, in", names={"kernel": "weight"})
partial_of_arrays = adapt(_partial)
by_an_equation = adapt(
    _einsum,
    call={"equation": "...i,io->...o"},
    use_bias=False,
    names={"kernel": "w"},
    checks_width=False,
)
pure_functions = _implementation("pure functions")
tuple_of_parameters = _implementation(
    "tuple of parameters",
    init=_pair,
    apply=lambda parameters, x: affine(x, *parameters),
    kernel=lambda parameters: parameters[0],
    bias=lambda parameters: parameters[1],
    with_parameters=lambda parameters, kernel, bias: (kernel, bias),
    convention=Convention(name="pairs", parameter_names=("0", "1")),
)
stored_transposed = _implementation(
    "stored transposed",
    init=_transposed,
    apply=lambda parameters, x: affine(x, parameters["weight"].T, parameters["bias"]),
    kernel=lambda parameters: parameters["weight"].T,
    with_parameters=lambda parameters, kernel, bias: {"weight": kernel.T, "bias": bias},
    convention=Convention("rows are outputs", layout="out,in", parameter_names=("weight", "bias")),
)
without_bias = _implementation(
    "without bias",
    init=lambda seed, n, m: {"kernel": scaled_normal(jax.random.key(seed), n, m)},
    apply=lambda parameters, x: jnp.asarray(x) @ parameters["kernel"],
    bias=None,
    with_parameters=lambda parameters, kernel, bias: {"kernel": kernel},
    convention=Convention(name="no bias", use_bias=False),
)
vectors_only = _implementation(
    "vectors only", apply=_to_a_vector, convention=Convention(name="vectors only", ranks=(1,))
)
uniform_by_declaration = _implementation(
    "uniform by declaration",
    init=_uniform,
    convention=Convention(
        name="LeCun uniform",
        kernel=Law.lecun_uniform(),
        bias=Law.uniform(_ninth_of_fan_in_variance, "1/(9 fan_in)"),
    ),
)
