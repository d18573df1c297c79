"""Known-wrong layers: the proof that the suite finds faults.

Defects are written with ``record`` (their declarations), ``base`` and ``hooks`` (correct layers to
depart from) and ``wrong`` (a defect made of one function); each other module holds defects.
"""

import importlib
import pkgutil
from dataclasses import dataclass

from implementations.defects.record import MARK, Defect

__all__ = ["Defect", "KnownDefect", "all_defects"]


@dataclass(frozen=True)
class KnownDefect:
    """A known-wrong layer: its declaration, and the ``module:attribute`` under which it is run."""

    defect: Defect
    spec: str


def all_defects() -> list[KnownDefect]:
    """Return every declared defect of this package, in the order of ids.

    Imports the layers only when called, so that looking up one layer needs neither the others nor
    their libraries.

    Raises
    ------
    ValueError
        If two layers declare one id, or one has no name by which it can be pickled.
    """
    found: dict[str, KnownDefect] = {}
    for module_name in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        module = importlib.import_module(f"{__name__}.{module_name}")
        for attribute, value in vars(module).items():
            # A subclass inherits the mark and an import repeats it: the declaring place counts.
            own = getattr(value, "__module__", None) == module.__name__
            if not own or MARK not in getattr(value, "__dict__", {}):
                continue
            record: Defect = vars(value)[MARK]
            spec = f"{module.__name__}:{attribute}"
            if getattr(value, "__qualname__", attribute) != attribute:
                raise ValueError(f"{spec} has no name: its file should end with name_layers")
            if record.id in found:
                raise ValueError(f"{record.id} is declared by {found[record.id].spec} and {spec}")
            found[record.id] = KnownDefect(record, spec)
    return [found[identifier] for identifier in sorted(found)]
