"""Functions and methods that everybody shares, found where one was replaced, and put back."""

from __future__ import annotations

import contextlib
import operator
import sys
from types import ModuleType
from typing import Any

__all__ = ["Originals"]

# What layers and the suite are made of. Comparing all of it by identity costs about 10 ms.
_SHARED = (
    *("builtins", "math", "os", "random", "signal", "time", "json", "pickle"),
    *("numpy", "jax", "jaxlib", "flax", "hypothesis", "conformance"),
)
# Flax writes these anew for a class whenever somebody derives a dataclass from it.
_BOOKKEEPING = ("__dataclass_fields__", "__dataclass_params__")
_HEAP_TYPE = 1 << 9
"""CPython's flag of a class whose attributes can be set (``Py_TPFLAGS_HEAPTYPE``)."""


class Originals:
    """The callables of the shared modules, and the attributes of their classes, as they were."""

    def __init__(self) -> None:
        self._modules: dict[str, ModuleType] = {}
        self._functions: dict[str, dict[str, Any]] = {}
        self._classes: dict[type, dict[str, Any]] = {}

    def learn(self) -> None:
        """Remember the modules that have been imported since the last call."""
        for name, module in list(sys.modules.items()):
            known = name in self._modules or name.partition(".")[0] not in _SHARED
            if known or not isinstance(module, ModuleType):
                continue
            self._modules[name] = module
            functions = {k: v for k, v in vars(module).items() if callable(v)}
            self._functions[name] = functions
            for value in functions.values():
                if _is_shared_class(value) and value not in self._classes:
                    own = vars(value).items()
                    self._classes[value] = {k: v for k, v in own if k not in _BOOKKEEPING}

    def put_back(self) -> list[str]:
        """Restore all that was replaced; what that was, in words."""
        found = []
        for name, module in self._modules.items():
            if sys.modules.get(name) is not module:
                found.append(f"the module {name} was replaced")
                sys.modules[name] = module
        places: list[tuple[str, Any, dict[str, Any]]] = [
            (name, self._modules[name], functions) for name, functions in self._functions.items()
        ]
        places += [(f"{c.__module__}.{c.__qualname__}", c, own) for c, own in self._classes.items()]
        for name, place, before in places:
            now = vars(place)
            # Without a loop in Python: this is all that happens after nearly every layer.
            if all(map(operator.is_, map(now.get, before), before.values())):
                continue
            for key, value in before.items():
                if now.get(key) is not value:
                    found.append(f"{name}.{key} was replaced")
                    with contextlib.suppress(AttributeError, TypeError):
                        _set(place, key, value)
        return found


def _is_shared_class(value: Any) -> bool:
    return (
        # A replacement may lie about its class.
        issubclass(type(value), type)
        and bool(value.__flags__ & _HEAP_TYPE)
        and str(getattr(value, "__module__", "")).partition(".")[0] in _SHARED
    )


def _set(place: Any, key: str, value: Any) -> None:
    # Some metaclasses refuse what object's own way allows.
    if isinstance(place, type):
        type.__setattr__(place, key, value)
    else:
        setattr(place, key, value)
