"""Keras's Dense on JAX, with the convention that Keras documents: Glorot uniform, batches only."""

from __future__ import annotations

import os
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

__all__ = ["CONVENTION", "Dense"]

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

    def next(self, ordered: bool = True) -> Any:
        """Return the key that Keras makes of an integer seed."""
        return self.key


def _layer(in_features: int, out_features: int, initial: Any) -> keras.layers.Dense:
    layer = keras.layers.Dense(out_features, kernel_initializer=initial)
    layer.build((None, in_features))
    return layer


def _init(seed: Any, in_features: int, out_features: int) -> Any:
    source = seed if isinstance(seed, int) else _Fixed(seed)
    # Inside the scope, variables are pure functions of their initializers.
    with keras.StatelessScope():
        layer = _layer(in_features, out_features, keras.initializers.GlorotUniform(seed=source))
        return {"kernel": layer.kernel.value, "bias": layer.bias.value}


def _apply(parameters: Any, x: Any) -> Any:
    with keras.StatelessScope():
        in_features, out_features = parameters["kernel"].shape
        layer = _layer(in_features, out_features, "zeros")
    y, _ = layer.stateless_call([parameters["kernel"], parameters["bias"]], [], x)
    return y


Dense = Implementation(
    name="keras.layers.Dense",
    init=_init,
    apply=_apply,
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
