"""The catalogue of requirements, collected from the property tests in ``conformance.suite``."""

from __future__ import annotations

import difflib
import fnmatch
import importlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

from conformance.contract.requirement import AREAS, COMPARING, DROP_IN, Requirement, requirement_of
from conformance.errors import UsageError


@lru_cache(maxsize=1)
def catalogue() -> tuple[Requirement, ...]:
    """Return every requirement, in the order in which a reader should see failures.

    A requirement comes after those that it rests on; otherwise areas and tests keep the order
    in which they are written.

    Raises
    ------
    ValueError
        If an id is given twice, or a requirement rests on an unknown one or on itself.
    """
    return tuple(_after_what_they_rest_on(_written(AREAS)))


@lru_cache(maxsize=1)
def drop_in() -> tuple[Requirement, ...]:
    """Return every requirement on a drop-in replacement of another layer."""
    return tuple(_written([DROP_IN]).values())


def _written(areas: Iterable[str]) -> dict[str, Requirement]:
    """Return the requirements of these areas, by id."""
    written: dict[str, Requirement] = {}
    for area in areas:
        module = importlib.import_module(f"conformance.suite.test_{area.replace('-', '_')}")
        for test in vars(module).values():
            row = requirement_of(test)
            if row is None or test.__module__ != module.__name__:
                continue
            if row.id in written:
                raise ValueError(f"two tests check the requirement {row.id}")
            if row.area != area:
                raise ValueError(f"{row.id} is written in the module of {area}")
            written[row.id] = row
    return written


def _after_what_they_rest_on(rows: dict[str, Requirement]) -> Iterable[Requirement]:
    ordered: dict[str, Requirement] = {}

    def place(row: Requirement, chain: tuple[str, ...]) -> None:
        if row.id in ordered:
            return
        if row.id in chain:
            raise ValueError(f"requirements rest on each other: {' -> '.join((*chain, row.id))}")
        for below in row.rests_on:
            if below not in rows:
                raise ValueError(f"{row.id} rests on {below}, which is not a requirement")
            place(rows[below], (*chain, row.id))
        ordered[row.id] = row

    for row in rows.values():
        place(row, ())
    return ordered.values()


def chosen(
    patterns: Sequence[str], exclude: Sequence[str] = (), levels: Sequence[str] = (), *,
    like: bool = False,
) -> tuple[Requirement, ...]:  # fmt: skip
    """Return the requirements that the patterns name; without patterns, all of them.

    Parameters
    ----------
    patterns
        Each is an id, a slug, an area, or a glob over ids; one that begins with ``!`` excludes the
        requirements that it names.
    exclude
        Patterns of requirements to exclude.
    levels
        The levels of the requirements to keep; all if empty.
    like
        Whether to include the requirements on a drop-in replacement.

    Raises
    ------
    UsageError
        If a pattern names none, or nothing is left.
    """
    rows = (*catalogue(), *(drop_in() if like else ()))
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    unwanted = [pattern.removeprefix("!") for pattern in exclude]
    unwanted += [pattern[1:] for pattern in patterns if pattern.startswith("!")]

    def names(pattern: str, row: Requirement) -> bool:
        return pattern in (row.slug, row.area) or fnmatch.fnmatchcase(row.id, pattern)

    for pattern in (*wanted, *unwanted):
        if not any(names(pattern, row) for row in rows):
            known = [name for row in rows for name in (row.id, row.slug)]
            near = difflib.get_close_matches(pattern, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "see: dense-conformance list"
            raise UsageError(f"no requirement matches {pattern!r}; {hint}")
    kept = tuple(
        row
        for row in rows
        if (not wanted or any(names(p, row) for p in wanted))
        and not any(names(p, row) for p in unwanted)
        and (not levels or row.level in levels)
    )
    if not kept:
        raise UsageError("the options exclude all requirements: name others, or exclude fewer")
    return kept


def has_cases(id: str) -> bool:
    """Return whether the check of a requirement draws cases."""
    row = next((row for row in catalogue() if row.id == id), None)
    if row is None:
        return False
    module = importlib.import_module(f"conformance.suite.test_{row.area}")
    return hasattr(getattr(module, row.test), "__draws__")


def in_order(rows: Iterable[Requirement]) -> tuple[Requirement, ...]:
    """Return the requirements in the order in which they are checked."""
    return tuple(sorted(rows, key=lambda row: row.order))


def rests_on(row: Requirement, rows: Sequence[Requirement]) -> tuple[str, ...]:
    """Return the requirements that one rests on: those declared, and the ground of comparisons."""
    ground = tuple(other.id for other in rows if other.ground)
    if row.area not in COMPARING or row.id in _under_the_ground(tuple(rows)):
        return row.rests_on
    return (*row.rests_on, *ground)


@lru_cache(maxsize=4)
def _under_the_ground(rows: tuple[Requirement, ...]) -> set[str]:
    """Return the ground, and all requirements that it rests on."""
    return foundations((row.id for row in rows if row.ground), rows)


def foundations(ids: Iterable[str], rows: Sequence[Requirement]) -> set[str]:
    """Return these requirements and all that they rest on, which a fault there would block."""
    below = {row.id: row.rests_on for row in rows}
    found: set[str] = set()
    waiting = list(ids)
    while waiting:
        id = waiting.pop()
        if id not in found:
            found.add(id)
            waiting += below.get(id, ())
    return found
