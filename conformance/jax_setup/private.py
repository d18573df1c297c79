"""Replaces private functions of JAX where it has no public hook.

If a version of JAX moves such a function, nothing is replaced, and runs are only slower.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def wrap(module: str, name: str, wrapper: type, make: Callable[[Any], Any]) -> None:
    """Replace a function of a module by ``make(function)``, unless it is a wrapper already."""
    try:
        found = importlib.import_module(module)
        function = getattr(found, name)
    except (ImportError, AttributeError):
        return
    if not isinstance(function, wrapper):
        setattr(found, name, make(function))
