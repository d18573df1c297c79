"""Writes a summary in Markdown, which CI systems show for a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from conformance.report.summary import Summary
from conformance.report.tally import (
    LOOK,
    by_area,
    denominator,
    explored,
    label,
    look_of,
    not_offered,
    versions,
    worst_look,
)
from conformance.results.cell import Cell
from conformance.results.decision import tally
from conformance.results.failure import alike, described, word
from conformance.results.file import Results
from conformance.results.outcome import Outcome

# CI systems silently cut summaries that are too long (GitHub: at 1 MiB).
_MOST_FAILURES = 100


def markdown(runs: Sequence[Results], missing: Sequence[str] = ()) -> str:
    """Return verdict, table and failures as Markdown, of one run or several environments.

    For several environments their differences come first; ``missing`` names absent ones.
    """
    lines: list[str] = []
    if len(runs) > 1 or missing:
        lines += _environments(Summary(tuple(runs), tuple(missing)))
    for run in runs:
        lines += _run(run)
    return "\n".join(lines).rstrip() + "\n"


def _environments(summary: Summary) -> Iterator[str]:
    yield f"## {_plain(summary.sentence)}"
    yield ""
    yield f"| {' | '.join(map(_plain, summary.header))} |"
    yield "|---" * len(summary.header) + "|"
    for line in summary.table:
        yield f"| {' | '.join(map(_plain, line))} |"
    yield ""
    for text in summary.missing:
        yield f"- **missing**: {_plain(text)}"
    for text in summary.explanation():
        yield f"- {_plain(text)}"
    yield ""
    for heading, found in summary.sections():
        yield f"### {_plain(_capital(heading))}"
        yield ""
        for first, rest in found:
            yield f"- {'; '.join(map(_plain, [first, *rest]))}"
        yield ""


def _run(run: Results) -> Iterator[str]:
    yield f"## {_plain(_capital(run.verdict.decision.sentence))}"
    yield ""
    yield f"dense-conformance {_plain(run.environment.get('suite', ''))}".rstrip() + (
        f", profile {_plain(run.facts['profile'])}; {_plain(versions(run))}.  "
    )
    cells = denominator(run.verdict, run.facts.get("shard", ""))
    yield f"{_plain(cells)}; {run.facts['seconds']:.1f} s."
    for line in [*not_offered(run.verdict), *explored(run.verdict, run.facts)]:
        yield ""
        yield f"{_plain(_capital(line))}."
    yield ""
    yield from _table(run)
    yield from _failures(run)
    yield from _others(run)


def _table(run: Results) -> Iterator[str]:
    areas = by_area(run.verdict.rows)
    yield "| implementation | verdict | all | " + " | ".join(map(_plain, areas)) + " |"
    yield "|---|---|" + "--:|" * (len(areas) + 1)
    for entry in run.verdict.entries:
        shares = [run.verdict.of(entry, area) for area in ("", *areas)]
        counts = [_count(share, strict=run.verdict.strict) for share in shares]
        decision = run.verdict.decision_on(entry)
        name = _plain(label(run, entry.id))
        yield f"| {name} | {decision.word} | " + " | ".join(counts) + " |"
    yield ""


def _count(cells: Sequence[Cell], *, strict: bool) -> str:
    counted = tally(cells)
    if not counted.total:
        return LOOK[Outcome.NOT_APPLICABLE].symbol
    mark = "" if counted.full else f"{worst_look(cells, strict=strict).symbol} "
    return f"{mark}{counted}"


def _failures(run: Results) -> Iterator[str]:
    groups = alike(run.verdict.failures())
    for same in groups[:_MOST_FAILURES]:
        cell = same[0]
        look = look_of(cell, strict=run.verdict.strict)
        yield (
            f"### {look.symbol} {word(cell, strict=run.verdict.strict)}: "
            f"{_plain(cell.requirement)}, {_plain(label(run, cell.implementation))} "
            f"({cell.level})"
        )
        yield ""
        yield _prose(run.verdict.statements[cell.requirement])
        yield ""
        blocked = sum(len(run.verdict.blocked_by(one)) for one in same)
        for name, text in described(cell, blocked=blocked):
            shown = _code(text) if name == "reproduce" else _plain(text)
            yield f"- **{name}**: {shown}"
        if cell.script:
            yield from _folded("a script that reproduces it", cell.script)
        if len(same) > 1:
            yield f"- and so are {len(same) - 1} more of its cells"
        yield ""
    if len(groups) > _MOST_FAILURES:
        yield f"and {len(groups) - _MOST_FAILURES} more failures, which the results file has."
        yield ""


def _folded(title: str, script: str) -> Iterator[str]:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", script)), default=0))
    yield ""
    yield f"<details><summary>{title}</summary>"
    yield ""
    yield f"{fence}python"
    yield script.rstrip("\n")
    yield fence
    yield ""
    yield "</details>"


def _others(run: Results) -> Iterator[str]:
    for outcome in (Outcome.BLOCKED, Outcome.EXPECTED_FAILURE):
        found = [cell for cell in run.verdict.own if cell.outcome == outcome]
        if found:
            yield f"<details><summary>{len(found)} {outcome.replace('-', ' ')}</summary>"
            yield ""
            for cell in found:
                name = _plain(label(run, cell.implementation))
                yield f"- {_plain(cell.requirement)}, {name}: {_plain(cell.reason)}"
            yield ""
            yield "</details>"
            yield ""
    notes: dict[str, dict[str, None]] = {}
    failures = run.verdict.failures()
    for cell in run.verdict.cells:
        for text in () if cell in failures else cell.notes:
            names = notes.setdefault(f"{_plain(cell.requirement)}: {_plain(text)}", {})
            names[_plain(label(run, cell.implementation))] = None
    for text, names in notes.items():
        yield f"- note: {text} ({', '.join(names)})"
    yield ""


def _plain(text: object) -> str:
    """Return text on one line with markup escaped, because it may come from a layer."""
    return _plain_part(" ".join(str(text).split()))


def _plain_part(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~$@&])", r"\\\1", text)


def _prose(text: str) -> str:
    """Return a docstring's text, in which double backticks mark code."""
    parts = re.split(r"``(.+?)``", text)
    return "".join(_code(part) if i % 2 else _plain_part(part) for i, part in enumerate(parts))


def _code(text: str) -> str:
    """Return a code span, with enough backticks to contain those of the text."""
    line = " ".join(text.split())
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
