"""Calls pytest, which runs the checks."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from conformance.errors import UsageError
from conformance.jax_setup import devices
from conformance.results.decision import USAGE
from conformance.results.verdict import Verdict
from conformance.running.options import as_arguments
from conformance.running.places import PACKAGE, RUN, SUITE
from conformance.running.schedule import workers_that_pay

if TYPE_CHECKING:
    from conformance.results.file import Results

# The suite's own plugin is named by its module, because a clone need not be installed.
# The third that is left out would collect garbage at the end, although the process ends anyway.
_PLUGINS = (
    *("no:cacheprovider", "no:terminal", "no:unraisableexception"),
    *("xdist", "hypothesispytest", "conformance.plugin"),
)


def call(
    requirement: Sequence[str] = (), *, workers: str = "auto", cells: int = 0, **values: Any
) -> list[str]:
    """Return pytest's arguments for a run, without the implementations.

    Parameters
    ----------
    requirement
        Ids, slugs, areas or globs; empty means all.
    workers
        How many processes; ``"auto"`` means a few for each accelerator, or one for each core, and
        fewer for a short run; ``"0"`` means this process.
    cells
        How many cells the run has, if known.
    values
        Options of the run, by their names with underscores.
    """
    arguments = [
        *(str(SUITE), "-c", str(PACKAGE / "pytest.toml"), f"--rootdir={os.getcwd()}"),
        # The suite has no assert statements, and rewriting them would cost each worker a second.
        "--assert=plain",
        # Other plugins of the environment could change the run or its output.
        "--disable-plugin-autoload",
        *(part for name in _PLUGINS for part in ("-p", name)),
        *("-n", _workers(cells) if workers == "auto" else workers),
    ]
    named = {name.replace("_", "-"): value for name, value in values.items()}
    return [*arguments, *as_arguments({**named, "requirement": [*requirement]})]


def _workers(cells: int) -> str:
    if devices.accelerators() or not cells:
        return str(devices.workers())
    return str(workers_that_pay(cells, devices.workers()))


class _Reporter:
    """A pytest plugin for one run that shows progress, then the verdict."""

    def __init__(
        self, progress: Callable[..., Any], after: Callable[[Results], None] | None = None
    ) -> None:
        self.progress = progress
        self.after = after
        self.ended = False

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        found = config.stash.get(RUN, None)
        if found is not None and found.controls and not config.getoption("conformance_quiet"):
            total = found.size
            names = {entry.id: entry.name for entry in found.entries}
            statements = {row.id: row.statement for row in found.rows}
            verbose = config.getoption("conformance_verbose")
            progress = self.progress(total, names, statements, strict=found.strict, verbose=verbose)
            config.pluginmanager.register(progress)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        import sys

        from conformance.report.terminal import write_verdict
        from conformance.results.file import Results

        found = config.stash.get(RUN, None)
        if found is not None and found.controls and found.verdict is not None:
            self.ended = True
            if found.refused:
                print(*found.refused, sep="\n\n", file=sys.stderr)
                return
            results = Results(found.verdict, found.facts())
            verbose, quiet = (config.getoption(f"conformance_{n}") for n in ("verbose", "quiet"))
            shown = found.faults.shown
            write_verdict(results, sys.stdout, verbose=verbose, quiet=quiet, shown=shown)
            if self.after is not None:
                self.after(results)


def run(
    arguments: Sequence[str],
    progress: Callable[..., Any],
    after: Callable[[Results], None] | None = None,
) -> int:
    """Run pytest with these arguments, and return the exit code of the verdict.

    If pytest ends without a verdict, the exit code is that of wrong usage.
    """
    reporter = _Reporter(progress, after)
    status = int(pytest.main(list(arguments), plugins=[reporter]))
    return status if reporter.ended else USAGE


class _Keeper:
    """A pytest plugin for one run that keeps its verdict."""

    def __init__(self) -> None:
        self.verdict: Verdict | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        run = config.stash.get(RUN, None)
        self.verdict = run.verdict if run is not None and run.controls else None


def run_quietly(arguments: Sequence[str]) -> Verdict:
    """Run pytest without output, and return the verdict.

    Raises
    ------
    UsageError
        If pytest ended without a verdict; the message has pytest's output.
    """
    keeper, said = _Keeper(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        pytest.main(list(arguments), plugins=[keeper])
    if keeper.verdict is None:
        raise UsageError(f"the run ended without a verdict: {said.getvalue().strip()[-500:]}")
    return keeper.verdict
