"""The record of a failure that is known and accepted, with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Expected:
    """One known failure.

    Parameters
    ----------
    requirement
        The id of the requirement that does not hold.
    reason
        Why it fails, and why that is accepted.
    when
        The environments in which it fails: ``"flax < 0.11 and jax >= 0.5"``, ``"python < 3.12"``,
        ``"backend == gpu"``; empty for all.
    link
        Where to read on: an issue, a page of documentation.
    witness
        The case that fails, as in a results file. If given, it alone is tried, and decides.
    implementation
        The implementation that fails; empty in an implementation's own registration.
    """

    requirement: str
    reason: str
    when: str = ""
    link: str = ""
    witness: Mapping[str, Any] | None = None
    implementation: str = ""

    @property
    def text(self) -> str:
        """Return the reason, and where to read on."""
        return f"{self.reason} ({self.link})" if self.link else self.reason
