"""Repeats a run in rounds with fresh seeds, and stops a run.

The first round is the run itself. Each further one runs in its own processes, with its own seed and
the sizes that the seed adds. It sends each cell as soon as it is decided, so stopping at any time
loses nothing.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

import pytest

from conformance.checks import profiles
from conformance.jax_setup import child_process
from conformance.results.cell import Cell
from conformance.results.outcome import Outcome
from conformance.running.options import of_further_run

if TYPE_CHECKING:
    from conformance.running.run import Run

_BY = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if hasattr(signal, "SIGHUP"):
    _BY[signal.SIGHUP] = "its terminal was closed"


class Stopped(KeyboardInterrupt):
    """Raised if the run has to stop; the message says why."""


def leave_interrupts_to_the_controller() -> None:
    """Ignore the terminal's signals in a worker, because the controller reacts to them."""
    with contextlib.suppress(ValueError):  # only the main thread can set a signal's handler
        for number in _BY.keys() - {signal.SIGTERM}:
            signal.signal(number, signal.SIG_IGN)


class Stop:
    """Raises :class:`Stopped` for the signals that end a process and at the end of its time.

    Only the first one raises, so that cleaning up is not disturbed; a second interrupt ends the
    process as usual.

    Parameters
    ----------
    seconds
        The time that the run may take; None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.reason = ""
        self._armed = True
        self._time_is_over = False
        self._former: dict[signal.Signals, Any] = {}
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        """Start listening; only a process's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _BY:
            # nohup lets a process ignore the end of its terminal.
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
                self._former[number] = signal.signal(number, self._stop)
        if self.seconds is not None:
            self._timer = threading.Timer(self.seconds, self._over)
            self._timer.daemon = True
            self._timer.start()

    def disarm(self) -> None:
        """Stop raising, so that the short rest of the work is done."""
        self._armed = False

    def end(self) -> None:
        """Stop listening."""
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _over(self) -> None:
        self._time_is_over = True
        if os.name == "nt":  # on Windows, os.kill would end the process at once
            _thread.interrupt_main(signal.SIGTERM)
        else:
            # A real signal also interrupts the main thread's waiting.
            os.kill(os.getpid(), signal.SIGTERM)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.reason:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        if not self._armed:
            return
        by_clock = self._time_is_over and number == signal.SIGTERM
        self.reason = "its time was over" if by_clock else _BY[signal.Signals(number)]
        raise Stopped(self.reason)


# A round whose processes do not end by themselves after that is killed.
_PATIENCE = 5.0
_PATIENCE_WITH_WORKERS = 0.5


def is_worse(new: Cell, old: Cell | None) -> bool:
    """Return whether a cell of a later round replaces the earlier one."""
    return old is None or new.outcome.precedence > old.outcome.precedence


def combined(old: Cell | None, new: Cell, found: str) -> Cell:
    """Combine the cells of two rounds into one: the more severe outcome, with its case.

    Parameters
    ----------
    old, new
        The cell so far, and the one of a further round.
    found
        The round of the new one, noted if its failure is kept; empty in the first round.
    """
    if old is None:
        return new
    kept = new if is_worse(new, old) else old
    notes = [*kept.notes]
    if found and kept is new and new.outcome.precedence > Outcome.PASSED.precedence:
        notes.append(found)
    return replace(
        kept,
        examples=old.examples + new.examples,
        seconds=round(old.seconds + new.seconds, 4),
        notes=notes,
    )


