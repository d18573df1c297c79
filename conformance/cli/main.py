"""The command ``dense-conformance``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

from conformance.checks.profiles import DEFAULT, PROFILES
from conformance.cli import describe, matrix, report
from conformance.cli.bench import bench, bench_arguments
from conformance.cli.help import help_arguments, show_help
from conformance.cli.listing import list_arguments, show_list
from conformance.cli.output import (
    STANDARD_OUTPUT,
    for_other_tools,
    for_other_tools_arguments,
    open_streams,
    results_apart,
    silence,
    why_not_written,
)
from conformance.errors import UsageError, printable
from conformance.jax_setup.modes import MODES, chosen_modes, enter
from conformance.layers.registry import resolve
from conformance.plugin import gibibytes, seconds, shard, size

__all__ = ["main"]

EXIT_CODES = """\
exit codes:
  0  conforms: every MUST that applies holds (with --strict every SHOULD, too)
  1  does not conform, or an expected failure does not fail any more
  2  wrong usage, a registration that is wrong, or nothing was checked
  3  incomplete: a MUST cell crashed, timed out or did not run"""


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "specs",
        nargs="*",
        metavar="SPEC",
        help="a registered name, module:attribute or path/to/file.py:attribute; "
        "default: everything that is registered",
    )
    _declare_argument(parser)
    _exploration_arguments(parser)
    parser.add_argument(
        "--results", metavar="PATH",
        help="write the results file there (JSON); -: to standard output, all else to the other",
    )  # fmt: skip
    for_other_tools_arguments(parser)
    parser.add_argument(
        "--strict", action="store_true",
        help="a SHOULD that does not hold fails the run (default: it is a recommendation; "
        "strict = true in [tool.dense-conformance] of pyproject.toml does the same)",
    )  # fmt: skip
    parser.add_argument(
        "--shard", type=shard, metavar="I/N",
        help="check only the part I of N of the cells, such as 2/5; merge joins the results",
    )  # fmt: skip
    parser.add_argument(
        "--shard-by", metavar="RESULTS",
        help="balance the parts by the seconds in this results file; the same for all parts",
    )  # fmt: skip
    parser.add_argument(
        "--database", metavar="SPEC",
        help="keep failing cases there, and try them first in later runs: directory:PATH, "
        "readonly:PATH, redis:URL or default, several joined by commas (default: nowhere)",
    )  # fmt: skip
    parser.add_argument(
        "--for",
        dest="duration",
        type=seconds,
        metavar="T",
        help="go on for that long, such as 90s, 10m or 8h, in rounds with fresh seeds; what is "
        "found by then, or by an interrupt, is kept (default: one round)",
    )
    parser.add_argument(
        "--mode", action="append", default=[], metavar="MODE",
        help="under another configuration of JAX: "
        + "; ".join(f"{mode.name}, {mode.meaning}" for mode in MODES.values())
        + "; all. Several run one after the other, and are compared",
    )  # fmt: skip


def _exploration_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--requirement",
        action="append",
        default=[],
        metavar="ID",
        help="only this requirement: area/slug, slug, area or a glob; may be given more than once",
    )
    _amount_arguments(parser)
    parser.add_argument(
        "-n", dest="workers", default="auto", metavar="N",
        help="worker processes; 0 runs everything in this one (default: one for each core)",
    )  # fmt: skip
    parser.add_argument(
        "--time-limit",
        type=seconds,
        metavar="T",
        help="the longest that one cell may take (default: 300s)",
    )
    parser.add_argument(
        "--memory-limit",
        type=gibibytes,
        metavar="GIB",
        help="the most memory that a worker may take, in GiB (default: 8)",
    )


def _sizes_and_cases() -> str:
    """The profiles in a few words."""
    shown = (f"{p.name} {len(p.sizes)} sizes, {p.examples} cases more" for p in PROFILES.values())
    return "; ".join(shown)


def _declare_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--declare", action="append", default=[], metavar="KEY=VALUE",
        help="what the layer declares, such as use_bias=false or dtype=bfloat16; may be given "
        'more than once; the same keys as in [tool.dense-conformance.layers."name"]',
    )  # fmt: skip


def _amount_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size", action="append", type=size, default=[], metavar="NxM",
        help="also check at this size, such as 768x3072; may be given more than once",
    )  # fmt: skip
    parser.add_argument(
        "--profile", choices=tuple(PROFILES), default=DEFAULT,
        help=f"how much to explore: {_sizes_and_cases()} (default: {DEFAULT})",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, metavar="S", help="the seed of what is generated")
    parser.add_argument(
        "--no-compile-cache",
        action="store_true",
        help="compile everything anew instead of keeping compiled programs in "
        "$XDG_CACHE_HOME/dense-conformance (default: ~/.cache); so does the environment "
        "variable CONFORMANCE_COMPILE_CACHE=off",
    )


def _run(options: argparse.Namespace, pytest_arguments: Sequence[str]) -> int:
    """Check the implementations and show what came of it."""
    from conformance.contract.catalogue import chosen
    from conformance.report.terminal import Progress
    from conformance.running.pytest_call import run

    # What does not exist is told before anything starts.
    resolve(options.specs, options.declare)
    chosen(options.requirement)
    modes = chosen_modes(options.mode)
    if len(modes) > 1:
        from conformance.cli.run_modes import run_modes

        return run_modes(modes, options.given, options.results)
    if modes:
        enter(modes[0])
    arguments = _pytest_call(options)
    arguments += [f"--conformance-impl={spec}" for spec in options.specs]
    to_stdout = options.results == STANDARD_OUTPUT
    if options.results and not to_stdout:
        arguments.append(f"--conformance-results={options.results}")
    if options.duration:
        arguments.append(f"--conformance-for={options.duration}")
    with results_apart(to_stdout) as take:
        return run([*arguments, *pytest_arguments], Progress, for_other_tools(options, take))


def _pytest_call(options: argparse.Namespace) -> list[str]:
    from conformance.running.pytest_call import call

    return call(
        options.requirement,
        workers=options.workers,
        profile=options.profile,
        seed=options.seed,
        time_limit=options.time_limit,
        memory_limit=options.memory_limit,
        compile_cache=not options.no_compile_cache,
        # Of run alone.
        database=getattr(options, "database", None),
        shard=getattr(options, "shard", None),
        shard_by=getattr(options, "shard_by", None),
        declare=getattr(options, "declare", ()),
        sizes=options.size,
        strict=getattr(options, "strict", False),
    )


def _calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "specs", nargs="*", metavar="SPEC", help="implementations; default: all that are registered"
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
        "--results", metavar="PATH", help="write the kill rate and every judgement there (JSON)"
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="check every requirement on every layer; default: what blame needs, and a fixed "
        "share of the rest; layers that are named are always checked in full",
    )
    parser.add_argument(
        "--without",
        metavar="REQUIREMENT",
        help="leave this one out, and show which of the defects that break it live: 0 if some do",
    )


def _selftest(options: argparse.Namespace, pytest_arguments: Sequence[str]) -> int:
    """Prove the suite itself: 0 if it catches and rightly blames the whole zoo, else 1."""
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
        "-o", dest="output", metavar="FILE", help="write the script there instead of showing it"
    )
    _declare_argument(parser)
    _amount_arguments(parser)


def _explain(options: argparse.Namespace, pytest_arguments: Sequence[str]) -> int:
    """Rerun one cell, and print everything that is known of it."""
    from conformance.cli.explain import explain
    from conformance.running.pytest_call import call

    # A worker of its own, so that a layer that ends its process is explained, too.
    engine = call(
        workers="1",
        profile=options.profile,
        seed=options.seed,
        compile_cache=not options.no_compile_cache,
        declare=options.declare,
        sizes=options.size,
    )
    call_of = [*engine, *pytest_arguments]
    return explain(options.spec, options.requirement, call_of, options.output, options.declare)


def _grade_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help="a solution: MyDense, dense_forward, or both of them"
    )
    _declare_argument(parser)
    _exploration_arguments(parser)


def _grade(options: argparse.Namespace, pytest_arguments: Sequence[str]) -> int:
    from conformance.cli.grade import grade

    return grade(options.file, [*_pytest_call(options), *pytest_arguments])


def _expect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="RESULTS", help="a results file, as run --results writes")


def _expect(options: argparse.Namespace, _: Sequence[str]) -> int:
    from conformance.cli.expect import propose

    return propose(options.file)


Command = Callable[[argparse.Namespace, Sequence[str]], int]

COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Command]] = {
    "run": ("check implementations against the contract", _run_arguments, _run),
    "describe": (
        "show what a layer is, how it differs from Flax's, and the declaration that says so",
        describe.arguments,
        describe.run,
    ),
    "selftest": (
        "prove the suite: it must catch every known defect, and pass every correct layer",
        _selftest_arguments,
        _selftest,
    ),
    "calibrate": (
        "measure how often the statistical requirements alarm, and what they detect",
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
        "make a page, a Markdown summary or a badge of results files",
        report.report_arguments,
        report.report,
    ),
    "explain": (
        "look closely at one requirement on one implementation, and show a script that fails",
        _explain_arguments,
        _explain,
    ),
    "grade": (
        "judge a solution of the exercise: which pitfalls it avoids, and what else fails",
        _grade_arguments,
        _grade,
    ),
    "expect": (
        "propose expected failures for pyproject.toml: today's, and those to remove",
        _expect_arguments,
        _expect,
    ),
    "diff": ("say what changed between two results files", report.diff_arguments, report.diff),
    "matrix": (
        "show the results of many environments, what they differ in, and which are missing",
        matrix.matrix_arguments,
        matrix.matrix,
    ),
    "merge": (
        "join results files of shards and of environments",
        report.merge_arguments,
        report.merge,
    ),
}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dense-conformance",
        description="Proves that a dense layer is a Dense, or names what is wrong with it.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version("dense-conformance"))
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
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    open_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(_cut(given, "--")[0])
    options.given, rest = given[1:], _cut(given, "--")[2]
    try:
        code = COMMANDS[options.command][2](options, rest)
        sys.stdout.flush()
        return code
    except UsageError as error:
        print(f"dense-conformance: {printable(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of our output has gone; nothing is left to say.
        silence()
        return 141
    except OSError as error:
        why = why_not_written(error)
        if not why:
            raise
        silence()
        print(f"dense-conformance: {why}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dense-conformance: interrupted", file=sys.stderr)
        return 130


def _cut(arguments: list[str], mark: str) -> tuple[list[str], str, list[str]]:
    if mark not in arguments:
        return arguments, "", []
    place = arguments.index(mark)
    return arguments[:place], mark, arguments[place + 1 :]


if __name__ == "__main__":
    sys.exit(main())
