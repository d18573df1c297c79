"""The results file: one JSON document, from which everything that people look at is made."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from conformance.verdict import Verdict

__all__ = ["FOOTER", "FORMAT", "document", "write"]

FORMAT = 1
FOOTER = "dense-conformance results end here"


def document(verdict: Verdict, facts: dict[str, Any]) -> dict[str, Any]:
    """The document of a run, as plain JSON values."""
    return {
        "format": FORMAT,
        "environment": facts["environment"],
        "profile": facts["profile"],
        "seconds": facts["seconds"],
        "implementations": [
            {
                "id": entry.id,
                "spec": entry.spec,
                "name": entry.name,
                **facts["versions"].get(entry.id, {"library": entry.distribution, "version": ""}),
            }
            for entry in verdict.entries
        ],
        "requirements": [
            {
                "id": row.id,
                "level": str(row.level),
                "needs": [str(need) for need in row.needs],
                "statement": row.statement,
                "rests_on": list(row.rests_on),
            }
            for row in verdict.rows
        ],
        "cells": [cell.as_dict() for cell in verdict.cells],
        "complete": verdict.complete,
        "exit_code": verdict.exit_code,
        "footer": FOOTER,
    }


def write(path: Path, verdict: Verdict, facts: dict[str, Any]) -> None:
    """Write the results so that the file is at all times either the old or the new one.

    Raises
    ------
    OSError
        If that place cannot be written to.
    """
    text = json.dumps(document(verdict, facts), indent=1, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text + "\n")
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
