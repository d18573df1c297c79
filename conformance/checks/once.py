"""Computes once for a layer what several checks need, or a property that draws many cases."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

from conformance.checks.layer import Layer

F = TypeVar("F", bound=Callable[..., Any])


def once_per_layer(by: Callable[..., Hashable] = lambda *_: ()) -> Callable[[F], F]:
    """Call a function of a layer once, and return the same result afterwards.

    A check that raises is repeated, so that Hypothesis can find a smaller case.

    Parameters
    ----------
    by
        Returns a key of the other arguments, such as the size; the function runs for each key.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def known(layer: Layer, *arguments: Any) -> Any:
            return layer.remember((function, by(*arguments)), lambda: function(layer, *arguments))

        return cast(F, known)

    return decorate
