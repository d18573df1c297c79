"""The command ``dense-conformance``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from conformance.cli import describe, matrix, report
from conformance.cli.bench import bench, bench_arguments
from conformance.cli.help import help_arguments, show_help
from conformance.cli.listing import list_arguments, show_list
from conformance.cli.output import open_streams, why_not_written
from conformance.cli.run import run, run_arguments, workers_argument
from conformance.cli.watch import watch, watch_arguments
from conformance.errors import UsageError, did_you_mean, printable, silence
from conformance.jax_setup import devices
from conformance.results.environment import version
from conformance.running.options import AMOUNT, CHOICE, LIMITS, add_to_command, values_of

EXIT_CODES = """\
exit codes:
  0  conforms: every MUST that applies holds (with --strict every SHOULD, too)
  1  does not conform, or an expected failure passes now
  2  wrong usage, a registration that is wrong, or nothing was checked
  3  incomplete: a MUST cell crashed, timed out or did not run"""


def _exploration_arguments(parser: argparse.ArgumentParser) -> None:
    add_to_command(parser, (*CHOICE, *AMOUNT))
    workers_argument(parser)
    add_to_command(parser, LIMITS)


def _pytest_call(options: argparse.Namespace) -> list[str]:
    from conformance.running.pytest_call import call

    asked = values_of(options, (*CHOICE, *AMOUNT, *LIMITS, "declare"))
    return call(workers=options.workers, **asked)


def _calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "specs", nargs="*", metavar="SPEC", help="implementations (default: all registered ones)"
    )
    parser.add_argument(
        "--runs", type=int, default=200, metavar="N", help="groups for each size (default: 200)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="the first seed (default: 0)"
    )
    parser.add_argument(
        "--scale-error", type=float, metavar="D",
        help="also measure the power against a relative variance error, such as 0.05",
    )  # fmt: skip
    parser.add_argument(
        "--correlation", type=float, metavar="R",
        help="also measure the power against correlated neighbours, such as 0.1",
    )  # fmt: skip


def _calibrate(options: argparse.Namespace, _: Sequence[str]) -> int:
    from conformance.cli.calibrate import run

    return run(options)


def _selftest_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "layers",
        nargs="*",
        metavar="LAYER",
        help="a layer of the zoo: a defect's id or the name of its class; default: all of them",
    )
    _exploration_arguments(parser)
    parser.add_argument(
        "--results",
        metavar="PATH",
        help="write the kill rate and every judgement to this file (JSON)",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="check every requirement on every layer (default: the requirements that decide blame, "
        "and a fixed share of the rest; named layers are always checked in full)",
    )
    parser.add_argument(
        "--without",
        metavar="REQUIREMENT",
        help="leave this requirement out, and list the defects that are then missed: 0 if any is",
    )


def _selftest(options: argparse.Namespace, pytest_arguments: Sequence[str]) -> int:
    """Run the suite over the zoo; return 0 if it catches and rightly blames all of it, else 1."""
    from pathlib import Path

    from conformance.zoo.run import check, subjects

    results = Path(options.results) if options.results else None
    call = [*_pytest_call(options), *pytest_arguments]
    if options.without:
        return _without(options, call)
    full = options.full or bool(options.layers)
    report = check(subjects(options.layers), call, results, full=full)
    print("\n".join(report.lines()))
    return 0 if report.holds else 1


def _without(options: argparse.Namespace, call: Sequence[str]) -> int:
    from conformance.zoo import necessity

    requirement = necessity.one(options.without)
    judgements = necessity.without(requirement, call, options.layers)
    print("\n".join(necessity.lines(requirement, judgements)))
    needed = any(necessity.lives(judgement, requirement) for judgement in judgements)
    return 0 if needed or requirement.idle_because else 1


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC", help="one implementation, as for run")
    parser.add_argument("requirement", metavar="REQUIREMENT", help="area/slug, or the slug alone")
    parser.add_argument(
        "-o",
        dest="output",
        metavar="FILE",
        help="write the script to this file instead of printing it",
    )
    add_to_command(parser, ["declare"])
    add_to_command(parser, AMOUNT)


def _explain(options: argparse.Namespace, pytest_arguments: Sequence[str]) -> int:
    """Rerun one cell, and print all that is known about it."""
    from conformance.cli.explain import explain
    from conformance.running.pytest_call import call

    # In a separate worker, because the layer may end its process.
    engine = call(workers="1", **values_of(options, (*AMOUNT, "declare")))
    call_of = [*engine, *pytest_arguments]
    return explain(options.spec, options.requirement, call_of, options.output, options.declare)


def _grade_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a solution: a file that defines MyDense, dense_forward, or both",
    )
    parser.add_argument(
        "--isolated",
        action="store_true",
        help="judge a second time: another process computes outputs, and this process checks them",
    )
    add_to_command(parser, ["declare"])
    _exploration_arguments(parser)


def _grade(options: argparse.Namespace, pytest_arguments: Sequence[str]) -> int:
    from conformance.cli.grade import grade

    call = [*_pytest_call(options), *pytest_arguments]
    return grade(options.file, call, isolated=options.isolated)


def _expect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="RESULTS", help="a results file, as run --results writes")


def _expect(options: argparse.Namespace, _: Sequence[str]) -> int:
    from conformance.cli.expect import propose

    return propose(options.file)


Command = Callable[[argparse.Namespace, Sequence[str]], int]

COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Command]] = {
    "run": ("check implementations against the contract", run_arguments, run),
    "watch": (
        "check a layer now and each time one of its files is saved, last failures first",
        watch_arguments,
        watch,
    ),
    "describe": (
        "show what a layer is, how it differs from Flax's, and how to declare the differences",
        describe.arguments,
        describe.run,
    ),
    "selftest": (
        "test the suite: it must catch every known defect and pass every correct layer",
        _selftest_arguments,
        _selftest,
    ),
    "calibrate": (
        "measure false-alarm rates and power of the statistical requirements",
        _calibrate_arguments,
        _calibrate,
    ),
    "bench": (
        "measure what a run costs: cold, warm, by layer, and beside a naive suite",
        bench_arguments,
        bench,
    ),
    "help": ("show a page of the documentation", help_arguments, show_help),
    "list": (
        "list the implementations, the requirements and the profiles",
        list_arguments,
        show_list,
    ),
    "report": (
        "make a page, a Markdown summary or a badge from results files",
        report.report_arguments,
        report.report,
    ),
    "explain": (
        "show one failure in detail, with a script that reproduces it",
        _explain_arguments,
        _explain,
    ),
    "grade": (
        "judge a solution of the exercise by the pitfalls that it avoids",
        _grade_arguments,
        _grade,
    ),
    "expect": (
        "propose expected failures for pyproject.toml, and which to remove",
        _expect_arguments,
        _expect,
    ),
    "diff": ("show what changed between two results files", report.diff_arguments, report.diff),
    "matrix": (
        "show the results of many environments, their differences, and which are missing",
        matrix.matrix_arguments,
        matrix.matrix,
    ),
    "merge": (
        "merge results files of shards and of environments",
        report.merge_arguments,
        report.merge,
    ),
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one message, like all others of the command."""

    def __init__(self, **settings: Any) -> None:
        self.spellings: list[str] = []
        self.subcommands: dict[str, _Parser] = {}
        super().__init__(**settings)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Add an argument, and record the spellings of an option."""
        self.spellings += [name for name in names if name.startswith("-")]
        return super().add_argument(*names, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise the message as a :class:`UsageError`."""
        raise UsageError(f"{message}; see: {self.prog} --help")


