"""Runs this interpreter and the command in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["SEARCHED", "command", "python"]

SEARCHED = os.pathsep.join(filter(None, sys.path))
"""The ``PYTHONPATH`` of a process that finds what this one finds."""


def python(
    folder: Path, *arguments: str, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in a folder, with additional environment variables."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, as a shell would."""
    return python(folder, "-m", "conformance", *arguments, **environment)
