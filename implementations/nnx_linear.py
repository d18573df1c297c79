"""Flax's own dense layer for NNX."""

from flax.nnx import Linear

__all__ = ["Linear"]
