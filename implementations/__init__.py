"""The implementations that come with the suite, and the wrong layers that prove it."""

# The library of each registered implementation, so that it can be named without importing it.
LIBRARIES = {
    "nnx.Linear": "flax",
    "linen.Dense": "flax",
}
