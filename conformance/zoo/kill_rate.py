"""The suite's own kill rate: what a selftest found here, kept for the results of later runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conformance.jax_setup.compile_cache import location
from conformance.results.file import save
from conformance.results.schema import faults

__all__ = ["remember", "remembered", "summarised"]

# What a verdict of the suite depends on, beside its own code.
_ENVIRONMENT = ("suite", "python", "jax", "jaxlib", "flax", "numpy", "backend")


def summarised(selftest: Mapping[str, Any]) -> dict[str, Any]:
    """How many planted defects were caught, and by which requirements, as results hold it.

    ``selftest`` is the document that ``dense-conformance selftest --results`` writes.

    Raises
    ------
    ValueError
        If it is none; the message says in what.
    """
    try:
        kill = {
            "killed": selftest["kill_rate"]["killed"],
            "defects": selftest["kill_rate"]["defects"],
            "matrix": [
                {"defect": j["name"], "breaks": j["breaks"], "caught": j["failed"]}
                for j in selftest["judgements"]
                # A correct layer breaks nothing.
                if j["breaks"] is not None
            ],
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"it has no {error}") from None
    fault = next(faults(kill, "kill"), None)
    if fault is not None:
        raise ValueError(fault)
    return kill


def remember(environment: Mapping[str, Any], kill: Mapping[str, Any]) -> Path | None:
    """Keep the kill rate of a selftest of the whole zoo; the file, or None if it cannot be kept."""
    path = _place(environment)
    try:
        save(path, json.dumps(kill, indent=1) + "\n")
    except OSError:
        return None  # a run is as good without it
    return path


def remembered(environment: Mapping[str, Any]) -> dict[str, Any] | None:
    """The kill rate that this code of the suite had in such an environment, if it is known."""
    try:
        found = json.loads(_place(environment).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if next(faults(found, "kill"), None) is None else None


def _place(environment: Mapping[str, Any]) -> Path:
    """A file for each version of the suite's code and each environment."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parents[1]
    for folder in (package, package.parent / "implementations"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    digest.update(json.dumps([environment.get(name) for name in _ENVIRONMENT]).encode())
    return location().parent / "kill-rates" / f"{digest.hexdigest()[:24]}.json"
