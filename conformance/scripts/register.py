"""Registers the checks of scripts by the requirements that they show."""

from __future__ import annotations

from collections.abc import Callable

Check = Callable[[], None]
"""It raises if the requirement does not hold; its source is the body of the script."""

CHECKS: dict[tuple[str, str], Check] = {}
"""The checks, by requirement and kind of layer."""


def shows(
    *requirements: str, kinds: tuple[str, ...] = ("nnx", "linen"), functions: bool = False
) -> Callable[[Check], Check]:
    """Register the function as the check of these requirements for modules or functions."""

    def decorate(function: Check) -> Check:
        for requirement in requirements:
            for kind in (*kinds, "function") if functions else kinds:
                CHECKS.setdefault((requirement, kind), function)
        return function

    return decorate
