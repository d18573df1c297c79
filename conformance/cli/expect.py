"""``dense-conformance expect``: today's failures as expectations, and those to remove."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conformance.results.cell import Cell, Outcome
from conformance.results.expected import TABLE
from conformance.results.file import read
from conformance.results.verdict import Verdict

__all__ = ["proposals", "propose"]


def propose(path: Path | str) -> int:
    """Print what a ``pyproject.toml`` has to say so that this run would pass; always 0.

    Raises
    ------
    ResultsError
        If the results file cannot be used.
    """
    print("\n".join(proposals(read(path).verdict)))
    return 0


def proposals(verdict: Verdict) -> Iterator[str]:
    """The lines: an entry for each failure, and a remark for each expectation that is outlived."""
    names = {entry.id: entry.name for entry in verdict.entries}
    told = False
    for cell in verdict.cells:
        name = names[cell.implementation]
        if cell.outcome == Outcome.FAILED:
            told = True
            yield from _entry(cell, name)
        elif cell.outcome == Outcome.UNEXPECTED_PASS:
            told = True
            yield f"# Remove the expectation of {cell.requirement} on {name}: it passes now."
    for cell in verdict.cells:
        if cell.outcome in (Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.ERROR):
            told = True
            yield f"# {cell.requirement} on {names[cell.implementation]} {cell.outcome}: that is "
            yield "# never expected."
    if not told:
        yield "# Nothing fails that is not expected, and every expectation still fails."


def _entry(cell: Cell, name: str) -> Iterator[str]:
    # A reason is what a person has to give; what was found is where to start.
    yield f"[[{TABLE}]]"
    yield f"implementation = {_toml(name)}"
    yield f"requirement = {_toml(cell.requirement)}"
    yield f"reason = {_toml(cell.cause or cell.message)}"
    if cell.case:
        inside = ", ".join(f"{key} = {_toml(value)}" for key, value in cell.case.items())
        yield f"witness = {{ {inside} }}"
    yield ""


def _toml(value: Any) -> str:
    """A string, number or list as TOML, which writes these three as JSON does."""
    return json.dumps(value, ensure_ascii=False)
