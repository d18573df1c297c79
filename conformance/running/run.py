"""One run of the suite: its cells, and the account of them.

Each process of a run has one. The controller's receives the cells that :mod:`.worker` decides, here
or in other processes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from conformance.checks import profiles
from conformance.contract.catalogue import chosen
from conformance.contract.requirement import Requirement
from conformance.errors import contain_interrupts
from conformance.isolation import leftovers, memory
from conformance.isolation.breaker import Breaker
from conformance.isolation.containment import Containment
from conformance.jax_setup import compile_cache, devices
from conformance.layers.registry import Entry, resolve
from conformance.results.cell import Cell
from conformance.results.expected import Expectations, is_strict
from conformance.results.outcome import Outcome
from conformance.results.verdict import Verdict, account
from conformance.running import database
from conformance.running.faults import Faults
from conformance.running.last_run import failed_last, remember
from conformance.running.options import CHOICE, require_writable
from conformance.running.rounds import combined, is_worse, leave_interrupts_to_the_controller
from conformance.running.schedule import Shard, expected_seconds
from conformance.running.worker import REFUSED


class Run:
    """A pytest plugin that is registered only when the suite is run.

    Parameters
    ----------
    config
        pytest's configuration.
    entries
        The implementations.
    directory
        The folder in which the processes of the run leave marks for each other.
    expectations
        The known failures.
    deaths
        The implementations that had killed workers before this process started.
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
        self.received: dict[tuple[str, str], Cell] = {}
        self.environment: dict[str, Any] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.verdict: Verdict | None = None
        self.started = time.time()
        self.stopped = ""
        self.rounds: list[dict[str, Any]] = []
        self.own: frozenset[tuple[str, str]] | None = None
        self.first: frozenset[tuple[str, str]] = frozenset()
        self.left = "it was deselected"
        self.layers: dict[str, Any] = {}
        self.selected: frozenset[tuple[str, str]] | None = None
        self.others_failed = False
        self.strict = False
        self.unusable: dict[str, str] = {}
        self.faults = Faults(self)

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
            require_writable(config.getoption("conformance_results"))
            strict = config.getoption("conformance_strict") or is_strict(project)
        run = cls(config, entries, directory, expectations, deaths)
        run.strict = strict
        run._divide(given)
        run._prepare(cache=not config.getoption("conformance_no_compile_cache"))
        if run.worker is not None:
            contain_interrupts()
            leftovers.begin_worker()
            leave_interrupts_to_the_controller()
            memory.guard(config.getoption("conformance_memory_limit"), run.breaker.out_of_memory)
        return run

    def _divide(self, given: Mapping[str, Any] | None) -> None:
        """Determine the cells of this run; a worker gets them from the controller."""
        shard: Shard | None = self.config.getoption("conformance_shard")
        # Report an unknown requirement now, not after the run.
        rows = self.rows
        if given is not None:
            self.own = given["own"] and frozenset((id, row) for id, row in given["own"])
            self.first = frozenset((id, row) for id, row in given["first"])
            return
        wanted = {(entry.id, row.id) for entry in self.entries for row in rows}
        failed = failed_last(entry.id for entry in self.entries) & wanted
        if self.config.getoption("conformance_failed_first"):
            self.first = failed
        if self.config.getoption("conformance_last_failed") and failed:
            self.own, self.left = failed, "it passed in the last run"
        elif shard is not None:
            self.left = "it belongs to another shard"
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
        """Return whether requirements are checked even if one that they rest on has failed."""
        return bool(self.config.getoption("conformance_check_all"))

    @property
    def controls(self) -> bool:
        """Return whether this process is the controller."""
        return self.worker is None

    @property
    def executes(self) -> bool:
        """Return whether this process runs items."""
        return not self.controls or not self.distributes

    @property
    def distributes(self) -> bool:
        """Return whether this process gives the items to workers."""
        return self.controls and self.config.getoption("dist", "no") != "no"

    @functools.cached_property
    def rows(self) -> tuple[Requirement, ...]:
        """Return the requirements that are checked."""
        choice = (self.config.getoption(f"conformance_{name}") for name in CHOICE)
        return chosen(*choice, like=bool(self.config.getoption("conformance_like")))

    def decides(self, implementation: str, requirement: str) -> bool:
        """Return whether this run decides a cell, by the ids of both."""
        return self.own is None or (implementation, requirement) in self.own

    @property
    def size(self) -> int:
        """Return how many cells this run decides."""
        return len(self.entries) * len(self.rows) if self.own is None else len(self.own)

    def parameter_ids(self) -> list[str]:
        """Return the ids of the items' parameters, which are unique and ASCII for any names."""
        plain = [e.name.encode("ascii", "backslashreplace").decode() for e in self.entries]
        return [name if plain.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(plain)]

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Send a new worker the cells of the run, so that all workers collect the same."""
        with contextlib.suppress(OSError):  # a layer may have removed it
            self.directory.mkdir(exist_ok=True)
        node.workerinput["conformance"] = json.dumps(
            {
                "entries": [asdict(e) for e in self.entries],
                "directory": str(self.directory),
                "expected": self.expectations.as_plain(),
                "strict": self.strict,
                "deaths": self.breaker.deaths,
                "first": sorted(self.first),
                "own": None if self.own is None else sorted(self.own),
            }
        )

    def cell_at(self, nodeid: str) -> tuple[Entry, Requirement] | None:
        """Return the cell of an item; None if the item is not the suite's."""
        file, _, name = nodeid.partition("::")  # a layer's name may have a slash
        return self._keys.get((file.rpartition("/")[2], name))

    @functools.cached_property
    def _keys(self) -> dict[tuple[str, str], tuple[Entry, Requirement]]:
        # Two areas may have a test of one name.
        return {
            (f"test_{row.area}.py", f"{row.test}[{id}]"): (entry, row)
            for id, entry in zip(self.parameter_ids(), self.entries, strict=True)
            for row in self.rows
        }

    def refuse_all(self, why: str) -> None:
        """Record that no implementation can be checked, for one reason."""
        self.refuse({entry.id: why for entry in self.entries}, {})

    def refuse(self, unusable: Mapping[str, str], environment: Mapping[str, Any]) -> None:
        """Record the implementations that cannot be used, by id, so that no worker tries them."""
        self.environment.update(environment)
        with contextlib.suppress(OSError):  # a worker then finds it out itself
            (self.directory / REFUSED).write_text(json.dumps(unusable), encoding="utf-8")
        for entry in self.entries:
            for row in self.rows if entry.id in unusable else ():
                if self.decides(entry.id, row.id):
                    cell = Cell(entry.id, row.id, str(row.level), Outcome.ERROR)
                    self.take(replace(cell, reason=unusable[entry.id]))
        self.unusable.update(unusable)

    def select(self, nodeids: Iterable[str]) -> None:
        """Note the items to run: what the user deselected is not missing."""
        keys = filter(None, map(self.cell_at, nodeids))
        self.selected = frozenset((entry.id, row.id) for entry, row in keys)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Take the items of a run in one process."""
        if self.controls and self.executes:
            self.select(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """Take the items that a worker has collected; all workers collect the same."""
        self.select(ids)

    def take(self, cell: Cell, found: str = "") -> None:
        """Take a decided cell; ``found`` names the round, if it is a further one."""
        earlier = self.received.get(cell.key)
        if cell.implementation in self.unusable and earlier is not None:
            return
        self.received[cell.key] = combined(earlier, cell, found)
        if is_worse(cell, earlier):
            self.config.hook.pytest_conformance_cell(cell=cell)
        self.faults.take(cell)

    @property
    def own_cells(self) -> frozenset[tuple[str, str]] | None:
        """Return the cells that this run decides; None for all of them."""
        if self.selected is None:
            return self.own
        # Cells without an item, such as those of a layer that cannot be used, count as well.
        return self.selected | self.received.keys()

    def account_of(
        self, entries: Sequence[Entry], rows: Sequence[Requirement], cells: Iterable[Cell]
    ) -> Verdict:
        """Return the account of the cells so far."""
        return account(
            entries,
            rows,
            cells,
            self.own_cells,
            strict=self.strict,
            stopped=self.stopped,
            left=self.left,
            all_ran=self.checks_all,
        )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Account for every cell, write the results file, and set pytest's exit code."""
        if not self.controls or self.config.option.collectonly:
            return
        written = self.conclude()
        assert self.verdict is not None
        if not self.checks_all:
            remember(self.verdict.own)
        self.breaker.clear()
        code = self.verdict.exit_code
        none = self.selected == frozenset() and not self.received
        if none and exitstatus != pytest.ExitCode.NO_TESTS_COLLECTED:
            pass  # the run has no items of the suite
        elif self.stopped or exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.TESTS_FAILED,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            # The verdict decides for our items; other items count as usual.
            session.exitstatus = code or int(self.others_failed)
        if not written:
            session.exitstatus = 2

    def conclude(self) -> bool:
        """Account for every cell and write the results file; return whether that succeeded."""
        entries, rows = self._asked_for(self.own_cells)
        self.verdict = self.account_of(entries, rows, self.received.values())
        path = self.config.getoption("conformance_results")
        if path is None:
            return True
        from conformance.results.file import Results, save, text_of_runs

        try:
            save(Path(path), text_of_runs([Results(self.verdict, self.facts())]))
        except OSError as error:
            print(f"results could not be written to {path}: {error}", file=sys.stderr)
            return False
        return True

    def _asked_for(
        self, own: frozenset[tuple[str, str]] | None
    ) -> tuple[Sequence[Entry], Sequence[Requirement]]:
        """Return implementations and requirements, without those that were deselected entirely."""
        if not own or self.config.getoption("conformance_shard") is not None:
            return self.entries, self.rows
        ids = {name for key in own for name in key}
        return (
            [entry for entry in self.entries if entry.id in ids],
            [row for row in self.rows if row.id in ids],
        )

    def facts(self) -> dict[str, Any]:
        """Return the content of a results file besides the cells."""
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
        """Return why nothing was checked, a line for each reason; empty if anything was."""
        messages = [self.unusable.get(entry.id, "") for entry in self.entries]
        lines = [f"dense-conformance: {each}" for each in dict.fromkeys(messages)]
        return lines if all(messages) else []

    def header(self) -> str:
        """Return the header: what runs, and how much is explored."""
        names = ", ".join(entry.name for entry in self.entries)
        all_of_them = len(self.entries) * len(self.rows)
        cells = f"{all_of_them} cells"
        if self.size < all_of_them:
            cells += f", {self.size} of them in shard {self.config.getoption('conformance_shard')}"
        return (
            f"dense-conformance: {len(self.rows)} requirements x {names} = {cells}\n"
            f"profile {profiles.active().name}: {profiles.active().statement()}"
        )
