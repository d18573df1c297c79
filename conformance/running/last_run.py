"""Remembers the requirements that failed in the last run in a folder, to check them first."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from conformance.jax_setup import compile_cache
from conformance.results.cell import Cell

Key = tuple[str, str]


def _file() -> Path:
    folder = hashlib.sha256(os.getcwd().encode(errors="replace")).hexdigest()[:16]
    return compile_cache.location().parent / "last" / f"{folder}.json"


def _read() -> dict[str, list[str]]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(_file().read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def failed_last(implementations: Iterable[str]) -> frozenset[Key]:
    """Return the cells of these implementations, by id, that failed when last checked."""
    known = _read()
    return frozenset((id, str(row)) for id in implementations for row in known.get(id, ()))


def remember(cells: Iterable[Cell]) -> None:
    """Remember which of the checked cells failed; others keep their state."""
    known = {id: set(rows) for id, rows in _read().items()}
    for cell in cells:
        if cell.outcome.checked:
            rows = known.setdefault(cell.implementation, set())
            (rows.add if cell.outcome == "failed" else rows.discard)(cell.requirement)
    with contextlib.suppress(OSError):
        _file().parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({id: sorted(rows) for id, rows in known.items() if rows})
        temporary = _file().with_suffix(f".{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(_file())
