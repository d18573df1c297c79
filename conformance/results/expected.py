"""Expected failures, each with a reason, checked strictly.

A requirement that fails as expected does not fail the run. One that holds does, so that stale
expectations are removed. A crash is never expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from conformance.errors import LoadError, UsageError, WrongCondition, did_you_mean, safe_text
from conformance.layers.expected_failure import Expected
from conformance.layers.project import own_table
from conformance.layers.registry import Entry, registered, split_variant
from conformance.results.conditions import holds, require_possible

TABLE = "tool.dense-conformance.expect"
_SEE = "see: dense-conformance list"
_CASE = {"in_features", "out_features", "seed", "values", "lead"}


def is_strict(path: Path) -> bool:
    """Return whether the ``pyproject.toml`` in a folder says ``strict = true``.

    Raises
    ------
    UsageError
        If the value is neither true nor false.
    """
    found = own_table(path).get("strict", False)
    if not isinstance(found, bool):
        raise UsageError(f"{path}: tool.dense-conformance.strict is true or false, found {found!r}")
    return found


def from_project(path: Path) -> tuple[Expected, ...]:
    """Return the expected failures in the ``pyproject.toml`` of a folder; empty without the file.

    Raises
    ------
    UsageError
        If an entry is invalid; the message begins with its place in the file.
    """
    return tuple(expected for _, expected in _placed(path))


_HEADER = re.compile(r"\s*\[\[\s*tool\s*\.\s*[\"']?dense-conformance[\"']?\s*\.\s*[\"']?expect\b")


def _placed(path: Path) -> list[tuple[str, Expected]]:
    """Return each entry with its place: the file and, if known, the line."""
    found = own_table(path).get("expect", [])
    if not isinstance(found, list):
        raise UsageError(f"{path}: write [[{TABLE}]], a table for each expected failure")
    if not found:
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    places = [f"{path}:{n}" for n, line in enumerate(lines, start=1) if _HEADER.match(line)]
    if len(places) != len(found):
        # An array of inline tables, or a string that looks like a header.
        places = [f"{path}: {TABLE} number {number}" for number in range(1, len(found) + 1)]
    return [(place, _read(entry, place)) for place, entry in zip(places, found, strict=True)]


def _read(entry: Any, place: str) -> Expected:
    known = {each.name for each in fields(Expected)}
    if not isinstance(entry, dict) or not entry.get("implementation"):
        raise UsageError(f"{place}: has no implementation; add implementation = ...")
    if unknown := sorted(entry.keys() - known):
        raise UsageError(
            f"{place}: has the unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}"
        )
    for name in ("requirement", "reason"):
        if not entry.get(name):
            raise UsageError(f"{place}: has no {name}")
    for name in known - {"witness"}:
        if not isinstance(entry.get(name, ""), str):
            raise UsageError(f"{place}: {name} is text, found {safe_text(entry[name], 60)}")
    return Expected(**entry)


def require_right(expected: Sequence[Expected], where: str | Sequence[str]) -> None:
    """Require that the requirement and the layer of every expectation exist.

    Parameters
    ----------
    expected
        The expectations.
    where
        Their places, for messages: one for all, or one for each.

    Raises
    ------
    UsageError
        If one names no requirement, has no reason, stands twice, has a condition that is unreadable
        or has expired, or has a case although the check draws none.
    """
    places = [where] * len(expected) if isinstance(where, str) else where
    seen = set()
    for each, at in zip(expected, places, strict=True):
        whose = f" of {each.implementation}" if each.implementation else ""
        _require_right(each, f"{at}: the expected failure of {each.requirement}{safe_text(whose)}")
        key = (each.implementation, each.requirement, each.when)
        if key in seen:
            raise UsageError(f"{at}: the expected failure of {each.requirement} stands twice")
        seen.add(key)


def _require_right(each: Expected, place: str) -> None:
    from conformance.contract.catalogue import catalogue, has_cases

    known = [row.id for row in catalogue()]
    if each.requirement not in known:
        hint = did_you_mean(each.requirement, known, _SEE)
        raise UsageError(f"{place}: that is not a requirement; {hint}")
    if not each.reason.strip():
        raise UsageError(f"{place} has no reason")
    try:
        require_possible(each.when)
    except WrongCondition as error:
        raise UsageError(f"{place}: {error}") from None
    if each.witness is None:
        return
    _require_case(each.witness, place)
    if not has_cases(each.requirement):
        raise UsageError(
            f"{place}: it has a witness, and this requirement is not checked case by case; "
            "remove the witness"
        )


def _require_case(witness: Any, place: str) -> None:
    sizes = {"in_features", "out_features"}
    if not isinstance(witness, Mapping) or not sizes <= witness.keys() <= _CASE:
        raise UsageError(
            f"{place}: a witness is a case as a results file has it, with in_features and "
            f"out_features, and of {', '.join(sorted(_CASE - sizes))} what matters"
        )
    lead = witness.get("lead", [])
    numbers = [value for name, value in witness.items() if name != "lead"]
    numbers += lead if isinstance(lead, list | tuple) else [lead]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise UsageError(f"{place}: in a witness all numbers are integers, 0 or larger")


@dataclass
class Expectations:
    """All expected failures of a run.

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
        """Read and validate the expectations of a project, for a run of these entries.

        Raises
        ------
        UsageError
            If one is invalid, or its implementation does not exist.
        """
        placed = _placed(path)
        if placed:
            places, found = zip(*placed, strict=True)
            require_right(found, places)
            _require_known(placed, entries)
        return cls(tuple(expected for _, expected in placed))

    def as_plain(self) -> list[dict[str, Any]]:
        """Return the project's expectations, as JSON values."""
        return [asdict(each) for each in self.project]

    @classmethod
    def from_plain(cls, found: Iterable[Mapping[str, Any]]) -> Expectations:
        """Return the expectations from the values of :meth:`as_plain`."""
        return cls(tuple(Expected(**each) for each in found))

    def add(self, entry: Entry, layer: Any) -> None:
        """Add the expected failures that a loaded implementation declares.

        Raises
        ------
        LoadError
            If one is invalid, or its requirement does not apply to the layer.
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
        """Return the expectation of a cell in this environment; the user's own comes first."""
        own = [each for each in self.project if each.implementation in _names(entry)]
        for each in (*own, *self.registered.get(entry.id, ())):
            if each.requirement == requirement and holds(each.when):
                return each
        return None


def _names(entry: Entry) -> set[str]:
    return {entry.id, entry.name, entry.spec}


def _require_known(placed: Iterable[tuple[str, Expected]], entries: Sequence[Entry]) -> None:
    known = set().union(*(_names(entry) for entry in (*entries, *registered())))
    for place, each in placed:
        base, _ = split_variant(each.implementation)
        # A layer that is named by its file or module may belong to another run.
        if not {each.implementation, base} & known and ":" not in base:
            raise UsageError(
                f"{place}: the expected failure of {each.requirement} is of "
                f"{each.implementation!r}, which is not an implementation; "
                f"{did_you_mean(base, known, _SEE)}"
            )
