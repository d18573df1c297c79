"""Requirements, and the catalogue of them that the property tests themselves make up."""

from __future__ import annotations

import difflib
import enum
import fnmatch
import importlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from conformance.errors import UsageError

__all__ = [
    "ANY",
    "AREAS",
    "EXERCISE",
    "LINEN",
    "MAY",
    "MUST",
    "NNX",
    "PARAMETERS",
    "SHOULD",
    "Level",
    "Need",
    "Requirement",
    "catalogue",
    "chosen",
    "requirement",
    "requirement_of",
]

AREAS: tuple[str, ...] = (
    "construction",
    "initialization",
    "forward",
    "numerics",
    "dtypes",
    "seeding",
    "state",
    "transforms",
    "serialization",
    "sharding",
    "purity",
    "exercise",
)
"""The areas of the contract, in reading order."""

F = TypeVar("F", bound=Callable[..., None])


class Level(enum.StrEnum):
    """How much a requirement weighs."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


class Need(enum.StrEnum):
    """What a layer has to provide so that a requirement can be checked on it."""

    ANY = "forward"
    PARAMETERS = "parameters"
    NNX = "nnx module"
    LINEN = "linen module"
    EXERCISE = "dense_forward"


MUST, SHOULD, MAY = Level.MUST, Level.SHOULD, Level.MAY
ANY, PARAMETERS, NNX, LINEN, EXERCISE = (
    Need.ANY,
    Need.PARAMETERS,
    Need.NNX,
    Need.LINEN,
    Need.EXERCISE,
)


@dataclass(frozen=True)
class Requirement:
    """One row of the contract.

    Parameters
    ----------
    id
        ``area/slug``; never renamed, never reused.
    level
        MUST, SHOULD or MAY.
    needs
        Any one of these suffices.
    statement
        The normative sentence: the first paragraph of the test's docstring.
    rationale
        The rest of that docstring: why, how, and the sources.
    rests_on
        The requirements of which a failure explains a failure of this one.
    declared
        Whether it is checked against the implementation's convention (``°`` in the contract).
    test
        The name of the test function.
    """

    id: str
    level: Level
    needs: tuple[Need, ...]
    statement: str
    rationale: str
    rests_on: tuple[str, ...]
    declared: bool
    test: str

    @property
    def area(self) -> str:
        """The part of the contract that it belongs to."""
        return self.id.partition("/")[0]

    @property
    def slug(self) -> str:
        """The id without its area."""
        return self.id.partition("/")[2]


def requirement(
    id: str,
    level: Level,
    *needs: Need,
    rests_on: Sequence[str] = (),
    declared: bool = False,
) -> Callable[[F], F]:
    """Make a property test the check of a requirement; its docstring is the normative text."""
    if id.partition("/")[0] not in AREAS or not id.partition("/")[2]:
        raise ValueError(f"a requirement's id is area/slug with an area of {AREAS}, found {id!r}")

    def decorate(test: F) -> F:
        sentence, _, rest = inspect.cleandoc(test.__doc__ or "").partition("\n\n")
        if not sentence:
            raise ValueError(f"{test.__name__} has no docstring: it is the text of {id}")
        record = Requirement(
            id=id,
            level=level,
            needs=needs or (ANY,),
            statement=" ".join(sentence.split()),
            rationale=rest.strip(),
            rests_on=tuple(rests_on),
            declared=declared,
            test=test.__name__,
        )
        test.__requirement__ = record  # type: ignore[attr-defined]  # functions take attributes
        return test

    return decorate


def requirement_of(test: Any) -> Requirement | None:
    """The requirement that a test function checks, if it is one of the suite's."""
    # Only a function is asked: a lazy module would import itself to answer.
    found = getattr(test, "__requirement__", None) if inspect.isfunction(test) else None
    return found if isinstance(found, Requirement) else None


@lru_cache(maxsize=1)
def catalogue() -> tuple[Requirement, ...]:
    """Every requirement, in the order in which a reader should see failures.

    A requirement comes after those that it rests on; otherwise areas and tests keep the order
    in which they are written.

    Raises
    ------
    ValueError
        If an id is given twice, or a requirement rests on an unknown one or on itself.
    """
    written: dict[str, Requirement] = {}
    for area in AREAS:
        module = importlib.import_module(f"conformance.suite.test_{area}")
        for test in vars(module).values():
            row = requirement_of(test)
            if row is None or test.__module__ != module.__name__:
                continue
            if row.id in written:
                raise ValueError(f"two tests claim the requirement {row.id}")
            if row.area != area:
                raise ValueError(f"{row.id} is written in the module of {area}")
            written[row.id] = row
    return tuple(_after_what_they_rest_on(written))


def _after_what_they_rest_on(rows: dict[str, Requirement]) -> Iterable[Requirement]:
    ordered: dict[str, Requirement] = {}

    def place(row: Requirement, chain: tuple[str, ...]) -> None:
        if row.id in ordered:
            return
        if row.id in chain:
            raise ValueError(f"requirements rest on each other: {' -> '.join((*chain, row.id))}")
        for below in row.rests_on:
            if below not in rows:
                raise ValueError(f"{row.id} rests on {below}, which is no requirement")
            place(rows[below], (*chain, row.id))
        ordered[row.id] = row

    for row in rows.values():
        place(row, ())
    return ordered.values()


def chosen(patterns: Sequence[str]) -> tuple[Requirement, ...]:
    """The requirements that the patterns name; without patterns, all of them.

    A pattern is an id, a slug, an area, or a glob over ids.

    Raises
    ------
    UsageError
        If a pattern names none.
    """
    rows = catalogue()

    def names(pattern: str, row: Requirement) -> bool:
        return pattern in (row.slug, row.area) or fnmatch.fnmatchcase(row.id, pattern)

    for pattern in patterns:
        if not any(names(pattern, row) for row in rows):
            known = [name for row in rows for name in (row.id, row.slug)]
            near = difflib.get_close_matches(pattern, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "see: dense-conformance list"
            raise UsageError(f"no requirement matches {pattern!r}; {hint}")
    return tuple(row for row in rows if not patterns or any(names(p, row) for p in patterns))
