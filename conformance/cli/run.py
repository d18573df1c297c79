"""``dense-conformance run``: checks implementations and shows the results."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from conformance.checks.profiles import PROFILES
from conformance.cli.output import (
    STANDARD_OUTPUT,
    for_other_tools,
    for_other_tools_arguments,
    results_apart,
)
from conformance.errors import UsageError
from conformance.jax_setup.modes import MODES, chosen_modes, variables
from conformance.layers.registry import resolve
from conformance.running.options import CHOICE, RUN, add_to_command, require_writable, values_of


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument(
        "specs",
        nargs="*",
        metavar="SPEC",
        help="a registered name, module:attribute or path/to/file.py:attribute; "
        "default: all registered ones",
    )
    workers_argument(parser)
    parser.add_argument(
        "-x", "--exitfirst", action="store_true",
        help="stop after the first failure that no other failure explains",
    )  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="show only the verdict")
    parser.add_argument(
        "-v", "--verbose", action="store_true",
        help="also show the statistical power, remarks, and blocked or inapplicable requirements",
    )  # fmt: skip
    add_to_command(parser, RUN)
    for_other_tools_arguments(parser)
    parser.add_argument(
        "--mode", action="append", default=[], metavar="MODE",
        help="run under another configuration of JAX: "
        + "; ".join(f"{mode.name}, {mode.meaning}" for mode in MODES.values())
        + "; all. Several run one after another and are compared",
    )  # fmt: skip
    parser.epilog = f"profiles: {_profiles_in_words()}\n\n{parser.epilog or ''}"


def workers_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``-n``."""
    parser.add_argument(
        "-n", dest="workers", default="auto", metavar="N", type=_workers,
        help="worker processes; 0 runs everything in this process (default: up to one for each "
        "core, as many as pay off)",
    )  # fmt: skip


def _workers(text: str) -> str:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number of workers such as 2, or auto, found {text!r}")
    return text


def _profiles_in_words() -> str:
    shown = (f"{p.name} {len(p.sizes)} sizes, {p.examples} cases more" for p in PROFILES.values())
    return "; ".join(shown)


def run(options: argparse.Namespace, pytest_arguments: Sequence[str]) -> int:
    """Check the implementations; return the exit code of the verdict."""
    from conformance.contract.catalogue import chosen
    from conformance.report.terminal import Progress
    from conformance.running import pytest_call

    # A layer that does not exist is reported before anything starts.
    entries = resolve(options.specs, options.declare)
    rows = chosen(*(getattr(options, name) for name in CHOICE), like=bool(options.like))
    if options.like and len(resolve([options.like])) != 1:
        raise UsageError(f"--like takes one layer, but {options.like!r} names several")
    require_writable(options.results)
    modes = chosen_modes(options.mode)
    if len(modes) > 1:
        from conformance.cli.run_modes import run_modes

        return run_modes(modes, options.given, options.results)
    if modes:
        # JAX is imported later, here or in child processes.
        os.environ.update(variables(modes[0]))
    given = values_of(options, RUN)
    to_stdout = options.results == STANDARD_OUTPUT
    if to_stdout:
        given["results"] = None
    call = pytest_call.call(
        workers=options.workers,
        cells=len(entries) * len(rows),
        impl=options.specs,
        exitfirst=options.exitfirst,
        quiet=options.quiet,
        verbose=options.verbose,
        **given,
    )
    with results_apart(to_stdout) as take:
        after = for_other_tools(options, take)
        return pytest_call.run([*call, *pytest_arguments], Progress, after)
