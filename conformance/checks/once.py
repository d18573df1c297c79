"""Runs checks once for a layer, inside properties that draw many cases."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

from conformance.checks.layer import Layer

F = TypeVar("F", bound=Callable[..., None])


def once_per_layer(by: Callable[..., Hashable] = lambda *_: ()) -> Callable[[F], F]:
    """Run a check only until a layer has passed it.

    A check that raises is repeated, so that Hypothesis can find a smaller case.

    Parameters
    ----------
    by
        Returns a key of the other arguments, such as the size; the check runs for each key.
    """

    def decorate(check: F) -> F:
        @functools.wraps(check)
        def checked(layer: Layer, *arguments: Any) -> None:
            layer.remember((check, by(*arguments)), lambda: check(layer, *arguments))

        return cast(F, checked)

    return decorate
