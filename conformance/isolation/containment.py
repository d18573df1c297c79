"""Undoes what an implementation changes in a worker, before the next one is checked.

Each cell starts from the same state of the process. Some changes cannot be undone: threads, a limit
of the system, a replaced function that other programs may have compiled in. Then the worker retires
before a cell of another implementation. Not every change can be found, so a worker that has loaded
code from outside the suite checks no layer of another source.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import pytest

from conformance.checks import precision, recording
from conformance.contract.requirement import requirement_of
from conformance.errors import (
    LoadError,
    Violation,
    by_user,
    described,
    name_of,
    raised_by_layer,
    safe_text,
)
from conformance.isolation import snapshot
from conformance.isolation.shared_code import HARNESS, SharedCode
from conformance.jax_setup import compile_less
from conformance.layers.registry import Entry

_FOR_ALL = "everybody"
# A report keeps this many warnings of a layer.
_MOST_WARNINGS = 20
# A sentence names this many changes of a layer.
_MOST_CHANGES = 3


class Containment:
    """A pytest plugin that guards the state of a process that checks layers.

    Parameters
    ----------
    may_retire
        Whether the process is a worker, which another one can replace.

    Attributes
    ----------
    side_effects
        The changes that importing an implementation made, by its id; all were undone.
    prepared
        Whether a cell has begun in this process.
    """

    def __init__(self, may_retire: bool) -> None:
        self.may_retire = may_retire
        self.side_effects: dict[str, list[str]] = {}
        # Layers that ship with the suite need no closer look.
        self._code = SharedCode(functions=False)
        self._plugins: pytest.PytestPluginManager | None = None
        self._threads: set[int] = set()
        self._spoiled_by = ""
        self._source = ""
        self.prepared = False

    def _prepare(self) -> None:
        """Import the modules that all layers share, so that the first cell equals later ones."""
        self.prepared = True
        import flax.linen
        import flax.nnx

        del flax
        compile_less()
        precision.force_float32()
        self._code.learn()
        self._threads |= _threads()

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Remember where pytest keeps its plugins."""
        self._plugins = session.config.pluginmanager

    @contextlib.contextmanager
    def loading(self, entry: Entry) -> Iterator[None]:
        """Report and undo the changes that the import of an implementation makes."""
        implementation = entry.id
        if entry.source and not self._source:
            self._code = SharedCode()
            self._code.learn()
        self._source = entry.source
        before, plugins = snapshot.take(), self._registered()
        try:
            with open_output():
                yield
        finally:
            # First restore what the rest of this function may need.
            found = _reset_recursion(before) + self._put_back(implementation)
            found += self._unregister(plugins)
            self.side_effects[implementation] = found + before.changes()
            before.restore()
            if before.changes():
                self._spoiled_by = implementation

    @contextlib.contextmanager
    def cell(self) -> Iterator[None]:
        """Restore the state of the process after one cell."""
        before = snapshot.take()
        try:
            with _few_warnings():
                yield
        finally:
            _reset_recursion(before)
            if before.changes():
                before.restore()

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, object, object]:
        """Attribute what the check raises and prints to the layer."""
        if requirement_of(pyfuncitem.function) is None:
            return (yield)
        plugins = self._registered()
        try:
            with open_output():
                return (yield)
        except pytest.skip.Exception as skipped:
            if not raised_by_layer(skipped):
                raise
            said = f"the layer raised {name_of(skipped)}: {safe_text(skipped.msg)}"
            raise Violation(said, accepted="no exception") from skipped
        except Exception:
            raise
        except BaseException as error:
            if by_user(error):
                raise
            # Such an exception would end the whole run.
            raise RuntimeError(described(error)) from error
        finally:
            if sys.stdout.closed or sys.stderr.closed:
                self._spoiled_by = _FOR_ALL
            self._judge_foreign_changes(plugins)

    def _judge_foreign_changes(self, plugins: set[object]) -> None:
        """Name and undo what code from outside the suite has changed during a check.

        Raises
        ------
        LoadError
            If it changed code that decides its verdict.
        """
        if not self._source:
            return
        changed = self._code.put_back(HARNESS) + self._unregister(plugins)
        if changed:
            self._spoiled_by = _FOR_ALL
            raise LoadError(
                f"the layer's code changes what decides its verdict: {_listed(changed)}. A check "
                f"then proves nothing; a layer must not change code that is not its own"
            )
        changed = self._code.put_back()
        if changed:
            self._spoiled_by = _FOR_ALL
            recording.current().note(
                "the layer's code changed code that other layers use, which was restored: "
                f"{_listed(changed)}"
            )

    def _registered(self) -> set[object]:
        return set(self._plugins.get_plugins()) if self._plugins is not None else set()

    def _unregister(self, before: set[object]) -> list[str]:
        found = []
        for plugin in self._registered() - before:
            assert self._plugins is not None
            found.append(f"the pytest plugin {self._plugins.get_name(plugin)} was registered")
            self._plugins.unregister(plugin)
        return found

    def leave(self, implementation: str) -> None:
        """Check the process after the last consecutive cell of an implementation."""
        self._put_back(implementation)
        if _threads() - self._threads:
            self._spoiled_by = implementation
        self._code.learn()

    def must_retire(self, entry: Entry) -> bool:
        """Return whether a fresh process has to check the entry instead of this one."""
        spoiled = self._spoiled_by not in ("", entry.id)
        return self.may_retire and (spoiled or self._source not in ("", entry.source))

    def enter(self) -> None:
        """Prepare the process before its first cell."""
        if not self.prepared:
            self._prepare()

    def _put_back(self, implementation: str) -> list[str]:
        replaced = self._code.put_back()
        if replaced:
            self._spoiled_by = implementation
            # Programs traced meanwhile contain the replacement.
            sys.modules["jax"].clear_caches()
        return replaced


def _listed(changes: Sequence[str]) -> str:
    more = len(changes) - _MOST_CHANGES
    return "; ".join(changes[:_MOST_CHANGES]) + (f"; and {more} more" if more > 0 else "")


def _reset_recursion(before: snapshot.Snapshot) -> list[str]:
    limit = before.settings["the recursion limit"]
    changed = sys.getrecursionlimit() != limit
    sys.setrecursionlimit(limit)
    return ["the recursion limit changed"] if changed else []


class _Open:
    """An output that can be written to, but not closed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close(self) -> None:
        """Leave it open, because pytest's capture needs it later."""


@contextlib.contextmanager
def open_output() -> Iterator[None]:
    """Replace the outputs by ones that a layer cannot close."""
    out, err = _Open(sys.stdout), _Open(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


def _threads() -> set[int]:
    return {thread.ident or 0 for thread in threading.enumerate()}


@contextlib.contextmanager
def _few_warnings() -> Iterator[None]:
    """Pass on a limited number of warnings, as plain ones.

    The controller would import the module of a warning's class.
    """
    with warnings.catch_warnings(record=True) as caught:
        yield
    for each in caught[:_MOST_WARNINGS]:
        plain = next(kind for kind in each.category.__mro__ if kind.__module__ == "builtins")
        with contextlib.suppress(Warning):  # raises if the user turns warnings into errors
            warnings.warn_explicit(safe_text(each.message), plain, each.filename, each.lineno)
