"""Compiled programs on disk: written whole, checked when read, the oldest removed.

JAX's own file cache writes in place, so that another process may read half of an entry, keeps
a broken entry for good, and trusts what it reads. This one renames files into place, keeps a
digest with each, and takes what does not match for absent: a program is either the one that was
compiled, or compiled again.

A compiled program is code that this process runs. The digest guards against accidents only, so
the directory must belong to the user, and nobody else may be able to write to it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import tempfile
import time
from pathlib import Path

__all__ = ["ProgramStore", "make_private", "prune"]

_SUFFIX = ".program"
# What this store writes, and what JAX's own file cache writes in its place.
_OURS = re.compile(r"\.new-.*|.*(\.program|-cache|-atime)")
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
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
        """Return the entry, or None if it is missing or differs from what was written."""
        file = self._file(key)
        try:
            with os.fdopen(os.open(file, os.O_RDONLY | _NO_LINKS | _BINARY), "rb") as stream:
                content = stream.read() if _is_own(os.fstat(stream.fileno())) else b""
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


def make_private(path: Path, root: Path) -> None:
    """Make a directory that only this user can write to, and those between it and a root.

    Raises
    ------
    OSError
        If one of them is a link, somebody else's, or open to others; ``strerror`` says which.
    """
    for each in (root, *reversed(path.relative_to(root).parents[:-1]), path):
        place = root / each
        place.mkdir(mode=0o700, parents=place == root, exist_ok=True)
        facts = os.lstat(place)
        if stat.S_ISLNK(facts.st_mode) or not stat.S_ISDIR(facts.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, f"{place} is a link")
        if not _is_own(facts):
            raise PermissionError(errno.EPERM, f"{place} belongs to another user")
        if os.name == "posix" and facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(errno.EPERM, f"others can write to {place}; remove it")


def _is_own(facts: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or facts.st_uid == os.getuid()


def _digest(key: str, value: bytes) -> bytes:
    # Of the key, too: a file under another's name is another program.
    return hashlib.sha256(key.encode() + b"\0" + value).digest()


def _mark_used(file: Path) -> None:
    if time.time() - file.stat().st_mtime > _USE_RESOLUTION:
        os.utime(file)


def prune(folder: Path, limit: int) -> int:
    """Remove what was used longest ago until the files below the folder take ``limit`` bytes.

    Returns the bytes that remain. Only files that a cache of programs writes count, and go.
    """
    found: list[tuple[float, int, str]] = []
    for directory, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                facts = os.lstat(path)
                if _OURS.fullmatch(name) and stat.S_ISREG(facts.st_mode) and _is_own(facts):
                    found.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
            total -= size
    return total
