"""What a run shows on a terminal, and in a pipe."""

from __future__ import annotations

import os
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.checks.profiles import PROFILES, named
from conformance.contract.requirement import MAY, MUST, Requirement
from conformance.layers.registry import Entry
from conformance.report.tally import explored
from conformance.results.cell import Cell, Outcome
from conformance.results.verdict import INCOMPLETE, NONCONFORMING, OK, Verdict

__all__ = ["at_once", "case_in_words", "console_for", "write_failure", "write_verdict"]

STYLE = {
    Outcome.PASSED: "green",
    Outcome.FAILED: "bold red",
    Outcome.UNEXPECTED_PASS: "bold red",
    Outcome.BLOCKED: "yellow",
    Outcome.ERROR: "bold magenta",
    Outcome.CRASHED: "bold magenta",
    Outcome.TIMED_OUT: "bold magenta",
    Outcome.NOT_RUN: "bold magenta",
    Outcome.NOT_APPLICABLE: "dim",
    Outcome.EXPECTED_FAILURE: "cyan",
}


def console_for(stream: TextIO) -> Console:
    """A console that is plain where the stream is no terminal, or colour is not wanted."""
    width = None if stream.isatty() else int(os.environ.get("COLUMNS", "100"))
    # Markup is off: the brackets of nnx.Linear[bf16] are no style.
    return Console(
        file=stream, width=width, highlight=False, markup=False, soft_wrap=False, emoji=False
    )


def _library(facts: Mapping[str, Any], id: str) -> str:
    return str(facts["versions"].get(id, {}).get("version", ""))


def _areas(rows: Iterable[Requirement]) -> list[str]:
    return list(dict.fromkeys(row.area for row in rows))


def _summary(cells: list[Cell]) -> Text:
    """Passed of those that apply; the worst of what else there is in its colour."""
    applicable = [c for c in cells if c.outcome != Outcome.NOT_APPLICABLE]
    if not applicable:
        return Text("-", style="dim")
    passed = sum(c.outcome in (Outcome.PASSED, Outcome.EXPECTED_FAILURE) for c in applicable)
    worst = next(
        (o for o in STYLE if o != Outcome.PASSED and any(c.outcome == o for c in applicable)),
        Outcome.PASSED,
    )
    return Text(f"{passed}/{len(applicable)}", style=STYLE[worst])


