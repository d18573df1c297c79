"""``dense-conformance watch``: checks a layer again each time one of its files is saved.

The watching process imports JAX, Flax and the suite, but starts neither a backend nor threads. Each
run is a fork of it, so it starts at once and in the same state. Where fork is missing, each run is
a new process.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.machinery
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from conformance.errors import ConformanceError, UsageError
from conformance.jax_setup import child_process, compile_cache
from conformance.layers.registry import Entry, resolve, split_variant
from conformance.running.options import AMOUNT, CHOICE, add_to_command, as_arguments, values_of

_INTERVAL = 100
"""The interval between two looks at a running run, in milliseconds."""
_TAKEN_OVER = (*CHOICE, *AMOUNT, "declare")


def watch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument(
        "specs", nargs="+", metavar="SPEC",
        help="a registered name, module:attribute or path/to/file.py:attribute",
    )  # fmt: skip
    add_to_command(parser, _TAKEN_OVER)


def watch(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Check the layers now and after each save, until the user interrupts; return 0.

    Raises
    ------
    UsageError
        If the extra is not installed, or an implementation does not exist.
    """
    try:
        import watchfiles
    except ImportError:
        raise UsageError(
            "watch needs the extra 'watch': pip install 'dense-conformance[watch]'"
        ) from None
    entries = resolve(options.specs, options.declare)
    folders = sorted({folder for entry in entries for folder in _folders(entry)})
    values = {key.replace("_", "-"): v for key, v in values_of(options, _TAKEN_OVER).items()}
    given = [*as_arguments(values), *(f"--conformance-impl={spec}" for spec in options.specs)]
    _import_everything(cache=not options.no_compile_cache)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    saves = watchfiles.watch(
        *folders,
        watch_filter=watchfiles.PythonFilter(),
        debounce=_INTERVAL,
        step=_INTERVAL // 5,
        rust_timeout=_INTERVAL,
        yield_on_timeout=True,
    )
    with tempfile.TemporaryDirectory(prefix="dense-conformance-") as folder:
        results, known = Path(folder) / "results.json", dict[str, str]()
        run: _Process | None = _Process(given, results)
        try:
            for saved in saves:
                if saved:
                    if run is not None:
                        run.end()
                    names = ", ".join(sorted({Path(path).name for _, path in saved}))
                    print(f"\n{names} saved", flush=True)
                    run = _Process(given, results)
                elif run is not None and run.has_ended():
                    now = _outcomes(results)
                    for line in differences(known, now):
                        print(line)
                    print(f"watching {', '.join(folders)}; Ctrl-C ends", flush=True)
                    known, run = now or known, None
        except KeyboardInterrupt:
            pass
        finally:
            if run is not None:
                run.end()
    return 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _folders(entry: Entry) -> Iterator[str]:
    """Return the folders that hold an implementation's code."""
    place = split_variant(entry.spec)[0].rpartition(":")[0]
    if place.endswith(".py"):
        yield str(Path(place).resolve().parent)
        return
    top = place.partition(".")[0]
    found = importlib.machinery.PathFinder.find_spec(top, [*sys.path, os.getcwd()])
    if found is None:
        raise UsageError(f"{entry.name}: the code of {top!r} cannot be found")
    places = found.submodule_search_locations
    yield from places or [str(Path(found.origin or os.getcwd()).parent)]


def _import_everything(*, cache: bool) -> None:
    """Import the modules of every run, without starting threads, which a fork does not inherit."""
    compile_cache.prepare(cache)
    import flax.linen
    import flax.nnx
    import hypothesis
    import xdist.plugin

    from conformance.checks.layer import Layer
    from conformance.contract.catalogue import catalogue
    from conformance.report.terminal import Progress

    del flax, hypothesis, xdist, Layer, Progress
    catalogue()


class _Process:
    """A run in its own process, which leads its own process group."""

    def __init__(self, given: Sequence[str], results: Path) -> None:
        results.unlink(missing_ok=True)
        self._arguments = ["--conformance-failed-first", f"--conformance-results={results}"]
        self._arguments += given
        self._spawned: subprocess.Popen[bytes] | None = None
        self._pid = 0
        sys.stdout.flush()
        sys.stderr.flush()
        if hasattr(os, "fork"):
            with warnings.catch_warnings():
                # JAX warns about a fork even if it has not started a thread.
                warnings.simplefilter("ignore")
                self._pid = os.fork()
            if self._pid == 0:
                _run_and_exit(self._arguments)
        else:
            command = child_process.python("-m", __name__, *self._arguments)
            environment = child_process.environment()
            self._spawned = subprocess.Popen(command, env=environment)

    def has_ended(self) -> bool:
        """Return whether the process has ended."""
        if self._spawned is not None:
            return self._spawned.poll() is not None
        if self._pid:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if not pid:
                return False
            self._pid = 0
            if os.WIFSIGNALED(status):
                print(f"the run was ended by signal {os.WTERMSIG(status)}")
        return True

    def end(self) -> None:
        """End the process and all processes that it has started."""
        if self._spawned is not None:
            self._spawned.kill()
            self._spawned.wait()
        elif self._pid:
            with contextlib.suppress(OSError):
                os.killpg(self._pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                # The process may not yet lead its group.
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0


def _run_and_exit(arguments: Sequence[str]) -> NoReturn:
    """Run in the forked process, without the parent's exit handlers."""
    code = 1
    try:
        # Ctrl-C is for the watching process.
        os.setsid()
        for name in ("SIGTERM", "SIGHUP"):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        code = _run(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _run(arguments: Sequence[str]) -> int:
    from conformance.report.terminal import Progress
    from conformance.running.pytest_call import call, run

    return run([*call(workers="0"), *arguments], Progress)


def _outcomes(results: Path) -> dict[str, str]:
    """Return the outcomes by implementation and requirement; empty without a results file."""
    from conformance.results.file import read

    if not results.exists():
        return {}
    try:
        cells = read(results).verdict.cells
    except ConformanceError as error:
        print(f"dense-conformance: {error}", file=sys.stderr)
        return {}
    checked = [cell for cell in cells if cell.outcome.checked]
    return {
        f"{cell.implementation} {cell.requirement}": "passed" if cell.outcome.held else "failed"
        for cell in checked
    }


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a line for each outcome that a save has changed; empty for the first run.

    Parameters
    ----------
    before, now
        ``passed`` or ``failed`` for each checked cell, by implementation and requirement.
    """
    if not before or not now:
        return []
    both = [key for key in now if key in before and now[key] != before[key]]
    lines = [f"{'fails' if now[key] == 'failed' else 'holds'} now: {key}" for key in both]
    return lines or ["nothing has changed since the last save"]


if __name__ == "__main__":
    sys.exit(_run(sys.argv[1:]))
