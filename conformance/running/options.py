"""The options of a run: one table for pytest, the command, and the runs that they start.

Every pytest run of an environment imports this module, so it imports the standard library only.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Option:
    """One option of a run: ``--conformance-NAME`` of pytest, and ``--NAME`` of the command.

    Parameters
    ----------
    name
        Its name, with dashes.
    help
        What it does; empty for an option that is not shown.
    metavar
        The name of its value in help; empty for a switch.
    parse, text
        Convert a text to the value, and the value to a text.
    default
        The value if the option is not given.
    choices
        The allowed values; empty for any.
    many
        Whether it may be repeated, each time with one more value.
    """

    name: str
    help: str = ""
    metavar: str = ""
    parse: Callable[[str], Any] = str
    text: Callable[[Any], str] = str
    default: Any = None
    choices: tuple[str, ...] = ()
    many: bool = False

    @property
    def key(self) -> str:
        """Return the name of its value in the command's namespace; pytest's has a prefix."""
        return self.name.replace("-", "_")

    @property
    def settings(self) -> dict[str, Any]:
        """Return the arguments of ``add_argument``."""
        shown = {"help": self.help or argparse.SUPPRESS}
        if not (self.metavar or self.choices):
            return {**shown, "action": "store_true"}
        given = {"choices": self.choices} if self.choices else {"metavar": self.metavar}
        if self.many:
            parse = {} if self.choices else {"type": self.parse}
            return {**shown, **given, **parse, "action": "append", "default": []}
        return {**shown, **given, "type": self.parse, "default": self.default}


def _seconds(text: str) -> float:
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:], 0.0)
    try:
        value = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        value = 0.0
    if value <= 0:
        raise argparse.ArgumentTypeError(f"a time such as 90, 90s or 10m, found {text!r}")
    return value


def _gibibytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"an amount of memory in GiB such as 4, found {text!r}")
    return value


def size(text: str) -> tuple[int, int]:
    """Return ``768x3072`` as 768 inputs and 3072 outputs."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdigit() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"inputs x outputs, such as 768x3072, found {text!r}")
    return int(sides[0]), int(sides[1])


def _shard(text: str) -> object:
    from conformance.running.schedule import Shard

    return Shard.parse(text)


OPTIONS = {
    option.name: option
    for option in (
        Option(
            "impl",
            "an implementation: registered name, module:attribute or path/to/file.py:attribute; "
            "repeatable (default: all registered ones)",
            metavar="SPEC",
            many=True,
        ),
        Option(
            "declare",
            "what the layer declares, such as use_bias=false or dtype=bfloat16; may be given more "
            'than once; the same keys as in [tool.dense-conformance.layers."name"]',
            metavar="KEY=VALUE",
            many=True,
        ),
        Option(
            "like",
            "also check whether the layers can replace this one, such as nnx.Linear",
            metavar="SPEC",
        ),
        Option(
            "requirement",
            "only this requirement: area/slug, slug, area or a glob; with ! before it, all except "
            "this one; repeatable",
            metavar="ID",
            many=True,
        ),
        Option(
            "exclude",
            "all requirements except this one: area/slug, slug, area or a glob; repeatable",
            metavar="ID",
            many=True,
        ),
        Option(
            "level",
            "only requirements of this level; repeatable",
            choices=("MUST", "SHOULD", "MAY"),
            many=True,
        ),
        Option(
            "size",
            "also check at this size, such as 768x3072; repeatable",
            metavar="NxM",
            parse=size,
            text=lambda size: f"{size[0]}x{size[1]}",
            many=True,
        ),
        Option(
            "profile",
            "how much to explore (default: quick)",
            choices=("quick", "standard", "thorough"),
            default="quick",
        ),
        Option("seed", "the seed of the generated cases (default: fixed)", metavar="N", parse=int),
        Option(
            "results",
            "write the results file (JSON) there; with the command dense-conformance, - is "
            "standard output, and messages go to standard error",
            metavar="PATH",
        ),
        Option(
            "strict",
            "a SHOULD that does not hold fails the run (default: it is a recommendation); "
            "strict = true in [tool.dense-conformance] of pyproject.toml does the same",
        ),
        Option(
            "last-failed",
            "only requirements that did not hold in the last run in this folder (all, if every one "
            "held)",
        ),
        Option("exitfirst", "stop after the first failure that no other failure explains"),
        Option(
            "for",
            "repeat the run in rounds with fresh seeds for this long, such as 90s, 10m or 8h; an "
            "interrupt keeps the results so far (default: one round)",
            metavar="T",
            parse=_seconds,
        ),
        Option(
            "database",
            "keep failing cases in this database, and try them first in later runs: "
            "directory:PATH, "
            "readonly:PATH, redis:URL or default, several joined by commas (default: nowhere)",
            metavar="SPEC",
        ),
        Option(
            "shard",
            "check only shard I of N, such as 2/5; dense-conformance merge joins the results files",
            metavar="I/N",
            parse=_shard,
        ),
        Option(
            "shard-by",
            "balance the shards by the seconds in this results file; the same for all shards",
            metavar="RESULTS",
        ),
        Option(
            "time-limit",
            "the time limit of one cell, such as 90s or 10m (default: 300s)",
            metavar="T",
            parse=_seconds,
            default=300.0,
        ),
        Option(
            "memory-limit",
            "the memory limit of a worker, in GiB (default: 8)",
            metavar="GIB",
            parse=_gibibytes,
            default=8.0,
        ),
        Option(
            "no-compile-cache",
            "do not keep compiled programs in "
            "$XDG_CACHE_HOME/dense-conformance (default: ~/.cache); so does the environment "
            "variable CONFORMANCE_COMPILE_CACHE=off",
        ),
        Option("examples", metavar="N", parse=int),
        Option("explain"),
        Option("check-all"),
        Option("failed-first"),
        Option("quiet"),
        Option("verbose"),
    )
}

