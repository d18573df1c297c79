"""Finds, names and undoes changes of the code that all layers share.

Modules, functions, classes and registries are compared by identity, functions also by their code
and default values, which can be changed in place.
"""

from __future__ import annotations

import contextlib
import operator
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

# The packages that layers are written with, and those that run them.
_LIBRARIES = (
    *("builtins", "math", "os", "random", "signal", "threading", "time"),
    *("numpy", "jax", "jaxlib", "flax"),
)
HARNESS = (
    *("conformance", "hypothesis", "_pytest", "pytest", "pluggy", "xdist", "execnet"),
    *("contextlib", "copy", "functools", "importlib", "inspect", "json", "operator", "pickle"),
    *("traceback", "types"),
)
"""The packages that decide a verdict: the suite, and those that it runs on."""
_SHARED = (*_LIBRARIES, *HARNESS)

# pytest writes into this one for each test.
_OTHERS_WRITE = ("_pytest.assertion.util",)
# Flax rewrites these for a class whenever a dataclass is derived from it.
_BOOKKEEPING = ("__dataclass_fields__", "__dataclass_params__")
_HEAP_TYPE = 1 << 9
"""CPython's flag of a class whose attributes can be set (``Py_TPFLAGS_HEAPTYPE``)."""
# The modules in which JAX keeps the rules of its primitives.
_REGISTRIES = (
    ("jax._src.interpreters.mlir", "_lowerings"),
    ("jax._src.interpreters.mlir", "_platform_specific_lowerings"),
    ("jax._src.interpreters.ad", "primitive_jvps"),
    ("jax._src.interpreters.ad", "primitive_transposes"),
    ("jax._src.interpreters.batching", "primitive_batchers"),
    ("jax._src.interpreters.batching", "fancy_primitive_batchers"),
)


class _Function(NamedTuple):
    """The former state of a function."""

    name: str
    function: FunctionType
    code: Any
    defaults: Any
    keywords: dict[str, Any] | None


class SharedCode:
    """The recorded state of the code that all layers share.

    Parameters
    ----------
    modules
        The modules to record, without their classes and functions; by default all of the shared
        packages.
    functions
        Whether to look into functions as well, which takes most of the time.
    """

    def __init__(self, modules: Sequence[str] = (), *, functions: bool = True) -> None:
        self._named = modules
        self._looks_into_functions = functions
        self._modules: dict[str, ModuleType] = {}
        self._contents: dict[str, list[tuple[str, Any, dict[Any, Any]]]] = {}
        self._functions: dict[str, list[_Function]] = {}
        self._known: set[int] = set()

    def learn(self) -> None:
        """Remember the modules that have been imported since the last call."""
        for name in self._named or list(sys.modules):
            module = sys.modules.get(name)
            if name in self._modules or not isinstance(module, ModuleType):
                continue
            if name.partition(".")[0] not in _SHARED or name in _OTHERS_WRITE:
                continue
            self._modules[name] = module
            called = {key: value for key, value in vars(module).items() if callable(value)}
            top = name.partition(".")[0]
            self._contents.setdefault(top, []).append((name, module, called))
            if not self._named:
                self._learn_more(name, top, called)

    def _learn_more(self, name: str, top: str, called: Mapping[str, Any]) -> None:
        """Remember the classes, functions and registries of a module."""
        contents, functions = self._contents[top], self._functions.setdefault(top, [])
        for owner, attribute in _REGISTRIES:
            if owner == name:
                registry = getattr(self._modules[name], attribute, None)
                contents.extend(_registries(f"{name}.{attribute}", registry))
        for key, value in called.items():
            if not self._is_new(value):
                continue
            if self._looks_into_functions:
                functions.extend(_functions_of(f"{name}.{key}", value))
            if _is_shared_class(value):
                own = {k: v for k, v in vars(value).items() if k not in _BOOKKEEPING}
                contents.append((f"{value.__module__}.{value.__qualname__}", value, own))
                for attribute, member in own.items():
                    if self._looks_into_functions and self._is_new(member):
                        functions.extend(_functions_of(f"{name}.{key}.{attribute}", member))

    def _is_new(self, value: Any) -> bool:
        known = id(value) in self._known
        self._known.add(id(value))
        return not known

    def changes(self) -> list[str]:
        """Return the changes since then, in words."""
        return self._differences(None, restore=False)

    def put_back(self, packages: Container[str] | None = None) -> list[str]:
        """Undo the changes, in some packages or in all, and return them in words."""
        return self._differences(packages, restore=True)

    def _differences(self, packages: Container[str] | None, *, restore: bool) -> list[str]:
        found = []
        for name, module in self._modules.items():
            if sys.modules.get(name) is not module and _is_in(name, packages):
                found.append(f"the module {name} was replaced")
                if restore:
                    sys.modules[name] = module
        for top, contents in self._contents.items():
            if _is_in(top, packages):
                for name, place, before in contents:
                    found += _replaced(name, place, before, restore=restore)
                for function in self._functions.get(top, ()):
                    found += _changed(function, restore=restore)
        return found


