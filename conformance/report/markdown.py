"""A summary in Markdown, for the page that a CI system shows of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from conformance.contract.requirement import MUST
from conformance.report.summary import Summary
from conformance.report.tally import (
    LOOK,
    WORTH_READING,
    by_area,
    denominator,
    explored,
    judgement,
    label,
    smallest,
    tally,
    versions,
)
from conformance.results.cell import Cell, Outcome
from conformance.results.file import Results

__all__ = ["markdown"]

# Summaries are cut without a word where they grow too long (GitHub: at 1 MiB).
_MOST_FAILURES = 100


def markdown(runs: Sequence[Results], missing: Sequence[str] = ()) -> str:
    """The verdict, the table, and each failure, of one run or of several environments.

    Of several, what they differ in comes first; ``missing`` names those that are not there.
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
    cells = run.verdict.cells
    yield f"## {_capital(judgement(run))}: MUST {tally(cells, MUST)}"
    yield ""
    yield f"dense-conformance {_plain(run.environment.get('suite', ''))}".rstrip() + (
        f", profile {_plain(run.facts['profile'])}; {_plain(versions(run))}.  "
    )
    yield f"{denominator(cells)}; {run.facts['seconds']:.1f} s."
    for line in explored(run.facts):
        yield ""
        yield f"{_capital(line)}."
    yield ""
    yield from _table(run)
    yield from _failures(run)
    yield from _others(run)


def _table(run: Results) -> Iterator[str]:
    areas = by_area(run.verdict.rows)
    yield "| implementation | all | " + " | ".join(areas) + " |"
    yield "|---|" + "--:|" * (len(areas) + 1)
    for entry in run.verdict.entries:
        own = run.verdict.of(entry)
        shares = [[c for c in own if c.requirement.startswith(f"{area}/")] for area in areas]
        counts = [_count(share) for share in (own, *shares)]
        yield f"| {_plain(label(run, entry.id))} | " + " | ".join(counts) + " |"
    yield ""


def _count(cells: Sequence[Cell]) -> str:
    counted = tally(cells)
    if not counted.total:
        return LOOK[Outcome.NOT_APPLICABLE].symbol
    worst = next((o for o in LOOK if any(cell.outcome == o for cell in cells)), Outcome.PASSED)
    mark = "" if counted.full else f"{LOOK[worst].symbol} "
    return f"{mark}{counted}"


def _failures(run: Results) -> Iterator[str]:
    statements = {row.id: row.statement for row in run.verdict.rows}
    told: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in run.verdict.cells:
        if cell.outcome in WORTH_READING:
            # What is wrong with a registration is the same in each of its cells.
            alone = cell.requirement if cell.outcome == Outcome.FAILED else cell.reason
            told.setdefault((cell.implementation, cell.outcome, alone), []).append(cell)
    for same in list(told.values())[:_MOST_FAILURES]:
        cell = same[0]
        look = LOOK[Outcome(cell.outcome)]
        yield (
            f"### {look.symbol} {cell.outcome}: {_plain(cell.requirement)}, "
            f"{_plain(label(run, cell.implementation))} ({cell.level})"
        )
        yield ""
        yield _prose(statements[cell.requirement])
        yield ""
        yield from _details(cell)
        if cell.script:
            yield from _folded("a script that shows it", cell.script)
        if len(same) > 1:
            yield f"- and so are {len(same) - 1} more of its cells"
        yield ""
    if len(told) > _MOST_FAILURES:
        yield f"and {len(told) - _MOST_FAILURES} more failures, which the results file has."
        yield ""


def _details(cell: Cell) -> Iterator[str]:
    for name, text in (
        ("cause", cell.cause),
        ("found", cell.message),
        ("why", cell.reason),
        ("accepted", cell.accepted),
        ("smallest", smallest(cell)),
    ):
        if text:
            yield f"- **{name}**: {_plain(text)}"
    if cell.reproduction:
        yield f"- **reproduce**: {_code(cell.reproduction)}"


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
        found = [cell for cell in run.verdict.cells if cell.outcome == outcome]
        if found:
            yield f"<details><summary>{len(found)} {outcome}</summary>"
            yield ""
            for cell in found:
                name = _plain(label(run, cell.implementation))
                yield f"- {_plain(cell.requirement)}, {name}: {_plain(cell.reason)}"
            yield ""
            yield "</details>"
            yield ""
    notes: dict[str, dict[str, None]] = {}
    for cell in run.verdict.cells:
        for text in cell.notes:
            names = notes.setdefault(f"{_plain(cell.requirement)}: {_plain(text)}", {})
            names[_plain(label(run, cell.implementation))] = None
    for text, names in notes.items():
        yield f"- note: {text} ({', '.join(names)})"
    yield ""


def _plain(text: object) -> str:
    """Text in which nothing is markup, on one line: it comes from other people's layers."""
    return _plain_part(" ".join(str(text).split()))


def _plain_part(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~$@&])", r"\\\1", text)


def _prose(text: str) -> str:
    """A docstring's text, in which double backticks mark code."""
    parts = re.split(r"``(.+?)``", text)
    return "".join(_code(part) if i % 2 else _plain_part(part) for i, part in enumerate(parts))


def _code(text: str) -> str:
    """A code span, in as many backticks as keep those of the text apart."""
    line = " ".join(text.split())
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
