"""Limits the damage of a broken implementation to its own cells.

Processes leave marks in the run's directory: the cell of each worker, what has failed, and the
implementations that have killed one. Marks are small files, so they survive the death of their
process. A worker on another machine leaves its marks there. The controller then knows only the cell
in which it died, and after how long, and it passes each new worker the implementations that are not
tried again.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from conformance.errors import described, safe_text
from conformance.isolation.leftovers import only_here
from conformance.isolation.postmortem import innermost_layer_frame, was_killed
from conformance.results.failure import NOT_TRIED_AGAIN
from conformance.results.outcome import Outcome

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
    deaths
        The :attr:`deaths` that the controller knows when a worker starts.

    Attributes
    ----------
    deaths
        By implementation: the number of workers that it has killed, the outcome, and the reason.
    """

    class Tripped(Exception):
        """Raised if the implementation has broken before, and is not tried again."""

        def __init__(self, message: str, outcome: Outcome) -> None:
            super().__init__(message)
            self.outcome = outcome

    def __init__(
        self,
        directory: Path,
        time_limit: float,
        memory_limit: float,
        deaths: Mapping[str, tuple[int, str, str]] | None = None,
    ) -> None:
        self.directory = directory
        self.time_limit = time_limit
        self.memory_limit = memory_limit
        self.deaths = dict(deaths or {})
        self._words: TextIO | None = None

    def _mark(self, kind: str, *names: str) -> Path:
        digest = hashlib.sha256("\0".join(names).encode()).hexdigest()[:24]
        return self.directory / f"{kind}-{digest}"

    def _leave(self, text: str, kind: str, *names: str) -> None:
        """Leave a mark, if the directory still exists; a layer's words may be of any characters."""
        with contextlib.suppress(OSError):
            self._mark(kind, *names).write_text(text, encoding="utf-8", errors="replace")

    def _read(self, kind: str, *names: str) -> str | None:
        """Return the text of a mark, or None without the mark."""
        with contextlib.suppress(OSError):
            return self._mark(kind, *names).read_text(encoding="utf-8", errors="replace")
        return None

    @contextlib.contextmanager
    def loading(self, implementation: str) -> Iterator[None]:
        """Mark the import of an implementation; the mark remains if the process ends in it."""
        mark = "loading", implementation, str(os.getpid())
        self._leave("", *mark)
        try:
            with only_here():
                yield
        finally:
            with contextlib.suppress(OSError):
                self._mark(*mark).unlink(missing_ok=True)

    @contextlib.contextmanager
    def starting(self, implementation: str, requirement: str) -> Iterator[None]:
        """Mark the start of JAX before the first cell of a process; the mark remains if it fails.

        No layer is at fault, because none has been loaded.
        """
        mark = "starting", implementation, requirement
        own = os.getpid()
        # As XLA ends it because of an unknown flag.
        self._leave(f"{own} the process died", *mark)
        try:
            yield
        except Exception as error:
            self._leave(f"{own} {described(error)}", *mark)
            raise
        with contextlib.suppress(OSError):
            self._mark(*mark).unlink(missing_ok=True)

    def why_not_started(self, implementation: str, requirement: str) -> str:
        """Return why JAX has not started in the process of a cell; empty if it has.

        JAX is not at fault if the process was killed, as by a system without memory.
        """
        with contextlib.suppress(ValueError):
            pid, why = (self._read("starting", implementation, requirement) or "").split(" ", 1)
            if not was_killed(int(pid)):
                return f"JAX does not start in this environment: {why}"
        return ""

    @contextlib.contextmanager
    def running(self, implementation: str, requirement: str, *, guarded: bool) -> Iterator[None]:
        """Mark one cell, and end a worker in which it takes too long."""
        cell = implementation, requirement
        self._leave(f"{time.time()} {os.getpid()}", "running", *cell)
        if guarded:
            words = self._traceback_file()
            faulthandler.enable(file=words)
            faulthandler.dump_traceback_later(self.time_limit, exit=True, file=words)
        try:
            with only_here():
                yield
        finally:
            if guarded:
                faulthandler.cancel_dump_traceback_later()
            with contextlib.suppress(OSError):
                self._mark("running", *cell).replace(self._mark("ended", *cell))

    def _traceback_file(self) -> TextIO:
        """Return the file to which this process writes its traceback when it ends."""
        if self._words is None or self._words.closed:
            try:
                self._words = self._mark("words", str(os.getpid())).open("w")
            except OSError:
                self._words = open(os.devnull, "w")  # noqa: SIM115  # open until the end
        return self._words

    def has_begun(self, implementation: str, requirement: str) -> bool:
        """Return whether a process of this machine has begun the cell."""
        marks = (self._mark(kind, implementation, requirement) for kind in ("running", "ended"))
        return any(mark.exists() for mark in marks)

    def died(
        self,
        implementation: str,
        requirement: str,
        seconds: float,
        ended: str = "",
        *,
        silent: bool = False,
    ) -> tuple[Outcome, str]:
        """Return outcome and reason of a worker's death in a cell, and count it.

        Parameters
        ----------
        implementation, requirement
            The cell.
        seconds
            How long the controller has waited for it.
        ended
            How the process ended, if known: see :func:`.postmortem.ended`.
        silent
            Whether it was ended because it sent nothing.
        """
        outcome, reason = Outcome.CRASHED, "the process died while checking it"
        reason += f": {ended}" if ended else ""
        pid = self.process_in(implementation, requirement)
        words = (self._read("words", str(pid)) or "") if pid is not None else ""
        place = innermost_layer_frame(words)
        if "Timeout" in words or seconds >= self.time_limit:
            outcome = Outcome.TIMED_OUT
            reason = f"it took longer than the limit of {self.time_limit:g} s"
        if silent:
            outcome = Outcome.TIMED_OUT
            reason = f"nothing came back from its process within {self.time_limit:g} s and more"
        at_import = False
        if pid is not None:
            if self._mark("memory", str(pid)).exists():
                outcome = Outcome.CRASHED
                reason = f"it took more memory than the limit of {self.memory_limit:g} GiB"
            at_import = self._mark("loading", implementation, str(pid)).exists()
            error = self._read("broken", str(pid))
            if error is not None:
                reason = f"its code breaks what runs the checks: {error}"
        reason += (", at its import" if at_import else "") + (f", in {place}" if place else "")
        count, *_ = self.deaths.get(implementation, (0,))
        count += _ENOUGH if at_import or outcome == Outcome.TIMED_OUT else 1
        self.deaths[implementation] = (count, str(outcome), reason)
        self._leave(f"{count} {outcome} {reason}", "deaths", implementation)
        return outcome, reason

    def process_in(self, implementation: str, requirement: str) -> int | None:
        """Return the process that is in a cell, or died there; None if unknown."""
        for kind in ("running", "ended"):
            with contextlib.suppress(ValueError, IndexError):
                return int((self._read(kind, implementation, requirement) or "").split()[1])
        return None

    def overdue(self, patience: float) -> Iterator[int]:
        """Return the processes that should have ended themselves that many seconds ago."""
        for mark in self.directory.glob("running-*"):
            with contextlib.suppress(OSError, ValueError):
                started, pid = mark.read_text().split()
                if time.time() - float(started) > self.time_limit + patience:
                    yield int(pid)

    def broken(self, error: object) -> None:
        """End this process after an error outside of every check."""
        self._leave(safe_text(error), "broken", str(os.getpid()))
        os._exit(70)

    def retire(self, implementation: str, requirement: str) -> None:
        """End this process before the cell begins; another process checks the cell."""
        self._leave("", "retired", implementation, requirement)
        os._exit(0)

    def has_retired(self, implementation: str, requirement: str) -> bool:
        """Return whether a process has just left the cell to another process."""
        with contextlib.suppress(OSError):
            self._mark("retired", implementation, requirement).unlink()
            return True
        return False

    def failed(self, implementation: str, requirement: str, *, obstacle: bool) -> None:
        """Record that a check failed, and whether it met an obstacle."""
        self._leave("obstacle" if obstacle else "fault", "failed", implementation, requirement)

    def obstacle(self, implementation: str, requirement: str) -> bool | None:
        """Return whether a failed check met an obstacle; None if no failure is known."""
        # Empty while another process writes it; the failure is known a moment later.
        text = self._read("failed", implementation, requirement)
        return text == "obstacle" if text else None

    def out_of_memory(self) -> None:
        """Record that this process ends because it takes too much memory."""
        self._leave("", "memory", str(os.getpid()))

    def check(self, implementation: str) -> None:
        """Raise :class:`Breaker.Tripped` if the implementation has killed enough workers."""
        count, outcome, reason = self.deaths.get(implementation, (0, "", ""))
        with contextlib.suppress(ValueError):
            text, outcome_, reason_ = (self._read("deaths", implementation) or "").split(" ", 2)
            if int(text) > count:
                count, outcome, reason = int(text), outcome_, reason_
        if count >= _ENOUGH:
            raise self.Tripped(f"{NOT_TRIED_AGAIN}{reason}", Outcome(outcome))

    def clear(self) -> None:
        """Remove the run's marks."""
        shutil.rmtree(self.directory, ignore_errors=True)
