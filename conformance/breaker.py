"""What keeps one broken implementation from costing a run more than its own cells.

Processes leave marks in the run's directory: which cell a worker is in, and which
implementations have killed one. Marks are small files, so that they survive whatever killed
the process that made them.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from conformance.cell import Outcome

__all__ = ["Breaker"]

# An implementation that killed this many workers is not tried again in this run.
_ENOUGH = 3


class Breaker:
    """The marks of one run.

    Parameters
    ----------
    directory
        Shared by the processes of the run.
    time_limit
        Seconds that one cell may take.
    memory_limit
        GiB that a worker may take.
    """

    class Tripped(Exception):
        """The implementation has broken before, and is not tried again."""

        def __init__(self, message: str, outcome: Outcome) -> None:
            super().__init__(message)
            self.outcome = outcome

    def __init__(self, directory: Path, time_limit: float, memory_limit: float) -> None:
        self.directory = directory
        self.time_limit = time_limit
        self.memory_limit = memory_limit

    def _mark(self, kind: str, *names: str) -> Path:
        digest = hashlib.sha256("\0".join(names).encode()).hexdigest()[:24]
        return self.directory / f"{kind}-{digest}"

    @contextlib.contextmanager
    def loading(self, implementation: str) -> Iterator[None]:
        """Around the import of an implementation: the mark stays if that ends the process."""
        mark = self._mark("loading", implementation, str(os.getpid()))
        with contextlib.suppress(OSError):
            mark.write_text(str(time.time()))
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    @contextlib.contextmanager
    def running(self, implementation: str, requirement: str) -> Iterator[None]:
        """Around one cell: ends the process when it takes longer than the limit."""
        mark = self._mark("running", implementation, requirement)
        with contextlib.suppress(OSError):
            mark.write_text(f"{time.time()} {os.getpid()}")
        guarded = "PYTEST_XDIST_WORKER" in os.environ
        if guarded:
            stream = sys.__stderr__ if sys.__stderr__ is not None else sys.stderr
            faulthandler.dump_traceback_later(self.time_limit, exit=True, file=stream)
        try:
            yield
        finally:
            if guarded:
                faulthandler.cancel_dump_traceback_later()
            mark.unlink(missing_ok=True)

    def died(self, implementation: str, requirement: str) -> tuple[Outcome, str]:
        """What a worker's death in this cell means; counts it against the implementation."""
        mark = self._mark("running", implementation, requirement)
        outcome, reason = Outcome.CRASHED, "the process died while checking it"
        with contextlib.suppress(OSError, ValueError):
            started, pid = mark.read_text().split()
            if time.time() - float(started) >= self.time_limit:
                outcome = Outcome.TIMED_OUT
                reason = f"it took longer than the limit of {self.time_limit:g} s"
            if self._mark("memory", pid).exists():
                reason = f"it took more memory than the limit of {self.memory_limit:g} GiB"
            if self._mark("loading", implementation, pid).exists():
                reason += ", at its import"
        deaths = self._mark("deaths", implementation)
        count = self._deaths(implementation) + (
            _ENOUGH if "import" in reason or outcome == Outcome.TIMED_OUT else 1
        )
        with contextlib.suppress(OSError):
            deaths.write_text(f"{count} {outcome} {reason}")
        return outcome, reason

    def out_of_memory(self) -> None:
        """Mark that this process ends because it takes too much memory."""
        with contextlib.suppress(OSError):
            self._mark("memory", str(os.getpid())).write_text("")

    def _deaths(self, implementation: str) -> int:
        try:
            return int(self._mark("deaths", implementation).read_text().split(" ", 1)[0])
        except (OSError, ValueError):
            return 0

    def check(self, implementation: str) -> None:
        """Raise :class:`Breaker.Tripped` if the implementation has killed enough workers."""
        if self._deaths(implementation) < _ENOUGH:
            return
        _, outcome, reason = self._mark("deaths", implementation).read_text().split(" ", 2)
        raise self.Tripped(f"not tried again: {reason}", Outcome(outcome))

    def clear(self) -> None:
        """Remove the run's marks."""
        shutil.rmtree(self.directory, ignore_errors=True)
