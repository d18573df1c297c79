"""Reads the table ``[tool.dense-conformance]`` of a project's ``pyproject.toml``."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from conformance.errors import UsageError, safe_text

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
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
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
    tool = _table(document.get(_TOOL, {}), _TOOL, path)
    own = _table(tool.get(_OWN, {}), f"{_TOOL}.{_OWN}", path)
    for key in own:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_KEYS)}"
            raise UsageError(f"{path}: [{_TOOL}.{_OWN}] has the unknown key {key!r}; {hint}")
    return own


def _table(found: Any, name: str, path: Path) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise UsageError(f"{path}: {name} is a table, found {safe_text(repr(found), 60)}")
    return found
