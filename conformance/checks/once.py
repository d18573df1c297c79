"""Checks that hold for a layer as a whole, within properties that are drawn many cases."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

from conformance.checks.layer import Layer

__all__ = ["once_per_layer"]

F = TypeVar("F", bound=Callable[..., None])


def once_per_layer(by: Callable[..., Hashable] = lambda *_: ()) -> Callable[[F], F]:
    """Let a check that a layer has passed not be repeated for that layer.

    A check that raises is repeated, so that Hypothesis can find a smaller case.

    Parameters
    ----------
    by
        Gives a key of the other arguments, such as the size: the check is done for each key.
    """

    def decorate(check: F) -> F:
        @functools.wraps(check)
        def checked(layer: Layer, *arguments: Any) -> None:
            layer.remember((check, by(*arguments)), lambda: check(layer, *arguments))

        return cast(F, checked)

    return decorate
