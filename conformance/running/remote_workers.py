"""Handles workers on other machines that vanish, or whose environment differs.

pytest-xdist starts workers wherever Python can be reached (``--tx ssh=``, ``--tx socket=``). It
waits forever for a machine that vanishes, and ends the run if a worker cannot be restarted on its
machine.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Mapping
from typing import Any

# A machine is lost if it is silent for so many seconds and leaves so many probes unanswered.
_IDLE, _INTERVAL, _QUESTIONS = 15, 5, 3
_PATIENCE = 5.0

# Environments that differ in one of these give different results.
_DECISIVE = (
    *("suite", "python", "jax", "jaxlib", "flax", "numpy", "backend"),
    *("matmul_precision", "x64", "prng", "threefry_partitionable"),
)


def enable_keepalive(gateway: Any) -> None:
    """Let the system probe from time to time whether a machine still answers."""
    # execnet's socket is private; without it, only a closed connection is noticed.
    line = getattr(getattr(gateway, "_io", None), "sock", None)
    if not isinstance(line, socket.socket):
        return
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    wanted = {"TCP_KEEPIDLE": _IDLE, "TCP_KEEPINTVL": _INTERVAL, "TCP_KEEPCNT": _QUESTIONS}
    # This covers data that is sent and never acknowledged.
    wanted["TCP_USER_TIMEOUT"] = 1000 * (_IDLE + _INTERVAL * _QUESTIONS)
    for name, value in wanted.items():
        with contextlib.suppress(AttributeError, OSError):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def replace_lost_machine(spec: Any) -> str:
    """Return the machine of a dead worker if it is lost; the next worker then starts here.

    Parameters
    ----------
    spec
        execnet's specification of the worker's machine; changed in place.

    Returns
    -------
    str
        The lost machine; empty if it answers, or is this one.
    """
    if spec.popen or spec.via or _answers(spec):
        return ""
    lost = str(spec)
    for name in ("socket", "ssh", "vagrant_ssh", "python", "chdir", "installvia"):
        setattr(spec, name, None)
    spec.popen = True
    return lost


def _answers(spec: Any) -> bool:
    until = time.monotonic() + _PATIENCE
    while True:
        # A server may need a moment to start again.
        if _reaches(spec):
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.5)


def _reaches(spec: Any) -> bool:
    if spec.socket:
        host, _, port = str(spec.socket).rpartition(":")
        try:
            with socket.create_connection((host, int(port)), _PATIENCE) as line:
                # A proxy may accept for a machine that is gone, so send a line that execnet's
                # server runs.
                line.sendall(b"\"clientsock.sendall(b'1')\"\n")
                return line.recv(1) == b"1"
        except (OSError, ValueError):
            return False
    if not spec.ssh:
        return True
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={int(_PATIENCE)}"]
    try:
        done = subprocess.run(
            ["ssh", *options, *str(spec.ssh).split(), "true"],
            capture_output=True,
            timeout=4 * _PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def environment_difference(known: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return how a worker's environment differs from the run's, in words; usually empty."""
    differs = [
        f"{key} {found[key]} instead of {known[key]}"
        for key in _DECISIVE
        if key in known and key in found and known[key] != found[key]
    ]
    return ", ".join(differs)
