"""Runs in rounds and stopped runs lose no result."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conformance.checks import profiles
from conformance.results.cell import Cell
from conformance.results.file import read
from conformance.results.outcome import Outcome
from conformance.running.rounds import Stop, Stopped, combined
from conformance.selftest.processes import RIGHT, cells_in, started

# The layer is wrong from its second worker on, so a further round is the first to see it.
TURNS = f"""
import os, pathlib, sys

checked = pathlib.Path(__file__).with_suffix(".count")
if "PYTEST_XDIST_WORKER" in os.environ and "conformance.running.preflight" not in sys.orig_argv:
    with checked.open("a") as stream:
        stream.write("x")
WRONG = checked.exists() and len(checked.read_text()) > 1

{RIGHT.replace("(out_features,)", "(out_features + WRONG,)")}

class Slow(MyDense):
    def __init__(self, in_features, out_features, *, rngs):
        import time
        print("started", flush=True)
        time.sleep(3600)
"""


def cell(outcome: Outcome, **given: Any) -> Cell:
    """Return a cell with this outcome."""
    return Cell("acme", "forward/zero-input", "MUST", outcome, **given)


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        ("passed", "passed", "passed"),
        ("passed", "failed", "failed"),
        ("failed", "passed", "failed"),
        ("not-run", "passed", "passed"),
        ("passed", "not-run", "passed"),
        ("passed", "crashed", "crashed"),
        ("failed", "crashed", "failed"),
        ("not-applicable", "not-applicable", "not-applicable"),
        ("unexpected-pass", "expected-failure", "expected-failure"),
        ("expected-failure", "unexpected-pass", "expected-failure"),
    ],
)
def test_rounds_are_combined(old: str, new: str, outcome: str) -> None:
    """A failure in any round counts; an expected failure has to occur once."""
    found = combined(cell(Outcome(old)), cell(Outcome(new)), "in round 2")
    assert found.outcome == outcome


def test_a_failure_keeps_its_case_and_its_seed() -> None:
    old = cell(Outcome.PASSED, examples=10, seconds=1.0, notes=["a remark"])
    wrong = cell(Outcome.FAILED, examples=3, seconds=0.5, case={"seed": 7}, message="y is 1")
    failed = combined(old, wrong, "found in round 2, with the seed 99")
    assert failed.case == {"seed": 7}
    assert failed.notes == ["found in round 2, with the seed 99"]
    assert (failed.examples, failed.seconds) == (13, 1.5)
    later = combined(failed, cell(Outcome.FAILED, case={"seed": 8}), "found in round 3")
    assert (later.case, later.notes) == (failed.case, failed.notes)


def test_a_seed_adds_sizes_to_thorough_alone() -> None:
    """The sizes depend only on the seed, so a failure can be repeated."""
    before = profiles.active()
    try:
        one, again = profiles.activate("thorough", 1), profiles.activate("thorough", 1)
        other, fixed = profiles.activate("thorough", 2), profiles.activate("thorough")
        quick = profiles.activate("quick", 1)
    finally:
        profiles.activate(before.name, before.seed, explain=before.explain)
    assert one.sizes == again.sizes != other.sizes
    assert len(one.sizes) == len(fixed.sizes) + 2
    assert quick.sizes == profiles.PROFILES["quick"].sizes
    assert one.as_options() == " --profile thorough --seed 1"
    assert profiles.PROFILES["quick"].as_options() == ""


def start(folder: Path, layer: str, *options: str) -> subprocess.Popen[str]:
    """Start a run of a layer in the file above, which writes ``r.json``."""
    (folder / "mine.py").write_text(TURNS, encoding="utf-8")
    asked = ["--requirement", "construction/bias-shape", "-n", "1", "--results", "r.json"]
    return started(folder, "-m", "conformance", "run", f"mine.py:{layer}", *asked, *options)


def test_a_later_round_finds_it_and_a_signal_ends_it(tmp_path: Path) -> None:
    run = start(tmp_path, "MyDense", "--for", "1h", "--seed", "5")
    assert run.stdout is not None
    shown = next(
        line for line in run.stdout if line.startswith("FAILED    construction/bias-shape")
    )
    run.send_signal(signal.SIGTERM)
    output, errors = run.communicate(timeout=120)
    assert run.returncode == 1, shown + output + errors
    assert errors == ""
    assert "the run was stopped: terminated" in output
    results = read(tmp_path / "r.json")
    (found,) = results.verdict.cells
    assert found.outcome == Outcome.FAILED
    assert found.notes == ["found in round 2, with the seed 6"]
    assert found.reproduction.endswith("--requirement bias-shape --seed 6")
    assert [record["seed"] for record in results.facts["rounds"]][:2] == [5, 6]
    assert results.verdict.stopped == "terminated"


SIGNALS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "its terminal was closed",
}


@pytest.mark.parametrize("number", SIGNALS)
def test_stopped_in_the_first_round(number: signal.Signals, tmp_path: Path) -> None:
    run = start(tmp_path, "Slow", "--requirement", "purity/silent")
    while not (tmp_path / "mine.count").exists():
        assert run.poll() is None, run.communicate()
    run.send_signal(number)
    output, errors = run.communicate(timeout=120)
    assert run.returncode == 3, output + errors
    assert "Traceback" not in output + errors
    assert {found["outcome"] for found in cells_in(tmp_path / "r.json")} == {"not-run"}
    assert read(tmp_path / "r.json").verdict.stopped == SIGNALS[number]


def test_the_time_is_over(tmp_path: Path) -> None:
    run = start(tmp_path, "Slow", "--for", "4s")
    output, errors = run.communicate(timeout=120)
    assert run.returncode == 3, output + errors
    assert "the run was stopped in the first round: its time was over" in output


def test_only_the_first_signal_counts() -> None:
    stop = Stop(None)
    stop.begin()
    try:
        with pytest.raises(Stopped, match="terminated"):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.reason == "terminated"
    finally:
        stop.end()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_that_is_over_is_not_stopped() -> None:
    stop = Stop(None)
    stop.begin()
    try:
        stop.disarm()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.reason == ""
    finally:
        stop.end()
