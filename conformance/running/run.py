"""One run of the suite: what is checked, and the hooks that turn items into cells.

The same class serves the process that controls the workers, the workers, and a run without
workers; what differs is what pytest calls in each.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conformance.checks import profiles, recording
from conformance.contract.catalogue import chosen
from conformance.contract.requirement import Requirement
from conformance.errors import LoadError, contain_interrupts, safe_text
from conformance.isolation import memory
from conformance.isolation.breaker import Breaker
from conformance.isolation.containment import Containment, open_output
from conformance.jax_setup import compile_cache, devices
from conformance.layers.loading import load
from conformance.layers.registry import Entry, resolve
from conformance.layers.x64 import widened
from conformance.results.cell import Cell
from conformance.results.expected import Expectations, is_strict
from conformance.results.outcome import Outcome
from conformance.results.prerequisites import prerequisites
from conformance.results.verdict import Verdict, account
from conformance.running import database, reproduction
from conformance.running.cells import Prevented
from conformance.running.failures import Failures
from conformance.running.items import entry_of, row_of
from conformance.running.options import CHOICE
from conformance.running.rounds import combined, is_worse
from conformance.running.schedule import Shard, dealt, expected_seconds, in_order
from conformance.running.stopping import leave_interrupts_to_the_controller
from conformance.running.strictness import try_witness
from conformance.running.workers import Workers

__all__ = ["Run"]

_REFUSED = "unusable.json"
"""In the run's directory: the implementations that cannot be used, by id, with the message."""


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
    deaths
        Which implementations had killed workers before this one started.
    """

    def __init__(
        self,
        config: pytest.Config,
        entries: Sequence[Entry],
        directory: Path,
        expectations: Expectations,
        deaths: Mapping[str, Any] | None = None,
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
            deaths,
        )
        self.containment = Containment(may_retire=self.worker is not None)
        self.failures = Failures(directory)
        self.received: dict[tuple[str, str], Cell] = {}
        self.environment: dict[str, Any] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.verdict: Verdict | None = None
        self.started = time.time()
        self.stopped = ""
        self.rounds: list[dict[str, Any]] = []
        self.own: frozenset[tuple[str, str]] | None = None
        self.layers: dict[str, Any] = {}
        self.selected: frozenset[tuple[str, str]] | None = None
        self.others_failed = False
        self.strict = False
        self.unusable: dict[str, str] = {}
        self.told: set[tuple[str, str]] = set()
        self._unsettled: set[tuple[str, str]] = set()

    @classmethod
    def start(cls, config: pytest.Config) -> Run:
        """Set the run up in this process.

        Raises
        ------
        UsageError
            If an implementation or a requirement that was asked for does not exist.
        """
        given = getattr(config, "workerinput", {}).get("conformance")
        deaths = None
        kept = config.getoption("conformance_database")
        profiles.activate(
            config.getoption("conformance_profile"),
            config.getoption("conformance_seed"),
            explain=config.getoption("conformance_explain"),
            examples=config.getoption("conformance_examples"),
            database=database.opened(kept) if kept else None,
            own_sizes=config.getoption("conformance_size"),
        )
        if given is not None:
            given = json.loads(given)
            entries = [Entry(**entry) for entry in given["entries"]]
            directory = Path(given["directory"])
            if not directory.is_dir():
                # This worker is on another machine.
                directory = Path(tempfile.mkdtemp(prefix="dense-conformance-"))
            deaths = given["deaths"]
            expectations = Expectations.from_plain(given["expected"])
            strict = given["strict"]
        else:
            project = config.rootpath / "pyproject.toml"
            declared = config.getoption("conformance_declare")
            entries = list(resolve(config.getoption("conformance_impl"), declared, project))
            directory = Path(tempfile.mkdtemp(prefix="dense-conformance-"))
            expectations = Expectations.of_project(project, entries)
            strict = config.getoption("conformance_strict") or is_strict(project)
        run = cls(config, entries, directory, expectations, deaths)
        run.strict = strict
        run._divide(given)
        run._prepare(cache=not config.getoption("conformance_no_compile_cache"))
        if run.worker is not None:
            contain_interrupts()
            leave_interrupts_to_the_controller()
            memory.guard(config.getoption("conformance_memory_limit"), run.breaker.out_of_memory)
        return run

    def _divide(self, given: Mapping[str, Any] | None) -> None:
        """Settle which cells are this run's; a worker does as it is told."""
        shard: Shard | None = self.config.getoption("conformance_shard")
        # An unknown requirement is an error now, not after the run.
        rows = self.rows
        if given is not None:
            self.own = given["own"] and frozenset((id, row) for id, row in given["own"])
        elif shard is not None:
            measured = expected_seconds(self.config.getoption("conformance_shard_by"))
            self.own = shard.cells(self.entries, rows, measured)

    def _prepare(self, cache: bool) -> None:
        if self.worker is not None:
            devices.take_own(self.worker)
        if self.executes:
            compile_cache.prepare(cache)
        if self.controls and cache:
            compile_cache.bound()
            print(compile_cache.trouble(), end="", file=sys.stderr)

    @property
    def checks_all(self) -> bool:
        """Whether also that is checked which rests on a failure."""
        return bool(self.config.getoption("conformance_check_all"))

    @property
    def controls(self) -> bool:
        """Whether this process is the one that the user started."""
        return self.worker is None

    @property
    def executes(self) -> bool:
        """Whether this process runs items."""
        return not self.controls or not self.distributes

    @property
    def distributes(self) -> bool:
        """Whether this process hands the items to workers."""
        return self.controls and self.config.getoption("dist", "no") != "no"

    @functools.cached_property
    def rows(self) -> tuple[Requirement, ...]:
        """The requirements that are checked."""
        return chosen(*(self.config.getoption(f"conformance_{name}") for name in CHOICE))

    @property
    def size(self) -> int:
        """How many cells this run decides."""
        return len(self.entries) * len(self.rows) if self.own is None else len(self.own)

    def parameter_ids(self) -> list[str]:
        """The ids of the items' parameters: unique and ASCII, whatever the names are."""
        plain = [e.name.encode("ascii", "backslashreplace").decode() for e in self.entries]
        return [name if plain.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(plain)]

    def layer(self, entry: Entry) -> Any:
        """The layer of an entry, loaded once in this process."""
        from conformance.checks.layer import Layer
        from conformance.layers.first_use import explained, require_usable

        if entry.id not in self.layers:
            self._require_not_refused(entry)
            try:
                with self.breaker.loading(entry.id), self.containment.loading(entry):
                    layer = Layer(widened(load(entry)), entry)
                    self.expectations.add(entry, layer)
                    if self.controls:
                        # No process of its own has tried it.
                        require_usable(layer.implementation)
                    self.layers[entry.id] = layer
                memory.settle()
            except LoadError as error:
                self.unusable[entry.id] = explained(error, entry)
                self.layers[entry.id] = LoadError(self.unusable[entry.id])
        found = self.layers[entry.id]
        if isinstance(found, LoadError):
            raise found
        return found

    def _require_not_refused(self, entry: Entry) -> None:
        """Raise what the process that controls the run has left for its workers."""
        with contextlib.suppress(OSError):
            text = (self.directory / _REFUSED).read_text(encoding="utf-8")
            self.unusable = json.loads(text)
        if entry.id in self.unusable:
            raise LoadError(self.unusable[entry.id])

    # Hooks of the process that collects: a worker, or the only one.

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Keep the rows that were asked for, by implementation, the telling ones first."""
        order = {row.id: i for i, row in enumerate(in_order(self.rows))}
        place = {entry.id: i for i, entry in enumerate(self.entries)}
        ours, others, dropped = [], [], []
        for item in items:
            row = row_of(item)
            if row is None:
                others.append(item)
            elif row.id in order and (self.own is None or (entry_of(item).id, row.id) in self.own):
                item.add_marker(pytest.mark.filterwarnings("default"))
                ours.append((place[entry_of(item).id], order[row.id], item))
            else:
                dropped.append(item)
        ours.sort(key=lambda found: found[:2])
        layers = [
            [item for _, _, item in cells]
            for _, cells in itertools.groupby(ours, key=lambda found: found[0])
        ]
        workers = getattr(config, "workerinput", {}).get("workercount", 1)
        items[:] = dealt(layers, workers) + others
        if dropped:
            config.hook.pytest_deselected(items=dropped)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """Guard the time and the process's global state around one cell."""
        row = row_of(item)
        if row is None:
            return (yield)
        recording.start()
        entry = entry_of(item)
        if self.containment.must_retire(entry):
            self.breaker.retire(entry.id, row.id)
        self.containment.enter()
        guarded = self.worker is not None
        with self.containment.cell(), self.breaker.running(entry.id, row.id, guarded=guarded):
            result = yield
        if nextitem is not None and (row_of(nextitem) is None or entry_of(nextitem) != entry):
            # At the end of the run everything goes with the process.
            self.layers.pop(entry.id, None)
            self.containment.leave(entry.id)
            memory.release(len(self.entries))
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """End a worker whose pytest is broken: the cell that it was in is the layer's."""
        if self.worker is not None and self.containment.prepared:
            self.breaker.broken(f"{excinfo.typename}: {safe_text(excinfo.value)}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Do not pay for a broken implementation more often than once or twice."""
        row = row_of(item)
        if row is not None:
            self.breaker.check(entry_of(item).id)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Say why a row cannot be checked on this layer."""
        row = row_of(item)
        if row is not None and isinstance(item, pytest.Function):
            layer: Any = item.funcargs["layer"]
            with open_output():
                layer.seen  # noqa: B018  # its code runs, and may close the outputs
            reason = layer.why_not_applicable(row)
            if reason is not None:
                pytest.skip(reason)
            self._require_not_prevented(entry_of(item), row)
            # What pytest's parameters share is one test to Hypothesis.
            item.obj._hypothesis_internal_database_key = database.key(row.id, entry_of(item).id)

    def _require_not_prevented(self, entry: Entry, row: Requirement) -> None:
        """Raise :class:`Prevented` if a requirement that this one rests on has failed."""
        if not self.checks_all:
            known = functools.partial(self.failures.obstacle, entry.id)
            below = prerequisites(self.rows).failed(row, known)
            if below is not None:
                raise Prevented(below)

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Where a witness of an expected failure is known, it decides the cell."""
        row = row_of(pyfuncitem)
        expected = self.expectations.of(entry_of(pyfuncitem), row.id) if row is not None else None
        if expected is None or expected.witness is None:
            return None
        return try_witness(pyfuncitem, expected.witness)

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
                "strict": self.strict,
                "deaths": self.breaker.deaths,
                "own": None if self.own is None else sorted(self.own),
            }
        )

    def workers(self) -> Workers:
        """The plugin that looks after the workers of this run."""

        def decided(nodeid: str) -> bool:
            entry, row = self._key(nodeid) or (None, None)
            return entry is not None and row is not None and (entry.id, row.id) in self.received

        def receive(cell: Cell, entry: Entry, row: Requirement) -> None:
            self.take(replace(cell, reproduction=reproduction.command(entry, row)))

        return Workers(self.breaker, self._key, decided, receive)

    def _key(self, nodeid: str) -> tuple[Entry, Requirement] | None:
        return self._keys.get(nodeid.partition(".py::")[2])

    @functools.cached_property
    def _keys(self) -> dict[str, tuple[Entry, Requirement]]:
        entries = zip(self.parameter_ids(), self.entries, strict=True)
        return {f"{row.test}[{id}]": (entry, row) for id, entry in entries for row in self.rows}

    def refuse(self, unusable: Mapping[str, str], environment: Mapping[str, Any]) -> None:
        """Account for implementations that cannot be used, by id, and have no worker try them."""
        self.environment.update(environment)
        (self.directory / _REFUSED).write_text(json.dumps(unusable), encoding="utf-8")
        for entry in self.entries:
            for row in self.rows if entry.id in unusable else ():
                if self.own is None or (entry.id, row.id) in self.own:
                    cell = Cell(entry.id, row.id, str(row.level), Outcome.ERROR)
                    self.take(replace(cell, reason=unusable[entry.id]))
        self.unusable.update(unusable)

    def select(self, nodeids: Iterable[str]) -> None:
        """Take the items that are to be run: what the user deselected is not missing."""
        keys = filter(None, map(self._key, nodeids))
        self.selected = frozenset((entry.id, row.id) for entry, row in keys)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """The only process has collected."""
        if self.controls and self.executes:
            self.select(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """A worker has collected, as every other one does."""
        self.select(ids)

    def take(self, cell: Cell, found: str = "") -> None:
        """A cell was decided, in this round or, as ``found`` says, in a further one."""
        key = cell.implementation, cell.requirement
        if cell.implementation in self.unusable and key in self.received:
            return
        news = is_worse(cell, self.received.get(key))
        self.received[key] = combined(self.received.get(key), cell, found)
        if news:
            self.config.hook.pytest_conformance_cell(cell=cell)
            if cell.outcome == Outcome.FAILED:
                self._unsettled.add(key)
        self._tell_faults(cell.implementation)

    def _tell_faults(self, implementation: str) -> None:
        """Tell the failures that no cell to come can explain."""
        waiting = [row for id, row in self._unsettled if id == implementation]
        if not waiting:
            return
        cells = {row: cell for (id, row), cell in self.received.items() if id == implementation}
        known = prerequisites(self.rows)
        own = self.own_cells

        def to_come(row: str) -> bool:
            return row not in cells and (own is None or (implementation, row) in own)

        settled = [id for id in waiting if known.settled(id, cells, to_come)]
        if not settled:
            return
        (entry,) = (entry for entry in self.entries if entry.id == implementation)
        verdict = self._account([entry], self.rows, cells.values())
        for cell in verdict.cells:
            if cell.requirement in settled:
                self._unsettled.discard((implementation, cell.requirement))
                if cell.outcome == Outcome.FAILED:
                    self.told.add((implementation, cell.requirement))
                    self.config.hook.pytest_conformance_fault(cell=cell)

    @property
    def own_cells(self) -> frozenset[tuple[str, str]] | None:
        """The cells that this run decides; None for all of them."""
        if self.selected is None:
            return self.own
        # What was found without any item, as of a layer that cannot be used, was asked for, too.
        return self.selected | self.received.keys()

    def _account(
        self, entries: Sequence[Entry], rows: Sequence[Requirement], cells: Iterable[Cell]
    ) -> Verdict:
        return account(
            entries,
            rows,
            cells,
            self.own_cells,
            strict=self.strict,
            stopped=self.stopped,
            left="it was deselected" if self.own is None else "it is for another shard",
            all_ran=self.checks_all,
        )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Account for every cell, write the results file, and make the verdict pytest's."""
        if not self.controls or self.config.option.collectonly:
            return
        written = self.conclude()
        self.breaker.clear()
        assert self.verdict is not None
        code = self.verdict.exit_code
        none = self.selected == frozenset() and not self.received
        if none and exitstatus != pytest.ExitCode.NO_TESTS_COLLECTED:
            pass  # only other people's items were asked for
        elif self.stopped or exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.TESTS_FAILED,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            # Which of our items fail is the verdict's to say; other people's count as they do.
            session.exitstatus = code or int(self.others_failed)
        if not written:
            session.exitstatus = 2

    def conclude(self) -> bool:
        """Account for every cell, and write the results file; whether that went well."""
        entries, rows = self._asked_for(self.own_cells)
        self.verdict = self._account(entries, rows, self.received.values())
        path = self.config.getoption("conformance_results")
        if path is None:
            return True
        from conformance.results.file import write

        try:
            write(Path(path), self.verdict, self.facts())
        except OSError as error:
            print(f"results could not be written to {path}: {error}", file=sys.stderr)
            return False
        return True

    def _asked_for(
        self, own: frozenset[tuple[str, str]] | None
    ) -> tuple[Sequence[Entry], Sequence[Requirement]]:
        """Return implementations and requirements without those that the user deselected whole."""
        if not own or self.own is not None:
            return self.entries, self.rows
        ids = {name for key in own for name in key}
        return (
            [entry for entry in self.entries if entry.id in ids],
            [row for row in self.rows if row.id in ids],
        )

    def facts(self) -> dict[str, Any]:
        """What belongs into a results file beside the cells."""
        return {
            "environment": self.environment,
            "versions": self.versions,
            "seconds": round(time.time() - self.started, 3),
            "profile": self.config.getoption("conformance_profile"),
            "rounds": self.rounds,
            "shard": str(self.config.getoption("conformance_shard") or ""),
        }

    @property
    def refused(self) -> list[str]:
        """Why nothing was checked, a message for each implementation; empty if anything was."""
        messages = [self.unusable.get(entry.id, "") for entry in self.entries]
        return [f"dense-conformance: {each}" for each in messages] if all(messages) else []

    def header(self) -> str:
        """What runs, and how much of it is explored."""
        names = ", ".join(entry.name for entry in self.entries)
        all_of_them = len(self.entries) * len(self.rows)
        cells = f"{all_of_them} cells"
        if self.size < all_of_them:
            cells += f", {self.size} of them in shard {self.config.getoption('conformance_shard')}"
        return (
            f"dense-conformance: {len(self.rows)} requirements x {names} = {cells}\n"
            f"profile {profiles.active().name}: {profiles.active().statement()}"
        )