def _table(verdict: Verdict, facts: Mapping[str, Any], width: int) -> Table:
    areas = _areas(verdict.rows)
    columns = [
        (entry, f"{entry.name} {_library(facts, entry.id)}".strip()) for entry in verdict.entries
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    needed = 16 + sum(max(len(name), 7) + 2 for _, name in columns)
    if needed <= width:
        table.add_column("area", no_wrap=True)
        for _, name in columns:
            table.add_column(name, justify="right", no_wrap=True)
        for area in areas:
            table.add_row(
                area, *(_summary(_cells_in(verdict, entry, area)) for entry, _ in columns)
            )
        table.add_row("all", *(_summary(verdict.of(entry)) for entry, _ in columns), style="bold")
        return table
    table.add_column("implementation", overflow="fold")
    table.add_column("all", justify="right", no_wrap=True)
    table.add_column("not conforming in", overflow="fold")
    for entry, name in columns:
        wrong = {c.requirement.partition("/")[0] for c in verdict.of(entry) if c.outcome in _WORTH}
        table.add_row(
            name, _summary(verdict.of(entry)), ", ".join(a for a in areas if a in wrong) or "-"
        )
    return table


_SHOWN_EFFECTS = 4

_WORTH = (
    Outcome.FAILED,
    Outcome.UNEXPECTED_PASS,
    Outcome.CRASHED,
    Outcome.TIMED_OUT,
    Outcome.ERROR,
    Outcome.NOT_RUN,
)


def _cells_in(verdict: Verdict, entry: Entry, area: str) -> list[Cell]:
    return [c for c in verdict.of(entry) if c.requirement.startswith(f"{area}/")]


def case_in_words(case: Mapping[str, Any] | None) -> str:
    """The smallest case on one line; the usual batch of 8 is not worth a word."""
    if not case:
        return ""
    shown = {k: v for k, v in case.items() if not (k == "lead" and v == [8])}
    return ", ".join(f"{k}={tuple(v) if isinstance(v, list) else v}" for k, v in shown.items())


def write_failure(console: Console, cell: Cell, title: str, statement: str) -> None:
    """One failure: whose, the cause before the numbers, the smallest case, how to see it again."""
    head = Text(f"{cell.outcome.upper():8}", style=STYLE[Outcome(cell.outcome)])
    head.append(f"  {cell.requirement}", style="bold")
    head.append(f"   {title}   {cell.level}")
    console.print(head)
    lines = [("", statement)] if statement else []
    lines += [("cause", cell.cause)] if cell.cause else []
    lines += [("found", cell.message)] if cell.message else []
    lines += [("why", cell.reason)] if cell.reason else []
    lines += [("accepted", cell.accepted)] if cell.accepted else []
    lines += [("smallest", case_in_words(cell.case))] if cell.case else []
    lines += [("reproduce", cell.reproduction)] if cell.reproduction else []
    for label, text in lines:
        indent = "  " if not label else f"  {label:10}"
        wrapped = textwrap.wrap(
            text,
            # A command stays on one line, so that it can be copied.
            10_000 if label == "reproduce" else max(console.width, 40),
            initial_indent=indent,
            subsequent_indent=" " * len(indent),
            break_long_words=False,
            break_on_hyphens=False,
        )
        console.print(Text("\n".join(wrapped), style="" if label else "italic"), soft_wrap=True)


def _failures(console: Console, verdict: Verdict, facts: Mapping[str, Any]) -> None:
    statements = {row.id: row.statement for row in verdict.rows}
    names = {e.id: f"{e.name} {_library(facts, e.id)}".strip() for e in verdict.entries}
    for entry in verdict.entries:
        cells = [c for c in verdict.of(entry) if c.outcome in _WORTH]
        told: set[str] = set()
        for cell in cells:
            # What is wrong with a registration is the same in each of its cells.
            if cell.outcome != Outcome.FAILED and cell.reason in told:
                continue
            same = [c for c in cells if c.reason == cell.reason and c.outcome == cell.outcome]
            told.add(cell.reason)
            console.print()
            statement = (
                statements.get(cell.requirement, "") if cell.outcome == Outcome.FAILED else ""
            )
            write_failure(console, cell, names[entry.id], statement)
            if cell.outcome != Outcome.FAILED and len(same) > 1:
                console.print(f"  and so are {len(same) - 1} more of its cells")
        for reason, blocked in groupby(
            sorted(
                (c for c in verdict.of(entry) if c.outcome == Outcome.BLOCKED),
                key=lambda c: c.reason,
            ),
            key=lambda c: c.reason,
        ):
            listed = ", ".join(c.requirement for c in blocked)
            console.print()
            console.print(Text(f"BLOCKED   {names[entry.id]}, {reason}: {listed}", style="yellow"))


def _differences(verdict: Verdict, facts: Mapping[str, Any]) -> list[str]:
    """How a layer was bound, and in what its convention differs from Flax's."""
    found = []
    for entry in verdict.entries:
        known = facts["versions"].get(entry.id, {})
        if known.get("bound"):
            found.append(f"{entry.name} is constructed as {known['bound']}")
        differs = known.get("differences", ())
        if differs:
            found.append(f"{entry.name} differs from Flax's convention in: {'; '.join(differs)}")
    return found


def _side_effects(verdict: Verdict, facts: Mapping[str, Any]) -> list[str]:
    """Whose import changes what belongs to everybody; the suite has put it back each time."""
    found = []
    for entry in verdict.entries:
        effects = facts["versions"].get(entry.id, {}).get("side_effects", ())
        if effects:
            listed = "; ".join(effects[:_SHOWN_EFFECTS])
            more = f"; and {len(effects) - _SHOWN_EFFECTS} more" * (len(effects) > _SHOWN_EFFECTS)
            found.append(f"importing {entry.name} has side effects: {listed}{more}")
    return found


def _denominator(verdict: Verdict, facts: Mapping[str, Any]) -> str:
    count = Counter(cell.outcome for cell in verdict.own)
    parts = [f"{count.pop(Outcome.PASSED, 0)} passed", f"{count.pop(Outcome.FAILED, 0)} failed"]
    parts += [f"{n} {outcome}" for outcome, n in sorted(count.items())]
    cells = f"{len(verdict.cells)} cells"
    if facts.get("shard"):
        cells = f"{len(verdict.own)} of {cells} (shard {facts['shard']})"
    return f"{cells}: {', '.join(parts)}"


def _not_applicable(verdict: Verdict) -> list[str]:
    reasons = Counter(
        cell.reason for cell in verdict.cells if cell.outcome == Outcome.NOT_APPLICABLE
    )
    return [f"{n} not applicable: {reason}" for reason, n in reasons.most_common()]


def _remarks(verdict: Verdict) -> dict[str, list[Cell]]:
    """Each remark once, with the cells that it was made in."""
    found: dict[str, list[Cell]] = {}
    for cell in verdict.cells:
        for text in cell.notes:
            found.setdefault(text, []).append(cell)
    return found


def _sentence(verdict: Verdict) -> Text:
    must = [c for c in verdict.own if c.level == MUST and c.outcome != Outcome.NOT_APPLICABLE]
    held = sum(c.outcome == Outcome.PASSED for c in must)
    said = {
        OK: ("conforms", "bold green"),
        NONCONFORMING: ("does not conform", "bold red"),
        INCOMPLETE: ("incomplete", "bold magenta"),
    }
    words, style = said.get(verdict.exit_code, ("a registration is wrong", "bold magenta"))
    return Text(f"{words}: MUST {held}/{len(must)}", style=style)


def write_verdict(verdict: Verdict, facts: Mapping[str, Any], stream: TextIO) -> None:
    """The table, the denominator, each failure, and the verdict in one line."""
    console = console_for(stream)
    environment = facts["environment"]
    shown = ("jax", "flax", "python", "device")
    versions = ", ".join(f"{key} {environment[key]}" for key in shown if environment.get(key))
    head = f"dense-conformance, profile {facts['profile']}"
    console.print()
    console.print(Text("; ".join(filter(None, (head, versions))), style="dim"))
    if facts["profile"] in PROFILES:
        profile = named(facts["profile"], environment.get("seed"))
        console.print(Text(profile.statement(), style="dim"))
    console.print(_table(verdict, facts, console.width))
    for line in _differences(verdict, facts):
        console.print(Text(line, style="dim"))
    for line in _side_effects(verdict, facts):
        console.print(Text(line, style="yellow"))
    _failures(console, verdict, facts)
    names = {e.id: e.name for e in verdict.entries}
    may = [c for c in verdict.cells if c.level == MAY and c.outcome == Outcome.EXPECTED_FAILURE]
    console.print()
    for text, cells in _remarks(verdict).items():
        who = ", ".join(names[cell.implementation] for cell in cells)
        console.print(f"note: {cells[0].requirement}: {text} ({who})")
    for cell in verdict.cells:
        if cell.outcome == Outcome.EXPECTED_FAILURE and cell.level != MAY:
            who = f"{names[cell.implementation]} {cell.requirement}"
            console.print(f"fails as expected: {who}: {cell.reason}", style="cyan")
    if may:
        listed = ", ".join(f"{names[c.implementation]} {c.requirement}" for c in may)
        console.print(f"MAY rows that do not hold (reported, never failed): {listed}")
    for line in _not_applicable(verdict):
        console.print(Text(line, style="dim"))
    for line in explored(facts):
        console.print(line)
    console.print(f"{_denominator(verdict, facts)}; {facts['seconds']:.1f} s")
    console.print(_sentence(verdict))


def at_once(cell: Cell, names: Mapping[str, str]) -> str:
    """A failure in a line, while the run goes on: it may turn out to follow from another."""
    return (
        f"failed {cell.requirement}   {names[cell.implementation]} -- {cell.cause or cell.message}"
    )


class Progress:
    """Shows a run while it goes on: what fails at once, and how far it is on a terminal."""

    def __init__(self, total: int, names: Mapping[str, str], statements: Mapping[str, str]) -> None:
        self.total = total
        self.names = names
        self.statements = statements
        self.done = 0
        self.console = console_for(sys.stdout)
        self.status = self.console.status("starting") if sys.stdout.isatty() else None
        if self.status is not None:
            self.status.start()

    def conformance_cell(self, cell: Cell) -> None:
        """A cell came back."""
        self.done += 1
        if cell.outcome == Outcome.FAILED:
            line = at_once(cell, self.names)
            self.console.print(Text(line, style="red"), overflow="ellipsis", no_wrap=True)
        if self.status is not None:
            self.status.update(f"{self.done}/{self.total} cells, {self.names[cell.implementation]}")

    def conformance_round(self, number: int, seed: int) -> None:
        """One more round begins."""
        if self.status is not None:
            self.status.update(f"round {number}, seed {seed}")

    def pytest_sessionfinish(self) -> None:
        """The run is over."""
        if self.status is not None:
            self.status.stop()
