"""Fixtures of all tests of the suite itself."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest


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
