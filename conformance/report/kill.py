"""The kill rate, from what ``dense-conformance selftest --results`` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conformance.results import ResultsError
from conformance.schema import faults

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
        kill = {
            "killed": found["kill_rate"]["killed"],
            "defects": found["kill_rate"]["defects"],
            "matrix": [
                {"defect": j["name"], "breaks": j["breaks"], "caught": j["failed"]}
                for j in found["judgements"]
                # A correct layer breaks nothing.
                if j["breaks"] is not None
            ],
        }
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ResultsError(f"{path}: is not JSON: {' '.join(str(error).split())[:200]}") from None
    except (KeyError, TypeError):
        raise ResultsError(f"{path}: was not written by dense-conformance selftest") from None
    fault = next(faults(kill, "kill"), None)
    if fault is not None:
        raise ResultsError(f"{path}: was not written by dense-conformance selftest: {fault}")
    return kill
