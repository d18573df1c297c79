"""Finds the files that are written while a block runs."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@contextlib.contextmanager
def written() -> Iterator[set[str]]:
    """Yield a set that collects the paths of files that are opened for writing.

    It sees files that Python's functions open, but not those that a C library opens.
    """
    found: set[str] = set()
    plain, low = builtins.open, os.open

    def note(path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike) and os.fspath(path) != os.devnull:
            found.add(os.fsdecode(path))

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if set(mode) & set("wax+"):
            note(file)
        return plain(file, mode, *arguments, **options)

    def opened_low(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & _WRITING:
            note(path)
        return low(path, flags, *arguments, **options)

    builtins.open, io.open, os.open = opened, opened, opened_low
    try:
        yield found
    finally:
        builtins.open, io.open, os.open = plain, plain, low
