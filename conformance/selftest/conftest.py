"""Fixtures of all tests of the suite itself."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from conformance.selftest.processes import Checked


@pytest.fixture(autouse=True, scope="session")
def signals_reach_children() -> Iterator[None]:
    """Restore signals that this process may ignore, because children inherit that.

    ``nohup`` ignores SIGHUP, and a shell ignores SIGINT for background processes.
    """
    with ExitStack() as restored:
        for name in ("SIGINT", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
                restored.callback(signal.signal, number, signal.SIG_IGN)
        yield


@pytest.fixture
def checked(capsys: pytest.CaptureFixture[str]) -> Checked:
    """Return a function that checks a layer in this process: its exit code, and its output."""
    from conformance.cli.main import main

    def check(layer: Any, *options: str, rows: Iterable[str] = ()) -> tuple[int, str]:
        spec = layer if isinstance(layer, str) else f"{layer.__module__}:{layer.__name__}"
        capsys.readouterr()
        code = main(["run", spec, *(f"--requirement={row}" for row in rows), *options, "-n0"])
        return code, capsys.readouterr().out

    return check
