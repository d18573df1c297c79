"""Workers that are killed, hang or are on another machine lose no cell silently."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conformance.contract.catalogue import catalogue
from conformance.contract.requirement import Level, Requirement
from conformance.isolation.breaker import Breaker
from conformance.isolation.postmortem import innermost_layer_frame, is_child
from conformance.layers.registry import Entry
from conformance.results.cell import Cell
from conformance.results.outcome import Outcome
from conformance.running import remote_workers
from conformance.running.run import Run
from conformance.running.workers import Workers
from conformance.selftest.processes import cells_in, started

ENTRY = Entry("acme:Dense", "acme.Dense", "acme:Dense", "acme")
ROW = Requirement("forward/zero-input", Level.MUST, (), "", "", (), "test_zero_input")
ITEM = "suite/test_forward.py::test_zero_input[acme.Dense]"
DECIDED = {"passed", "failed", "not-applicable", "blocked", "expected-failure"}


class Scheduler:
    """The part of pytest-xdist's scheduler that is used here."""

    def __init__(self) -> None:
        self.again: list[str] = []

    def mark_test_pending(self, item: str) -> None:
        self.again.append(item)


def dies(workers: Workers, scheduler: Scheduler) -> str:
    """Return the report for a worker that dies with the item at the head of its queue."""
    report = pytest.TestReport(ITEM, ("", None, ""), {}, "failed", "crashed", cast(Any, "???"))
    workers.pytest_handlecrashitem(ITEM, report, scheduler)
    return report.outcome


class OneCell:
    """The part of a run of one cell that is used here."""

    def __init__(self, folder: Path) -> None:
        self.breaker = Breaker(folder, 60.0, 8.0)
        self.received: dict[tuple[str, str], Cell] = {}
        self.config = SimpleNamespace(getoption=lambda name: None)

    def cell_at(self, item: str) -> tuple[Entry, Requirement] | None:
        return (ENTRY, ROW) if item == ITEM else None

    def take(self, cell: Cell) -> None:
        self.received[cell.implementation, cell.requirement] = cell


@pytest.fixture
def workers(tmp_path: Path) -> Workers:
    """Return the plugin of a run of one cell."""
    return Workers(cast(Any, OneCell(tmp_path)))


def test_every_item_is_a_cell_of_its_own() -> None:
    """Two areas have a requirement of one slug, and a layer's name may have a slash."""
    run: Any = SimpleNamespace(rows=catalogue(), entries=[ENTRY], parameter_ids=lambda: ["a/b.py"])
    run._keys = cast(Any, vars(Run)["_keys"]).func(run)
    for row in run.rows:
        item = f"conformance/suite/test_{row.area}.py::{row.test}[a/b.py]"
        assert Run.cell_at(run, item) == (ENTRY, row)
    assert Run.cell_at(run, "tests/test_mine.py::test_precision[a/b.py]") is None


def test_a_cell_that_had_not_begun_is_given_to_another_worker(workers: Workers) -> None:
    """The layer is not at fault, but the number of tries is limited."""
    scheduler = Scheduler()
    for _ in range(10):
        assert dies(workers, scheduler) == "rerun"
    assert scheduler.again == [ITEM] * 10
    assert not workers.run.received
    assert dies(workers, scheduler) == "failed"
    assert [cell.outcome for cell in workers.run.received.values()] == [Outcome.CRASHED]


