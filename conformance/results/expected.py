"""Failures that are known: data with a reason, held strictly.

A requirement that is expected to fail, and does, costs nothing; one that holds fails the run,
so that no expectation outlives its cause. What crashes is never expected.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from conformance.errors import LoadError, UsageError, WrongCondition
from conformance.layers.expected_failure import Expected
from conformance.layers.registry import Entry, registered, split_variant
from conformance.results.conditions import holds, require_possible

__all__ = ["Expectations", "Expected", "from_project", "is_strict", "require_right"]

TABLE = "tool.dense-conformance.expect"
_CASE = {"in_features", "out_features", "seed", "values", "lead"}


def is_strict(path: Path) -> bool:
    """Return whether the ``pyproject.toml`` there says ``strict = true``.

    Raises
    ------
    UsageError
        If it says something else than true or false.
    """
    found = _own(_document(path)).get("strict", False)
    if not isinstance(found, bool):
        raise UsageError(f"{path}: tool.dense-conformance.strict is true or false, found {found!r}")
    return found


def _own(document: Mapping[str, Any]) -> Mapping[str, Any]:
    tool = document.get("tool", {})
    own = tool.get("dense-conformance", {}) if isinstance(tool, dict) else {}
    return own if isinstance(own, dict) else {}


def _document(path: Path) -> dict[str, Any]:
    """Return the TOML document there; whoever wrote a broken one hears of it from others."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return {}


def from_project(path: Path) -> tuple[Expected, ...]:
    """What the ``pyproject.toml`` there expects; nothing where there is none.

    Raises
    ------
    UsageError
        If an entry is not what it has to be.
    """
    found = _own(_document(path)).get("expect", [])
    if not isinstance(found, list):
        raise UsageError(f"{path}: write [[{TABLE}]], a table for each expected failure")
    known = {each.name for each in fields(Expected)}
    expected = []
    for number, entry in enumerate(found, start=1):
        place = f"{path}: {TABLE} number {number}"
        if not isinstance(entry, dict) or not entry.get("implementation"):
            raise UsageError(f"{place} does not say whose failure it is: implementation = ...")
        if unknown := sorted(entry.keys() - known):
            raise UsageError(
                f"{place} has the unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}"
            )
        missing = [name for name in ("requirement", "reason") if not entry.get(name)]
        if missing:
            raise UsageError(f"{place} has no {missing[0]}")
        expected.append(Expected(**entry))
    return tuple(expected)


def require_right(expected: Sequence[Expected], where: str) -> None:
    """Require every expectation to speak of something that can happen.

    Raises
    ------
    UsageError
        If one names no requirement, gives no reason, stands twice, or has a condition that
        cannot be read or is never met by what the suite supports.
    """
    from conformance.contract.catalogue import catalogue

    known = [row.id for row in catalogue()]
    seen = set()
    for each in expected:
        place = f"{where}: the expected failure of {each.requirement}"
        if each.requirement not in known:
            near = difflib.get_close_matches(each.requirement, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"{place}: that is no requirement{hint}")
        if not each.reason.strip():
            raise UsageError(f"{place} has no reason")
        key = (each.implementation, each.requirement, each.when)
        if key in seen:
            raise UsageError(f"{place} stands twice")
        seen.add(key)
        try:
            require_possible(each.when)
        except WrongCondition as error:
            raise UsageError(f"{place}: {error}") from None
        if each.witness is not None:
            _require_case(each.witness, place)


def _require_case(witness: Any, place: str) -> None:
    sizes = {"in_features", "out_features"}
    if not isinstance(witness, Mapping) or not sizes <= witness.keys() <= _CASE:
        raise UsageError(
            f"{place}: a witness is a case as a results file has it, with in_features and "
            f"out_features, and of {', '.join(sorted(_CASE - sizes))} what matters"
        )


@dataclass
class Expectations:
    """All expectations of a run.

    Parameters
    ----------
    project
        Those of the user's ``pyproject.toml``.
    registered
        Those of the implementations' own registrations, by entry id.
    """

    project: tuple[Expected, ...] = ()
    registered: dict[str, tuple[Expected, ...]] = field(default_factory=dict)

    @classmethod
    def of_project(cls, path: Path, entries: Sequence[Entry]) -> Expectations:
        """Read and check those of a project, for a run of these entries.

        Raises
        ------
        UsageError
            If one is wrong, or is about an implementation that does not exist.
        """
        found = from_project(path)
        if found:
            require_right(found, str(path))
            _require_known(found, path, entries)
        return cls(found)

    def as_plain(self) -> list[dict[str, Any]]:
        """The project's, as JSON values."""
        return [asdict(each) for each in self.project]

    @classmethod
    def from_plain(cls, found: Iterable[Mapping[str, Any]]) -> Expectations:
        """The inverse of :meth:`as_plain`."""
        return cls(tuple(Expected(**each) for each in found))

    def add(self, entry: Entry, layer: Any) -> None:
        """Take over those of a loaded implementation.

        Raises
        ------
        LoadError
            If one is wrong, or is about a row that does not apply to the layer.
        """
        own = tuple(layer.registered.expected_failures)
        if not own:
            return
        from conformance.contract.applicability import why_not_applicable
        from conformance.contract.catalogue import catalogue

        try:
            require_right(own, entry.name)
        except UsageError as error:
            raise LoadError(str(error)) from None
        rows = {row.id: row for row in catalogue()}
        for each in own:
            reason = why_not_applicable(rows[each.requirement], layer.provides, layer.declared)
            if reason is not None:
                raise LoadError(
                    f"{entry.name}: the expected failure of {each.requirement}, which is not "
                    f"applicable: {reason}"
                )
        self.registered[entry.id] = own

    def of(self, entry: Entry, requirement: str) -> Expected | None:
        """What is expected of a cell here and now, the user's own word first."""
        own = [each for each in self.project if each.implementation in _names(entry)]
        for each in (*own, *self.registered.get(entry.id, ())):
            if each.requirement == requirement and holds(each.when):
                return each
        return None


def _names(entry: Entry) -> set[str]:
    return {entry.id, entry.name, entry.spec}


def _require_known(found: Sequence[Expected], path: Path, entries: Sequence[Entry]) -> None:
    known = set().union(*(_names(entry) for entry in (*entries, *registered())))
    for each in found:
        base, _ = split_variant(each.implementation)
        # A place in a file, or in a module, may be that of another run.
        if not {each.implementation, base} & known and ":" not in base:
            near = difflib.get_close_matches(base, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"{path}: the expected failure of {each.requirement} is of "
                f"{each.implementation!r}, which is no implementation{hint}"
            )
