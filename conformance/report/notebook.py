"""Shows the report of a check as an HTML table in a notebook."""

from __future__ import annotations

from html import escape

from conformance.report.tally import label, look_of, not_offered
from conformance.results.cell import Cell
from conformance.results.failure import alike, described, word
from conformance.results.file import Results

_LEFT = "style='text-align:left;vertical-align:top'"


def table(results: Results) -> str:
    """Return the verdict, and a row for each failure: level, smallest case and cause included."""
    verdict = results.verdict
    head = f"<p><b>{escape(verdict.decision.sentence)}</b></p>"
    groups = alike(verdict.failures())
    rows = "".join(_row(results, same[0], len(same) - 1) for same in groups)
    rest = "".join(f"<p>{escape(line)}</p>" for line in not_offered(verdict))
    return head + (f"<table>{rows}</table>" if rows else "") + rest


def _row(results: Results, cell: Cell, others: int) -> str:
    strict = results.verdict.strict
    statement = next(r.statement for r in results.verdict.rows if r.id == cell.requirement)
    blocked = len(results.verdict.blocked_by(cell))
    lines = described(cell, statement, blocked)
    if others:
        lines.append(("also", f"the same in {others} more of its cells"))
    text = "<br>".join(f"<b>{escape(k)}</b> {escape(v)}" if k else escape(v) for k, v in lines)
    outcome = f"{look_of(cell, strict=strict).symbol} {word(cell, strict=strict)}"
    columns = (
        escape(cell.requirement),
        escape(cell.level),
        escape(outcome),
        escape(label(results, cell.implementation)),
        text,
    )
    return "<tr>" + "".join(f"<td {_LEFT}>{column}</td>" for column in columns) + "</tr>"
