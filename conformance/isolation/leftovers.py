"""Ends the processes that a layer's code has left running.

A process that outlives the worker that started it would stay on the user's machine. If it also
holds the worker's pipes open, the controller would wait for the dead worker forever.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ENVIRONMENT = "DENSE_CONFORMANCE_RUN"
"""The variable whose value, the run's directory, all processes of a run inherit."""

# An orphan that notices the end of its worker, such as multiprocessing's, may still clean up.
_PATIENCE = 0.5
_PR_SET_PDEATHSIG = 1


def begin_worker() -> None:
    """Make this worker the leader of a session, and let it end with the controller.

    A signal that a layer sends to its process group then reaches no other process of the run.
    """
    with contextlib.suppress(OSError, AttributeError):  # a leader already, or Windows
        os.setsid()
    _end_with_parent()


def _end_with_parent() -> None:
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_in_layers_code = False


def _after_fork() -> None:
    if _in_layers_code:
        _end_with_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def only_here() -> Iterator[None]:
    """Run a layer's code; a fork of this process ends with it, and does not leave the block."""
    global _in_layers_code  # of this process
    pid, leave, before = os.getpid(), os._exit, _in_layers_code
    _in_layers_code = True
    try:
        yield
    finally:
        _in_layers_code = before
        if os.getpid() != pid:
            leave(0)


def end_session(leader: int) -> None:
    """End the processes of a worker's session that have outlived it."""
    with contextlib.suppress(OSError, AttributeError):  # all have ended, or Windows
        os.killpg(leader, signal.SIGKILL)


def end_orphans(run: str) -> None:
    """End those with ``run`` as their :data:`ENVIRONMENT` that have lost their worker, on Linux."""
    until = time.monotonic() + _PATIENCE
    while orphans := list(_orphans(run)):
        if time.monotonic() > until:
            for pid in orphans:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.02)


def parent_of(pid: int) -> int:
    """Return the parent of a process, on Linux.

    Raises
    ------
    OSError, ValueError, IndexError
        If the system does not report it, because the process is over or another user's.
    """
    # The program's name, in parentheses, may contain any character.
    status = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    return int(status.rpartition(")")[2].split()[1])


def _orphans(run: str) -> Iterator[int]:
    """Yield the processes of the run whose chain of parents does not lead to this process."""
    parents, mark = {}, f"{ENVIRONMENT}={run}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it is another user's, or over
            if mark in (place / "environ").read_bytes().split(b"\0"):
                parents[int(place.name)] = parent_of(int(place.name))
    for pid in parents:
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        if above != os.getpid():
            yield pid
