"""Keeps a layer from ending the only process of a run as if nothing had failed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conformance.running.run import Run

_INCOMPLETE = 3
_ENDED = "the layer's code ended the process of the run"


class ExitGuard:
    """A pytest plugin that replaces :func:`os._exit` in a run without workers."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._pid, self._exit = os.getpid(), os._exit
        self._status: int | None = None
        os._exit = self._leave  # type: ignore[assignment]  # it does not return either

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Note the exit code of the run."""
        result = yield
        self._status = int(session.exitstatus)
        return result

    def pytest_unconfigure(self) -> None:
        """Restore the function."""
        os._exit = self._exit

    def _leave(self, status: int) -> None:
        if os.getpid() == self._pid:
            status = self._account(status) if self._status is None else self._status or status
        self._exit(status)

    def _account(self, status: int) -> int:
        """Write what is known and why the run ends; return an exit code that is not 0."""
        capture: Any = self.run.config.pluginmanager.get_plugin("capturemanager")
        with contextlib.suppress(Exception):  # the layer may have broken anything
            capture.suspend_global_capture(in_=True)
        with contextlib.suppress(Exception):
            self.run.stopped = f"{_ENDED} (os._exit)"
            self.run.conclude()
            self.run.breaker.clear()
        said = f"dense-conformance: {_ENDED} by os._exit({status!r}); -n 1 names the cell\n"
        with contextlib.suppress(OSError):
            os.write(2, said.encode(errors="backslashreplace"))
        return status or _INCOMPLETE
