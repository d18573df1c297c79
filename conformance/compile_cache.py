"""What is set before JAX starts in a process that runs the suite."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["prepare"]

HOST_DEVICES = 8


def location() -> Path:
    """The user's cache directory for compiled programs."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "dense-conformance" / "compiled"


def prepare() -> None:
    """Set the compile cache and the host devices up; does nothing once JAX is imported."""
    if "jax" in sys.modules:
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={HOST_DEVICES}"
    # Filtering the traceback of each exception takes tens of milliseconds; nobody sees it here.
    os.environ.setdefault("JAX_TRACEBACK_FILTERING", "off")
    # Several workers share a GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if os.environ.get("CONFORMANCE_COMPILE_CACHE", "on") == "off":
        return
    path = location()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # without a cache, everything is as it would be, only slower
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(path))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
