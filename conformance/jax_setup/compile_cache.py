"""Sets JAX up before it is imported, and keeps compiled programs between runs.

Compiling is most of the cost of a run, and the next run needs the same programs. JAX's key of a
program covers the program, the versions of jax and jaxlib, and the flags of XLA.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from conformance.jax_setup.program_store import ProgramStore, make_private, prune

HOST_DEVICES = 8

SWITCH = "CONFORMANCE_COMPILE_CACHE"
"""The environment variable that turns the compile cache off, by the value ``off``."""

# The five built-in layers take 5 MB for one version of jax, the whole zoo 70 MB: this suffices for
# a matrix of versions. Looking at all files takes up to 0.2 s, so not every run does.
_LIMIT = 256 * 2**20
_INTERVAL = 3600.0


def location() -> Path:
    """Return the directory of compiled programs, in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification says to ignore a relative path
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "dense-conformance" / "compiled"


def directory() -> Path:
    """Return the part of :func:`location` for these versions on this kind of processor.

    Machines may share a home directory, and one may lack the instructions of another's programs.
    """
    processor = hashlib.sha256(_processor().encode()).hexdigest()[:8]
    return location() / f"jax-{_version('jax')}-jaxlib-{_version('jaxlib')}-{processor}"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    """Return the machine, and its instructions if the system reports them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.system()} {platform.machine()} {flags}"


def enabled() -> bool:
    """Return whether the environment leaves the cache on, and a home directory exists."""
    return os.environ.get(SWITCH, "on") != "off" and location().is_absolute()


def prepare(cache: bool = True) -> None:
    """Set up the compile cache and the host devices; do nothing if JAX is imported already."""
    if "jax" in sys.modules:
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={HOST_DEVICES}"
    # Filtering the traceback of each exception takes tens of milliseconds, without any use here.
    os.environ.setdefault("JAX_TRACEBACK_FILTERING", "off")
    # Noting the line of each operation in its program takes 5 % of a run.
    os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
    # jaxlib 0.9.0 and 0.10.0 log an error for each cached program.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Several workers share a GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if not (cache and enabled()):
        # The user's own cache is not used: its entries are not checked when they are read.
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        return
    path = directory()
    try:
        make_private(path, location().parent)
    except OSError:
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        return  # without a cache, the run is only slower
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(path)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    # XLA's own caches are not checked when they are read.
    os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"


def install() -> None:
    """Have JAX keep its programs in a :class:`ProgramStore`; imports JAX.

    JAX has no public hook for this. If a version moves the private one, JAX's own file cache is
    used, which is only less careful.
    """
    ours = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not enabled() or ours != str(directory()):
        return
    try:
        from jax._src import compilation_cache

        theirs = compilation_cache.get_file_cache
    except (ImportError, AttributeError):
        return

    def file_cache(path: str) -> object:
        return (ProgramStore(Path(path)), path) if path == ours else theirs(path)

    compilation_cache.get_file_cache = file_cache  # type: ignore[assignment]  # it asks no more


def trouble() -> str:
    """Return why programs cannot be kept, in words; empty if they can, or the cache is off."""
    if not enabled():
        return ""
    path = directory()
    try:
        make_private(path, location().parent)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        return (
            f"dense-conformance: compiled programs cannot be kept in {path} "
            f"({error.strerror or error}): each run compiles again; XDG_CACHE_HOME names another "
            "place, --no-compile-cache none\n"
        )
    return ""


def bound(limit: int = _LIMIT) -> None:
    """Keep the programs of all versions within ``limit`` bytes; look at most once an hour."""
    mark = location() / ".bounded"
    if not enabled() or trouble() or _age(mark) < _INTERVAL:
        return
    prune(location(), limit)
    with contextlib.suppress(OSError):
        mark.touch()


def _age(file: Path) -> float:
    try:
        return time.time() - file.stat().st_mtime
    except OSError:
        return math.inf
