"""Compiled programs on disk: written whole, checked when read, the oldest removed.

JAX's own file cache writes in place, so that another process may read half of an entry, keeps
a broken entry for good, and trusts what it reads. This one renames files into place, keeps a
digest with each, and takes what does not match for absent: a program is either the one that was
compiled, or compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path

__all__ = ["ProgramStore", "prune"]

_SUFFIX = ".program"
_DIGEST_BYTES = hashlib.sha256().digest_size
# A place that refused this often (full, read-only) is not written to again by this process.
_ENOUGH_REFUSALS = 3
# A program's time of use is kept to the hour: a write for each read would cost more than the read.
_USE_RESOLUTION = 3600.0


class ProgramStore:
    """Entries of bytes by key, as JAX's compilation cache asks for them.

    Nothing here raises for what is on the disk: an entry that cannot be read is absent, and one
    that cannot be written is not kept.

    Parameters
    ----------
    path
        A directory that exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path  # JAX reads this attribute of its caches
        self._refusals = 0

    def _file(self, key: str) -> Path:
        return self._path / f"{key}{_SUFFIX}"

    def get(self, key: str) -> bytes | None:
        """The entry, or None if there is none or it is not what was written."""
        file = self._file(key)
        try:
            content = file.read_bytes()
        except OSError:
            return None
        value, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if _digest(key, value) != digest:
            with contextlib.suppress(OSError):
                file.unlink()
            return None
        with contextlib.suppress(OSError):
            _mark_used(file)
        return value

    def put(self, key: str, value: bytes) -> None:
        """Keep an entry, if the disk takes it; other processes see all of it or nothing."""
        if self._refusals >= _ENOUGH_REFUSALS:
            return
        name = None
        try:
            handle, name = tempfile.mkstemp(dir=self._path, prefix=".new-")
            with os.fdopen(handle, "wb") as stream:
                stream.write(value + _digest(key, value))
            os.replace(name, self._file(key))
        except OSError:
            self._refusals += 1
            if name is not None:
                with contextlib.suppress(OSError):
                    os.unlink(name)


def _digest(key: str, value: bytes) -> bytes:
    # Of the key, too: a file under another's name is another program.
    return hashlib.sha256(key.encode() + b"\0" + value).digest()


def _mark_used(file: Path) -> None:
    if time.time() - file.stat().st_mtime > _USE_RESOLUTION:
        os.utime(file)


def prune(folder: Path, limit: int) -> int:
    """Remove what was used longest ago until the files below the folder take ``limit`` bytes.

    Returns the bytes that remain; whatever else lies there counts, and goes, too.
    """
    found: list[tuple[float, int, str]] = []
    for directory, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                facts = os.lstat(path)
                found.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
            total -= size
    return total
