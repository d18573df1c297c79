"""Finds, names and undoes changes of the global state of this process.

A :class:`Snapshot` records the settings of the process and the functions of the modules that layers
compute with; :class:`.shared_code.SharedCode` records all code that layers share.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from conformance.isolation.shared_code import SharedCode

# Modules that a layer computes with are compared after each call, not only at the end.
_CALLED = (
    *("numpy", "numpy.random", "jax", "jax.numpy", "jax.random", "jax.lax", "jax.nn"),
    *("flax.nnx", "flax.linen", "builtins"),
)
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD")
_LIMITS = (
    *("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_NOFILE", "RLIMIT_CPU"),
    *("RLIMIT_FSIZE", "RLIMIT_NPROC"),
)


def _config_values() -> dict[str, Any]:
    jax = sys.modules.get("jax")
    if jax is None or not hasattr(jax, "config"):
        return {}
    values = getattr(jax.config, "values", None)
    # The values of this thread: an entered context overrides the setting of all threads.
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


def _umask() -> int:
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    return mask


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""  # the layer has removed it


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
        "the mask of new files' permissions (os.umask)": (_umask(), os.umask),
    }


# The root logger, and those of the libraries that every layer uses.
_LOGGERS = ("", "jax", "flax")


def _logging() -> tuple[Any, ...]:
    """Return level, handlers and filters of these loggers, and the globally disabled level."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    return (
        *((each.level, list(each.handlers), list(each.filters)) for each in loggers),
        logging.root.manager.disable,
    )


def _log(before: tuple[Any, ...]) -> None:
    for name, (level, handlers, filters) in zip(_LOGGERS, before[:-1], strict=True):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers[:], logger.filters[:] = handlers, filters
    logging.disable(before[-1])


def _flax_settings() -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """Return Flax's configuration, once Flax has been imported."""
    config = getattr(sys.modules.get("flax"), "config", None)
    values = getattr(config, "_values", None)
    if config is None or not isinstance(values, dict):
        return {}

    def configure(before: dict[str, Any]) -> None:
        for key, value in before.items():
            config.update(key, value)

    return {"Flax's configuration (flax.config)": (dict(values), configure)}


def _settings() -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """Return the settings of the process, and how each is restored."""

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
        # First, because restoring the rest needs the recursion depth.
        "the recursion limit": (sys.getrecursionlimit(), sys.setrecursionlimit),
        **_posix_settings(),
        **_flax_settings(),
        "logging (the level, handlers or filters of the root logger, or of JAX's)": (
            _logging(),
            _log,
        ),
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

    def changes(self) -> list[str]:
        """Return what is different now, in words."""
        found = []
        for key in sorted(self.environ.keys() | os.environ.keys()):
            if self.environ.get(key) != os.environ.get(key):
                found.append(f"os.environ[{key!r}] became {os.environ.get(key)!r}")
        found += self.config_changes()
        if random.getstate() != self.python_random:
            found.append("the state of Python's global random generator changed")
        if not _same_numpy_state(np.random.get_state(), self.numpy_random):
            found.append("the state of numpy.random's global generator changed")
        for name, (value, _) in _settings().items():
            if value != self.settings.get(name, value):
                found.append(f"{name} changed")
        if not set(self.path) <= set(sys.path):
            found.append("entries of sys.path were removed")
        found += self.code.changes()
        return found

    def config_changes(self) -> list[str]:
        """Return the changes of JAX's configuration that this thread sees."""
        return [f"jax.config.{key} became {now!r}" for key, _, now in self._changed_config()]

    def _changed_config(self) -> Iterator[tuple[str, Any, Any]]:
        """Yield the settings of JAX that changed, each with its former and its present value."""
        now = _config_values()
        for key, before in self.config.items():
            if key in now and now[key] is not before and now[key] != before:
                yield key, before, now[key]

    def restore(self) -> None:
        """Restore what can be restored; :meth:`changes` still reports the rest."""
        for name, (value, put_back) in _settings().items():
            if value != self.settings.get(name, value):
                with contextlib.suppress(OSError, ValueError, RuntimeError):
                    put_back(self.settings[name])
        for key in set(os.environ) - set(self.environ):
            del os.environ[key]
        for key, value in self.environ.items():
            if os.environ.get(key) != value:
                os.environ[key] = value
        for key, before, _ in self._changed_config():
            with contextlib.suppress(Exception):  # JAX may refuse one of its own values
                sys.modules["jax"].config.update(key, before)
        random.setstate(self.python_random)
        np.random.set_state(self.numpy_random)
        # A layer may add the folder of its own modules, but must not remove entries.
        sys.path += [place for place in self.path if place not in sys.path]
        self.code.put_back()


def _same_numpy_state(left: Any, right: Any) -> bool:
    return left[0] == right[0] and left[2:] == right[2:] and np.array_equal(left[1], right[1])


def take() -> Snapshot:
    """Return the global state now."""
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
