"""Finds how a dead process ended, and where in the layer's code."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path

from conformance.errors import is_layers_file
from conformance.isolation.leftovers import parent_of

_FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>.+)$', re.M)
_PATIENCE = 1.0


def innermost_layer_frame(text: str) -> str:
    """Return the innermost line of the layer's own code in a :mod:`faulthandler` traceback.

    Return "" without a traceback, as after a kill or an exit.
    """
    # The main thread comes last; after a fault, the current thread counts.
    for stack in reversed(re.split(r"^(?:Current t|T)hread ", text, flags=re.M)):
        for frame in _FRAME.finditer(stack):
            if is_layers_file(frame["file"]):
                name = Path(frame["file"]).name
                return f"{name}, line {frame['line']}, in {frame['function']}"
    return ""


def ended(pid: int) -> str:
    """Return how a child of this process ended, in words; empty if unknown."""
    if not hasattr(os, "waitid"):
        return ""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        try:
            # Its status stays available to its parent.
            found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except OSError:
            return ""
        if found is not None:
            if found.si_code == os.CLD_EXITED:
                return f"it ended itself with exit code {found.si_status}"
            return f"it was ended by {_name(found.si_status)}"
        time.sleep(0.01)
    return ""


def was_killed(pid: int) -> bool:
    """Return whether a child of this process was ended by SIGKILL, which comes from outside."""
    return ended(pid).endswith("SIGKILL")


def has_ended(pid: int) -> bool:
    """Return whether a child of this process has ended; its status stays available."""
    if not hasattr(os, "waitid"):
        return False
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except OSError:
        return True  # its status has been taken


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def is_child(pid: int) -> bool:
    """Return whether this process has started that one; False if the system does not report it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return parent_of(pid) == os.getpid()
    return False
