"""Scripts that show a failure without the suite: only jax, flax and numpy, and the layer itself.

A script is put together from functions of this package, each of which checks one requirement
on one case as the suite does; no second version of a check is kept as text.
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
from types import ModuleType
from typing import Any

from conformance.contract.catalogue import catalogue
from conformance.layers.implementation import FLAX, Implementation
from conformance.layers.loading import attribute, load
from conformance.layers.registry import Entry
from conformance.results.cell import Cell
from conformance.scripts.compose import layer_import, script
from conformance.scripts.register import CHECKS, Check

__all__ = ["LONGEST", "checks", "kind_of", "script_for"]

LONGEST = 16_000
"""The most characters of a script."""

_CHECKS = ("values", "state", "seeding", "transforms", "laws", "exercise")
_DEFAULT_CASE = {"in_features": 3, "out_features": 10, "seed": 0, "values": 0, "lead": [8]}


def kind_of(entry: Entry, implementation: Implementation) -> str | None:
    """``"nnx"``, ``"linen"`` or ``"function"``; None for what a script cannot call by itself.

    That is a layer which is described by an :class:`Implementation`, or declares another
    convention than that of Flax.
    """
    from flax import linen, nnx

    place = entry.spec.rpartition(":")[0]
    if "[" in entry.name or not place or implementation.bound:
        return None
    found: Any = attribute(entry)
    its = implementation.convention
    if isinstance(found, type) and its == FLAX:
        if issubclass(found, nnx.Module):
            return "nnx" if _takes_sizes_by_position(found) else None
        return "linen" if issubclass(found, linen.Module) else None
    return "function" if inspect.isfunction(found) and its.name == "dense_forward" else None


def _takes_sizes_by_position(layer: type) -> bool:
    try:
        inspect.signature(layer.__init__).bind(None, 1, 1, rngs=None)  # type: ignore[misc]  # of a class
    except (TypeError, ValueError):
        return False
    return True


def script_for(cell: Cell, entry: Entry, implementation: Implementation | None = None) -> str:
    """The script that shows the failure of a cell; empty where there is no faithful short one.

    Parameters
    ----------
    cell
        A failed cell: with its smallest case, or without one for what is no matter of a case.
    entry
        The implementation that it is of.
    implementation
        What the entry loads; by default it is loaded here.
    """
    kind = kind_of(entry, load(entry) if implementation is None else implementation)
    check = checks().get((cell.requirement, kind or ""))
    if kind is None or check is None:
        return ""
    case = {**_DEFAULT_CASE, **(cell.case or {})}
    constants = {
        "IN": case["in_features"],
        "OUT": case["out_features"],
        "SEED": case["seed"],
        "VALUES": case["values"],
        "LEAD": tuple(case["lead"]),
        "FIRST": cell.measured.get("first_seed", 0),
        "SECOND": cell.measured.get("second_seed", 1),
    }
    text = script(
        _title(cell), layer_import(entry.spec), constants, check.function, _helpers(kind, check)
    )
    return text if len(text) <= LONGEST else ""


def _title(cell: Cell) -> str:
    statement = next((r.statement for r in catalogue() if r.id == cell.requirement), "")
    told = [f"found: {cell.message}"] if cell.message else []
    told += [f"cause: {cell.cause}"] if cell.cause else []
    lines = [*textwrap.wrap(f"{cell.requirement}: {statement}", 96), ""]
    for text in told:
        lines += textwrap.wrap(text, 96)
    return "\n".join(
        [
            *lines,
            "",
            "Exits with an AssertionError where the layer has the fault, with 0 where not.",
        ]
    )


def checks() -> dict[tuple[str, str], Check]:
    """Every check, by requirement and kind of layer."""
    for name in _CHECKS:
        importlib.import_module(f"{__name__}.check_{name}")
    return CHECKS


def _helpers(kind: str, check: Check) -> dict[str, Any]:
    modules = [importlib.import_module(f"{__name__}.{name}") for name in ("numbers", f"of_{kind}")]
    modules.append(importlib.import_module(check.function.__module__))
    found: dict[str, Any] = {}
    for module in modules:
        found.update(_functions(module))
    return found


def _functions(module: ModuleType) -> dict[str, Any]:
    own = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    }
    if module.__name__.endswith(".numbers"):
        own = {"mixed_rows": module.mixed_rows, **own}
    return {name: value for name, value in own.items() if not _is_check(value)}


def _is_check(function: Any) -> bool:
    return any(check.function is function for check in CHECKS.values())