class Rounds:
    """A pytest plugin of the controller that runs the rounds and stops them.

    Parameters
    ----------
    run
        The run, which is the first round.
    seconds
        How long to go on; None for one round.
    """

    def __init__(self, run: Run, seconds: float | None) -> None:
        self.run = run
        self.seconds = seconds
        self.stop = Stop(seconds)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Run the further rounds after pytest's own, which is the first round."""
        if session.config.option.collectonly:
            return (yield)
        self.stop.begin()
        try:
            result = yield
        except Stopped:
            self._note_round(
                1, profiles.active().seed, self.run.received.values(), self.run.started
            )
            self.run.stopped = self.stop.reason
            self.run.conclude()
            _do_not_wait_for_workers(session.config)
            raise
        self._note_round(1, profiles.active().seed, self.run.received.values(), self.run.started)
        with contextlib.suppress(Stopped):
            self._go_on()
            self.stop.disarm()
        self.run.stopped = self.stop.reason
        return result

    def pytest_conformance_fault(self, cell: Cell) -> None:
        """Stop after the first failure, if the user asked for that."""
        if self.run.config.getoption("conformance_exitfirst"):
            self.stop.reason = f"{cell.requirement} failed, and -x stops after the first failure"
            raise Stopped(self.stop.reason)

    def pytest_unconfigure(self) -> None:
        """Stop listening for signals: the results are written."""
        self.stop.end()

    def _note_round(self, number: int, seed: int | None, cells: Any, started: float) -> None:
        if self.seconds is None:
            return
        cells = list(cells)
        if number > 1 and not cells:
            return
        record = {
            "seed": seed,
            "seconds": round(time.time() - started, 3),
            "cells": sum(cell.outcome != Outcome.NOT_RUN for cell in cells),
            "examples": sum(cell.examples for cell in cells),
        }
        self.run.rounds[number - 1 :] = [record]

    def _go_on(self) -> None:
        number, given = 1, profiles.active().seed
        while self.seconds is not None:
            number += 1
            seed = given + number - 1 if given is not None else secrets.randbelow(2**32)
            if not self._round(number, seed):
                return
            self.run.conclude()

    def _round(self, number: int, seed: int) -> bool:
        """Run one more round, and return whether it gave any results."""
        started, cells = time.time(), []
        self.run.config.hook.pytest_conformance_round(number=number, seed=seed)
        try:
            with contextlib.closing(_cells_of(self._call(seed))) as found:
                for cell in found:
                    cells.append(cell)
                    self.run.take(cell, f"found in round {number}, with the seed {seed}")
        finally:
            self._note_round(number, seed, cells, started)
        return bool(cells)

    def _call(self, seed: int) -> list[str]:
        from conformance.running.pytest_call import call

        option = self.run.config.getoption
        values = {**of_further_run(option), "seed": seed}
        workers = str(max(1, int(option("numprocesses", None) or 1)))
        arguments = call(workers=workers, **values)
        arguments += [f"--conformance-impl={spec}" for spec in option("conformance_impl")]
        return [*arguments, f"--rootdir={self.run.config.rootpath}"]


def _do_not_wait_for_workers(config: pytest.Config) -> None:
    """End the workers of a round whose cells are no longer needed."""
    manager = getattr(config.pluginmanager.get_plugin("dsession"), "nodemanager", None)
    if manager is not None:
        manager.EXIT_TIMEOUT = _PATIENCE_WITH_WORKERS


def _cells_of(arguments: Sequence[str]) -> Generator[Cell, None, None]:
    """Yield the cells of a run of pytest with these arguments, each as soon as it is decided."""
    environment = child_process.environment()
    environment.pop("PYTEST_ADDOPTS", None)
    process = subprocess.Popen(
        child_process.python("-m", "conformance.running.rounds", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
        # An interrupt from the terminal is for this process, which handles it.
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            yield Cell.from_dict(json.loads(line))
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """End the remaining processes of a round, workers included."""
    for number in ("SIGTERM", "SIGKILL"):
        if process.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, getattr(signal, number))
            else:  # on Windows, where its workers end with the pipes to them
                process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
    if process.stdout is not None:
        process.stdout.close()


class _CellWriter:
    """A pytest plugin of a further round that writes each cell as a line."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def pytest_conformance_cell(self, cell: Cell) -> None:
        """Write a cell that was decided."""
        print(json.dumps(cell.as_dict()), file=self.stream, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run one further round, and write its cells to standard output."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Output of an implementation must not pass for a cell.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return int(pytest.main(list(arguments), plugins=[_CellWriter(stream)]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
