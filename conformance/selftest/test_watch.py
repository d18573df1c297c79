"""``dense-conformance watch``: a run for each save, and nothing left at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.cli.watch import differences
from conformance.selftest.processes import RIGHT, started

pytest.importorskip("watchfiles", reason="needs the extra 'watch'")

# Only ends a process that hangs; nothing is measured.
_PATIENCE = 300.0
ROWS = ["construction/builds", "construction/bias-shape"]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the command, which watches a file."""
    (tmp_path / "mine.py").write_text(RIGHT)
    rows = [f"--requirement={row}" for row in ROWS]
    arguments = ("-m", "conformance", "watch", "mine.py:MyDense", *rows)
    process = started(tmp_path, *arguments, stderr=subprocess.STDOUT)
    timer = threading.Timer(_PATIENCE, process.kill)
    timer.start()
    yield process
    timer.cancel()
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def until(process: subprocess.Popen[str], begin: str) -> str:
    """Return the output up to the next line with this beginning."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(begin):
            return "".join(lines)
    raise AssertionError("".join(lines))


def test_a_run_for_each_save_and_what_it_changed(
    watched: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert "conforms: MUST 2/2" in until(watched, "watching ")
    (tmp_path / "mine.py").write_text(RIGHT.replace("zeros((out_", "zeros((in_"))
    output = until(watched, "watching ")
    assert "mine.py saved" in output
    assert "fails now: mine.py:MyDense construction/bias-shape" in output
    (tmp_path / "mine.py").write_text(RIGHT.replace("rngs):", "rngs)"))
    output = until(watched, "watching ")
    assert "mine.py:MyDense cannot be used: SyntaxError" in output
    assert "now:" not in output
    (tmp_path / "mine.py").write_text(RIGHT)
    output = until(watched, "watching ")
    assert "holds now: mine.py:MyDense construction/bias-shape" in output
    watched.send_signal(signal.SIGINT)
    assert watched.wait() == 0


def test_an_interrupt_leaves_no_process(watched: subprocess.Popen[str], tmp_path: Path) -> None:
    until(watched, "watching ")
    here = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid()))"
    forever = f"{here}\nprint('begun', flush=True)\n__import__('time').sleep(3600)\n"
    (tmp_path / "mine.py").write_text(forever)
    until(watched, "mine.py saved")
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert watched.poll() is None
    pid = int((tmp_path / "pid").read_text())
    watched.send_signal(signal.SIGINT)
    assert watched.wait() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_a_save_has_changed() -> None:
    before = {"a": "passed", "b": "failed", "c": "passed", "d": "failed"}
    assert differences({}, before) == []
    assert differences(before, {}) == []
    assert differences(before, before) == ["nothing has changed since the last save"]
    assert differences(before, {"a": "failed", "b": "passed", "c": "passed", "e": "failed"}) == [
        "fails now: a",
        "holds now: b",
    ]
