"""What one implementation must not change for the others: found, named, and put back."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["Snapshot", "take"]

# Modules whose functions a plugin might replace, and so change everybody's results.
_WATCHED = (
    *("numpy", "numpy.random", "jax", "jax.numpy", "jax.random", "jax.lax", "jax.nn"),
    *("flax.nnx", "flax.linen", "builtins"),
)
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD")
_LIMITS = ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_NOFILE", "RLIMIT_CPU")


def _config_values() -> dict[str, Any]:
    jax = sys.modules.get("jax")
    if jax is None or not hasattr(jax, "config"):
        return {}
    values = getattr(jax.config, "values", None)
    # As this thread sees them: a context that was entered overrides what is set for all threads.
    known = values if isinstance(values, dict) else {}
    return {key: getattr(jax.config, key, value) for key, value in known.items()}


def _functions() -> dict[str, dict[str, Any]]:
    return {
        name: {key: value for key, value in vars(module).items() if callable(value)}
        for name in _WATCHED
        if isinstance(module := sys.modules.get(name), ModuleType)
    }


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


def _settings() -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """Settings of the process and how each is put back."""

    def collect(enabled: bool) -> None:
        (gc.enable if enabled else gc.disable)()

    def trace(before: tuple[Any, Any]) -> None:
        sys.settrace(before[0])
        sys.setprofile(before[1])

    def filters(before: list[Any]) -> None:
        warnings.filters[:] = before  # type: ignore[index]  # it is a list

    return {
        # First, so that there is room for putting back the rest.
        "the recursion limit": (sys.getrecursionlimit(), sys.setrecursionlimit),
        **_posix_settings(),
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
    }


@dataclass(frozen=True)
class Snapshot:
    """The global state of this process at one moment."""

    environ: dict[str, str]
    config: dict[str, Any]
    python_random: Any
    numpy_random: Any
    settings: dict[str, Any]
    functions: dict[str, dict[str, Any]]

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
            if value != self.settings[name]:
                found.append(f"{name} changed")
        for name, before in self.functions.items():
            present = vars(sys.modules[name])
            replaced = [key for key, value in before.items() if present.get(key) is not value]
            found.extend(f"{name}.{key} was replaced" for key in sorted(replaced))
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
            if value != self.settings[name]:
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
        for name, functions in self.functions.items():
            present = vars(sys.modules[name])
            for key, value in functions.items():
                if present.get(key) is not value:
                    setattr(sys.modules[name], key, value)


def _same_numpy_state(left: Any, right: Any) -> bool:
    return left[0] == right[0] and left[2:] == right[2:] and np.array_equal(left[1], right[1])


def take() -> Snapshot:
    """The global state now."""
    return Snapshot(
        environ=dict(os.environ),
        config=_config_values(),
        python_random=random.getstate(),
        numpy_random=np.random.get_state(),
        settings={name: value for name, (value, _) in _settings().items()},
        functions=_functions(),
    )
