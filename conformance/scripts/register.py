"""Which check shows which requirement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["CHECKS", "Check", "shows"]


@dataclass(frozen=True)
class Check:
    """A function without arguments that raises where the requirement does not hold.

    Parameters
    ----------
    function
        Its source is the body of the script.
    kinds
        The kinds of layers that it is written for.
    sampled
        Whether it looks at a sample of its own, and so may miss what the suite finds.
    """

    function: Callable[[], None]
    kinds: tuple[str, ...]
    sampled: bool = False


CHECKS: dict[tuple[str, str], Check] = {}
"""By requirement and kind of layer."""


def shows(
    *requirements: str,
    kinds: tuple[str, ...] = ("nnx", "linen"),
    functions: bool = False,
    sampled: bool = False,
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Make the function the check of these requirements for modules, or for functions, too."""

    def decorate(function: Callable[[], None]) -> Callable[[], None]:
        of = (*kinds, "function") if functions else kinds
        for requirement in requirements:
            for kind in of:
                CHECKS.setdefault((requirement, kind), Check(function, of, sampled))
        return function

    return decorate
