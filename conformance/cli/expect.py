"""``dense-conformance expect``: proposes expected failures, and which to remove."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from conformance.contract.catalogue import has_cases
from conformance.contract.requirement import SHOULD
from conformance.errors import UsageError, printable, safe_text
from conformance.layers.expected_failure import Expected
from conformance.results.cell import Cell
from conformance.results.expected import require_right
from conformance.results.file import read
from conformance.results.outcome import Outcome
from conformance.results.verdict import Verdict


def propose(path: Path | str) -> int:
    """Print the entries of ``pyproject.toml`` with which this run would pass; return 0.

    Raises
    ------
    ResultsError
        If the results file cannot be used.
    """
    sys.stdout.write("\n".join(proposals(read(path).verdict)) + "\n")
    return 0


def proposals(verdict: Verdict) -> Iterator[str]:
    """Yield an entry for each failure, and a remark for each expectation that is outdated.

    Every entry is one that a run accepts.
    """
    names, found = verdict.names, False
    for cell in verdict.own:
        name = names[cell.implementation]
        if cell.outcome == Outcome.FAILED:
            found = True
            yield from _entry(cell, name)
        elif cell.outcome == Outcome.UNEXPECTED_PASS:
            found = True
            yield _remark(f"Remove the expectation of {cell.requirement} on {name}: it passes now.")
    for cell in verdict.own:
        if cell.outcome in (Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.ERROR):
            found = True
            name = names[cell.implementation]
            yield _remark(f"{cell.requirement} on {name}: {cell.outcome}, which is never expected.")
    if not found:
        yield "# Every failure is expected, and every expected failure still fails."


def _remark(text: str) -> str:
    """Return a comment of one line, with the newlines in a name replaced."""
    return f"# {' '.join(printable(text).split())}"


def _entry(cell: Cell, name: str) -> Iterator[str]:
    # A person has to give the reason; the finding is a starting point.
    reason = safe_text(cell.cause or cell.message or cell.reason or "known")
    expected = Expected(cell.requirement, reason, implementation=name)
    try:
        require_right([expected], "expect")
    except UsageError as error:
        yield _remark(f"This version cannot expect {cell.requirement} on {name}: {error}")
        return
    if cell.case and has_cases(cell.requirement):
        with_case = replace(expected, witness=cell.case)
        try:
            require_right([with_case], "expect")
            expected = with_case
        except UsageError:
            pass  # without the case, the requirement is checked as before
    if cell.level == SHOULD:
        yield "# A recommendation, which fails a run with --strict only."
    yield _toml(expected)


def _toml(expected: Expected) -> str:
    import tomlkit

    table = tomlkit.table()
    table["implementation"] = expected.implementation
    table["requirement"] = expected.requirement
    table["reason"] = expected.reason
    if expected.witness is not None:
        witness = tomlkit.inline_table()
        witness.update(dict(expected.witness))
        table["witness"] = witness
    entries = tomlkit.aot()
    entries.append(table)
    return tomlkit.dumps({"tool": {"dense-conformance": {"expect": entries}}})
