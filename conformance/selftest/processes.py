"""Runs this interpreter and the command in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

SEARCHED = os.pathsep.join(filter(None, sys.path))
"""The ``PYTHONPATH`` of a process that finds what this one finds."""

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
    return ended([sys.executable, *arguments], folder, {**os.environ, **environment}, stdin)


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, as a shell would."""
    return python(folder, "-m", "conformance", *arguments, **environment)


def failing(output: str) -> set[str]:
    """Return the requirements that a run shows as failed, or as not met."""
    return set(re.findall(r"^(?:FAILED|NOT MET) +(\S+)", output, re.MULTILINE))
