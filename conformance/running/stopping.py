"""A run that is told to stop, by a signal or by the clock, keeps what it has found."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["Stop", "Stopped", "leave_interrupts_to_the_controller"]

_BY = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if hasattr(signal, "SIGHUP"):
    _BY[signal.SIGHUP] = "its terminal was closed"


class Stopped(KeyboardInterrupt):
    """The run was told to stop; the message says by what."""


def leave_interrupts_to_the_controller() -> None:
    """In a worker: a signal of the terminal goes to all processes, and the controller decides."""
    with contextlib.suppress(ValueError):  # not the main thread, which then has the default
        for number in _BY.keys() - {signal.SIGTERM}:
            signal.signal(number, signal.SIG_IGN)


class Stop:
    """Turns the signals that end a process, and the end of its time, into :class:`Stopped`.

    Only the first of them is raised, so that what it sets off is done in peace; a second
    interrupt ends the process as usual.

    Parameters
    ----------
    seconds
        The time that the run may take; None for any time.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.reason = ""
        self._armed = True
        self._time_is_over = False
        self._former: dict[signal.Signals, Any] = {}
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        """Listen from now on; only a process's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _BY:
            # nohup has a process ignore the end of its terminal.
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
                self._former[number] = signal.signal(number, self._stop)
        if self.seconds is not None:
            self._timer = threading.Timer(self.seconds, self._over)
            self._timer.daemon = True
            self._timer.start()

    def disarm(self) -> None:
        """Raise no more: what is left to do is short, and is to be done."""
        self._armed = False

    def end(self) -> None:
        """Listen no more."""
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _over(self) -> None:
        self._time_is_over = True
        if os.name == "nt":  # where os.kill would end the process at once
            _thread.interrupt_main(signal.SIGTERM)
        else:
            # A real signal, because it also ends the main thread's waiting.
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
