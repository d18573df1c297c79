"""Registers the checks of scripts by the requirements that they show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["CHECKS", "Check", "shows"]


@dataclass(frozen=True)
class Check:
    """A function without arguments that raises if the requirement does not hold.

    Parameters
    ----------
    function
        Its source is the body of the script.
    kinds
        The kinds of layers that it can check.
    sampled
        Whether it draws its own sample, and so may miss what the suite finds.
    """

    function: Callable[[], None]
    kinds: tuple[str, ...]
    sampled: bool = False


CHECKS: dict[tuple[str, str], Check] = {}
"""The checks, by requirement and kind of layer."""


def shows(
    *requirements: str,
    kinds: tuple[str, ...] = ("nnx", "linen"),
    functions: bool = False,
    sampled: bool = False,
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register the function as the check of these requirements for modules or functions."""

    def decorate(function: Callable[[], None]) -> Callable[[], None]:
        of = (*kinds, "function") if functions else kinds
        for requirement in requirements:
            for kind in of:
                CHECKS.setdefault((requirement, kind), Check(function, of, sampled))
        return function

    return decorate