def test_a_worker_that_dies_before_it_answers_is_started_again(workers: Workers) -> None:
    """As a system without memory ends it; pytest-xdist would end the run."""
    left = [EOFError("expected 1 bytes, got 0"), OSError("cannot send (already closed?)")]
    given = []

    def setup_node(spec: SimpleNamespace, put: object) -> str:
        given.append(spec.id)
        if left:
            raise left.pop()
        return "a worker"

    group = SimpleNamespace(allocate_id=lambda spec: setattr(spec, "id", f"gw{len(given)}"))
    manager = SimpleNamespace(setup_node=setup_node, group=group)
    plugins = SimpleNamespace(get_plugin=lambda name: SimpleNamespace(nodemanager=manager))
    workers.pytest_xdist_setupnodes(cast(Any, SimpleNamespace(pluginmanager=plugins)))
    assert manager.setup_node(SimpleNamespace(id="gw0"), None) == "a worker"
    assert given == ["gw0", "gw1", "gw2"]


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="asks how a child ended")
@pytest.mark.parametrize(("end", "refused"), [(signal.SIGKILL, ""), (signal.SIGABRT, "JAX does")])
def test_only_a_death_of_its_own_while_jax_starts_refuses_the_run(
    end: signal.Signals, refused: str, workers: Workers
) -> None:
    """XLA aborts because of an unknown flag; a process may be killed at any time."""
    code = (
        "import os, pathlib, sys; from conformance.isolation.breaker import Breaker\n"
        "with Breaker(pathlib.Path(sys.argv[1]), 60.0, 8.0).starting(*sys.argv[3:]):\n"
        "    os.kill(os.getpid(), int(sys.argv[2]))\n"
    )
    folder = workers.breaker.directory
    child = call(folder, "-c", code, str(folder), str(int(end)), ENTRY.id, ROW.id)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    found = workers.breaker.why_not_started(ENTRY.id, ROW.id)
    assert found.startswith(refused)
    assert bool(found) == bool(refused)
    if not refused:
        assert dies(workers, Scheduler()) == "rerun"
    child.communicate()


def test_a_cell_that_had_begun_has_crashed(workers: Workers) -> None:
    scheduler = Scheduler()
    workers.pytest_runtest_logstart(ITEM)
    dies(workers, scheduler)
    assert not scheduler.again
    assert [(c.outcome, c.reason) for c in workers.run.received.values()] == [
        (Outcome.CRASHED, "the process died while checking it")
    ]


def test_a_cell_that_had_been_decided_stays_so(workers: Workers) -> None:
    """The worker died between the result and the next cell."""
    workers.run.take(Cell(ENTRY.id, ROW.id, "MUST", Outcome.PASSED))
    workers.pytest_runtest_logstart(ITEM)
    assert dies(workers, Scheduler()) == "rerun"
    assert [cell.outcome for cell in workers.run.received.values()] == [Outcome.PASSED]


def test_a_worker_that_starts_later_knows_what_has_died(tmp_path: Path) -> None:
    breaker = Breaker(tmp_path / "here", 60.0, 8.0)
    for _ in range(3):
        breaker.check(ENTRY.id)
        breaker.died(ENTRY.id, ROW.id, 1.0)
    elsewhere = Breaker(tmp_path / "elsewhere", 60.0, 8.0, json.loads(json.dumps(breaker.deaths)))
    with pytest.raises(Breaker.Tripped, match="not tried again: the process died"):
        elsewhere.check(ENTRY.id)


def test_a_traceback_names_the_layers_own_line() -> None:
    here = Path(__file__).resolve().parents[1]
    text = (
        "Timeout (0:00:05)!\nThread 0x01 (most recent call first):\n"
        '  File "/home/a/other.py", line 1 in spin\n'
        "\nThread 0x02 (most recent call first):\n"
        f'  File "{here}/layer.py", line 7 in build\n'
        '  File "/home/a/mine.py", line 12 in __call__\n'
        '  File "/home/a/mine.py", line 30 in outer\n'
    )
    assert innermost_layer_frame(text) == "mine.py, line 12, in __call__"
    assert innermost_layer_frame("") == ""


def test_another_environment_is_not_this_run() -> None:
    """Other versions differ; another hostname does not."""
    known = {"jax": "0.10.2", "platform": "Linux-1", "x64": False}
    assert remote_workers.environment_difference(known, {**known, "platform": "Linux-2"}) == ""
    assert (
        remote_workers.environment_difference(known, {**known, "jax": "0.9.2"})
        == "jax 0.9.2 instead of 0.10.2"
    )


def test_a_machine_that_is_gone_is_replaced_by_this_one(tmp_path: Path) -> None:
    import execnet

    with machine(tmp_path / "there") as (_, place):
        there = execnet.XSpec(f"socket={place}//chdir=x")
        assert remote_workers.replace_lost_machine(there) == ""
        assert there.socket
    assert remote_workers.replace_lost_machine(there) == f"socket={place}//chdir=x"
    assert there.popen
    assert not there.socket
    assert not there.chdir


