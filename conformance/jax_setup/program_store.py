"""Compiled programs on disk: written whole, checked when read, the oldest removed.

JAX's own file cache writes in place, so another process may read half an entry; it keeps a broken
entry forever, and trusts what it reads. This one renames files into place and keeps a digest with
each. An entry that does not match its digest counts as absent, and the program is compiled again.

A compiled program is code that this process runs. The digest guards against accidents only, so
the directory must belong to the user, and others must not be able to write to it.
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

_SUFFIX = ".program"
# The suffixes that this store writes, and those of JAX's own file cache.
_OURS = re.compile(r"\.new-.*|.*(\.program|-cache|-atime)")
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_DIGEST_BYTES = hashlib.sha256().digest_size
# After so many failed writes (disk full, read-only) this process writes no more.
_ENOUGH_REFUSALS = 3
# The time of use is kept to the hour, because a write for each read would cost more than the read.
_USE_RESOLUTION = 3600.0


class ProgramStore:
    """Entries of bytes by key, as JAX's compilation cache asks for them.

    The state of the disk raises nothing: an entry that cannot be read is absent, and one that
    cannot be written is not kept.

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
        """Keep an entry, if the disk allows it; other processes see all of it or nothing."""
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
    """Make a directory, and those between it and a root, that only this user can write to.

    Raises
    ------
    OSError
        If one is a link, belongs to another user, or is open to others; ``strerror`` says which.
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
    # The digest covers the key as well: a renamed file must not pass for another program.
    return hashlib.sha256(key.encode() + b"\0" + value).digest()


def _mark_used(file: Path) -> None:
    if time.time() - file.stat().st_mtime > _USE_RESOLUTION:
        os.utime(file)


def prune(folder: Path, limit: int) -> int:
    """Remove the oldest files below the folder until the rest takes ``limit`` bytes.

    Returns the remaining bytes. Only files that a cache of programs writes are counted and removed.
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
