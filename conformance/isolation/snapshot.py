"""What one implementation must not change for the others: found, named, and put back.

A :class:`Snapshot` holds the settings of the process; :class:`SharedCode` holds the modules,
functions, classes and registries that all layers share, by identity and by what a function can be
changed in without being replaced: its code and its default values.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import operator
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np

__all__ = ["HARNESS", "SharedCode", "Snapshot", "take"]

# What layers are made of, and what makes them run.
_LIBRARIES = (
    *("builtins", "math", "os", "random", "signal", "time"),
    *("numpy", "jax", "jaxlib", "flax"),
)
HARNESS = (
    *("conformance", "hypothesis", "_pytest", "pytest", "pluggy", "xdist", "execnet"),
    *("contextlib", "copy", "functools", "importlib", "inspect", "json", "operator", "pickle"),
    *("traceback", "types"),
)
"""What decides a verdict: the suite, and what it runs on."""
_SHARED = (*_LIBRARIES, *HARNESS)

# Modules that a layer computes with: these are looked at after each call, and not only at the end.
_CALLED = (
    *("numpy", "numpy.random", "jax", "jax.numpy", "jax.random", "jax.lax", "jax.nn"),
    *("flax.nnx", "flax.linen", "builtins"),
)
# pytest writes into this one for each test.
_OTHERS_WRITE = ("_pytest.assertion.util",)
# Flax writes these anew for a class whenever somebody derives a dataclass from it.
_BOOKKEEPING = ("__dataclass_fields__", "__dataclass_params__")
_HEAP_TYPE = 1 << 9
"""CPython's flag of a class whose attributes can be set (``Py_TPFLAGS_HEAPTYPE``)."""
# Where JAX keeps the rules of its primitives.
_REGISTRIES = (
    ("jax._src.interpreters.mlir", "_lowerings"),
    ("jax._src.interpreters.mlir", "_platform_specific_lowerings"),
    ("jax._src.interpreters.ad", "primitive_jvps"),
    ("jax._src.interpreters.ad", "primitive_transposes"),
    ("jax._src.interpreters.batching", "primitive_batchers"),
    ("jax._src.interpreters.batching", "fancy_primitive_batchers"),
)
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD")
_LIMITS = ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_NOFILE", "RLIMIT_CPU")


class _Function(NamedTuple):
    """A function as it was."""

    name: str
    function: FunctionType
    code: Any
    defaults: Any
    keywords: dict[str, Any] | None


class SharedCode:
    """The code that all layers share, as it was when it was learned.

    Parameters
    ----------
    modules
        Only what is in these modules, and not in their classes and functions; by default all of
        the shared packages.
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
        """Return what is different now, in words."""
        return self._differences(None, restore=False)

    def put_back(self, packages: Container[str] | None = None) -> list[str]:
        """Restore what was changed, in some packages or in all, and return it in words."""
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
    """A registry by primitive, or one of them for each platform."""
    if isinstance(registry, dict):
        yield name, registry, dict(registry)
        for key, value in registry.items():
            if isinstance(value, dict):
                yield f"{name}[{key!r}]", value, dict(value)


def _replaced(name: str, place: Any, before: Mapping[Any, Any], *, restore: bool) -> Iterator[str]:
    now = place if isinstance(place, dict) else vars(place)
    # Without a loop in Python: this is all that happens after nearly every layer.
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
        # Some metaclasses refuse what object's own way allows.
        type.__setattr__(place, key, value)
    else:
        setattr(place, key, value)


def _changed(before: _Function, *, restore: bool) -> Iterator[str]:
    """What a function was changed in while it stayed the same object."""
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
    """The Python function that is called where this is: a method, a property, or wrapped."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    elif isinstance(value, property):
        value = value.fget
    elif not isinstance(value, FunctionType | type):
        with contextlib.suppress(Exception):  # whatever an object of others says to a question
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


def _config_values() -> dict[str, Any]:
    jax = sys.modules.get("jax")
    if jax is None or not hasattr(jax, "config"):
        return {}
    values = getattr(jax.config, "values", None)
    # As this thread sees them: a context that was entered overrides what is set for all threads.
    known = values if isinstance(values, dict) else {}
    return {key: getattr(jax.config, key, value) for key, value in known.items()}


def _handlers() -> dict[int, Any]:
    known = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    return {int(each): signal.getsignal(each) for each in known}


