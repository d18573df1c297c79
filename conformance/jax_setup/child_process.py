"""Starts other Python processes that find the same modules as this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping


def python(*arguments: str) -> list[str]:
    """Return the command of another Python process.

    Its search path is that of :func:`environment` alone: neither the working directory nor the
    directory of a script comes before it.
    """
    return [sys.executable, "-P", *arguments]


def environment(*last: str, **variables: str) -> dict[str, str]:
    """Return the environment of another Python process, with this process's search path.

    Parameters
    ----------
    last
        Directories to search after all others.
    variables
        Environment variables to set.
    """
    # An empty entry is the working directory, which may differ in the other process.
    places = (os.path.abspath(place) for place in (*sys.path, *last) if isinstance(place, str))
    path = os.pathsep.join(dict.fromkeys(places))
    return {**os.environ, "PYTHONPATH": path, **variables}


def ended(
    *arguments: str,
    stdin: str | None = None,
    timeout: float | None = None,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Return another Python process that has ended, with its exit code and its output.

    Bytes that are not text are escaped, because a layer may print anything.

    Raises
    ------
    TimeoutExpired
        If it takes longer than that many seconds.
    """
    return subprocess.run(
        python(*arguments),
        env=environment(**(variables or {})),
        input=stdin,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=timeout,
        check=False,
    )
