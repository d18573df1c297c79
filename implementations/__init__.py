"""The implementations that come with the suite, and the wrong layers that prove it."""

# The library of each registered implementation, so that it can be named without importing it.
LIBRARIES = {
    "nnx.Linear": "flax",
    "linen.Dense": "flax",
    "nnx.LinearGeneral": "flax",
    "nnx.Einsum": "flax",
    "nnx.bridge.ToNNX": "flax",
    "stax.Dense": "jax",
    "equinox.nn.Linear": "equinox",
    "haiku.Linear": "dm-haiku",
    "keras.layers.Dense": "keras",
}
