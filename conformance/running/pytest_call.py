"""Calls pytest, which runs everything."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from conformance.errors import UsageError
from conformance.jax_setup import devices
from conformance.results.verdict import USAGE, Verdict
from conformance.running.places import PACKAGE, RUN, SUITE

if TYPE_CHECKING:
    from conformance.results.file import Results

__all__ = ["call", "run", "run_quietly"]


def call(
    requirements: Sequence[str] = (),
    *,
    workers: str = "auto",
    profile: str = "quick",
    seed: int | None = None,
    time_limit: float | None = None,
    memory_limit: float | None = None,
    compile_cache: bool = True,
    database: str | None = None,
    shard: object = None,
    shard_by: str | None = None,
    declare: Sequence[str] = (),
    sizes: Sequence[tuple[int, int]] = (),
    strict: bool = False,
) -> list[str]:
    """The call of pytest, but for the implementations.

    Parameters
    ----------
    requirements
        Ids, slugs, areas or globs; without any, all of them.
    workers
        How many processes; ``"auto"`` is one for each accelerator, or for each core where there
        is none; ``"0"`` is this one.
    profile, seed, time_limit, memory_limit, compile_cache, database, shard, shard_by, \
    declare, sizes, strict
        As for ``dense-conformance run``.
    """
    arguments = [
        str(SUITE),
        "-c",
        str(PACKAGE / "pytest.toml"),
        f"--rootdir={os.getcwd()}",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:terminal",
        # No property is an assert statement; rewriting them costs each worker a second.
        "--assert=plain",
        # They collect garbage at the end, for minutes of objects that go with the process.
        "-p",
        "no:unraisableexception",
        "-n",
        str(devices.workers()) if workers == "auto" else workers,
        f"--conformance-profile={profile}",
    ]
    arguments += [f"--conformance-requirement={id}" for id in requirements]
    arguments += [f"--conformance-declare={each}" for each in declare]
    arguments += [f"--conformance-size={n}x{m}" for n, m in sizes]
    if seed is not None:
        arguments.append(f"--conformance-seed={seed}")
    if time_limit:
        arguments.append(f"--conformance-time-limit={time_limit}")
    if memory_limit:
        arguments.append(f"--conformance-memory-limit={memory_limit}")
    if database:
        arguments.append(f"--conformance-database={database}")
    if shard:
        arguments.append(f"--conformance-shard={shard}")
    if shard_by:
        arguments.append(f"--conformance-shard-by={shard_by}")
    if strict:
        arguments.append("--conformance-strict")
    if not compile_cache:
        arguments.append("--conformance-no-compile-cache")
    return arguments


class _Reporter:
    """Registered with pytest for one run: shows progress, then the verdict."""

    def __init__(
        self,
        progress: Callable[..., Any],
        after: Callable[[Results], None] | None = None,
    ) -> None:
        self.progress = progress
        self.after = after
        self.ended = False

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        found = config.stash.get(RUN, None)
        if found is not None and found.controls:
            total = found.size
            names = {entry.id: entry.name for entry in found.entries}
            statements = {row.id: row.statement for row in found.rows}
            progress = self.progress(total, names, statements, strict=found.strict)
            config.pluginmanager.register(progress)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        import sys

        from conformance.report.terminal import write_verdict

        found = config.stash.get(RUN, None)
        if found is not None and found.controls and found.verdict is not None:
            self.ended = True
            if found.refused:
                print(*found.refused, sep="\n\n", file=sys.stderr)
                return
            verbose = config.get_verbosity() > 0
            write_verdict(
                found.verdict, found.facts(), sys.stdout, verbose=verbose, shown=found.told
            )
            if self.after is not None:
                from conformance.results.file import Results

                self.after(Results(found.verdict, found.facts()))


def run(
    arguments: Sequence[str],
    progress: Callable[..., Any],
    after: Callable[[Results], None] | None = None,
) -> int:
    """Run pytest with these arguments; the exit code of the verdict.

    Where pytest ends before there is a verdict, the exit code is that of a wrong usage.
    """
    reporter = _Reporter(progress, after)
    status = int(pytest.main(list(arguments), plugins=[reporter]))
    return status if reporter.ended else USAGE


class _Keeper:
    """Registered with pytest for one run: keeps its verdict."""

    def __init__(self) -> None:
        self.verdict: Verdict | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        run = config.stash.get(RUN, None)
        self.verdict = run.verdict if run is not None and run.controls else None


def run_quietly(arguments: Sequence[str]) -> Verdict:
    """Run pytest without a word; its verdict.

    Raises
    ------
    UsageError
        If pytest ended before there was one; the message is what pytest said.
    """
    keeper, said = _Keeper(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        pytest.main(list(arguments), plugins=[keeper])
    if keeper.verdict is None:
        raise UsageError(
            f"the run ended before there was a verdict: {said.getvalue().strip()[-500:]}"
        )
    return keeper.verdict
