"""Shares the failures so far between processes, by files in the run's directory."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path


class Failures:
    """The failures of one run; only a worker on another machine knows its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[tuple[str, str], bool] = {}

    def _file(self, implementation: str, requirement: str) -> Path:
        digest = hashlib.sha256(f"{implementation}\0{requirement}".encode()).hexdigest()[:24]
        return self._directory / f"failed-{digest}"

    def add(self, implementation: str, requirement: str, *, obstacle: bool) -> None:
        """Record a failure, and whether the check met an obstacle."""
        self._known[implementation, requirement] = obstacle
        with contextlib.suppress(OSError):
            self._file(implementation, requirement).write_text("obstacle" if obstacle else "fault")

    def obstacle(self, implementation: str, requirement: str) -> bool | None:
        """Return whether a failed check met an obstacle; None if no failure is known."""
        key = implementation, requirement
        if key not in self._known:
            with contextlib.suppress(OSError):
                # Empty while another process writes it; the failure is known a moment later.
                text = self._file(implementation, requirement).read_text()
                if text:
                    self._known[key] = text == "obstacle"
        return self._known.get(key)
