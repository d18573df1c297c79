"""Reads the table ``[tool.dense-conformance]`` of a project's ``pyproject.toml``."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

from conformance.errors import UsageError, did_you_mean, safe_text

_TOOL, _OWN = "tool", "dense-conformance"
_KEYS = ("expect", "layers", "strict")


def own_table(path: Path) -> dict[str, Any]:
    """Return the table ``[tool.dense-conformance]``; empty without the file or the table.

    Raises
    ------
    UsageError
        If the file cannot be read or is not TOML, because it may declare layers; if the table is
        not a table, or has an unknown key.
    """
    try:
        return _own_table(path.read_text(encoding="utf-8-sig"), path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {safe_text(error, 200)}") from None
    except RecursionError:
        raise UsageError(f"{path} is not read: its values are nested too deeply") from None


@lru_cache(maxsize=1)
def _own_table(text: str, path: Path) -> dict[str, Any]:
    # A run asks for layers, for expected failures and for strictness.
    document = tomllib.loads(text)
    tool = _table(document.get(_TOOL, {}), _TOOL, path)
    own = _table(tool.get(_OWN, {}), f"{_TOOL}.{_OWN}", path)
    for key in own:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS, f"known are {', '.join(_KEYS)}", repr)
            raise UsageError(f"{path}: [{_TOOL}.{_OWN}] has the unknown key {key!r}; {hint}")
    return own


def _table(found: Any, name: str, path: Path) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise UsageError(f"{path}: {name} is a table, found {safe_text(repr(found), 60)}")
    return found
