"""Writes a JUnit report: a suite for each implementation, a test case for each requirement."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from conformance.report.tally import label
from conformance.results.cell import Cell
from conformance.results.failure import described, is_recommendation, word
from conformance.results.file import Results
from conformance.results.outcome import Outcome


def junit(runs: Sequence[Results]) -> str:
    """Return the XML; a failure that does not fail the run is ``skipped``, with the reason."""
    root = ElementTree.Element("testsuites", name="dense-conformance")
    for run in runs:
        for entry in run.verdict.entries:
            cells = run.verdict.of(entry)
            cases = [_case(run, cell) for cell in cells]
            suite = ElementTree.SubElement(
                root,
                "testsuite",
                name=label(run, entry.id),
                tests=str(len(cases)),
                failures=str(sum(case.find("failure") is not None for case in cases)),
                errors=str(sum(case.find("error") is not None for case in cases)),
                skipped=str(sum(case.find("skipped") is not None for case in cases)),
                time=f"{sum(cell.seconds for cell in cells):.3f}",
            )
            suite.extend(cases)
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'


def _case(run: Results, cell: Cell) -> ElementTree.Element:
    area, _, slug = cell.requirement.partition("/")
    name = f"{label(run, cell.implementation)}.{area}"
    case = ElementTree.Element("testcase", classname=name, name=slug, time=f"{cell.seconds:.3f}")
    if cell.outcome != Outcome.PASSED:
        strict = run.verdict.strict
        text, said = cell.cause or cell.message or cell.reason, word(cell, strict=strict)
        message = text if text.startswith(said) else f"{said}: {text}"
        inner = ElementTree.SubElement(case, _kind(cell, strict=strict), message=message)
        blocked = len(run.verdict.blocked_by(cell))
        inner.text = "\n".join(f"{name}: {text}" for name, text in described(cell, blocked=blocked))
    return case


def _kind(cell: Cell, *, strict: bool) -> str:
    if cell.outcome == Outcome.ERROR or cell.outcome.lost:
        return "error"
    failed = cell.outcome in (Outcome.FAILED, Outcome.UNEXPECTED_PASS)
    return "failure" if failed and not is_recommendation(cell, strict=strict) else "skipped"
