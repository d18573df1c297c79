"""Correct but unusual layers, on which any failure is a false alarm."""

from __future__ import annotations

import importlib
import pkgutil

__all__ = ["all_correct"]


def all_correct() -> list[str]:
    """Return the ``module:attribute`` of every correct layer of this package, in a fixed order.

    Imports the layers only when called. Every public name that a module of this package defines,
    and every implementation, is a layer, unless the module lists its layers in ``__all__``.
    """
    from conformance.layers.implementation import Implementation

    specs = []
    for module_name in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        module = importlib.import_module(f"{__name__}.{module_name}")
        own = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and (
                isinstance(value, Implementation)
                or getattr(value, "__module__", "") == module.__name__
            )
        ]
        specs += [f"{module.__name__}:{name}" for name in getattr(module, "__all__", sorted(own))]
    return specs
