"""The commands that read results files: ``report``, ``diff`` and ``merge``."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.cli.output import STANDARD_OUTPUT, put
from conformance.errors import UsageError

if TYPE_CHECKING:
    from conformance.results.file import Results

_DIFF_EXIT_CODES = """\
exit codes:
  0  nothing is worse (other bits, laws and seconds are reported, and do not count as worse)
  1  a requirement that held before fails or did not run
  2  not comparable, or wrong usage"""

_FORMATS = {
    "html": ("html:page", ".html", ".htm"),
    "markdown": ("markdown:markdown", ".md"),
    "badge-json": ("badge:endpoint", ".json"),
    "badge-svg": ("badge:svg", ".svg"),
    "junit": ("junit:junit", ".xml"),
    "github": ("github:workflow_commands",),
}
"""The function of ``conformance.report`` that makes each format, and the suffixes of its files."""

_BY_SUFFIX = {suffix: name for name, (_, *suffixes) in _FORMATS.items() for suffix in suffixes}
_OF_THE_EXTRA = ("jinja2", "markupsafe", "matplotlib")


def report_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``report``."""
    parser.add_argument(
        "results",
        nargs="*",
        metavar="RESULTS",
        help="results files; several are merged into one report",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the output file (default, or -: print it)"
    )
    parser.add_argument(
        "--format",
        choices=tuple(_FORMATS),
        help=f"default: by the suffix of FILE ({' '.join(_BY_SUFFIX)}), or markdown",
    )
    parser.add_argument(
        "--extract", metavar="PAGE", help="print the results file that an HTML page was made from"
    )


def report(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Make a report of results files, or turn a page back into its results file."""
    from conformance.report.extract import extract
    from conformance.report.merge import merge as joined
    from conformance.results.file import read_all

    if bool(options.results) == bool(options.extract):
        raise UsageError("report: give results files, or --extract and a page")
    if options.extract:
        put(options.output, extract(Path(options.extract)))
        return 0
    format = options.format or _format_of(options.output)
    runs = joined([run for path in options.results for run in read_all(path)])
    put(options.output, _made(format, runs))
    return 0


def _format_of(output: str | None) -> str:
    if output is None or output == STANDARD_OUTPUT:
        return "markdown"
    suffix = Path(output).suffix.lower()
    if suffix not in _BY_SUFFIX:
        raise UsageError(
            f"report: the format of {output!r} is unknown; end it in {', '.join(_BY_SUFFIX)}, or "
            f"give --format"
        )
    return _BY_SUFFIX[suffix]


def _made(format: str, runs: Sequence[Results], *missing: Sequence[str]) -> str:
    """Return the text of a report; ``missing`` names environments, where the format has them."""
    module, _, function = _FORMATS[format][0].partition(":")
    try:
        make = getattr(importlib.import_module(f"conformance.report.{module}"), function)
        text: str = make(runs, *missing)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _OF_THE_EXTRA:
            raise
        raise UsageError(
            f"the HTML report needs {package}: pip install 'dense-conformance[report]'"
        ) from None
    return text


def diff_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``diff``."""
    parser.epilog = _DIFF_EXIT_CODES
    parser.add_argument("old", metavar="OLD", help="a results file")
    parser.add_argument("new", metavar="NEW", help="a later one")


def diff(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Print what changed between two results files."""
    from conformance.report.diff import compare, text
    from conformance.results.file import read

    difference = compare(read(options.old), read(options.new))
    print(text(difference), end="")
    return difference.exit_code


def merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``merge``."""
    parser.add_argument("results", nargs="+", metavar="RESULTS", help="results files")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the output file (default, or -: print it)"
    )


def merge(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Merge results files of shards and of environments."""
    from conformance.report.merge import merge as joined
    from conformance.results.file import read_all, text_of_runs

    runs = joined([run for path in options.results for run in read_all(path)])
    put(options.output, text_of_runs(runs))
    return 0


def write(output: str, runs: Sequence[Results], missing: Sequence[str]) -> None:
    """Write a page, a summary or one merged results file, by the suffix of the file."""
    from conformance.results.file import text_of_runs

    suffix = Path(output).suffix.lower()
    format = _BY_SUFFIX.get(suffix, "")
    if suffix == ".json":
        put(output, text_of_runs(runs))
    elif format in ("html", "markdown"):
        put(output, _made(format, runs, missing))
    else:
        raise UsageError(f"the format of {output!r} is unknown; end it in .html, .md or .json")
