"""Decides the verdict on cells, its exit code and its words."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from conformance.contract.requirement import MAY, MUST, SHOULD, Level
from conformance.results.cell import Cell
from conformance.results.outcome import Outcome

OK, NONCONFORMING, USAGE, INCOMPLETE = 0, 1, 2, 3


class Word(enum.StrEnum):
    """The verdict on cells as a whole; every report uses these words."""

    CONFORMS = "conforms"
    DOES_NOT_CONFORM = "does not conform"
    OUTDATED = "expected failures are out of date"
    WRONG_REGISTRATION = "a registration is wrong"
    INCOMPLETE = "incomplete"
    NOTHING = "nothing was checked"

    @property
    def exit_code(self) -> int:
        """Return the exit code that goes with the word."""
        return {
            Word.CONFORMS: OK,
            Word.DOES_NOT_CONFORM: NONCONFORMING,
            Word.OUTDATED: NONCONFORMING,
            Word.WRONG_REGISTRATION: USAGE,
            Word.INCOMPLETE: INCOMPLETE,
            Word.NOTHING: USAGE,
        }[self]


@dataclass(frozen=True)
class Tally:
    """The number of requirements that hold, of those that apply; never a rounded percentage.

    Parameters
    ----------
    held
        The number of cells that hold; an expected failure does not.
    total
        The number of cells that apply, whether they ran or not.
    """

    held: int
    total: int

    def __str__(self) -> str:
        return f"{self.held}/{self.total}"

    @property
    def full(self) -> bool:
        """Return whether all hold, and there is at least one."""
        return 0 < self.held == self.total


def tally(cells: Iterable[Cell], *levels: Level) -> Tally:
    """Count the cells of these levels, by default of MUST and SHOULD."""
    counted = [c for c in cells if c.outcome.applies and c.level in (levels or (MUST, SHOULD))]
    return Tally(sum(c.outcome == Outcome.PASSED for c in counted), len(counted))


@dataclass(frozen=True)
class Decision:
    """The verdict on cells: of an implementation, of a run, or of several runs.

    Parameters
    ----------
    word
        The verdict.
    must, should
        How many requirements of that level hold, of those that apply.
    recommendations
        How many SHOULD requirements do not hold.
    expected
        How many failures are expected, including the consequences of expected ones.
    outdated
        How many requirements were expected to fail, and hold.
    inapplicable
        How many MUST requirements do not apply.
    strict
        Whether a recommendation that does not hold counts as a failure.
    """

    word: Word
    must: Tally
    should: Tally
    recommendations: int = 0
    expected: int = 0
    outdated: int = 0
    inapplicable: int = 0
    strict: bool = False

    @property
    def exit_code(self) -> int:
        """Return 0 conforms, 1 does not conform, 2 nothing checked or an error, 3 incomplete."""
        return self.word.exit_code

    @property
    def count(self) -> str:
        """Return the requirements that hold, by level, such as ``MUST 48/48``."""
        parts = [f"MUST {self.must}"] if self.must.total else []
        # SHOULD requirements decide in a strict run, or if no MUST was checked.
        shown = self.strict and not self.should.full
        parts += [f"SHOULD {self.should}"] if self.should.total and (shown or not parts) else []
        return ", ".join(parts)

    @property
    def remarks(self) -> str:
        """Return remarks that the count does not show, or an empty string."""
        parts = []
        if self.recommendations and not self.strict:
            verb = "does not hold" if self.recommendations == 1 else "do not hold"
            parts.append(f"{plural(self.recommendations, 'recommendation')} {verb}")
        if self.recommendations and self.strict:
            parts.append("strict: a recommendation that does not hold is a failure")
        if 0 < self.must.total < self.inapplicable:
            # A layer with few applicable requirements must not look like one with all.
            parts.append(f"{self.inapplicable} MUST requirements do not apply")
        if self.expected:
            parts.append(plural(self.expected, "expected failure"))
        if self.outdated:
            hold = "requirement holds" if self.outdated == 1 else "requirements hold"
            entries = "its entry" if self.outdated == 1 else "their entries"
            parts.append(f"{self.outdated} {hold} now: remove {entries}")
        return "; ".join(parts)

    @property
    def sentence(self) -> str:
        """Return the verdict in a line: ``conforms: MUST 48/48; 2 recommendations do not hold``."""
        text = f"{self.word}: {self.count}" if self.count else str(self.word)
        return f"{text}; {self.remarks}" if self.remarks else text


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 cell``, ``2 cells``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def decide(cells: Iterable[Cell], *, strict: bool = False, stopped: bool = False) -> Decision:
    """Return the verdict on cells.

    A cell that could not be checked because of an expected failure is expected, too. A SHOULD that
    does not hold is a recommendation, and fails the run only if ``strict``.

    Parameters
    ----------
    cells
        The cells; those that another run decides do not count.
    strict
        Whether a SHOULD fails the run.
    stopped
        Whether the run ended early, so that cells may be missing.
    """
    all_of_them = list(cells)
    own = [cell for cell in all_of_them if not cell.elsewhere]
    by_key = {cell.key: cell for cell in own}
    expected = [c for c in own if c.outcome == Outcome.EXPECTED_FAILURE]
    expected += [c for c in own if expectedly_blocked(c, by_key)]
    weighing = {MUST, SHOULD} if strict else {MUST}
    weighs = [c for c in own if c.level in weighing]
    not_held = [c for c in weighs if _does_not_hold(c, by_key)]
    outdated = [c for c in own if c.outcome == Outcome.UNEXPECTED_PASS]
    missing = [c for c in own if c.level == MUST and _is_missing(c, by_key)]
    if stopped:
        missing += [c for c in own if c.outcome == Outcome.NOT_RUN]
    if not_held:
        word = Word.DOES_NOT_CONFORM
    elif outdated:
        word = Word.OUTDATED
    elif any(c.outcome == Outcome.ERROR for c in own):
        word = Word.WRONG_REGISTRATION
    elif missing:
        word = Word.INCOMPLETE
    elif not any(c.outcome.checked for c in own) and (not own or len(own) == len(all_of_them)):
        word = Word.NOTHING
    else:
        word = Word.CONFORMS
    return Decision(
        word,
        must=tally(own, MUST),
        should=tally(own, SHOULD),
        recommendations=sum(c.outcome == Outcome.FAILED and c.level == SHOULD for c in own),
        expected=len(expected),
        outdated=len(outdated),
        inapplicable=sum(c.outcome == Outcome.NOT_APPLICABLE for c in own if c.level == MUST),
        strict=strict,
    )


def overall_word(decisions: Iterable[Decision]) -> Word:
    """Return the word for several runs: the worst, or "nothing was checked" if all say so."""
    words = {decision.word for decision in decisions}
    known = words - {Word.NOTHING} or {Word.NOTHING}
    return next(word for word in (*_WORST_FIRST, Word.NOTHING) if word in known)


_WORST_FIRST = (
    *(Word.DOES_NOT_CONFORM, Word.OUTDATED, Word.WRONG_REGISTRATION, Word.INCOMPLETE),
    Word.CONFORMS,
)

_Cells = Mapping[tuple[str, str], Cell]


def _root(cell: Cell, cells: _Cells) -> Cell | None:
    """Return the cell whose failure explains a blocked one."""
    return cells.get((cell.implementation, cell.blocked_by))


def expectedly_blocked(cell: Cell, cells: _Cells) -> bool:
    """Return whether a cell could not be checked because of an expected failure."""
    root = _root(cell, cells) if cell.outcome == Outcome.BLOCKED else None
    return root is not None and root.outcome == Outcome.EXPECTED_FAILURE


def _does_not_hold(cell: Cell, cells: _Cells) -> bool:
    """Return whether a requirement fails, or could not be checked because another one fails."""
    if cell.outcome == Outcome.FAILED:
        return True
    if cell.outcome != Outcome.BLOCKED or cell.level == MAY:
        return False
    root = _root(cell, cells)
    return root is None or root.outcome == Outcome.FAILED


def _is_missing(cell: Cell, cells: _Cells) -> bool:
    """Return whether the outcome of a cell, or of the failure that blocks it, is unknown."""
    if cell.outcome.lost:
        return True
    root = _root(cell, cells) if cell.outcome == Outcome.BLOCKED else None
    return root is not None and root.outcome.lost
