"""Makes the command, the script and pytest's text that reproduce a failed cell."""

from __future__ import annotations

import os
import shlex
from typing import Any

from conformance.checks import profiles
from conformance.contract.catalogue import catalogue
from conformance.contract.requirement import DROP_IN, Requirement
from conformance.jax_setup import modes
from conformance.layers.declaration import as_options
from conformance.layers.registry import Entry
from conformance.results.cell import Cell
from conformance.results.failure import described


def command(entry: Entry, row: Requirement, like: str | None = None) -> str:
    """Return the command that runs only this cell.

    Registered layers and those of the project's tables go by their names, and a table declares
    again what it has declared.

    ``like`` is the layer that a drop-in requirement compares with, if any.
    """
    # Quoted, because a shell would expand the brackets of a variant.
    layer = shlex.quote(entry.spec if entry.id == entry.spec else entry.name)
    explored = profiles.active().as_options()
    mode = f" --mode {modes.active()}" if modes.active() else ""
    declared = "".join(f" --declare {shlex.quote(each)}" for each in as_options(entry.given))
    beside = f" --like {shlex.quote(like)}" if like and row.area == DROP_IN else ""
    options = f"{beside}{declared}{explored}{mode}"
    # The slug identifies the requirement, and the full id would not fit on a line.
    return f"dense-conformance run {layer} --requirement {row.slug}{options}"


def script(cell: Cell, entry: Entry, layer: Any) -> str:
    """Return a script that shows the failure without the suite, or an empty text.

    ``layer`` is the layer as it was checked, or the error that kept it from being loaded.
    """
    if not hasattr(layer, "registered"):
        return ""
    # Requirements on the declaration use the declared convention, all others the observed one.
    about_it = next((row.declared for row in catalogue() if row.id == cell.requirement), False)
    about_it = about_it or bool(cell.declare)
    implementation = layer.registered if about_it else layer.implementation
    from conformance.scripts import script_for

    try:
        return modes.under_mode(script_for(cell, entry, implementation))
    except Exception:  # an error here would end the whole run for a mere convenience
        return ""


def text_of(cell: Cell) -> str:
    """Return a failure as pytest shows it."""
    lines = [f"{label}: {text}" for label, text in described(cell)]
    return os.linesep.join([f"{cell.requirement}   {cell.level}", *lines])