def call(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Run the suite in other processes."""
    return started(folder, *arguments, stderr=subprocess.STDOUT)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in found]


ROWS = (
    "construction/finite", "construction/kernel-shape", "construction/bias-shape",
    "initialization/bias-zero", "forward/zero-input", "forward/additive", "forward/affine-value",
)  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds workers in /proc")
def test_no_killed_worker_loses_a_cell_silently(tmp_path: Path) -> None:
    names = ("nnx.MyDense", "linen.Dense")
    run = call(
        tmp_path,
        *("-m", "pytest", "--pyargs", "conformance.suite", "-p", "no:cacheprovider", "-v", "-n2"),
        *(f"--conformance-impl={name}" for name in names),
        *(f"--conformance-requirement={row}" for row in ROWS),
        "--conformance-results=r.json",
    )
    generator, killed, lines = random.Random(20), 0, []
    assert run.stdout is not None
    for line in run.stdout:
        lines.append(line)
        # At the last kill, half of the cells are still missing. A worker may already be gone.
        if "PASSED" in line and killed < 6:
            with contextlib.suppress(OSError, IndexError):
                os.kill(generator.choice(children(run.pid)), signal.SIGKILL)
                killed += 1
    run.wait()
    said = "".join(lines)
    assert killed, said
    found = json.loads((tmp_path / "r.json").read_text())
    assert {(c["implementation"], c["requirement"]) for c in found["cells"]} == {
        (f"dense-conformance:{name}", row) for name in names for row in ROWS
    }
    crashed = [c for c in found["cells"] if c["outcome"] not in DECIDED]
    assert all(c["outcome"] == "crashed" and "SIGKILL" in c["reason"] for c in crashed), crashed
    assert run.returncode == (3 if any(c["level"] == "MUST" for c in crashed) else 0), said
    assert found["complete"] == (run.returncode == 0)


@contextlib.contextmanager
def machine(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a process that pytest-xdist takes for another machine; return it and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"127.0.0.1:{free.getsockname()[1]}"
    folder.mkdir()
    server = call(folder, "-m", "execnet.script.socketserver", place)
    try:
        assert server.stdout is not None
        assert "Entering Accept loop" in server.stdout.readline()
        yield server, place
    finally:
        server.kill()
        server.communicate()


def remote(place: str) -> tuple[str, ...]:
    """Return pytest's call that checks a layer on that machine."""
    return (
        *("-m", "pytest", "--pyargs", "conformance.suite", "-p", "no:cacheprovider"),
        *("--conformance-impl=nnx.MyDense", f"--tx=socket={place}", "--conformance-results=r.json"),
        *(f"--conformance-requirement={row}" for row in ROWS),
    )


def outcomes(folder: Path) -> list[str]:
    """Return the outcomes in the results file, which has a cell for each requirement."""
    cells = cells_in(folder / "r.json")
    assert len(cells) == len(ROWS)
    return [cell["outcome"] for cell in cells]


def test_a_worker_elsewhere_checks_as_one_here(tmp_path: Path) -> None:
    with machine(tmp_path / "there") as (_, place):
        run = call(tmp_path, *remote(place))
        said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    assert set(outcomes(tmp_path)) == {"passed"}
    assert "is lost" not in said


def test_a_machine_that_disappears_costs_one_cell(tmp_path: Path) -> None:
    with machine(tmp_path / "there") as (server, place):
        run = call(tmp_path, *remote(place), "-v")
        assert run.stdout is not None
        lines = []
        for line in run.stdout:
            lines.append(line)
            if "PASSED" in line:
                server.kill()
                break
        said, _ = run.communicate(timeout=300)
    said = "".join(lines) + said
    assert f"the machine of a worker is lost (execmodel=main_thread_only//socket={place})" in said
    found = outcomes(tmp_path)
    assert set(found) <= {"passed", "crashed"}
    assert found.count("crashed") <= 1
    assert run.returncode == (3 if "crashed" in found else 0), said


def test_a_child_is_distinguished_from_a_stranger() -> None:
    """Only a process that this one has started may be ended."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert is_child(sleeper.pid) == sys.platform.startswith("linux")
        assert not is_child(os.getpid())
        assert not is_child(1)
    finally:
        sleeper.kill()
        sleeper.wait()
