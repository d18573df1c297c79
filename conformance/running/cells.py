"""From what pytest saw of an item to the cell that it decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from conformance.checks import recording
from conformance.checks.cases import free_parts
from conformance.checks.require import NotApplicable
from conformance.contract.requirement import MAY, Requirement
from conformance.errors import LoadError, Violation, safe_text
from conformance.results.cell import Cell, plain
from conformance.results.outcome import Outcome
from conformance.results.verdict import blocked

__all__ = ["Prevented", "cell_of"]


class Prevented(pytest.skip.Exception):  # type: ignore[name-defined]  # set on a function
    """The requirement is not checked, because another one that it rests on has failed.

    Parameters
    ----------
    below
        The id of that one.
    """

    def __init__(self, below: str) -> None:
        super().__init__(f"blocked by {below}")
        self.below = below


def _violations(error: BaseException) -> Iterator[Violation]:
    if isinstance(error, Violation):
        yield error
    elif isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _violations(inner)


def cell_of(
    row: Requirement, implementation: str, call: pytest.CallInfo[None], report: pytest.TestReport
) -> Cell:
    """Return the cell that a finished phase of a test makes, in the process that ran it."""
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
        plots=recorded.all_plots(),
    )
    error = call.excinfo.value if call.excinfo is not None else None
    if error is None:
        return cell
    if isinstance(error, Prevented):
        return blocked(cell, error.below)
    if isinstance(error, pytest.skip.Exception):
        # What only the check itself finds out is not known where it is not run.
        found = isinstance(error, NotApplicable)
        reason = safe_text(error.msg)
        return replace(cell, outcome=Outcome.NOT_APPLICABLE, obstacle=found, reason=reason)
    violation = next(_violations(error), None)
    if violation is None:
        known = isinstance(error, LoadError)
        return replace(
            cell,
            outcome=Outcome.ERROR,
            # What a check stumbles over is explained by a fault in the foundation, if there is one.
            obstacle=not known and call.when == "call",
            reason=safe_text(error if known else f"{type(error).__name__}: {safe_text(error)}"),
        )
    at_times = "" if error is violation else " (on the same case it passes at other times)"
    return replace(
        cell,
        # A MAY is reported, and never fails anything.
        outcome=Outcome.NOT_OFFERED if row.level is MAY else Outcome.FAILED,
        obstacle=violation.obstacle,
        message=violation.found + at_times,
        accepted=violation.accepted,
        cause=str(violation.cause),
        cause_id=violation.cause_id,
        measured=plain({**recorded.numbers, **violation.measured}),
        case=recorded.case.as_dict() if recorded.case is not None else None,
        free=free_parts(error),
    )
