"""What is written beside every known-wrong layer: which requirement it breaks, and how."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Subject = TypeVar("Subject")

MARK = "__defect__"
"""The attribute that holds the record. Subclasses inherit it: look for it in ``vars(subject)``."""


@dataclass(frozen=True)
class Defect:
    """The declaration of one known-wrong layer.

    Attributes:
        id: the identifier of the defect, for example ``"N003"``.
        breaks: id of the requirement at fault: the first that the suite must report.
        collateral: ids of other requirements that may fail, because the same fault breaks them.
        cause: words that the printed cause must contain; None where no diagnosis knows the fault.
        subtlety: 1 (gross) to 5 (needs a large sample or a rare input).
        seen: where this fault was seen, or ``"plausible"``.
    """

    id: str
    breaks: str
    collateral: tuple[str, ...] = ()
    cause: str | None = None
    subtlety: int = 3
    seen: str = "plausible"

    def __post_init__(self) -> None:
        if "/" not in self.breaks:
            raise ValueError(f"{self.id}: {self.breaks!r} is not a requirement id 'area/slug'")
        if not 1 <= self.subtlety <= 5:
            raise ValueError(f"{self.id}: subtlety is 1 to 5, not {self.subtlety}")

    @property
    def area(self) -> str:
        """The area of the broken requirement, for example ``"forward"``."""
        return self.breaks.partition("/")[0]

    def allows(self, requirement: str) -> bool:
        """Whether this requirement may fail on the layer."""
        return requirement == self.breaks or requirement in self.collateral


def defect(
    id: str,
    *,
    breaks: str,
    collateral: tuple[str, ...] = (),
    cause: str | None = None,
    subtlety: int = 3,
    seen: str = "plausible",
) -> Callable[[Subject], Subject]:
    """Declare a class or function as a known defect; the record becomes its own ``__defect__``."""
    record = Defect(id, breaks, tuple(collateral), cause, subtlety, seen)

    def declare(subject: Subject) -> Subject:
        setattr(subject, MARK, record)
        return subject

    return declare
