"""The outcome of a requirement on an implementation."""

from __future__ import annotations

import enum


class Outcome(enum.StrEnum):
    """The outcome of a cell; every cell has exactly one.

    Attributes
    ----------
    PASSED
        The requirement holds.
    FAILED
        A MUST or a SHOULD does not hold; a failed SHOULD is a recommendation.
    NOT_OFFERED
        A MAY does not hold, which never fails a run.
    EXPECTED_FAILURE
        It does not hold, and the user declared that beforehand.
    UNEXPECTED_PASS
        It holds, and the user declared that it does not.
    BLOCKED
        It could not be checked, because a requirement that it rests on does not hold.
    NOT_APPLICABLE
        It does not apply to this kind of layer.
    ERROR
        The registration, or the suite, is at fault.
    CRASHED, TIMED_OUT, NOT_RUN
        No result came back.
    """

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not-applicable"
    BLOCKED = "blocked"
    EXPECTED_FAILURE = "expected-failure"
    UNEXPECTED_PASS = "unexpected-pass"
    NOT_OFFERED = "not-offered"
    ERROR = "error"
    CRASHED = "crashed"
    TIMED_OUT = "timed-out"
    NOT_RUN = "not-run"

    @property
    def held(self) -> bool:
        """Return whether the requirement holds, expected or not."""
        return self in (Outcome.PASSED, Outcome.UNEXPECTED_PASS)

    @property
    def violated(self) -> bool:
        """Return whether the check found that the requirement does not hold."""
        return self in (Outcome.FAILED, Outcome.EXPECTED_FAILURE, Outcome.NOT_OFFERED)

    @property
    def applies(self) -> bool:
        """Return whether the requirement applies to the layer."""
        return self is not Outcome.NOT_APPLICABLE

    @property
    def lost(self) -> bool:
        """Return whether the cell has no result: it crashed, timed out or did not run."""
        return self in (Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.NOT_RUN)

    @property
    def checked(self) -> bool:
        """Return whether the requirement was checked on the layer and the result is known."""
        return self.held or self.violated

    @property
    def decided(self) -> bool:
        """Return whether the result of the cell is final."""
        return not self.lost and self is not Outcome.ERROR

    @property
    def explains(self) -> bool:
        """Return whether it explains why a requirement that rests on this one does not hold."""
        return self in (
            Outcome.FAILED,
            Outcome.EXPECTED_FAILURE,
            Outcome.CRASHED,
            Outcome.TIMED_OUT,
            Outcome.BLOCKED,
        )

    @property
    def worth_reading(self) -> bool:
        """Return whether a reader has to look at it: it does not follow from another cell."""
        return (
            self in (Outcome.FAILED, Outcome.UNEXPECTED_PASS) or self.lost or self is Outcome.ERROR
        )

    @property
    def precedence(self) -> int:
        """Return its rank among the outcomes of the same cell in several rounds.

        The highest decides: a failure in any round is a failure, and one round suffices to show an
        expected failure.
        """
        if self is Outcome.NOT_RUN:
            return 0
        if self in (Outcome.PASSED, Outcome.NOT_APPLICABLE):
            return 1
        if self is Outcome.UNEXPECTED_PASS:
            return 2
        return 3 if self in (Outcome.EXPECTED_FAILURE, Outcome.NOT_OFFERED) else 4
