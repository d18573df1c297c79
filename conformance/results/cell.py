"""What became of one requirement on one implementation."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import pytest

from conformance.checks import recording
from conformance.checks.cases import free_parts
from conformance.contract.requirement import MAY, Requirement
from conformance.errors import LoadError, Violation, safe_text

__all__ = ["Cell", "Outcome", "cell_of"]


class Outcome(enum.StrEnum):
    """Every cell ends as exactly one of these."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not-applicable"
    BLOCKED = "blocked"
    EXPECTED_FAILURE = "expected-failure"
    UNEXPECTED_PASS = "unexpected-pass"
    ERROR = "error"
    CRASHED = "crashed"
    TIMED_OUT = "timed-out"
    NOT_RUN = "not-run"


@dataclass
class Cell:
    """One requirement, checked on one implementation; only plain JSON values.

    Parameters
    ----------
    implementation, requirement, level
        Which cell it is: the implementation's id, ``area/slug``, and the requirement's level.
    outcome
        One of :class:`Outcome`.
    examples
        How many cases were tried.
    seconds
        How long it took, compiling included.
    reason
        Why it is not applicable, blocked, an error, or did not run.
    message
        What was found, for a failure.
    accepted
        What would have been accepted.
    case
        The smallest case that fails.
    measured
        The numbers behind it.
    cause
        The likely cause in words.
    cause_id
        The id of that cause, which stays when the words change.
    reproduction
        The command that runs this cell alone.
    script
        A script that shows the failure without the suite; empty where there is none.
    free
        What of the case may be anything, by name, where Hypothesis has looked into that.
    notes
        Remarks that are worth a look, whatever the outcome.
    obstacle
        Whether the check did not get as far as what its requirement is about.
    plots
        Binned numbers that are better looked at than read: see :mod:`conformance.checks.plot_data`.
    elsewhere
        Whether it did not run because it is for another shard of the run.
    """

    implementation: str
    requirement: str
    level: str
    outcome: str
    examples: int = 0
    seconds: float = 0.0
    reason: str = ""
    message: str = ""
    accepted: str = ""
    case: dict[str, Any] | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    cause: str = ""
    cause_id: str = ""
    reproduction: str = ""
    script: str = ""
    free: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    obstacle: bool = False
    plots: list[dict[str, Any]] = field(default_factory=list)
    elsewhere: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The cell without what is empty; the first six fields are always there."""
        always = {"implementation", "requirement", "level", "outcome", "examples", "seconds"}
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {key: value for key, value in named.items() if key in always or value}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Cell:
        """The inverse of :meth:`as_dict`; unknown keys are left out."""
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in record.items() if key in known})


def plain(value: Any) -> Any:
    """A JSON value: one NumPy number in a report would end a whole distributed run."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    try:
        number = float(value)
    except (TypeError, ValueError):
        return safe_text(value, 200)
    # JSON has no infinity and no NaN.
    return number if abs(number) < float("inf") else str(number)


def _violations(error: BaseException) -> Iterator[Violation]:
    if isinstance(error, Violation):
        yield error
    elif isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _violations(inner)


def cell_of(
    row: Requirement, implementation: str, call: pytest.CallInfo[None], report: pytest.TestReport
) -> Cell:
    """The cell that a finished phase of a test makes; called in the process that ran it."""
    recorded = recording.current()
    cell = Cell(
        implementation=implementation,
        requirement=row.id,
        level=str(row.level),
        outcome=Outcome.PASSED,
        examples=recorded.examples,
        seconds=round(report.duration, 4),
        measured=plain(recorded.numbers),
        notes=recorded.notes,
    )
    cell.plots = recorded.all_plots()
    error = call.excinfo.value if call.excinfo is not None else None
    if error is None:
        return cell
    if isinstance(error, pytest.skip.Exception):
        cell.outcome, cell.reason = Outcome.NOT_APPLICABLE, safe_text(error.msg)
        return cell
    violation = next(_violations(error), None)
    if violation is None:
        cell.outcome = Outcome.ERROR
        known = isinstance(error, LoadError)
        # What a check stumbles over is explained by a fault in the foundation, if there is one.
        cell.obstacle = not known and call.when == "call"
        cell.reason = safe_text(error if known else f"{type(error).__name__}: {safe_text(error)}")
        return cell
    cell.outcome, cell.obstacle = Outcome.FAILED, violation.obstacle
    cell.message, cell.accepted = violation.found, violation.accepted
    cell.cause, cell.cause_id = str(violation.cause), violation.cause_id
    cell.measured = plain({**recorded.numbers, **violation.measured})
    if error is not violation:
        cell.message += " (on the same case it passes at other times)"
    if recorded.case is not None:
        cell.case = recorded.case.as_dict()
    cell.free = free_parts(error)
    if row.level is MAY:
        # A MAY row is reported and never fails anything.
        cell.outcome = Outcome.EXPECTED_FAILURE
        cell.reason = "does not hold; the requirement is a MAY, which is reported and never failed"
    return cell
