"""Uses each layer once before a run, in a process of its own: see :mod:`.first_use`.

The process starts before the workers do, so that a correct layer waits for nothing, and one that
cannot be used is known before any check of it begins.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conformance.checks import profiles
from conformance.errors import printable
from conformance.isolation import leftovers, memory
from conformance.isolation.postmortem import innermost_layer_frame
from conformance.jax_setup import child_process
from conformance.layers.registry import Entry

if TYPE_CHECKING:
    from conformance.running.run import Run

# The workers, which have limits, deal with a layer that takes longer to import.
_PATIENCE = 30.0
_EACH = 10.0
# The place of a layer is written this long before the layer is given up.
_BEFORE = 2.0


class Preflight:
    """A pytest plugin that uses the layers once, registered in runs with workers.

    Implementations that ship with the suite are not tried.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._process: subprocess.Popen[bytes] | None = None
        # Not a pipe: a layer may print anything, and start processes that hold a pipe open.
        self._answers = run.directory / "preflight"
        self._tried = [entry for entry in run.entries if entry.source]
        if not self._tried:
            return
        active = profiles.active()
        patience = (_EACH if len(self._tried) > 1 else _PATIENCE) - _BEFORE
        tried = list(map(asdict, self._tried))
        limit = run.config.getoption("conformance_memory_limit")
        given = json.dumps([tried, active.name, active.seed, str(self._answers), patience, limit])
        self._process = subprocess.Popen(
            child_process.python("-m", __name__, given),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=child_process.environment(**{leftovers.ENVIRONMENT: str(run.directory)}),
            # An interrupt from the terminal is for the controller.
            start_new_session=True,
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Wait while the workers start; run nothing if no layer can be used."""
        found = self._unusable()
        if found:
            self.run.refuse({id: why for id, why, _ in found}, found[0][2])
        return True if len(self.run.unusable) == len(self.run.entries) else None

    def pytest_unconfigure(self) -> None:
        """End the process, even if the run ended before it, and what layers have started in it."""
        if self._process is not None and self._process.poll() is None:
            leftovers.end_session(self._process.pid)
            self._process.kill()
            self._process.wait()

    def _unusable(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return why implementations cannot be used, by id, and the environment of the process."""
        if self._process is None:
            return []
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        leftovers.end_session(self._process.pid)
        self._tell_what_is_slow()
        try:
            lines = self._answers.read_text(encoding="utf-8").splitlines()
            return [tuple(json.loads(line)) for line in lines]
        except (OSError, ValueError):  # none is unusable, or a layer has removed the file
            return []

    def _tell_what_is_slow(self) -> None:
        """Say where layers are that have not come back: a cell of theirs may take minutes."""
        limit = self.run.breaker.time_limit
        for i, entry in enumerate(self._tried):
            words = ""
            with contextlib.suppress(OSError):  # without the file, it came back
                words = _place(str(self._answers), i).read_text(errors="replace")
            if not words:
                continue
            place = innermost_layer_frame(words)
            where = f", in {place}" if place else ""
            print(
                f"dense-conformance: {printable(entry.name)} has not come back from its first use"
                f"{where}; a requirement may take {limit:g} s (--time-limit)",
                file=sys.stderr,
            )


def _place(answers: str, i: int) -> Path:
    """Return the file with the place of a layer, which is there while the layer is used."""
    return Path(f"{answers}-{i}")


def _examine(
    i: int,
    entry: Entry,
    profile: str,
    seed: int | None,
    answers: str,
    patience: float,
    limit: float,
) -> None:
    """Write why the implementation cannot be used, if it cannot, or where it is after a time.

    The process ends when it takes more memory than the limit, in GiB; a worker reports that.
    """
    from conformance.layers.first_use import why_unusable

    memory.guard(limit, lambda: None)
    place = _place(answers, i)
    with place.open("w") as file:
        faulthandler.dump_traceback_later(patience, repeat=True, file=file)
        why = why_unusable(entry)
        faulthandler.cancel_dump_traceback_later()
    place.unlink(missing_ok=True)
    if why:
        from conformance.results.environment import describe

        with Path(answers).open("a", encoding="utf-8") as file:
            file.write(json.dumps([entry.id, why, describe(profile, seed)]) + "\n")


def main(given: str) -> None:
    """Use each of the implementations once; each of several in its own fork, if possible."""
    entries, *how = json.loads(given)
    if len(entries) == 1 or not hasattr(os, "fork"):
        # Without a fork, try one only: what it does to the process must not affect others.
        _examine(0, Entry(**entries[0]), *how)
        return
    import flax.nnx

    del flax
    for i, entry in enumerate(entries):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                _examine(i, Entry(**entry), *how)
            os._exit(0)
        _wait_for(child)


def _wait_for(child: int) -> None:
    """Wait for a child, and kill it if it takes too long: the workers have limits for that."""
    until = time.monotonic() + _EACH
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1])
    # Do not wait for threads that a layer leaves running.
    os._exit(0)
