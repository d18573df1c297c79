"""The declaration of a defect: the requirement that it breaks, its cause and its subtlety."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Subject = TypeVar("Subject")

MARK = "__defect__"
"""The attribute that holds the record. Subclasses inherit it: look for it in ``vars(subject)``."""


@dataclass(frozen=True)
class Defect:
    """The declaration of one known-wrong layer.

    Attributes
    ----------
    id
        The identifier of the defect, for example ``"N003"``.
    breaks
        The id of the requirement at fault, which the suite must report first.
    collateral
        The ids of other requirements that the same fault breaks.
    cause_id
        The id of the cause that must be printed; empty if no cause may be printed.
    subtlety
        1 (gross) to 5 (needs a large sample or a rare input).
    seen
        Where this fault was seen, or ``"plausible"``.
    """

    id: str
    breaks: str
    collateral: tuple[str, ...] = ()
    cause_id: str = ""
    subtlety: int = 3
    seen: str = "plausible"

    def __post_init__(self) -> None:
        if "/" not in self.breaks:
            raise ValueError(f"{self.id}: {self.breaks!r} is not a requirement id 'area/slug'")
        if not 1 <= self.subtlety <= 5:
            raise ValueError(f"{self.id}: subtlety is 1 to 5, not {self.subtlety}")

    @property
    def area(self) -> str:
        """Return the area of the broken requirement, for example ``"forward"``."""
        return self.breaks.partition("/")[0]

    def allows(self, requirement: str) -> bool:
        """Return whether this requirement may fail on the layer."""
        return requirement == self.breaks or requirement in self.collateral


def defect(
    id: str,
    breaks: str,
    subtlety: int = 3,
    *,
    collateral: tuple[str, ...] = (),
    cause_id: str = "",
    seen: str = "plausible",
) -> Callable[[Subject], Subject]:
    """Declare a class or function as a known defect; the record becomes its own ``__defect__``."""
    record = Defect(id, breaks, collateral, cause_id, subtlety, seen)

    def declare(subject: Subject) -> Subject:
        setattr(subject, MARK, record)
        return subject

    return declare


def declaring(layer: Any, record: Defect, **declaration: Any) -> Any:
    """Return a known defect with a declaration, by the keys of ``pyproject.toml``."""
    from conformance.layers.adapters import adapt

    found = adapt(layer, **declaration)
    # An implementation is frozen, so the attributes of a class are added to a copy.
    for name, value in ((MARK, record), ("__module__", layer.__module__)):
        object.__setattr__(found, name, value)
    return found


def also(*collateral: str) -> Callable[[Subject], Subject]:
    """Add to the record below it ids of other requirements that may fail."""
    return lambda subject: _amended(subject, collateral=collateral)


def seen(where: str) -> Callable[[Subject], Subject]:
    """Add to the record below it where the fault was seen."""
    return lambda subject: _amended(subject, seen=where)


def _amended(subject: Subject, **details: Any) -> Subject:
    setattr(subject, MARK, dataclasses.replace(vars(subject)[MARK], **details))
    return subject


def name_layers(module: dict[str, Any]) -> None:
    """Give every layer of a module the name to which it is assigned, by which it is pickled.

    A lambda has no name, and neither has the layer that a factory makes of it.
    """
    for name, value in module.items():
        # Rngs of Flax 0.10 answers every attribute with a stream.
        if str(getattr(value, "__qualname__", "")).endswith("<lambda>"):
            value.__name__ = value.__qualname__ = name
