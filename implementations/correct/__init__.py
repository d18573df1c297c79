"""Correct but unusual layers: whatever the suite says against one of them is a false alarm."""

import importlib
import pkgutil

__all__ = ["all_correct"]


def all_correct() -> list[str]:
    """The ``module:attribute`` of every correct layer of this package, in a fixed order.

    Imports the layers only when called. A module of this package lists its layers in ``__all__``.
    """
    specs = []
    for module_name in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        module = importlib.import_module(f"{__name__}.{module_name}")
        specs += [f"{module.__name__}:{attribute}" for attribute in module.__all__]
    return specs
