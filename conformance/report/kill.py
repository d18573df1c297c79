"""The kill rate, from what ``dense-conformance selftest --results`` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conformance.errors import ResultsError
from conformance.zoo.kill_rate import summarised

__all__ = ["kill_of"]


def kill_of(path: Path) -> dict[str, Any]:
    """How many planted defects were caught, and by which requirements, as results hold it.

    Raises
    ------
    ResultsError
        If that file cannot be read, or the selftest did not write it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ResultsError(f"{path}: is not JSON: {' '.join(str(error).split())[:200]}") from None
    try:
        return summarised(found)
    except ValueError as error:
        raise ResultsError(
            f"{path}: was not written by dense-conformance selftest: {error}"
        ) from None
