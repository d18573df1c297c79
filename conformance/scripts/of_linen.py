"""How a script builds, writes and calls a Linen module: a pair of the model and its variables.

Scripts contain the sources of these functions, which use nothing of the suite.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from conformance.scripts.given import IN, OUT, SEED, Layer


def build(n: int = IN, m: int = OUT, seed: int = SEED) -> Any:
    """Return a new layer: the model, and the variables that init gives."""
    model = Layer(features=m)
    return model, model.init(jax.random.key(seed), jnp.zeros((1, n)))


def parameters_of(layer: Any) -> tuple[Any, Any]:
    """Return kernel and bias."""
    _, variables = layer
    return variables["params"]["kernel"], variables["params"]["bias"]


def write(layer: Any, kernel: np.ndarray, bias: np.ndarray) -> Any:
    """Return the layer with this kernel and this bias written in."""
    model, variables = layer
    shapes = tuple(value.shape for value in parameters_of(layer))
    assert shapes == (kernel.shape, bias.shape), f"kernel and bias have the shapes {shapes}"
    new = {2: jnp.asarray(kernel), 1: jnp.asarray(bias)}
    return model, jax.tree.map(lambda old: new[old.ndim], variables)


def written(kernel: np.ndarray, bias: np.ndarray) -> Any:
    """Return a new layer with this kernel and this bias written in."""
    return write(build(*kernel.shape), kernel, bias)


def call(layer: Any, x: Any) -> jax.Array:
    """Return the output of the layer."""
    model, variables = layer
    return model.apply(variables, x)


def pure(layer: Any) -> Any:
    """Return the layer as a function of kernel, bias and x."""
    model, variables = layer

    def f(kernel: Any, bias: Any, x: Any) -> jax.Array:
        new = {2: kernel, 1: bias}
        return model.apply(jax.tree.map(lambda old: new[old.ndim], variables), x)

    return f


def arrays(layer: Any) -> dict[str, Any]:
    """Return every array of the layer's variables, by its path."""
    paths, _ = jax.tree_util.tree_flatten_with_path(layer[1])
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


def forward(seed: Any, x: Any, features: Any) -> jax.Array:
    """Build the layer and call it."""
    return call(build(x.shape[-1], features, seed), x)
