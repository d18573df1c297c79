"""Writes output to standard output, which may be closed or full, to files, and for other tools."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.errors import UsageError

if TYPE_CHECKING:
    from conformance.results.file import Results

STANDARD_OUTPUT = "-"
"""The file name that means standard output."""

# Only writing to a device, a pipe or a full disk raises these without a file name.
_OF_OUTPUT = {errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG, errno.EDQUOT}


def open_streams() -> None:
    """Make standard output and error usable if they are closed or cannot encode a character."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # to the end
        else:
            with contextlib.suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")


def why_not_written(error: OSError) -> str:
    """Return why standard output cannot be written to; empty for any other error."""
    known = error.errno in _OF_OUTPUT and error.filename is None
    return f"the output cannot be written: {error.strerror}" if known else ""


def put(output: str | None, text: str) -> None:
    """Write a text to that file, or to standard output for None or ``-``.

    Raises
    ------
    UsageError
        If that place cannot be written to.
    """
    if output is None or output == STANDARD_OUTPUT:
        sys.stdout.write(text)
        return
    from conformance.results.file import save

    try:
        save(Path(output), text)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror or error}") from None


def for_other_tools_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``run`` for the output to other tools."""
    parser.add_argument(
        "--junit", metavar="FILE", help="write a JUnit report (XML) to this file, for CI systems"
    )
    parser.add_argument(
        "--format", choices=("text", "github"),
        default="github" if os.environ.get("GITHUB_ACTIONS") == "true" else "text",
        help="github: also print an annotation for each failure (default: github in GitHub "
             "Actions, else text)",
    )  # fmt: skip


@contextlib.contextmanager
def results_apart(to_stdout: bool) -> Iterator[Callable[[Results], None]]:
    """Redirect output to standard error, and print the results to standard output at the end."""
    found: list[Results] = []
    if not to_stdout:
        yield found.append
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield found.append
    from conformance.results.file import text_of_runs

    for results in found:
        sys.stdout.write(text_of_runs([results]))


def for_other_tools(
    options: argparse.Namespace, take: Callable[[Results], None]
) -> Callable[[Results], None]:
    """Return the callback that runs after the verdict; ``take`` also receives the results."""

    def write(results: Results) -> None:
        take(results)
        if options.junit:
            from conformance.report.junit import junit

            put(options.junit, junit([results]))
        if options.format == "github":
            from conformance.report.github import workflow_commands

            sys.stdout.write(workflow_commands([results]))

    return write