CHOICE = ("requirement", "exclude", "level")
AMOUNT = ("size", "profile", "seed", "no-compile-cache")
LIMITS = ("time-limit", "memory-limit")
RUN = (
    *("declare", "like", *CHOICE, "last-failed", *AMOUNT, *LIMITS, "results", "strict"),
    *("shard", "shard-by", "database", "for"),
)
"""The options of ``dense-conformance run``, in the order in which its help shows them."""

# The options that a further round does not take over from the run that starts it.
_OF_THE_FIRST = ("impl", "results", "for", "strict", "exitfirst", "last-failed")


def add_to_pytest(group: Any) -> None:
    """Add all options to pytest's; each carries the suite's prefix."""
    for option in OPTIONS.values():
        group.addoption(f"--conformance-{option.name}", **option.settings)


def add_to_command(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Add options to a subcommand."""
    for name in names:
        parser.add_argument(f"--{name}", **OPTIONS[name].settings)


def as_arguments(values: Mapping[str, Any]) -> list[str]:
    """Return pytest's arguments for values by the names of options, without defaults."""
    arguments = []
    for name, value in values.items():
        option = OPTIONS[name]
        for each in value if option.many else [value]:
            if each is True:
                arguments.append(f"--conformance-{name}")
            elif each not in (None, False, option.default):
                arguments.append(f"--conformance-{name}={option.text(each)}")
    return arguments


def values_of(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of a subcommand's options, for :func:`.pytest_call.call`."""
    keys = [OPTIONS[name].key for name in names]
    return {key: getattr(options, key) for key in keys if hasattr(options, key)}


def of_further_run(get: Callable[[str], Any]) -> dict[str, Any]:
    """Return the values that a further round takes over from pytest's options."""
    kept = [option.key for option in OPTIONS.values() if option.name not in _OF_THE_FIRST]
    return {key: get(f"conformance_{key}") for key in kept}


def require_writable(path: str | None) -> None:
    """Refuse a place where no file can be written, before the run starts; make its folders.

    Raises
    ------
    UsageError
        If it is a folder, or cannot be written.
    """
    from conformance.errors import UsageError

    if path in (None, "-"):
        return
    place = Path(path)
    folder = next(parent for parent in place.absolute().parents if parent.exists())
    reason = ""
    if place.is_dir():
        reason = "it is a folder; name a file in it"
    elif not folder.is_dir():
        reason = f"{folder} is not a folder"
    elif place.exists() and not os.access(place, os.W_OK):
        reason = "permission denied"
    else:
        # Permissions do not tell of read-only and virtual file systems; a file does.
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place.parent):
                pass
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
    if reason:
        raise UsageError(f"{path}: cannot be written: {reason}")
