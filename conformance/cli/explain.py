"""``dense-conformance explain``: shows one cell in detail, with a script that reproduces it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from conformance.cli.output import put
from conformance.contract.catalogue import chosen
from conformance.contract.requirement import Requirement
from conformance.errors import UsageError
from conformance.jax_setup import child_process
from conformance.layers.registry import Entry, resolve
from conformance.report.failures import write_lines
from conformance.report.terminal import console_for
from conformance.results.cell import Cell
from conformance.results.failure import described, word
from conformance.results.outcome import Outcome
from conformance.running.pytest_call import run_quietly
from conformance.scripts import needs_the_suite

_PATIENCE = 120.0
"""The time limit for a script, in seconds."""


def explain(
    spec: str, requirement: str, call: Sequence[str], output: str | None = None,
    declared: Sequence[str] = (),
) -> int:  # fmt: skip
    """Rerun the cell, print all details, and show a script that reproduces the failure.

    ``call`` has the arguments of pytest, without implementations and requirements, and ``declared``
    the layer's declaration. The script is written to ``output``; by default it is printed.

    Raises
    ------
    UsageError
        If the specification or the requirement does not name exactly one.
    """
    entries, rows = resolve([spec], declared), chosen([requirement])
    if len(rows) > 1:
        listed = ", ".join(row.id for row in rows)
        raise UsageError(f"{requirement!r} names {len(rows)} requirements; choose one: {listed}")
    cell_of = [f"--conformance-impl={spec}", f"--conformance-requirement={rows[0].id}"]
    verdict = run_quietly([*call, "--conformance-explain", *cell_of])
    cell = verdict.cells[0]
    console = console_for(sys.stdout)
    _write(console, cell, entries[0], rows[0])
    if cell.outcome.violated:
        _write_script(console, cell, output)
    elif cell.reproduction:
        console.print("\nRun the cell again:")
        console.print(Text(f"  {cell.reproduction}"), soft_wrap=True)
    return verdict.exit_code


def reproduces(script: str) -> bool:
    """Return whether the script, run in the current directory, ends with an AssertionError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "script.py"
        path.write_text(script, encoding="utf-8")
        try:
            ended = child_process.ended(str(path), timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            return False
    last = ended.stderr.strip().rpartition("\nAssertionError")
    return ended.returncode == 1 and bool(last[1])


def _write(console: Console, cell: Cell, entry: Entry, row: Requirement) -> None:
    head = Text(f"{word(cell).upper()}  ")
    head.append(row.id, style="bold")
    console.print(head.append(f"   {entry.name}   {cell.level}"), soft_wrap=True)
    lines = [("requirement", row.statement)]
    lines += [("", text) for text in _paragraphs(row.rationale)]
    lines += [("rests on", ", ".join(row.rests_on))] if row.rests_on else []
    lines += [("checked by", f"conformance/suite/test_{row.area}.py::{row.test}")]
    lines += [(label, text) for label, text in described(cell) if label != "reproduce"]
    write_lines(console, [(label or " ", text) for label, text in lines], wide=13)
    if cell.outcome == Outcome.PASSED:
        console.print("\nThe requirement holds, so there is no failure to explain.")


def _paragraphs(text: str) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]


def _write_script(console: Console, cell: Cell, output: str | None) -> None:
    console.print()
    if not cell.script or not reproduces(cell.script):
        why = (
            "a script was generated, but does not reproduce this failure"
            if cell.script
            else "no short script reproduces it"
        )
        console.print(f"{why}; to run the cell again:", soft_wrap=True)
        console.print(Text(f"  {cell.reproduction}"), soft_wrap=True)
        return
    if output:
        put(output, cell.script)
        console.print(f"script written to {output}; it was run and reproduces the failure")
        return
    needs = "the suite" if needs_the_suite(cell.script) else "jax, flax and numpy only"
    console.print(f"This script was run and reproduces the failure. It needs {needs}:")
    console.print()
    console.print(Text(cell.script), soft_wrap=True)