def _handle(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _limits() -> dict[int, tuple[int, int]]:
    import resource

    known = [getattr(resource, name) for name in _LIMITS if hasattr(resource, name)]
    return {each: resource.getrlimit(each) for each in known}


def _limit(before: dict[int, tuple[int, int]]) -> None:
    import resource

    for each, values in before.items():
        if resource.getrlimit(each) != values:
            resource.setrlimit(each, values)


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""  # somebody has removed it


def _posix_settings() -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    if sys.platform == "win32":
        return {}
    return {
        "an alarm": (
            signal.getitimer(signal.ITIMER_REAL)[0] > 0,
            lambda _: signal.setitimer(signal.ITIMER_REAL, 0),
        ),
        "the handling of signals": (_handlers(), _handle),
        "the process's resource limits": (_limits(), _limit),
    }


def _logging() -> tuple[int, list[Any], int]:
    """The root logger's level and handlers, and the level up to which logging is disabled."""
    root = logging.getLogger()
    return root.level, list(root.handlers), logging.root.manager.disable


def _log(before: tuple[int, list[Any], int]) -> None:
    root = logging.getLogger()
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    logging.disable(before[2])


def _flax_settings() -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """Flax's configuration, once Flax has been imported."""
    config = getattr(sys.modules.get("flax"), "config", None)
    values = getattr(config, "_values", None)
    if config is None or not isinstance(values, dict):
        return {}

    def configure(before: dict[str, Any]) -> None:
        for key, value in before.items():
            config.update(key, value)

    return {"Flax's configuration (flax.config)": (dict(values), configure)}


def _settings() -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """Settings of the process and how each is put back."""

    def collect(enabled: bool) -> None:
        (gc.enable if enabled else gc.disable)()

    def trace(before: tuple[Any, Any]) -> None:
        sys.settrace(before[0])
        sys.setprofile(before[1])

    def finders(before: tuple[list[Any], list[Any]]) -> None:
        sys.meta_path[:], sys.path_hooks[:] = before

    def filters(before: list[Any]) -> None:
        warnings.filters[:] = before  # type: ignore[index]  # it is a list

    return {
        # First, so that there is room for putting back the rest.
        "the recursion limit": (sys.getrecursionlimit(), sys.setrecursionlimit),
        **_posix_settings(),
        **_flax_settings(),
        "logging (the root logger's level and handlers)": (_logging(), _log),
        "the tracing of Python (sys.settrace, sys.setprofile)": (
            (sys.gettrace(), sys.getprofile()),
            trace,
        ),
        "the handling of floating-point errors (numpy.seterr)": (
            np.geterr(),
            lambda before: np.seterr(**before),
        ),
        "numpy's print options": (
            np.get_printoptions(),
            lambda before: np.set_printoptions(**before),
        ),
        "the warning filters": (list(warnings.filters), filters),
        "the garbage collector": (gc.isenabled(), collect),
        "the working directory": (_working_directory(), os.chdir),
        "how modules are found (sys.meta_path, sys.path_hooks)": (
            (list(sys.meta_path), list(sys.path_hooks)),
            finders,
        ),
    }


@dataclass(frozen=True)
class Snapshot:
    """The global state of this process at one moment."""

    environ: dict[str, str]
    config: dict[str, Any]
    python_random: Any
    numpy_random: Any
    settings: dict[str, Any]
    code: SharedCode
    path: tuple[str, ...]

    def changes(self, *, generators: bool = True) -> list[str]:
        """What is different now, in words."""
        found = []
        for key in sorted(self.environ.keys() | os.environ.keys()):
            if self.environ.get(key) != os.environ.get(key):
                found.append(f"os.environ[{key!r}] became {os.environ.get(key)!r}")
        found += self.config_changes()
        if generators and random.getstate() != self.python_random:
            found.append("the state of Python's global random generator changed")
        if generators and not _same_numpy_state(np.random.get_state(), self.numpy_random):
            found.append("the state of numpy.random's global generator changed")
        for name, (value, _) in _settings().items():
            if value != self.settings.get(name, value):
                found.append(f"{name} changed")
        if not set(self.path) <= set(sys.path):
            found.append("entries of sys.path were removed")
        found += self.code.changes()
        return found

    def config_changes(self) -> list[str]:
        """What is different now in JAX's configuration, as this thread sees it."""
        now = _config_values()
        return [
            f"jax.config.{key} became {now[key]!r}"
            for key, before in self.config.items()
            if key in now and now[key] is not before and now[key] != before
        ]

    def restore(self) -> None:
        """Put back what can be; what cannot, :meth:`changes` still finds afterwards."""
        for name, (value, put_back) in _settings().items():
            if value != self.settings.get(name, value):
                with contextlib.suppress(OSError, ValueError, RuntimeError):
                    put_back(self.settings[name])
        for key in set(os.environ) - set(self.environ):
            del os.environ[key]
        for key, value in self.environ.items():
            if os.environ.get(key) != value:
                os.environ[key] = value
        now = _config_values()
        jax = sys.modules.get("jax")
        for key, before in self.config.items():
            if jax is not None and key in now and now[key] is not before and now[key] != before:
                with contextlib.suppress(Exception):  # whatever JAX says to a value of its own
                    jax.config.update(key, before)
        random.setstate(self.python_random)
        np.random.set_state(self.numpy_random)
        # A layer may add the folder of its own modules, and nothing may go.
        sys.path += [place for place in self.path if place not in sys.path]
        self.code.put_back()


def _same_numpy_state(left: Any, right: Any) -> bool:
    return left[0] == right[0] and left[2:] == right[2:] and np.array_equal(left[1], right[1])


def take() -> Snapshot:
    """The global state now."""
    code = SharedCode(_CALLED)
    code.learn()
    return Snapshot(
        environ=dict(os.environ),
        config=_config_values(),
        python_random=random.getstate(),
        numpy_random=np.random.get_state(),
        settings={name: value for name, (value, _) in _settings().items()},
        code=code,
        path=tuple(sys.path),
    )
