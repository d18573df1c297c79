"""The pytest plugin: options, one item for each cell, and hooks that report the cells.

Every pytest run of an environment with the suite imports this module, so it imports only the
standard library and pytest until our own items are in the run.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conformance.running.options import add_to_pytest
from conformance.running.places import PACKAGE, RUN, SELFTEST, SUITE

if TYPE_CHECKING:
    from conformance.running.run import Run


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the suite's own events."""
    from conformance.running import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the suite's options; all of them carry its prefix."""
    group = parser.getgroup("conformance", "dense-conformance: is this layer a Dense?")
    add_to_pytest(group)


def _is_ours(config: pytest.Config) -> bool:
    """Return whether the run includes items of the suite."""
    if config.getoption("conformance_impl") or config.getoption("conformance_requirement"):
        return True
    for argument in config.args:
        name = str(argument).partition("::")[0]
        if config.getoption("pyargs", False) and name.partition(".")[0] == PACKAGE.name:
            return "selftest" not in name
        path = Path(os.path.abspath(name))
        if path == SUITE or SUITE in path.parents or path in (PACKAGE, *SUITE.parents):
            return path.exists()
    return False


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Choose the one scheduling of pytest-xdist that survives the death of a worker."""
    option = config.option
    # A worker gets the options of its controller.
    if hasattr(config, "workerinput") or not hasattr(option, "tx") or not _is_ours(config):
        return
    if not (option.numprocesses or option.tx):
        from conformance.running.workers import why_a_worker

        reason = why_a_worker(config)
        if not reason:
            return
        print(f"dense-conformance: {reason}", file=sys.stderr)
        option.numprocesses, option.tx = 1, ["popen"]
    if option.dist == "no":
        option.dist = "worksteal"
    if option.maxworkerrestart is None:
        # A hostile implementation may kill a worker in each of its cells.
        option.maxworkerrestart = "100000"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return the number of processes for ``-n auto`` on accelerators; None leaves it to xdist."""
    from conformance.jax_setup import devices

    return devices.workers() if _is_ours(config) and devices.accelerators() else None


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Set up the run, in the controller and in each worker."""
    if not _is_ours(config):
        return
    from conformance.jax_setup import devices

    devices.limit_threads()  # The next lines import NumPy.
    from conformance.errors import UsageError
    from conformance.running.cells import Exchange
    from conformance.running.run import Run
    from conformance.running.worker import Worker

    try:
        run = Run.start(config)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[RUN] = run
    config.pluginmanager.register(run, "conformance-run")
    config.pluginmanager.register(Worker(run), "conformance-worker")
    config.pluginmanager.register(run.containment, "conformance-containment")
    config.pluginmanager.register(Exchange(run), "conformance-exchange")
    if run.controls:
        from conformance.running.rounds import Rounds

        seconds = config.getoption("conformance_for")
        config.pluginmanager.register(Rounds(run, seconds), "conformance-rounds")
        config.pluginmanager.register(_AtOnce(config, run), "conformance-at-once")
    if run.controls and run.executes and not config.option.collectonly:
        from conformance.running.exit_guard import ExitGuard

        config.pluginmanager.register(ExitGuard(run), "conformance-exit-guard")
    if run.distributes and not config.option.collectonly:
        from conformance.running.preflight import Preflight

        config.pluginmanager.register(Preflight(run), "conformance-preflight")
    if run.distributes:
        from conformance.running.workers import Workers

        config.pluginmanager.register(Workers(run), "conformance-workers")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore the suite's own tests unless the user names them."""
    if collection_path == SELFTEST:
        named = (str(argument).replace(".", os.sep) for argument in config.args)
        return None if any("selftest" in name for name in named) else True
    # A user's python_files may match modules that are not tests.
    around = (collection_path, *collection_path.parents)
    if PACKAGE in around[1:] and SUITE not in around and SELFTEST not in around:
        return None if collection_path.name == "__init__.py" else True
    return None


class _Rows(pytest.Module):
    """A module of the suite, collected independent of the user's patterns for test names."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Collect the property tests, each with the number of examples that the profile sets."""
        from conformance.checks import cases, profiles

        found = vars(self.obj)
        # A view of the module, because the imported module must stay unchanged.
        self.obj = types.ModuleType(self.obj.__name__)
        for name, value in found.items():
            draws = hasattr(value, "__draws__")
            own = cases.settled(value, profiles.active()) if draws else value
            setattr(self.obj, name, own)
        return super().collect()

    def funcnamefilter(self, name: str) -> bool:
        return name.startswith("test_")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> _Rows | None:
    """Collect the suite's tests even if the user's ``python_functions`` excludes them."""
    return _Rows.from_parent(parent, path=module_path) if module_path.parent == SUITE else None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Collect the suite's modules even if the user's ``python_files`` excludes them."""
    if file_path.parent != SUITE or not file_path.name.startswith("test_"):
        return None
    patterns = parent.config.getini("python_files")
    if any(file_path.match(pattern) for pattern in patterns):
        return None
    return _Rows.from_parent(parent, path=file_path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one item for each implementation, from metadata only."""
    run = metafunc.config.stash.get(RUN, None)
    if run is None or not hasattr(metafunc.function, "__requirement__"):
        return
    metafunc.parametrize(
        "layer", run.entries, ids=run.parameter_ids(), indirect=True, scope="session"
    )


@pytest.fixture(scope="session")
def layer(request: pytest.FixtureRequest) -> Any:
    """Return the layer under test; it is imported only here, in a worker."""
    worker: Any = request.config.pluginmanager.get_plugin("conformance-worker")
    return worker.layer(request.param)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Return the header line; nothing in runs without the suite."""
    run = config.stash.get(RUN, None)
    return None if run is None else run.header()


class _AtOnce:
    """Prints each failure as soon as it is known, between the dots of pytest's own reporter."""

    def __init__(self, config: pytest.Config, run: Run) -> None:
        self.config = config
        self.names = {entry.id: entry.name for entry in run.entries}

    def pytest_conformance_fault(self, cell: Any) -> None:
        """Write one line for a failure that no other failure explains."""
        from conformance.report.terminal import at_once

        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and reporter.verbosity == 0:
            # pytest-xdist leaves its progress line unfinished, unknown to pytest.
            if self.config.getoption("dist", "no") != "no":
                reporter.write("\n")
            reporter.ensure_newline()
            reporter.write_line(at_once(cell, self.names), flush=True)


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Iterator[None]:
    """Write the table and the failures below the output of pytest's own reporter."""
    yield
    run = config.stash.get(RUN, None)
    if run is not None and run.controls and run.verdict is not None:
        from conformance.report.terminal import write_verdict
        from conformance.results.file import Results

        terminalreporter.ensure_newline()
        if run.refused:
            terminalreporter.write_line("\n\n".join(run.refused))
            return
        verbose = config.get_verbosity() > 0
        write_verdict(Results(run.verdict, run.facts()), sys.stdout, verbose=verbose)
