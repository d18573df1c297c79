"""``dense-conformance matrix``: shows the results of many environments, and which are missing."""

from __future__ import annotations

import argparse
import configparser
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from conformance.errors import UsageError

if TYPE_CHECKING:
    from conformance.report.summary import Summary
    from conformance.results.file import Results

_EXIT_CODES = """\
exit codes:
  0  every environment has results, and conforms
  1  an environment does not conform
  2  wrong usage, or a registration that is wrong
  3  an environment is missing, or its run is incomplete"""


def matrix_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``matrix``."""
    parser.epilog = _EXIT_CODES
    parser.add_argument(
        "directory", nargs="?", default="results", metavar="DIRECTORY",
        help="the folder with the results files, NAME.json for each environment (default: results)",
    )  # fmt: skip
    parser.add_argument(
        "--expect", action="append", default=[], metavar="NAME",
        help="an environment that must have results; repeatable (default: those that ./tox.ini "
             "lists without their own section)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", action="append", default=[], metavar="FILE",
        help="write a page (.html), a summary (.md) or one merged results file (.json); repeatable",
    )  # fmt: skip


def matrix(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Show the environments, write the requested files, and return the exit code."""
    from conformance.cli.report import write
    from conformance.report.summary import Summary

    expected = options.expect or expected_by_tox(Path("tox.ini"))
    runs, missing = collect(Path(options.directory), expected)
    summary = Summary(runs, missing)
    show(summary, sys.stdout)
    if not expected:
        print("the expected environments are unknown: give --expect, or run it next to a tox.ini")
    for output in options.output:
        write(output, runs, missing)
        print(f"written: {output}")
    return exit_code(summary)


def show(summary: Summary, stream: TextIO) -> None:
    """Print the environments and their differences."""
    from rich.padding import Padding
    from rich.table import Table

    from conformance.report.terminal import console_for

    console = console_for(stream)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in summary.header:
        table.add_column(name, overflow="fold")
    for line in summary.table:
        table.add_row(*line)
    console.print(table)
    for text in summary.explanation():
        console.print(text, style="dim")
    for text in summary.missing:
        console.print(f"MISSING  {text}", style="bold magenta")
    for heading, found in summary.sections():
        console.print(f"\n{heading}", style="bold")
        for first, rest in found:
            console.print(Padding(first, (0, 0, 0, 2)))
            for text in rest:
                console.print(Padding(text, (0, 0, 0, 6)))
    console.print(f"\n{summary.sentence}", style="bold")


def exit_code(summary: Summary) -> int:
    """Return the worst exit code of the environments; a missing one makes the whole incomplete."""
    from conformance.results.decision import INCOMPLETE, OK, overall_word

    # A failure takes precedence over a missing environment, as in a single run.
    code = overall_word(run.verdict.decision for run in summary.runs).exit_code
    return INCOMPLETE if code == OK and summary.missing else code


def collect(
    directory: Path, expected: Sequence[str]
) -> tuple[tuple[Results, ...], tuple[str, ...]]:
    """Return the runs in a directory, oldest versions first, and a line for each missing one.

    Raises
    ------
    UsageError
        If there are no results at all.
    """
    from conformance.errors import ResultsError
    from conformance.report.findings import age
    from conformance.report.merge import merge
    from conformance.results.file import read_all

    if not directory.is_dir():
        raise UsageError(f"matrix: no directory {str(directory)!r}")
    found: list[Results] = []
    missing = []
    for name in expected:
        path = directory / f"{name}.json"
        try:
            found += read_all(path) if path.is_file() else []
            missing += [] if path.is_file() else [f"{name}: {_why_missing(name)}"]
        except ResultsError as error:
            missing.append(f"{name}: {error}")
    for path in sorted(p for p in directory.glob("*.json") if p.stem not in expected):
        try:
            found += read_all(path)
        except ResultsError as error:
            missing.append(f"{path.stem}: {error}")
    if not found:
        why = f": {missing[0]}" if missing else ""
        raise UsageError(f"matrix: no results files in {str(directory)!r}{why}")
    return tuple(sorted(merge(found), key=age)), tuple(missing)


def expected_by_tox(path: Path) -> list[str]:
    """Return the environments that a tox.ini lists without their own section.

    An environment with its own section has another purpose: it cleans up, lints, or runs this
    command.
    """
    if not path.is_file():
        return []
    # In tox.ini, % is an ordinary character, and ; after a value does not begin a comment.
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    listed = parser.get("tox", "env_list", fallback=parser.get("tox", "envlist", fallback=""))
    names = re.split(r"[,\s]+", re.sub(r"#.*", "", listed).strip())
    return [name for name in names if name and f"testenv:{name}" not in parser.sections()]


def _why_missing(name: str) -> str:
    """Return why an environment may have no results: whether its interpreter exists."""
    version = re.match(r"py(\d)(\d+)\b", name)
    if version is None:
        return "no results file"
    python = f"python{version[1]}.{version[2]}"
    if _starts(python):
        return "no results file: it was not run, or ended before it wrote one"
    return f"no results file, and no {python} starts here"


def _starts(python: str) -> bool:
    # pyenv has a shim for every version; the shims of inactive versions fail.
    if f"python{sys.version_info[0]}.{sys.version_info[1]}" == python:
        return True
    try:
        return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0
    except OSError:
        return False
