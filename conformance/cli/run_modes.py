"""Runs in several modes of JAX, one process after another."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from conformance.cli.matrix import exit_code, show
from conformance.cli.output import put
from conformance.errors import ResultsError, UsageError
from conformance.jax_setup import child_process
from conformance.jax_setup.modes import Mode, variables
from conformance.report.failures import write_failure
from conformance.report.merge import merge
from conformance.report.summary import Summary
from conformance.report.tally import denominator
from conformance.report.terminal import console_for
from conformance.results.file import Results, read, text_of_runs

_OF_MODES = ("--mode", "--results")


def run_modes(modes: Sequence[Mode], arguments: Sequence[str], results: str | None) -> int:
    """Run ``dense-conformance run`` in every mode, and return the worst exit code.

    Print the failures of each mode and the differences between modes, and write one results file
    with an environment for each mode. ``arguments`` are passed on without the options for modes and
    results. An interrupted run shows the finished modes.
    """
    arguments = _without_modes(arguments)
    runs: list[Results] = []
    missing: list[str] = []
    stopped = False
    console = console_for(sys.stdout)
    with tempfile.TemporaryDirectory(prefix="dense-conformance-") as folder:
        for mode in modes:
            if stopped:
                missing.append(f"{mode.name}: interrupted before")
                continue
            try:
                found = _run(mode, arguments, Path(folder) / f"{mode.name}.json")
            except KeyboardInterrupt:
                stopped = True
                missing.append(f"{mode.name}: interrupted")
                continue
            except ResultsError as error:
                missing.append(f"{mode.name}: {error}")
                console.print(f"{mode.name}: no results", style="bold magenta")
                continue
            runs.append(found)
            said = f"{found.verdict.decision.sentence}; {denominator(found.verdict)}"
            console.print(f"{mode.name}: {said}; {found.facts['seconds']:.1f} s")
            sys.stdout.flush()
    if not runs:
        raise UsageError("; ".join(missing))
    for found in runs:
        _write_failures(found)
    console.print()
    summary = Summary(merge(runs), tuple(missing))
    show(summary, sys.stdout)
    if results:
        put(results, text_of_runs(runs))
    return exit_code(summary)


def _without_modes(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without modes and results, which each mode has of its own."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in _OF_MODES:
            next(rest, None)
        elif argument.partition("=")[0] not in _OF_MODES:
            kept.append(argument)
    return kept


def _run(mode: Mode, arguments: Sequence[str], path: Path) -> Results:
    command = ("-m", "conformance", "run", f"--results={path}", *arguments)
    ended = child_process.ended(*command, variables=variables(mode))
    if not path.exists():
        last = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-3:]
        said = " ".join(last).removeprefix("dense-conformance: ")
        raise ResultsError(said or f"the run ended with {ended.returncode}")
    return read(path)


def _write_failures(found: Results) -> None:
    console, verdict = console_for(sys.stdout), found.verdict
    for cell in verdict.failures():
        title = f"{verdict.names[cell.implementation]} under {found.environment.get('mode', '')}"
        statement, blocked = verdict.statements[cell.requirement], len(verdict.blocked_by(cell))
        console.print()
        write_failure(console, cell, title, statement, blocked=blocked, strict=verdict.strict)
