"""Where a command writes: standard output that may be closed or full, files, and other tools."""

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

__all__ = [
    "STANDARD_OUTPUT",
    "for_other_tools",
    "for_other_tools_arguments",
    "open_streams",
    "put",
    "results_apart",
    "silence",
    "why_not_written",
]

STANDARD_OUTPUT = "-"
"""As the name of a file, standard output."""

# What writing to a device, a pipe or a full disk fails with; nothing else does without a file name.
_OF_OUTPUT = {errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG, errno.EDQUOT}


def open_streams() -> None:
    """Make standard output and error usable where they are closed, or cannot encode a letter."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # to the end
        else:
            with contextlib.suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")


def why_not_written(error: OSError) -> str:
    """Return why standard output cannot be written to, or nothing if the error is another one."""
    known = error.errno in _OF_OUTPUT and error.filename is None
    return f"the output cannot be written: {error.strerror}" if known else ""


def silence() -> None:
    """Let nothing more be written to standard output, where writing to it has failed."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    """Declare what ``run`` writes for other tools."""
    parser.add_argument(
        "--junit", metavar="FILE", help="write a JUnit report there (XML), as CI systems read it"
    )
    parser.add_argument(
        "--format", choices=("text", "github"), default=_usual_format(),
        help="github: annotate each failure, too, as GitHub Actions shows it "
        "(default: github within GitHub Actions, else text)",
    )  # fmt: skip


def _usual_format() -> str:
    return "github" if os.environ.get("GITHUB_ACTIONS") == "true" else "text"


@contextlib.contextmanager
def results_apart(to_stdout: bool) -> Iterator[Callable[[Results], None]]:
    """Print to standard error meanwhile, and at the end the results that were taken to output."""
    found: list[Results] = []
    if not to_stdout:
        yield found.append
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield found.append
    from conformance.results.file import document, text_of

    for results in found:
        sys.stdout.write(text_of(document(results.verdict, results.facts)))


def for_other_tools(
    options: argparse.Namespace, take: Callable[[Results], None]
) -> Callable[[Results], None]:
    """Return what a run does when it has shown its verdict; ``take`` gets the results, too."""

    def write(results: Results) -> None:
        take(results)
        if options.junit:
            from conformance.report.junit import junit

            put(options.junit, junit([results]))
        if options.format == "github":
            from conformance.report.github import workflow_commands

            sys.stdout.write(workflow_commands([results]))

    return write
