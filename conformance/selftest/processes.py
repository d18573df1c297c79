"""Runs this interpreter and the command in processes of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

SEARCHED = os.pathsep.join(filter(None, sys.path))
"""The ``PYTHONPATH`` of a process that finds what this one finds."""

Checked = Callable[..., tuple[int, str]]
"""The fixture ``checked``: a function of a layer, options and requirements."""

RIGHT = """\
import jax
from flax import nnx


class MyDense(nnx.Module):
    def __init__(self, in_features, out_features, *, rngs):
        kernel = jax.random.normal(rngs.params(), (in_features, out_features))
        self.kernel = nnx.Param(kernel / in_features**0.5)
        self.bias = nnx.Param(jax.numpy.zeros((out_features,)))

    def __call__(self, x):
        return x @ self.kernel + self.bias
"""
"""A user's file with a right layer."""


def _environment(**variables: str) -> dict[str, str]:
    """Return this environment without what pytest says about its own run."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return {**own, **variables}


def started(
    folder: Path, *arguments: str, stderr: int = subprocess.PIPE, **environment: str
) -> subprocess.Popen[str]:
    """Start this interpreter in a folder, with pipes from its output that are read by line."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        bufsize=1,
    )


def ended(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Return a command that has ended, with its output and its exit code."""
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def python(
    folder: Path, *arguments: str, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in a folder, with additional environment variables."""
    return ended([sys.executable, *arguments], folder, _environment(**environment), stdin)


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, as a shell would."""
    return python(folder, "-m", "conformance", *arguments, **environment)


def cells_in(path: Path) -> list[dict[str, Any]]:
    """Return the cells of a results file."""
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return cells


def failing(output: str) -> set[str]:
    """Return the requirements that a run shows as failed, or as not met."""
    return set(re.findall(r"^(?:FAILED|NOT MET) +(\S+)", output, re.MULTILINE))
