"""Keras's Dense on JAX, with the convention that Keras documents: Glorot uniform, batches only."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import jax.numpy as jnp

from conformance import Convention, Expected, Implementation, Law

# Keras reads its backend at import; the environment is restored afterwards.
with mock.patch.dict(os.environ, {"KERAS_BACKEND": "jax"}):
    import keras

if keras.backend.backend() != "jax":
    raise ImportError(
        f"Keras was imported with the backend {keras.backend.backend()!r} before; this layer is "
        "that of its JAX backend: set KERAS_BACKEND=jax"
    )

__all__ = ["CONVENTION", "Dense", "EinsumDense"]

CONVENTION = Convention(
    name="Keras",
    kernel=Law.glorot_uniform(),
    # Its input specification wants a batch axis.
    ranks=(2, 3, 4, 5),
)


class _Fixed(keras.random.SeedGenerator):
    """The seed of an initializer as a traced number, because Keras takes Python ints only."""

    def __init__(self, seed: Any) -> None:
        self.key = jnp.stack([jnp.asarray(seed, jnp.uint32), jnp.uint32(0)])
        # An EinsumDense makes a copy of its initializer, and serializes its generator.
        self.name, self._initial_seed = "fixed", None

    def next(self, ordered: bool = True) -> Any:
        """Return the key that Keras makes of an integer seed."""
        return self.key


def _dense(out_features: int, initial: Any) -> Any:
    return keras.layers.Dense(out_features, kernel_initializer=initial)


def _einsum_dense(out_features: int, initial: Any) -> Any:
    """Return the einsum that Keras documents as equivalent to a Dense on sequences."""
    return keras.layers.EinsumDense(
        "...x,xy->...y", output_shape=out_features, bias_axes="y", kernel_initializer=initial
    )


def _functions(make: Callable[[int, Any], Any]) -> dict[str, Any]:
    """Return construction and call of ``make(out_features, initializer)`` as pure functions."""

    def init(seed: Any, in_features: int, out_features: int) -> Any:
        source = seed if isinstance(seed, int) else _Fixed(seed)
        # Inside of the scope, variables are pure functions of their initializers.
        with keras.StatelessScope():
            layer = make(out_features, keras.initializers.GlorotUniform(seed=source))
            layer.build((None, in_features))
            return {"kernel": layer.kernel.value, "bias": layer.bias.value}

    def apply(parameters: Any, x: Any) -> Any:
        with keras.StatelessScope():
            in_features, out_features = parameters["kernel"].shape
            layer = make(out_features, "zeros")
            layer.build((None, in_features))
        y, _ = layer.stateless_call([parameters["kernel"], parameters["bias"]], [], x)
        return y

    return {"init": init, "apply": apply}


Dense = Implementation(
    name="keras.layers.Dense",
    **_functions(_dense),
    kernel=lambda parameters: parameters["kernel"],
    bias=lambda parameters: parameters["bias"],
    with_parameters=lambda parameters, kernel, bias: {"kernel": kernel, "bias": bias},
    convention=CONVENTION,
    library="keras",
    expected_failures=(
        Expected(
            "construction/integral-sizes",
            "Keras takes a Python int for units, and refuses NumPy's",
            when="keras >= 3.13",
            link="https://keras.io/api/layers/core_layers/dense",
        ),
    ),
)

EinsumDense = replace(
    Dense,
    name="keras.layers.EinsumDense",
    **_functions(_einsum_dense),
    # An einsum broadcasts axes of length 1, and checks no input specification.
    convention=replace(CONVENTION, name="Keras EinsumDense", checks_width=False),
    expected_failures=(
        Expected("construction/integral-sizes", "Keras takes a Python int, and refuses NumPy's"),
    ),
)
