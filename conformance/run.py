"""One run of the suite: what is checked, and the hooks that turn items into cells.

The same class serves the process that controls the workers, the workers, and a run without
workers; what differs is what pytest calls in each.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conformance import compile_cache, devices, memory, precision, profiles, reproduction
from conformance.breaker import Breaker
from conformance.cell import Cell, Outcome, cell_of
from conformance.expected import Expectations
from conformance.order import telling_first
from conformance.registry import Entry, LoadError, resolve
from conformance.requirement import Requirement, chosen, requirement_of
from conformance.rounds import combined, is_worse
from conformance.stopping import leave_interrupts_to_the_controller
from conformance.strictness import hold_to, try_witness
from conformance.verdict import INCOMPLETE, OK, Verdict, account
from conformance.widened import widened

__all__ = ["Run"]


class Run:
    """A run, as a pytest plugin that is registered only when the suite is run.

    Parameters
    ----------
    config
        pytest's configuration.
    entries
        The implementations.
    directory
        Where the processes of the run leave marks for each other.
    expectations
        The failures that are known.
    """

    def __init__(
        self,
        config: pytest.Config,
        entries: Sequence[Entry],
        directory: Path,
        expectations: Expectations,
    ) -> None:
        self.config = config
        self.expectations = expectations
        self.entries = tuple(entries)
        self.directory = directory
        self.worker: str | None = getattr(config, "workerinput", {}).get("workerid")
        self.breaker = Breaker(
            directory,
            config.getoption("conformance_time_limit"),
            config.getoption("conformance_memory_limit"),
        )
        self.received: dict[tuple[str, str], Cell] = {}
        self.environment: dict[str, Any] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.verdict: Verdict | None = None
        self.started = time.time()
        self.stopped = ""
        self.rounds: list[dict[str, Any]] = []
        self._layers: dict[str, Any] = {}
        self._told_environment = False

    @classmethod
    def start(cls, config: pytest.Config) -> Run:
        """Set the run up in this process.

        Raises
        ------
        UsageError
            If an implementation or a requirement that was asked for does not exist.
        """
        given = getattr(config, "workerinput", {}).get("conformance")
        profiles.activate(
            config.getoption("conformance_profile"),
            config.getoption("conformance_seed"),
            explain=config.getoption("conformance_explain"),
            examples=config.getoption("conformance_examples"),
        )
        if given is not None:
            given = json.loads(given)
            entries = [Entry(**entry) for entry in given["entries"]]
            directory = Path(given["directory"])
            expectations = Expectations.from_plain(given["expected"])
        else:
            entries = list(resolve(config.getoption("conformance_impl")))
            directory = Path(tempfile.mkdtemp(prefix="dense-conformance-"))
            expectations = Expectations.of_project(config.rootpath / "pyproject.toml", entries)
        run = cls(config, entries, directory, expectations)
        run.rows  # noqa: B018  # an unknown requirement is an error now, not after the run
        run._prepare(cache=not config.getoption("conformance_no_compile_cache"))
        if run.worker is not None:
            leave_interrupts_to_the_controller()
            memory.guard(config.getoption("conformance_memory_limit"), run.breaker.out_of_memory)
        return run

    def _prepare(self, cache: bool) -> None:
        if self.worker is not None:
            devices.take_own(self.worker)
        if self.executes:
            compile_cache.prepare(cache)
        if self.controls and cache:
            compile_cache.bound()
            print(compile_cache.trouble(), end="", file=sys.stderr)

    @property
    def controls(self) -> bool:
        """Whether this process is the one that the user started."""
        return self.worker is None

    @property
    def executes(self) -> bool:
        """Whether this process runs items."""
        return not self.controls or not self.config.getoption("numprocesses", None)

    @functools.cached_property
    def rows(self) -> tuple[Requirement, ...]:
        """The requirements that are checked."""
        return chosen(self.config.getoption("conformance_requirement"))

    def parameter_ids(self) -> list[str]:
        """The ids of the items' parameters: unique and ASCII, whatever the names are."""
        plain = [e.name.encode("ascii", "backslashreplace").decode() for e in self.entries]
        return [name if plain.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(plain)]

    def layer(self, entry: Entry) -> Any:
        """The layer of an entry, loaded once in this process."""
        from conformance.layer import Layer

        if entry.id not in self._layers:
            try:
                compile_cache.install()
                precision.settle()
                with self.breaker.loading(entry.id):
                    layer = Layer(widened(entry.load()), entry)
                    self.expectations.add(entry, layer)
                    self._layers[entry.id] = layer
                memory.settle()
            except LoadError as error:
                self._layers[entry.id] = error
        found = self._layers[entry.id]
        if isinstance(found, LoadError):
            raise found
        return found

    # Hooks of the process that collects: a worker, or the only one.

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Keep the rows that were asked for, by implementation, the telling ones first."""
        order = {row.id: i for i, row in enumerate(telling_first(self.rows))}
        place = {entry.id: i for i, entry in enumerate(self.entries)}
        ours, others, dropped = [], [], []
        for item in items:
            row = _row(item)
            if row is None:
                others.append(item)
            elif row.id in order:
                item.add_marker(pytest.mark.filterwarnings("default"))
                ours.append((place[_entry(item).id], order[row.id], item))
            else:
                dropped.append(item)
        ours.sort(key=lambda found: found[:2])
        items[:] = [item for _, _, item in ours] + others
        if dropped:
            config.hook.pytest_deselected(items=dropped)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """Guard the time and the process's global state around one cell."""
        row = _row(item)
        if row is None:
            return (yield)
        from conformance import isolation
        from conformance.cases import recorder

        recorder.start()
        if "jax" in sys.modules:
            # Before the state is taken down: it must not be put back behind the first cell.
            precision.settle()
        before = isolation.take()
        with self.breaker.running(_entry(item).id, row.id):
            result = yield
        if before.changes():
            before.restore()
        if nextitem is not None and (_row(nextitem) is None or _entry(nextitem) != _entry(item)):
            # At the end of the run everything goes with the process.
            self._layers.pop(_entry(item).id, None)
            memory.release(len(self.entries))
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Do not pay for a broken implementation more often than once or twice."""
        row = _row(item)
        if row is not None:
            self.breaker.check(_entry(item).id)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Say why a row cannot be checked on this layer."""
        row = _row(item)
        if row is not None and isinstance(item, pytest.Function):
            layer: Any = item.funcargs["layer"]
            reason = layer.why_not_applicable(row)
            if reason is not None:
                pytest.skip(reason)

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Where a witness of an expected failure is known, it decides the cell."""
        row = _row(pyfuncitem)
        expected = self.expectations.of(_entry(pyfuncitem), row.id) if row is not None else None
        if expected is None or expected.witness is None:
            return None
        return try_witness(pyfuncitem, expected.witness)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach the cell to the report, which travels between processes."""
        report = yield
        row = _row(item)
        if (
            row is None
            or (call.when == "setup" and call.excinfo is None)
            or call.when == "teardown"
        ):
            return report
        entry = _entry(item)
        cell = cell_of(row, entry.id, call, report)
        error = call.excinfo.value if call.excinfo is not None else None
        if isinstance(error, self.breaker.Tripped):
            cell.outcome, cell.reason = Outcome(error.outcome), str(error)
        expected = self.expectations.of(entry, row.id)
        if expected is not None:
            hold_to(expected, cell)
        if cell.outcome not in (Outcome.PASSED, Outcome.NOT_APPLICABLE):
            cell.reproduction = reproduction.command(entry, row)
        if cell.outcome in (Outcome.FAILED, Outcome.EXPECTED_FAILURE):
            layer = self._layers.get(entry.id)
            cell.script = reproduction.script(cell, entry, layer)
        # As text: a value that is not plain would end the whole distributed run.
        report.conformance = json.dumps(  # type: ignore[attr-defined]  # travels with the report
            {
                "cell": cell.as_dict(),
                "environment": self._environment_once(),
                "versions": {entry.id: self._version(entry) | self._observed(entry, row, call)},
            }
        )
        if report.failed:
            report.longrepr = reproduction.text_of(cell)
        if cell.outcome == Outcome.UNEXPECTED_PASS:
            report.outcome, report.longrepr = "failed", reproduction.text_of(cell)
        if cell.outcome == Outcome.EXPECTED_FAILURE:
            report.outcome = "skipped"
            report.wasxfail = cell.reason
        return report

    def _environment_once(self) -> dict[str, Any]:
        if self._told_environment:
            return {}
        from conformance.environment import describe

        self._told_environment = True
        return describe(self.config.getoption("conformance_profile"), profiles.active().seed)

    def _version(self, entry: Entry) -> dict[str, str]:
        from conformance.environment import library_of

        layer = self._layers.get(entry.id)
        return library_of(getattr(layer, "implementation", None), entry)

    def _observed(self, entry: Entry, row: Requirement, call: Any) -> dict[str, Any]:
        """Once for each layer, where it was called anyway, if a file is to be written."""
        layer: Any = self._layers.get(entry.id)
        first = row.id == "forward/output-shape" and call.when == "call"
        if not first or layer is None or not self.config.getoption("conformance_results"):
            return {}
        from conformance.observe import observe

        return observe(layer)

    # Hooks of the process that controls.

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a new worker what is checked, so that all of them collect the same."""
        from dataclasses import asdict

        node.workerinput["conformance"] = json.dumps(
            {
                "entries": [asdict(e) for e in self.entries],
                "directory": str(self.directory),
                "expected": self.expectations.as_plain(),
            }
        )

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """A worker died: its cell crashed, or ran out of time."""
        found = self._key(crashitem)
        if found is None:
            return
        entry, row = found
        outcome, reason = self.breaker.died(entry.id, row.id)
        cell = Cell(entry.id, row.id, str(row.level), outcome, reason=reason)
        cell.reproduction = reproduction.command(entry, row)
        self.take(cell)

    def _key(self, nodeid: str) -> tuple[Entry, Requirement] | None:
        name, _, parameter = nodeid.rpartition("::")[2].partition("[")
        rows = {row.test: row for row in self.rows}
        entries = dict(zip(self.parameter_ids(), self.entries, strict=True))
        entry, row = entries.get(parameter.removesuffix("]")), rows.get(name)
        return (entry, row) if entry is not None and row is not None else None

    def take(self, cell: Cell, found: str = "") -> None:
        """A cell was decided, in this round or, as ``found`` says, in a further one."""
        key = cell.implementation, cell.requirement
        news = is_worse(cell, self.received.get(key))
        self.received[key] = combined(self.received.get(key), cell, found)
        if news:
            self.show("conformance_cell", cell)

    def show(self, event: str, *what: Any) -> None:
        """Tell the plugins that look on."""
        for plugin in self.config.pluginmanager.get_plugins():
            tell = getattr(plugin, event, None)
            if tell is not None:
                tell(*what)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the cell out of a report."""
        found = getattr(report, "conformance", None)
        if found is None or not self.controls:
            return
        found = json.loads(found)
        self.environment.update(found["environment"])
        for id, facts in found["versions"].items():
            self.versions.setdefault(id, {}).update(facts)
        self.take(Cell.from_dict(found["cell"]))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Account for every cell, write the results file, and make the verdict pytest's."""
        if not self.controls or self.config.option.collectonly:
            return
        written = self.conclude()
        self.breaker.clear()
        code = self.exit_code
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or (
            exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and code == INCOMPLETE
        ):
            session.exitstatus = code if code != OK else exitstatus
        elif self.stopped:
            session.exitstatus = code
        if not written:
            session.exitstatus = 2

    def conclude(self) -> bool:
        """Account for every cell, and write the results file; whether that went well."""
        # Copies, since the account marks what is blocked, and more rounds may follow.
        cells = [replace(cell) for cell in self.received.values()]
        self.verdict = account(self.entries, self.rows, cells)
        for cell in self.verdict.cells if self.stopped else ():
            if cell.outcome == Outcome.NOT_RUN:
                cell.reason = f"the run was stopped before: {self.stopped}"
        path = self.config.getoption("conformance_results")
        if path is None:
            return True
        from conformance.kill_rate import remembered
        from conformance.results import write

        try:
            kill = remembered(self.environment)
            write(Path(path), self.verdict, {**self.facts(), "kill": kill})
        except OSError as error:
            print(f"results could not be written to {path}: {error}", file=sys.stderr)
            return False
        return True

    @property
    def exit_code(self) -> int:
        """The verdict's, but a run that was stopped before all was decided is not complete."""
        assert self.verdict is not None
        decided = all(c.outcome != Outcome.NOT_RUN for c in self.verdict.cells)
        code = self.verdict.exit_code
        return INCOMPLETE if code == OK and self.stopped and not decided else code

    def facts(self) -> dict[str, Any]:
        """What belongs into a results file beside the cells."""
        return {
            "environment": self.environment,
            "versions": self.versions,
            "seconds": round(time.time() - self.started, 3),
            "profile": self.config.getoption("conformance_profile"),
            "rounds": self.rounds,
            "stopped": self.stopped,
        }

    def header(self) -> str:
        """What runs, and how much of it is explored."""
        names = ", ".join(entry.name for entry in self.entries)
        cells = len(self.entries) * len(self.rows)
        return (
            f"dense-conformance: {len(self.rows)} requirements x {names} = {cells} cells\n"
            f"profile {profiles.active().name}: {profiles.active().statement()}"
        )


def _row(item: pytest.Item) -> Requirement | None:
    row = requirement_of(getattr(item, "function", None))
    return row if row is not None and hasattr(item, "callspec") else None


def _entry(item: pytest.Item) -> Entry:
    found = item.callspec.params["layer"]  # type: ignore[attr-defined]  # parametrized items
    assert isinstance(found, Entry)
    return found
