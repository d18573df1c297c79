"""Measures a command: seconds, processor seconds, memory, and its first failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.errors import UsageError
from conformance.isolation.memory import GIB


@dataclass(frozen=True)
class Measured:
    """The cost and the output of a command.

    Parameters
    ----------
    seconds
        From its start to its end.
    computing
        Processor seconds of all its processes, which stay comparable on a busy machine.
    peak
        The peak memory of its largest process, in bytes.
    first_failure
        Seconds until it printed the first failure; None if it printed none.
    output
        What it wrote to standard output and standard error.
    results
        The results file that it wrote, if it did.
    """

    seconds: float
    computing: float
    peak: int
    first_failure: float | None
    output: str
    results: Mapping[str, Any]

    @property
    def cells(self) -> list[dict[str, Any]]:
        """Return the cells of the results file."""
        found: list[dict[str, Any]] = self.results.get("cells", [])
        return found

    @property
    def in_cells(self) -> float:
        """Return seconds that were spent in cells, whichever process they ran in."""
        return float(sum(cell["seconds"] for cell in self.cells))

    @property
    def examples(self) -> int:
        """Return how many cases were tried."""
        return int(sum(cell["examples"] for cell in self.cells))

    def record(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        return {
            "seconds": round(self.seconds, 3),
            "computing": round(self.computing, 3),
            "peak_gib": round(self.peak / GIB, 3),
            "first_failure": self.first_failure and round(self.first_failure, 3),
            "in_cells": round(self.in_cells, 3),
            "examples": self.examples,
        }


def measured(
    command: Sequence[str], environment: Mapping[str, str], results: Path | None = None
) -> Measured:
    """Run a command and measure it.

    Raises
    ------
    UsageError
        If the command fails; the message has its output.
    """
    started, first, lines = time.monotonic(), None, []
    own = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    # With it, each process of an editable installation compiles the suite's own files again.
    own.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen(
        command,
        env=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
    )
    assert process.stdout is not None
    for line in process.stdout:
        if first is None and line.startswith("FAILED "):
            first = time.monotonic() - started
        lines.append(line)
    # This counts the process and its workers, for which it has waited.
    _, status, usage = os.wait4(process.pid, 0)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - started
    output = "".join(lines)
    found: dict[str, Any] = {}
    if results is not None and results.exists():
        found = json.loads(results.read_text(encoding="utf-8"))
    if code not in (0, 1) or (results is not None and not found):
        said = "\n".join(output.strip().splitlines()[-5:])
        raise UsageError(f"what was to be measured ended with {code}: {said}")
    # Linux counts kilobytes, macOS bytes.
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Measured(seconds, usage.ru_utime + usage.ru_stime, peak, first, output, found)


def suite(
    specs: Sequence[str],
    cache: Path,
    *options: str,
    requirements: Sequence[str] = (),
    examples: int | None = None,
) -> Measured:
    """Return a run of the suite that keeps its compiled programs in this place."""
    with tempfile.TemporaryDirectory(prefix="dense-conformance-") as folder:
        results = Path(folder) / "results.json"
        command = [sys.executable, "-m", "conformance", "run", *specs]
        command += [f"--requirement={id}" for id in requirements]
        command += [f"--results={results}", *options]
        command += ["--", f"--conformance-examples={examples}"] if examples else []
        return measured(command, {"XDG_CACHE_HOME": str(cache)}, results)
