"""The record of one requirement on one implementation."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from conformance.errors import safe_text
from conformance.results.outcome import Outcome


@dataclass(frozen=True)
class Cell:
    """One requirement on one implementation; frozen, and made only of plain JSON values.

    Parameters
    ----------
    implementation, requirement, level
        The implementation's id, the requirement's id ``area/slug``, and its level.
    outcome
        One of :class:`Outcome`.
    examples
        How many cases were tried.
    seconds
        Seconds that it took, compiling included.
    reason
        Why it is not applicable, is blocked, is an error, or did not run.
    message
        What was found, for a failure.
    accepted
        What the requirement accepts.
    case
        The smallest case that fails.
    measured
        The numbers behind it.
    cause
        The likely cause in words.
    cause_id
        The id of that cause, which does not change when the words do.
    reproduction
        The command that runs this cell alone.
    script
        A script that shows the failure without the suite; empty if it has none.
    free
        The names of the case's fields that do not matter, if Hypothesis has found them.
    notes
        Remarks for every outcome.
    obstacle
        Whether the check failed in a step before the property of its requirement.
    declare
        The line that declares a failure as intended; such a failure explains no other.
    blocked_by
        The id of the requirement whose failure explains a blocked cell.
    plots
        Binned numbers for plots: see :mod:`conformance.checks.areas.plot_data`.
    elsewhere
        Whether this run does not decide the cell: it is in another shard, or was deselected.
    """

    implementation: str
    requirement: str
    level: str
    outcome: Outcome
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
    declare: str = ""
    blocked_by: str = ""
    plots: list[dict[str, Any]] = field(default_factory=list)
    elsewhere: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "outcome", Outcome(self.outcome))

    @property
    def key(self) -> tuple[str, str]:
        """Return the ids of its implementation and its requirement."""
        return self.implementation, self.requirement

    def as_dict(self) -> dict[str, Any]:
        """Return the cell without its empty fields; the first six are always there."""
        always = {"implementation", "requirement", "level", "outcome", "examples", "seconds"}
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        named["outcome"] = str(self.outcome)
        return {key: value for key, value in named.items() if key in always or value}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Cell:
        """Return the cell of a record that :meth:`as_dict` made; unknown keys are left out."""
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in record.items() if key in known})


def plain(value: Any) -> Any:
    """Return a value as plain JSON, because a NumPy number would end a distributed run."""
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
