"""Writes annotations for GitHub Actions, as workflow commands on standard output."""

from __future__ import annotations

from collections.abc import Sequence

from conformance.layers.registry import Entry
from conformance.report.tally import label
from conformance.results.failure import alike, described, is_recommendation, word
from conformance.results.file import Results


def workflow_commands(runs: Sequence[Results]) -> str:
    """Return an error for each failure, a warning for each recommendation that fails."""
    lines = []
    for run in runs:
        entries = {entry.id: entry for entry in run.verdict.entries}
        strict = run.verdict.strict
        for same in alike(run.verdict.failures()):
            cell = same[0]
            level = "warning" if is_recommendation(cell, strict=strict) else "error"
            title = f"{word(cell, strict=strict)}: {cell.requirement} ({cell.level}) on "
            title += label(run, cell.implementation)
            blocked = sum(len(run.verdict.blocked_by(one)) for one in same)
            text = "\n".join(f"{k}: {v}" for k, v in described(cell, blocked=blocked))
            properties = {"title": title, "file": _file(entries[cell.implementation])}
            shown = ",".join(f"{k}={_escaped(v, ':,')}" for k, v in properties.items() if v)
            lines.append(f"::{level} {shown}::{_escaped(text)}\n")
        decision = run.verdict.decision
        level = "notice" if decision.exit_code == 0 else "error"
        lines.append(f"::{level} title=dense-conformance::{_escaped(decision.sentence)}\n")
    return "".join(lines)


def _file(entry: Entry) -> str:
    path, _, _ = entry.spec.rpartition(":")
    return path if path.endswith(".py") else ""


def _escaped(text: str, more: str = "") -> str:
    # A command ends with its line, so a message must not begin another one.
    for letter in ("%", "\r", "\n", *more):
        text = text.replace(letter, f"%{ord(letter):02X}")
    return text
