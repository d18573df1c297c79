"""Writes scripts that show a failure.

For common requirements a script is composed of the functions of ``short_checks``, and needs only
jax, flax, numpy and the layer. For any other requirement it calls the suite's own check on the one
case.
"""

from __future__ import annotations

import importlib
import inspect
import json
import textwrap
from types import ModuleType
from typing import Any

from conformance.contract.catalogue import catalogue
from conformance.layers.implementation import FLAX, Implementation
from conformance.layers.loading import attribute, load
from conformance.layers.registry import Entry
from conformance.results.cell import Cell
from conformance.results.failure import described
from conformance.scripts.compose import layer_import, script
from conformance.scripts.register import CHECKS, Check

LONGEST = 16_000
"""The maximum length of a script, in characters."""

_DEFAULT_CASE = {"in_features": 3, "out_features": 10, "seed": 0, "values": 0, "lead": [8]}


def kind_of(entry: Entry, implementation: Implementation) -> str | None:
    """Return ``"nnx"``, ``"linen"`` or ``"function"``, or None if a script cannot call the layer.

    A script cannot call a layer that is described by an :class:`Implementation`, or that declares
    another convention than Flax's.
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
    """Return the script that shows the failure of a cell; empty if none is short enough.

    Parameters
    ----------
    cell
        A failed cell, with its smallest case if the check draws cases.
    entry
        The implementation of the cell.
    implementation
        The loaded entry; by default it is loaded here.
    """
    kind = kind_of(entry, load(entry) if implementation is None else implementation)
    check = checks().get((cell.requirement, kind or ""))
    if kind is None or check is None:
        return _through_the_suite(cell, entry)
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
    text = script(_title(cell), layer_import(entry.spec), constants, check, _helpers(kind, check))
    return text if len(text) <= LONGEST else ""


def _through_the_suite(cell: Cell, entry: Entry) -> str:
    """Return a script that calls the suite's own check on the one case."""
    named = entry.name if entry.distribution else entry.spec
    arguments = [repr(named), repr(cell.requirement)]
    arguments += [f"case={cell.case!r}"] if cell.case else []
    arguments += [f"declared={json.loads(entry.declared)!r}"] if entry.declared else []
    listed = "".join(f"    {each},\n" for each in arguments)
    title = _title(cell).replace("\\", "\\\\").replace('"""', "'''")
    return (
        f'"""{title}\n"""\n\nfrom conformance.scripts.recheck import recheck\n\n'
        f"recheck(\n{listed})\n"
    )


def needs_the_suite(script: str) -> bool:
    """Return whether a script calls the suite's own check."""
    return "conformance.scripts.recheck" in script


def _title(cell: Cell) -> str:
    statement = next((r.statement for r in catalogue() if r.id == cell.requirement), "")
    lines = [*textwrap.wrap(f"{cell.requirement}: {statement}", 96), ""]
    for label, text in described(cell):
        if label in ("cause", "found"):
            lines += textwrap.wrap(f"{label}: {text}", 96)
    return "\n".join(
        [
            *lines,
            "",
            "Exits with an AssertionError where the layer has the fault, with 0 where not.",
        ]
    )


def checks() -> dict[tuple[str, str], Check]:
    """Return every check that runs without the suite, by requirement and kind of layer."""
    importlib.import_module(f"{__name__}.short_checks")
    return CHECKS


def _helpers(kind: str, check: Check) -> dict[str, Any]:
    modules = [importlib.import_module(f"{__name__}.{name}") for name in ("numbers", f"of_{kind}")]
    modules.append(importlib.import_module(check.__module__))
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
    return {name: value for name, value in own.items() if value not in CHECKS.values()}
