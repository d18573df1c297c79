"""Checks cells: the hooks of a process that runs items, be it a worker or the only process."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from conformance.checks import recording
from conformance.contract.requirement import Requirement
from conformance.errors import LoadError, described
from conformance.isolation import memory
from conformance.isolation.containment import open_output
from conformance.jax_setup.lazy import jax
from conformance.layers.loading import load
from conformance.layers.registry import Entry, resolve
from conformance.layers.x64 import widened
from conformance.results.prerequisites import prerequisites
from conformance.running import database
from conformance.running.cells import Prevented, entry_of, row_of, try_witness
from conformance.running.schedule import dealt, in_order

if TYPE_CHECKING:
    from conformance.running.run import Run

REFUSED = "unusable.json"
"""A file of the run's directory: the ids that cannot be used, each with the message."""


class Worker:
    """A pytest plugin that turns items into cells."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def layer(self, entry: Entry) -> Any:
        """Return the layer of an entry, loaded once in this process."""
        from conformance.checks.layer import Layer
        from conformance.layers.first_use import explained, require_usable

        if entry.id not in self.run.layers:
            self._require_not_refused(entry)
            try:
                with self.run.breaker.loading(entry.id), self.run.containment.loading(entry):
                    layer = Layer(widened(load(entry)), entry)
                    layer.like = self._like()
                    self.run.expectations.add(entry, layer)
                    if self.run.controls:
                        # The preflight has not tried it. What a use changes, no import did.
                        with self.run.containment.cell():
                            require_usable(layer.implementation)
                    self.run.layers[entry.id] = layer
                memory.collect_less()
            except LoadError as error:
                self.run.unusable[entry.id] = explained(error, entry)
                self.run.layers[entry.id] = LoadError(self.run.unusable[entry.id])
        found = self.run.layers[entry.id]
        if isinstance(found, LoadError):
            raise found
        return found

    def _like(self) -> Any:
        """Return the layer of ``--like``, or None."""
        from conformance.checks.layer import Layer

        config = self.run.config
        spec = config.getoption("conformance_like")
        if spec is None:
            return None
        (entry,) = resolve([spec], project=config.rootpath / "pyproject.toml")
        return Layer(widened(load(entry)), entry)

    def _require_not_refused(self, entry: Entry) -> None:
        """Raise the error that the controller has recorded for this implementation, if any."""
        with contextlib.suppress(OSError):
            text = (self.run.directory / REFUSED).read_text(encoding="utf-8")
            self.run.unusable = json.loads(text)
        if entry.id in self.run.unusable:
            raise LoadError(self.run.unusable[entry.id])

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Keep the cells of this run, by implementation; those that failed last time come first."""
        order = {row.id: i for i, row in enumerate(in_order(self.run.rows))}
        place = {entry.id: i for i, entry in enumerate(self.run.entries)}
        ours, others, dropped = [], [], []
        for item in items:
            row = row_of(item)
            if row is None:
                others.append(item)
            elif row.id in order and self.run.decides(entry_of(item).id, row.id):
                item.add_marker(pytest.mark.filterwarnings("default"))
                entry = entry_of(item)
                later = (entry.id, row.id) not in self.run.first
                ours.append((place[entry.id], later, order[row.id], item))
            else:
                dropped.append(item)
        ours.sort(key=lambda found: found[:3])
        layers = [
            [item for *_, item in cells]
            for _, cells in itertools.groupby(ours, key=lambda found: found[0])
        ]
        workers = getattr(config, "workerinput", {}).get("workercount", 1)
        items[:] = dealt(layers, workers, _area_of) + others
        if dropped:
            config.hook.pytest_deselected(items=dropped)

    def _start(self, entry: Entry, row: Requirement) -> None:
        """Prepare this process for its first cell; end the run if JAX does not start."""
        try:
            with self.run.breaker.starting(entry.id, row.id):
                self.run.containment.enter()
                jax.devices()
        except Exception:
            if self.run.worker is not None:
                os._exit(70)  # the controller ends the run
            why = self.run.breaker.why_not_started(entry.id, row.id)
            self.run.refuse_all(why)
            raise pytest.exit.Exception(why, returncode=2) from None

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
        if self.run.containment.must_retire(entry):
            self.run.breaker.retire(entry.id, row.id)
        if not self.run.containment.prepared:
            self._start(entry, row)
        breaker, guarded = self.run.breaker, self.run.worker is not None
        with self.run.containment.cell(), breaker.running(entry.id, row.id, guarded=guarded):
            result = yield
        if nextitem is not None and (row_of(nextitem) is None or entry_of(nextitem) != entry):
            # At the end of the run the process ends anyway.
            self.run.layers.pop(entry.id, None)
            self.run.containment.leave(entry.id)
            memory.release(len(self.run.entries))
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """End a worker whose pytest is broken; the layer of the running cell is at fault."""
        if self.run.worker is not None and self.run.containment.prepared:
            self.run.breaker.broken(described(excinfo.value))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """End the cell without a check if its implementation has killed enough workers."""
        row = row_of(item)
        if row is not None:
            self.run.breaker.check(entry_of(item).id)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Skip a requirement that does not apply; check others in the layer's own context."""
        row, context = row_of(item), contextlib.nullcontext()
        if row is not None and isinstance(item, pytest.Function):
            layer: Any = item.funcargs["layer"]
            context = layer.registered.surroundings()
            if "seen" not in vars(layer):
                # What its first use changes must not be what the check finds as it begins.
                with open_output(), self.run.containment.cell():
                    layer.seen  # noqa: B018  # its code runs, and may close the outputs
            reason = layer.why_not_applicable(row)
            if reason is not None:
                pytest.skip(reason)
            self._require_not_prevented(entry_of(item), row)
            # Hypothesis takes all parameters of a test for one test.
            item.obj._hypothesis_internal_database_key = database.key(row.id, entry_of(item).id)
        with context:
            return (yield)

    def _require_not_prevented(self, entry: Entry, row: Requirement) -> None:
        """Raise :class:`Prevented` if a requirement that this one rests on has failed."""
        if not self.run.checks_all:
            known = functools.partial(self.run.breaker.obstacle, entry.id)
            below = prerequisites(self.run.rows).failed(row, known)
            if below is not None:
                raise Prevented(below)

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Let the witness of an expected failure decide the cell, if one is known."""
        row = row_of(pyfuncitem)
        if row is None:
            return None
        expected = self.run.expectations.of(entry_of(pyfuncitem), row.id)
        if expected is None or expected.witness is None:
            return None
        return try_witness(pyfuncitem, expected.witness)


def _area_of(item: pytest.Item) -> str:
    row = row_of(item)
    return row.area if row is not None else ""
