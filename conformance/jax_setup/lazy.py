"""Modules that are imported at their first use.

Collecting the suite, listing its requirements and answering ``--help`` must not cost the
import of JAX, and the process that controls the workers never needs it at all.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["jax", "jnp", "linen", "nnx"]


class LazyModule(ModuleType):
    """Stands for the module of that name and imports it when an attribute is read."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            # Asked by who looks at every name of a module, as pytest does when it collects.
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