def parser() -> _Parser:
    """Return the parser of the command and of all of its subcommands."""
    parser = _Parser(
        prog="dense-conformance",
        description="Check that a dense layer is a Dense, and name the fault if it is not.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=version("dense-conformance") or "unknown"
    )
    choices = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (help, add_arguments, _) in COMMANDS.items():
        sub = choices.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=EXIT_CODES if name in ("run", "grade") else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_arguments(sub)
        parser.subcommands[name] = sub
    return parser


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the parsed arguments.

    Raises
    ------
    UsageError
        If a subcommand or an option does not exist, or a value does not fit.
    """
    whole = parser()
    first = arguments[0] if arguments else "-"
    if not first.startswith("-") and first not in whole.subcommands:
        raise UsageError(f"{first!r} is not a subcommand{_near(first, whole.subcommands)}")
    options, unknown = whole.parse_known_args(arguments)
    if unknown:
        sub = whole.subcommands[options.command]
        hint = _near(unknown[0].partition("=")[0], sub.spellings, sub.prog)
        raise UsageError(f"{options.command} does not take {unknown[0]!r}{hint}")
    return options


def _near(name: str, known: Iterable[str], program: str = "dense-conformance") -> str:
    return f"; {did_you_mean(name, set(known) - {'--help'}, f'see: {program} --help')}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    open_streams()
    devices.limit_threads()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        own, of_pytest = _parted(given)
        options = _parsed(own)
        options.given = given[1:]
        code = COMMANDS[options.command][2](options, of_pytest)
        sys.stdout.flush()
        return code
    except UsageError as error:
        print(f"dense-conformance: {printable(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of the output has closed the pipe.
        silence(sys.stdout)
        return 141
    except OSError as error:
        why = why_not_written(error)
        if not why:
            raise
        silence(sys.stdout)
        print(f"dense-conformance: {why}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dense-conformance: interrupted", file=sys.stderr)
        return 130


def _parted(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments before ``--``, and those after it, which are pytest's."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


if __name__ == "__main__":
    sys.exit(main())