def _is_in(name: str, packages: Container[str] | None) -> bool:
    return packages is None or name.partition(".")[0] in packages


def _registries(name: str, registry: Any) -> Iterator[tuple[str, Any, dict[Any, Any]]]:
    """Yield the registry by primitive, or one for each platform."""
    if isinstance(registry, dict):
        yield name, registry, dict(registry)
        for key, value in registry.items():
            if isinstance(value, dict):
                yield f"{name}[{key!r}]", value, dict(value)


def _replaced(name: str, place: Any, before: Mapping[Any, Any], *, restore: bool) -> Iterator[str]:
    now = place if isinstance(place, dict) else vars(place)
    # Compared without a Python loop, because this runs after nearly every layer.
    if all(map(operator.is_, map(now.get, before), before.values())):
        return
    for key, value in before.items():
        if now.get(key) is not value:
            yield f"{name}[{key}] was replaced" if now is place else f"{name}.{key} was replaced"
            if restore:
                with contextlib.suppress(AttributeError, TypeError):
                    _set(place, key, value)


def _set(place: Any, key: Any, value: Any) -> None:
    if isinstance(place, dict):
        place[key] = value
    elif isinstance(place, type):
        # Some metaclasses refuse this, but object's own method allows it.
        type.__setattr__(place, key, value)
    else:
        setattr(place, key, value)


def _changed(before: _Function, *, restore: bool) -> Iterator[str]:
    """Yield the changes made to a function in place."""
    name, function, code, defaults, keywords = before
    as_before = function.__defaults__ is defaults and _same(function.__kwdefaults__, keywords)
    if function.__code__ is code and as_before:
        return
    if function.__code__ is not code:
        yield f"the code of {name} was replaced"
    if not as_before:
        yield f"the default values of {name} changed"
    if restore:
        with contextlib.suppress(ValueError):
            function.__code__ = code
        function.__defaults__ = defaults
        function.__kwdefaults__ = keywords and dict(keywords)


def _same(now: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> bool:
    if not now or not before:
        return not now and not before
    return now.keys() == before.keys() and all(now[key] is before[key] for key in before)


def _functions_of(name: str, value: Any) -> Iterator[_Function]:
    """Yield the Python functions behind an object: a method, a property, or a wrapped function."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    elif isinstance(value, property):
        value = value.fget
    elif not isinstance(value, FunctionType | type):
        with contextlib.suppress(Exception):  # a foreign object may raise anything when it is asked
            value = value.__wrapped__
    if isinstance(value, FunctionType):
        keywords = value.__kwdefaults__
        copy = keywords and dict(keywords)
        yield _Function(name, value, value.__code__, value.__defaults__, copy)


def _is_shared_class(value: Any) -> bool:
    return (
        # A replacement may lie about its class.
        issubclass(type(value), type)
        and bool(value.__flags__ & _HEAP_TYPE)
        and str(getattr(value, "__module__", "")).partition(".")[0] in _SHARED
    )
