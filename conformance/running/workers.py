"""Handles workers that die, hang or are lost, in the controller."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from conformance.errors import UsageError
from conformance.isolation import leftovers
from conformance.isolation.postmortem import ended, has_ended, is_child
from conformance.layers.registry import resolve
from conformance.results.cell import Cell
from conformance.running import remote_workers, reproduction

if TYPE_CHECKING:
    from conformance.running.run import Run

# A worker ends by itself at the time limit; if a layer prevents that, it is killed later.
_GRACE = 5.0
# A cell whose worker dies before beginning it is given to so many other workers, and a worker that
# dies before it answers is started so many times more.
_MOST_TRIES = 10
# Python's own option -P, as an environment variable.
_SAFE_PATH = "PYTHONSAFEPATH"
# Beyond the time limit of a cell, for a worker that starts.
_SILENCE = 60.0


def why_a_worker(config: pytest.Config) -> str:
    """Return why a run without workers gets one; empty if it needs none.

    One process must not load the code of several sources. A worker ends before it would load a
    second one; this process cannot.
    """
    option = config.option
    if option.collectonly or getattr(option, "usepdb", False):
        return ""
    try:
        entries = resolve(option.conformance_impl)
    except UsageError:
        return ""  # reported when the run is set up
    sources = dict.fromkeys(entry.source or "the suite" for entry in entries)
    if len(sources) < 2:
        return ""
    return (
        f"the layers come from {len(sources)} sources ({', '.join(sources)}), "
        "which one process would mix; they are checked in a worker process each, as with -n 1"
    )


class Workers:
    """A pytest plugin, registered if pytest-xdist distributes the run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.breaker = run.breaker
        self._begun: dict[str, float] = {}
        self._rejected: dict[str, str] = {}
        self._tries: Counter[str] = Counter()
        self._stop = threading.Event()
        self._nodes: set[Any] = set()
        self._processes: dict[int, Any] = {}
        self._mark = str(run.breaker.directory)
        self._heard = time.monotonic()
        self._silent: set[Any] = set()
        self._last_was_silent = False

    def pytest_configure(self) -> None:
        """Set the variables that workers inherit.

        The current folder stays off their path, because a file in it may be named types.py.
        """
        self._former = {name: os.environ.get(name) for name in (_SAFE_PATH, leftovers.ENVIRONMENT)}
        os.environ.update({_SAFE_PATH: "1", leftovers.ENVIRONMENT: self._mark})

    def pytest_unconfigure(self) -> None:
        """End what is left of the run, and restore the environment of this process."""
        self._stop.set()
        leftovers.end_orphans(self._mark)
        for name, value in self._former.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    def pytest_sessionstart(self) -> None:
        """Start watching for workers that do not end by themselves."""
        threading.Thread(target=self._watch, daemon=True, name="dense-conformance watch").start()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self._end_holders_of_pipes()
            for pid in self.breaker.overdue(_GRACE):
                if is_child(pid):
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
            # A worker that sends no results would hold up the run forever.
            if time.monotonic() - self._heard > self.breaker.time_limit + _SILENCE:
                self._heard = time.monotonic()
                self._silent = set(self._nodes)
                for node in self._silent:
                    _end(node)

    def _end_holders_of_pipes(self) -> None:
        """End processes that keep the pipes of a dead worker open, so that its end is noticed."""
        for pid, gateway in [*self._processes.items()]:
            if has_ended(pid):
                leftovers.end_session(pid)
                del self._processes[pid]
                if gateway.hasreceiver() and not self._stop.wait(1.0) and gateway.hasreceiver():
                    leftovers.end_orphans(self._mark)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, config: pytest.Config) -> None:
        """Let a worker that dies while it starts be started again; pytest-xdist ends the run."""
        manager: Any = config.pluginmanager.get_plugin("dsession").nodemanager  # type: ignore[union-attr]  # it is there
        once = manager.setup_node

        def setup_node(spec: Any, put: Any) -> Any:
            for _ in range(_MOST_TRIES):
                # Its pipe ends before it answers, or is closed before it has its orders.
                with contextlib.suppress(EOFError, OSError):
                    return once(spec, put)
                spec.id = None  # the former process may still be known by it
                manager.group.allocate_id(spec)
            return once(spec, put)

        manager.setup_node = setup_node

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_newgateway(self, gateway: Any) -> None:
        """Note the process of a worker."""
        process = _process_of(gateway)
        if process is not None:
            self._processes[process.pid] = gateway

    def pytest_runtest_logreport(self) -> None:
        """Note that a worker has sent something."""
        self._heard = time.monotonic()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        """Watch a worker that has started."""
        self._heard = time.monotonic()
        self._nodes.add(node)
        remote_workers.enable_keepalive(node.gateway)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Note that a worker has ended; pytest-xdist replaces one that died."""
        self._heard = time.monotonic()
        self._nodes.discard(node)
        self._last_was_silent = node in self._silent
        lost = remote_workers.replace_lost_machine(node.gateway.spec) if error else ""
        if lost:
            print(
                f"dense-conformance: the machine of a worker is lost ({lost}); "
                "its cells are checked on this machine",
                file=sys.stderr,
            )

    def why_rejected(self, node: Any, known: Mapping[str, Any], found: Mapping[str, Any]) -> str:
        """Return why a worker's results must be rejected, or "": its environment differs."""
        place = node.gateway.id
        if found:
            self._rejected[place] = remote_workers.environment_difference(known, found)
        differs = self._rejected.get(place, "")
        where = f"the worker {node.gateway.spec} has {differs}"
        return f"{where}: a run is of one environment" if differs else ""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note that a worker begins an item."""
        self._heard = time.monotonic()
        self._begun[nodeid] = time.monotonic()

    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport, sched: Any) -> None:
        """Decide the cell in which a worker died, or give it to another worker."""
        found = self.run.cell_at(crashitem)
        if found is None:
            return
        begun = self._begun.pop(crashitem, None)
        entry, row = found
        if (entry.id, row.id) in self.run.received:
            report.outcome = _AGAIN  # type: ignore[assignment]  # what became of it is known
            return
        if why := self.breaker.why_not_started(entry.id, row.id):
            self.run.refuse_all(why)
            self.run.config.pluginmanager.get_plugin("dsession").shouldstop = why  # type: ignore[union-attr]  # it is there
            return
        retired = self.breaker.has_retired(entry.id, row.id)
        idle = begun is None and not self.breaker.has_begun(entry.id, row.id)
        if retired or (idle and self._tries[crashitem] < _MOST_TRIES):
            # It had not begun, so its layer is not at fault.
            self._tries[crashitem] += not retired
            report.outcome = _AGAIN  # type: ignore[assignment]  # neither passed nor failed
            sched.mark_test_pending(crashitem)
            return
        pid = self.breaker.process_in(entry.id, row.id)
        seconds = 0.0 if begun is None else time.monotonic() - begun
        how = ended(pid) if pid is not None else ""
        silent = self._last_was_silent
        outcome, reason = self.breaker.died(entry.id, row.id, seconds, how, silent=silent)
        cell = Cell(entry.id, row.id, str(row.level), outcome, reason=reason)
        like = self.run.config.getoption("conformance_like")
        self.run.take(replace(cell, reproduction=reproduction.command(entry, row, like)))

    def pytest_report_teststatus(
        self, report: pytest.TestReport
    ) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """Return how pytest's own reporter shows an item that is given to another worker."""
        if report.outcome != _AGAIN:
            return None
        return _AGAIN, "R", ("RERUN", {"yellow": True})


def _process_of(gateway: Any) -> Any:
    """Return the local process of a worker, which execnet does not publish; None without one."""
    return getattr(getattr(gateway, "_io", None), "popen", None)


def _end(node: Any) -> None:
    """End the process of a worker; execnet has no public way to end a silent one."""
    process = _process_of(node.gateway)
    if process is not None:
        process.kill()
    else:
        node.gateway.exit()


_AGAIN = "rerun"
