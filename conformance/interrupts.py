"""Ctrl-C is the user's; whatever else tries to end a run comes from a layer, and is contained."""

from __future__ import annotations

__all__ = ["by_user", "contain"]

_contained = False


def contain() -> None:
    """From now on, no exception in this process stands for the user's Ctrl-C.

    A worker leaves that signal to the process that controls it.
    """
    global _contained  # of this process
    _contained = True


def by_user(error: BaseException) -> bool:
    """Whether the user may have caused the exception, so that it has to end the run."""
    return isinstance(error, KeyboardInterrupt) and not _contained
