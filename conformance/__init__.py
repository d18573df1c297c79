"""dense-conformance proves that a dense layer is a Dense, or names the fault."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conformance.checks.description import Description
    from conformance.cli.describe import describe
    from conformance.cli.notebook import Report, check
    from conformance.contract.catalogue import catalogue
    from conformance.contract.requirement import Level, Requirement
    from conformance.errors import (
        ConformanceError,
        LoadError,
        NotAdaptable,
        ResultsError,
        UsageError,
        Violation,
    )
    from conformance.layers.adapters import adapt
    from conformance.layers.expected_failure import Expected
    from conformance.layers.implementation import FLAX, Convention, Implementation
    from conformance.layers.law import Law
    from conformance.results.cell import Cell
    from conformance.results.outcome import Outcome

__all__ = [
    "FLAX",
    "Cell",
    "ConformanceError",
    "Convention",
    "Description",
    "Expected",
    "Implementation",
    "Law",
    "Level",
    "LoadError",
    "NotAdaptable",
    "Outcome",
    "Report",
    "Requirement",
    "ResultsError",
    "UsageError",
    "Violation",
    "adapt",
    "catalogue",
    "check",
    "describe",
]

_PLACES = {
    "Cell": "results.cell",
    "ConformanceError": "errors",
    "Convention": "layers.implementation",
    "Description": "checks.description",
    "Expected": "layers.expected_failure",
    "FLAX": "layers.implementation",
    "Implementation": "layers.implementation",
    "Law": "layers.law",
    "Level": "contract.requirement",
    "LoadError": "errors",
    "NotAdaptable": "errors",
    "Outcome": "results.outcome",
    "Report": "cli.notebook",
    "Requirement": "contract.requirement",
    "ResultsError": "errors",
    "UsageError": "errors",
    "Violation": "errors",
    "adapt": "layers.adapters",
    "catalogue": "contract.catalogue",
    "check": "cli.notebook",
    "describe": "cli.describe",
}


def __getattr__(name: str) -> Any:
    # Every pytest run of an environment imports the plugin, and so this package: import nothing
    # else before it is needed.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = importlib.import_module(f"{__name__}.{_PLACES[name]}")
    return getattr(place, name)
