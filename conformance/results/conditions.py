"""Parses conditions: ``flax < 0.11 and jax >= 0.5``, ``python < 3.12``, ``backend == gpu``."""

from __future__ import annotations

import importlib.metadata
import platform
import re

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from conformance.errors import WrongCondition
from conformance.results.environment import version

_BACKEND = re.compile(r"backend\s*(==|!=)\s*(\w+)$")


def _clauses(condition: str) -> list[str]:
    return [text.strip() for text in condition.split(" and ")] if condition.strip() else []


def _read(clause: str) -> Requirement:
    try:
        found = Requirement(clause)
    except InvalidRequirement:
        found = None
    if found is None or not found.specifier or found.extras or found.marker or found.url:
        raise WrongCondition(
            f"the condition {clause!r} is not like 'flax < 0.11', 'python < 3.12' or "
            "'backend == gpu', joined by 'and'"
        )
    return found


def holds(condition: str) -> bool:
    """Return whether the condition holds in this process; an empty one always does."""
    return all(_clause_holds(clause) for clause in _clauses(condition))


def _clause_holds(clause: str) -> bool:
    backend = _BACKEND.match(clause)
    if backend:
        import jax

        return (jax.default_backend() == backend[2]) == (backend[1] == "==")
    asked = _read(clause)
    return bool(asked.specifier.contains(_version(asked.name), prereleases=True))


def _version(name: str) -> str:
    return platform.python_version() if name == "python" else version(name) or "0"


def require_possible(condition: str) -> None:
    """Require the condition to be readable, and not to have expired.

    It has expired if it asks only for versions that the suite no longer supports.

    Raises
    ------
    WrongCondition
        If it is unreadable, or has expired.
    """
    for clause in _clauses(condition):
        if _BACKEND.match(clause):
            continue
        asked = _read(clause)
        floor = _oldest_supported().get(asked.name)
        if floor is None:
            continue
        for each in asked.specifier:
            bound = each.operator in ("<", "<=") and not each.contains(floor)
            exact = each.operator in ("==", "~=") and Version(each.version.rstrip(".*")) < floor
            if bound or (exact and not each.contains(floor)):
                raise WrongCondition(
                    f"the condition {clause!r} has expired: the suite supports {asked.name} from "
                    f"{floor} on"
                )


def _oldest_supported() -> dict[str, Version]:
    """Return the lower bounds that the suite's own distribution declares."""
    metadata = importlib.metadata.metadata("dense-conformance")
    texts = [f"python{metadata['Requires-Python'] or '>=3'}"]
    texts += importlib.metadata.requires("dense-conformance") or []
    found = {}
    for requirement in map(Requirement, texts):
        for each in requirement.specifier:
            if each.operator == ">=" and requirement.marker is None:
                found[requirement.name] = Version(each.version)
    return found
