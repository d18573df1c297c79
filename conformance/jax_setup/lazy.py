"""Modules that are imported at their first use.

Collecting the suite, listing requirements and printing ``--help`` must not import JAX, and the
controller never needs it.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["jax", "jnp", "linen", "nnx"]


class LazyModule(ModuleType):
    """Stands for a module, and imports it when an attribute is read."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            # pytest asks for special names when it collects; they must not import the module.
            raise AttributeError(f"module {self.__name__!r} has no attribute {attribute!r}")
        return getattr(importlib.import_module(self.__name__), attribute)


if TYPE_CHECKING:
    import jax
    import jax.numpy as jnp
    from flax import linen, nnx
else:
    jax = LazyModule("jax")
    jnp = LazyModule("jax.numpy")
    linen = LazyModule("flax.linen")
    nnx = LazyModule("flax.nnx")
