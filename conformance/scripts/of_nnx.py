"""How a script builds, writes and calls an nnx module.

Scripts contain the sources of these functions, which use nothing of the suite.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from conformance.scripts.given import IN, OUT, SEED, Layer


def build(n: int = IN, m: int = OUT, seed: int = SEED) -> Any:
    """Return a new layer."""
    return Layer(n, m, rngs=nnx.Rngs(seed))


def parameters_of(layer: Any) -> tuple[Any, Any]:
    """Return kernel and bias."""
    return layer.kernel[...], layer.bias[...]


def write(layer: Any, kernel: np.ndarray, bias: np.ndarray) -> Any:
    """Return the layer with this kernel and this bias written in."""
    shapes = tuple(value.shape for value in parameters_of(layer))
    assert shapes == (kernel.shape, bias.shape), f"kernel and bias have the shapes {shapes}"
    new = {2: jnp.asarray(kernel), 1: jnp.asarray(bias)}
    nnx.update(layer, jax.tree.map(lambda old: new[old.ndim], nnx.state(layer, nnx.Param)))
    return layer


def written(kernel: np.ndarray, bias: np.ndarray) -> Any:
    """Return a new layer with this kernel and this bias written in."""
    return write(build(*kernel.shape), kernel, bias)


def call(layer: Any, x: Any) -> jax.Array:
    """Return the output of the layer."""
    return layer(x)


def pure(layer: Any) -> Any:
    """Return the layer as a function of kernel, bias and x."""
    graphdef, state = nnx.split(layer)

    def f(kernel: Any, bias: Any, x: Any) -> jax.Array:
        new = {2: kernel, 1: bias}
        return nnx.merge(graphdef, jax.tree.map(lambda old: new[old.ndim], state))(x)

    return f


def arrays(layer: Any) -> dict[str, Any]:
    """Return every array of the layer's state, by its path."""
    state = nnx.to_pure_dict(nnx.state(layer)) if hasattr(nnx, "to_pure_dict") else nnx.state(layer)
    paths, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


def forward(seed: Any, x: Any, features: Any) -> jax.Array:
    """Build the layer and call it."""
    return build(x.shape[-1], features, seed)(x)
