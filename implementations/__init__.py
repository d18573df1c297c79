"""The implementations that come with the suite, and the zoo of wrong and correct layers."""

# The library of each registered implementation, which is thus known without an import.
LIBRARIES = {
    "nnx.Linear": "flax",
    "linen.Dense": "flax",
    "equinox.nn.Linear": "equinox",
    "haiku.Linear": "dm-haiku",
    "haliax.nn.Linear": "haliax",
    "keras.layers.Dense": "keras",
}
