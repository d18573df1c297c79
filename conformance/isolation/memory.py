"""Measure and limit the memory of this process."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

GIB = 2**30

# Above this, a worker drops the programs of finished layers. Not sooner, because layers share the
# programs of single operations, which are most of the cost of a new layer.
_COMFORTABLE = 2 * GIB // 3
# For many layers: an eighth of the machine's memory, within these bounds.
_FOR_MANY_LAYERS = (3 * GIB // 2, 4 * GIB)
_MANY = 50
_INTERVAL = 0.25
# New objects before a collection, and collections before one of the next generation.
_RARELY = (100_000, 20, 20)


def resident() -> int:
    """Return the bytes of memory that this process occupies; 0 if the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@functools.cache
def collect_less() -> None:
    """Exclude imported modules from garbage collection, and collect more rarely.

    Tracing makes many small objects. Collections that visit JAX's modules, which live until the
    end, take 5 % of a run. Collecting as often as Python does by default, with the callbacks of JAX
    and Hypothesis at each collection, takes another 6 %. One layer's peak of memory is the same.
    """
    gc.freeze()
    gc.set_threshold(*_RARELY)


def release(layers: int) -> None:
    """Clear JAX's caches of compiled programs when this process takes much memory.

    ``layers`` is the number of layers in the run; more layers share more programs.
    """
    jax, limit = sys.modules.get("jax"), _comfortable(layers)
    if jax is None or resident() <= limit:
        return
    # The programs of the layer alone go with it.
    gc.collect()
    _return_freed_memory()
    if resident() > limit:
        jax.clear_caches()
        gc.collect()
        _return_freed_memory()


def _comfortable(layers: int) -> int:
    if layers < _MANY:
        return _COMFORTABLE
    least, most = _FOR_MANY_LAYERS
    try:
        eighth = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8
    except (OSError, ValueError, AttributeError):  # the last on Windows
        return least
    return min(max(least, eighth), most)


def _return_freed_memory() -> None:
    """Return freed memory to the system, which the C library may keep.

    Otherwise the process would seem full from then on, and clear the caches after every layer.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # the last on Windows
        ctypes.CDLL(None).malloc_trim(0)


def guard(limit: float, before_the_end: Callable[[], None]) -> None:
    """End this process when it takes more memory than the limit, in GiB.

    A process that exhausts the memory of a machine would also end others.
    """

    def watch() -> None:
        while resident() <= limit * GIB:
            stop.wait(_INTERVAL)
        before_the_end()
        os._exit(70)

    stop = threading.Event()
    threading.Thread(target=watch, daemon=True, name="dense-conformance memory").start()
