"""What one implementation must not change for the others: found, named, and put back."""

from __future__ import annotations

import gc
import os
import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["Snapshot", "take"]

# Modules whose functions a plugin might replace, and so change everybody's results.
_WATCHED = ("numpy", "numpy.random", "jax", "jax.numpy", "jax.random", "jax.lax", "jax.nn")


def _config_values() -> dict[str, Any]:
    jax = sys.modules.get("jax")
    if jax is None or not hasattr(jax, "config"):
        return {}
    values = getattr(jax.config, "values", None)
    return dict(values) if isinstance(values, dict) else {}


def _functions() -> dict[str, dict[str, Any]]:
    return {
        name: {key: value for key, value in vars(module).items() if callable(value)}
        for name in _WATCHED
        if isinstance(module := sys.modules.get(name), ModuleType)
    }


def _settings() -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """Settings of the process and how each is put back."""

    def collect(enabled: bool) -> None:
        (gc.enable if enabled else gc.disable)()

    def filters(before: list[Any]) -> None:
        warnings.filters[:] = before  # type: ignore[index]  # it is a list

    return {
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
        "the recursion limit": (sys.getrecursionlimit(), sys.setrecursionlimit),
        "the working directory": (os.getcwd(), os.chdir),
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
        now = _config_values()
        for key, before in self.config.items():
            if key in now and now[key] is not before and now[key] != before:
                found.append(f"jax.config.{key} became {now[key]!r}")
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

    def restore(self) -> None:
        """Put everything back."""
        for key in set(os.environ) - set(self.environ):
            del os.environ[key]
        for key, value in self.environ.items():
            if os.environ.get(key) != value:
                os.environ[key] = value
        now = _config_values()
        jax = sys.modules.get("jax")
        for key, before in self.config.items():
            if jax is not None and key in now and now[key] is not before and now[key] != before:
                jax.config.update(key, before)
        random.setstate(self.python_random)
        np.random.set_state(self.numpy_random)
        for name, (value, put_back) in _settings().items():
            if value != self.settings[name]:
                put_back(self.settings[name])
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
