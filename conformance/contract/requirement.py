"""The record of a requirement, and the decorator that makes a property test its check."""

from __future__ import annotations

import enum
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from conformance.errors import UsageError

AREAS: tuple[str, ...] = (
    *("construction", "options", "initialization", "forward", "numerics", "dtypes", "seeding"),
    *("state", "transforms", "models", "serialization", "sharding", "purity", "exercise"),
)
"""The areas of the contract, in reading order."""

DROP_IN = "drop-in"
"""The area that applies only to a drop-in replacement, given by ``--like``."""

COMPARING = frozenset(AREAS) - {"construction", "initialization", "purity"}
"""The areas whose requirements compare results of the layer."""

USUAL_SECONDS = 0.3

F = TypeVar("F", bound=Callable[..., None])


class Level(enum.StrEnum):
    """How strict a requirement is: MUST, SHOULD or MAY."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


class Need(enum.StrEnum):
    """The kind of layer on which a requirement can be checked."""

    ANY = "forward"
    PARAMETERS = "parameters"
    NNX = "nnx module"
    LINEN = "linen module"
    EXERCISE = "dense_forward"


class Presumption(enum.StrEnum):
    """An assumption of a requirement, which does not apply to a layer that declares otherwise.

    The value is its text in documents.
    """

    FLOAT32_THROUGHOUT = "float32, even if 64-bit types are enabled"
    DRAWN_KERNEL = "a kernel that is drawn"


MUST, SHOULD, MAY = Level
ANY, PARAMETERS, NNX, LINEN, EXERCISE = Need
FLOAT32_THROUGHOUT, DRAWN_KERNEL = Presumption


@dataclass(frozen=True)
class Requirement:
    """One requirement of the contract.

    Parameters
    ----------
    id
        ``area/slug``; never renamed, never reused.
    level
        MUST, SHOULD or MAY.
    needs
        The kinds of layers on which it can be checked: one of them suffices.
    statement
        The normative sentence: the first paragraph of the test's docstring.
    rationale
        The rest of that docstring: reasons, method and sources.
    rests_on
        The requirements whose failure explains a failure of this one.
    declared
        Whether it is checked against the implementation's convention (``°`` in the contract).
    presumes
        Assumptions; the requirement does not apply to a layer that declares otherwise.
    foundation
        Whether nearly every check begins with what it requires, so that its failure explains an
        obstacle in the check of any other requirement.
    ground
        Whether no two results can be compared if it fails: all areas of :data:`COMPARING` rest on
        it.
    every_seed
        Whether its failure explains that another check could not use a seed.
    order
        The order of checking: negative numbers first, positive ones last, and 0 in between, in the
        order of the contract. The outcome does not depend on it, only the time to the first
        failure. The first ones are chosen greedily over the zoo, by the number of further defects
        that they catch in a second; the last ones take most of a second or more.
    wrong_numbers
        The level of a failure by wrong numbers, if it differs. A layer that raises does not meet a
        recommendation; a layer that gives wrong numbers without a word breaks a MUST.
    seconds
        Its rough cost in seconds of a core with a cold cache, used to divide a run.
    idle_because
        Why no defect is caught by it alone; empty if one is.
    test
        The name of the test function.
    """

    id: str
    level: Level
    needs: tuple[Need, ...]
    statement: str
    rationale: str
    rests_on: tuple[str, ...]
    test: str
    declared: bool = False
    presumes: tuple[Presumption, ...] = ()
    foundation: bool = False
    ground: bool = False
    every_seed: bool = False
    order: int = 0
    wrong_numbers: Level | None = None
    seconds: float = USUAL_SECONDS
    idle_because: str = ""

    @property
    def area(self) -> str:
        """Return the part of the contract that it belongs to."""
        return self.id.partition("/")[0]

    @property
    def slug(self) -> str:
        """Return the id without its area."""
        return self.id.partition("/")[2]


def requirement(
    id: str, level: Level, *needs: Need, presumes: Sequence[Presumption] = (), **fields: Any
) -> Callable[[F], F]:
    """Make a property test the check of a requirement; its docstring is the normative text.

    The arguments are fields of :class:`Requirement`; :func:`rests_on` and :func:`idle_because`,
    below it, give two more. All facts about a requirement stand there; tables elsewhere are views
    of the catalogue.
    """
    if id.partition("/")[0] not in (*AREAS, DROP_IN) or not id.partition("/")[2]:
        raise ValueError(
            f"a requirement's id is area/slug, with one of the areas {AREAS}; found {id!r}"
        )

    def decorate(test: F) -> F:
        sentence, _, rest = inspect.cleandoc(test.__doc__ or "").partition("\n\n")
        if not sentence and sys.flags.optimize > 1:
            raise UsageError(
                "Python's option -OO (PYTHONOPTIMIZE=2) removes docstrings, which the requirements "
                "consist of; start Python without it"
            )
        if not sentence:
            raise ValueError(f"{test.__name__} has no docstring: it is the text of {id}")
        record = Requirement(
            id=id,
            level=level,
            needs=needs or (ANY,),
            statement=" ".join(sentence.split()),
            rationale=rest.strip(),
            test=test.__name__,
            presumes=tuple(presumes),
            **{"rests_on": (), **fields, **vars(test).get("__declares__", {})},
        )
        test.__requirement__ = record  # type: ignore[attr-defined]  # functions take attributes
        return test

    return decorate


def rests_on(*ids: str) -> Callable[[F], F]:
    """Name the requirements whose failure explains a failure of the one declared above it."""
    return _adding(rests_on=ids)


def idle_because(why: str) -> Callable[[F], F]:
    """Say why no defect is caught by the requirement declared above it alone."""
    return _adding(idle_because=why)


def _adding(**fields: Any) -> Callable[[F], F]:
    def decorate(test: F) -> F:
        vars(test).setdefault("__declares__", {}).update(fields)
        return test

    return decorate


def requirement_of(test: Any) -> Requirement | None:
    """Return the requirement that a test function checks; None if it checks none."""
    # Only for a function, because a lazy module would import itself here.
    found = getattr(test, "__requirement__", None) if inspect.isfunction(test) else None
    return found if isinstance(found, Requirement) else None
