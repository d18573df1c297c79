"""The implementations that come with the suite, and the wrong layers that prove it."""

# The library of each registered implementation, so that it can be named without importing it.
LIBRARIES = {
    "nnx.Linear": "flax",
    "linen.Dense": "flax",
    "equinox.nn.Linear": "equinox",
    "haiku.Linear": "dm-haiku",
    "keras.layers.Dense": "keras",
}
