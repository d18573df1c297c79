"""Generates the contract as a document from the tests that check it."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Collection
from itertools import groupby
from typing import Any

from conformance.checks.profiles import PROFILES
from conformance.contract.catalogue import catalogue, rests_on
from conformance.contract.requirement import AREAS, Requirement
from conformance.layers.registry import Entry, registered
from conformance.results.environment import version

_INTRODUCTION = """\
# The Dense contract

Generated from the property tests by `dense-conformance list --markdown`; do not edit.

`K` is the kernel `(in, out)`, `b` the bias `(out,)`, and `f(x) = x @ K + b`. **MUST**: it is not
a Dense without it. **SHOULD**: users rely on it; what is marked * fails as a **MUST** if the layer
gives wrong numbers without a word. **MAY**: reported, never failed. *Needs* says what a layer has
to provide: a forward function, parameters that can be read and written, an nnx module, a Linen
module, or the exercise's `dense_forward`. What is marked ° is checked against what the
implementation declares; by default that is Flax's convention. A failure of a requirement that one
*rests on* explains its own; one that *presumes* something is not asked of a layer that declares
something else.
"""


def _rows(levels: Collection[str]) -> tuple[Requirement, ...]:
    kept = (row for row in catalogue() if not levels or row.level in levels)
    return tuple(sorted(kept, key=lambda row: AREAS.index(row.area)))


def _mark(row: Requirement) -> str:
    return (" °" if row.declared else "") + (" *" if row.wrong_numbers else "")


def markdown(levels: Collection[str] = ()) -> str:
    """Return the contract as a Markdown document: the requirements of these levels, or all."""
    parts = [_INTRODUCTION]
    for area, rows in groupby(_rows(levels), key=lambda row: row.area):
        parts.append(f"## {area}\n")
        for row in rows:
            needs = " or ".join(row.needs)
            parts.append(f"### {row.id}{_mark(row)}\n")
            parts.append(f"**{row.level}**, needs {needs}. {row.statement}\n")
            if row.rationale:
                parts.append(f"{row.rationale}\n")
            if row.presumes:
                parts.append(f"Presumes {' and '.join(row.presumes)}.\n")
            below = rests_on(row, catalogue())
            if below:
                parts.append(f"Rests on: {', '.join(below)}.\n")
    return "\n".join(parts)


def library_shown(entry: Entry) -> str:
    """Return the library of a registered implementation and its version, without importing it."""
    from implementations import LIBRARIES

    name = entry.distribution
    if entry.distribution == "dense-conformance":
        name = LIBRARIES.get(entry.name, name)
    if entry.missing:
        return f"needs the extra {entry.missing}"
    return f"{name} {version(name) or '(not installed)'}"


def as_data(levels: Collection[str]) -> dict[str, Any]:
    """Return implementations, requirements, of all levels or of these, and profiles as JSON."""
    return {
        "implementations": [
            {
                "name": entry.name,
                "id": entry.id,
                "spec": entry.spec,
                "library": library_shown(entry),
                "needs_extra": entry.missing,
            }
            for entry in registered()
        ],
        "requirements": [
            {
                "id": row.id,
                "level": str(row.level),
                "needs": [str(need) for need in row.needs],
                "statement": row.statement,
                "rationale": row.rationale,
                "rests_on": list(rests_on(row, catalogue())),
                "presumes": [str(presumed) for presumed in row.presumes],
                "declared": row.declared,
                "wrong_numbers": str(row.wrong_numbers or row.level),
            }
            for row in _rows(levels)
        ],
        "profiles": {name: profile.statement() for name, profile in PROFILES.items()},
    }


def plain_listing(levels: Collection[str]) -> str:
    """Return implementations and requirements, of all levels or of these, as text."""
    lines, entries = ["implementations"], registered()
    width = max((len(entry.name) for entry in entries), default=0) + 2
    for entry in entries:
        ours = entry.distribution == "dense-conformance"
        source = "" if ours else f", registered by {entry.distribution}"
        lines.append(f"  {entry.name:{width}}{library_shown(entry)}{source}")
    rows = _rows(levels)
    lines += ["", f"requirements ({len(rows)}; ° is checked against what the layer declares;"]
    lines += ["* fails as a MUST if the layer gives wrong numbers without a word)"]
    for area, group in groupby(rows, key=lambda row: row.area):
        lines += ["", area]
        for row in group:
            # A module is an nnx or Linen module, where the requirement takes both.
            needs = str(row.needs[0]) if len(row.needs) == 1 else "module"
            lines += _beside(f"  {row.slug + _mark(row):26}{row.level:7}{needs:14}", row.statement)
    lines += ["", "profiles"]
    for name, profile in PROFILES.items():
        lines += _beside(f"  {name:10}", profile.statement())
    return "\n".join(lines) + "\n"


def _beside(head: str, text: str) -> list[str]:
    """Return a text wrapped beside its heading."""
    indent, width = " " * len(head), min(100, shutil.get_terminal_size((100, 24)).columns)
    return textwrap.wrap(text, max(width, 70), initial_indent=head, subsequent_indent=indent)
