"""The output of a run on a terminal or in a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.checks.profiles import PROFILES, named
from conformance.errors import printable, silence
from conformance.report.failures import NARROWEST, Failures, write_head, write_lines
from conformance.report.tally import (
    denominator,
    explored,
    known_versions,
    label,
    not_offered,
    worst_look,
)
from conformance.results.cell import Cell
from conformance.results.decision import Decision, Word, expectedly_blocked, plural, tally
from conformance.results.failure import alike, consequences, is_recommendation, word
from conformance.results.file import Results
from conformance.results.outcome import Outcome
from conformance.results.verdict import Verdict

_SHOWN_EFFECTS = 4

_VERDICT_STYLE = {Word.CONFORMS: "bold green", Word.DOES_NOT_CONFORM: "bold red"}


def console_for(stream: TextIO) -> Console:
    """Return a console, plain if the stream is not a terminal or colour is turned off.

    Characters outside the stream's encoding are escaped, so that printing cannot raise.
    """
    with contextlib.suppress(AttributeError, ValueError):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]  # of files
    width = None if stream.isatty() else _columns()
    # Markup is off: the brackets of nnx.Linear[bf16] are not a style.
    return _Console(
        file=stream, width=width, highlight=False, markup=False, soft_wrap=False, emoji=False
    )


class _Console(Console):
    """A console whose reader may leave, as ``head`` does; the run goes on and writes its files."""

    def on_broken_pipe(self) -> None:
        silence(self.file)  # type: ignore[arg-type]  # a text file, as given


def _columns() -> int:
    given = os.environ.get("COLUMNS", "")
    return max(int(given), NARROWEST) if given.isdecimal() and given.isascii() else 100


def _summary(cells: list[Cell], *, strict: bool) -> Text:
    """Return the number of cells that hold, of those that apply, in the colour of the worst."""
    counted = tally(cells)
    style = worst_look(cells, strict=strict).style
    return Text(str(counted), style=style) if counted.total else Text("-", style="dim")


def _table(results: Results, width: int) -> Table:
    verdict = results.verdict
    areas = list(dict.fromkeys(row.area for row in verdict.rows))
    strict = verdict.strict
    columns = [(entry, printable(label(results, entry.id))) for entry in verdict.entries]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    needed = 16 + sum(max(len(name), 7) + 2 for _, name in columns)
    if needed <= width:
        table.add_column("area", no_wrap=True)
        for _, name in columns:
            table.add_column(name, justify="right", no_wrap=True)
        for area in areas:
            shares = (verdict.of(entry, area) for entry, _ in columns)
            table.add_row(area, *(_summary(cells, strict=strict) for cells in shares))
        whole = (_summary(verdict.of(entry), strict=strict) for entry, _ in columns)
        table.add_row("all", *whole, style="bold")
        return table
    table.add_column("implementation", overflow="fold")
    table.add_column("all", justify="right", no_wrap=True)
    table.add_column("not conforming in", overflow="fold")
    for entry, name in columns:
        own = verdict.of(entry)
        wrong = {c.requirement.partition("/")[0] for c in own if c.outcome.worth_reading}
        listed = ", ".join(area for area in areas if area in wrong) or "-"
        table.add_row(name, _summary(own, strict=strict), listed)
    return table


def _failures(
    console: Console, results: Results, *, verbose: bool, shown: Collection[tuple[str, str]]
) -> None:
    """Write the failures that were not printed before, and count those that follow from others."""
    verdict = results.verdict
    failures = Failures(console, strict=verdict.strict, whole=verbose)
    failures.begun.update(implementation for implementation, _ in shown)
    for entry in verdict.entries:
        name = printable(label(results, entry.id))
        own = [cell for cell in verdict.of(entry) if cell.outcome.worth_reading]
        seen = [cell for cell in own if cell.key in shown]
        for cell in seen:
            failures.seen(cell)
        _write_consequences(console, seen, verdict, name, verbose=verbose)
        for same in alike([cell for cell in own if cell not in seen]):
            cell, others = same[0], same[1:]
            blocked = [c for one in same for c in verdict.blocked_by(one)]
            failed = cell.outcome == Outcome.FAILED
            statement = verdict.statements.get(cell.requirement, "") if failed else ""
            failures.write(cell, name, statement, blocked=len(blocked))
            if others:
                verb = "is" if len(others) == 1 else "are"
                console.print(f"  and so {verb} {plural(len(others), 'more requirement')}")
            if verbose and blocked:
                write_lines(console, [("blocked", ", ".join(c.requirement for c in blocked))])


def _write_consequences(
    console: Console, cells: Sequence[Cell], verdict: Verdict, title: str, *, verbose: bool
) -> None:
    """Write the consequences of failures that were printed before, many of them in one line."""
    blocked = [verdict.blocked_by(cell) for cell in cells]
    number = sum(map(len, blocked))
    if len(cells) == 1 == len(verdict.entries) and not verbose:
        # The failure is all that stands above.
        if number:
            _write(console, consequences(number))
    elif len(cells) > 1 and not verbose:
        whose = f"{title}: " if len(verdict.entries) > 1 else ""
        more = f", {number} more could not be checked" if number else ""
        text = f"{whose}{len(cells)} requirements do not hold{more}"
        _write(console, f"{text}; -v shows all of each")
    else:
        for cell, own in zip(cells, blocked, strict=True):
            write_head(console, cell, title, strict=verdict.strict, more="   (shown above)")
            if own:
                write_lines(console, [("also", consequences(len(own)))])
            if own and verbose:
                write_lines(console, [("blocked", ", ".join(each.requirement for each in own))])


def _expected(verdict: Verdict) -> list[str]:
    """Return a line for each expected failure, with its consequences."""
    by_key = {cell.key: cell for cell in verdict.own}
    lines = []
    for cell in verdict.own:
        if cell.outcome == Outcome.EXPECTED_FAILURE:
            blocked = [c for c in verdict.blocked_by(cell) if expectedly_blocked(c, by_key)]
            more = f" ({consequences(len(blocked))})" if blocked else ""
            who = f"{verdict.names[cell.implementation]} {cell.requirement}"
            lines.append(f"fails as expected: {who}: {cell.reason}{more}")
    return lines


def _differences(results: Results) -> list[str]:
    """Return how a layer is constructed, and how its convention differs from Flax's."""
    found = []
    for entry in results.verdict.entries:
        known = results.about(entry.id)
        if known.get("bound"):
            found.append(f"{entry.name} is constructed as {known['bound']}")
        differs = known.get("differences", ())
        if differs:
            found.append(f"{entry.name} differs from Flax's convention in: {'; '.join(differs)}")
    return found


def _side_effects(results: Results) -> list[str]:
    """Return the layers whose import changed global state, which the suite restored."""
    found = []
    for entry in results.verdict.entries:
        effects = results.about(entry.id).get("side_effects", ())
        if effects:
            listed = "; ".join(effects[:_SHOWN_EFFECTS])
            more = f"; and {len(effects) - _SHOWN_EFFECTS} more" * (len(effects) > _SHOWN_EFFECTS)
            found.append(f"importing {entry.name} has side effects: {listed}{more}")
    return found


def _verbose_lines(verdict: Verdict) -> list[str]:
    """Return the lines for ``-v``: remarks of checks, and why requirements do not apply."""
    names, several = verdict.names, len(verdict.entries) > 1
    remarks: dict[str, list[Cell]] = {}
    for cell in verdict.own:
        # The remarks of a failure are shown with it.
        for text in () if cell.outcome.worth_reading else cell.notes:
            remarks.setdefault(text, []).append(cell)
    lines = []
    for text, cells in remarks.items():
        who = f" ({', '.join(names[cell.implementation] for cell in cells)})" if several else ""
        lines.append(f"note: {cells[0].requirement}: {text}{who}")
    reasons = Counter(c.reason for c in verdict.own if not c.outcome.applies)
    return [*lines, *(f"{n} not applicable: {reason}" for reason, n in reasons.most_common())]


def write_verdict(
    results: Results,
    stream: TextIO,
    *,
    verbose: bool = False,
    quiet: bool = False,
    shown: Collection[tuple[str, str]] = (),
) -> None:
    """Write the table, each failure, the counts, and the verdict in the last line.

    Parameters
    ----------
    results
        What a results file has.
    stream
        Where to.
    verbose
        Whether to add what the run explores and can detect, the remarks of checks, and each
        requirement that is blocked or does not apply.
    quiet
        Whether to write only the verdict.
    shown
        The failures that were printed before, by implementation and requirement.
    """
    console = console_for(stream)
    verdict, facts = results.verdict, results.facts
    if quiet:
        _write_decisions(console, verdict)
        return
    head = f"dense-conformance, profile {facts['profile']}"
    console.print()
    whole = verbose or not (_is_all_shown(verdict, shown) or _is_all_lost(verdict))
    if whole:
        _write(console, "; ".join(filter(None, (head, known_versions(results)))), "dim")
    if verbose and facts["profile"] in PROFILES:
        seed = results.environment.get("seed")
        _write(console, named(facts["profile"], seed).statement(), "dim")
    if whole:
        console.print(_table(results, console.width))
    for line in _differences(results):
        _write(console, line, "dim")
    for line in _side_effects(results):
        _write(console, line, "yellow")
    _failures(console, results, verbose=verbose, shown=shown)
    if whole:
        console.print()
    for line in _expected(verdict):
        _write(console, line, "cyan")
    for line in not_offered(verdict) if whole else ():
        _write(console, line)
    for line in _verbose_lines(verdict) if verbose else ():
        _write(console, line, "dim")
    for line in explored(verdict, facts):
        _write(console, line)
    cells = denominator(verdict, str(facts.get("shard") or ""))
    _write(console, f"{cells}; {facts['seconds']:.1f} s")
    _write_decisions(console, verdict)


def _is_all_shown(verdict: Verdict, shown: Collection[tuple[str, str]]) -> bool:
    """Return whether a table would push the failures of the one layer off a screen of 24 lines."""
    # A line says what was not run because of -x.
    found = (c for c in verdict.own if c.outcome.worth_reading and c.outcome != Outcome.NOT_RUN)
    failures = {c.key for c in found}
    return len(verdict.entries) == 1 and bool(failures) and failures <= set(shown)


def _is_all_lost(verdict: Verdict) -> bool:
    """Return whether no requirement of the one layer was decided, so that a table has only 0."""
    applying = [cell.outcome for cell in verdict.own if cell.outcome.applies]
    return len(verdict.entries) == 1 and bool(applying) and all(each.lost for each in applying)


def _write(console: Console, line: str, style: str = "") -> None:
    console.print(Text(printable(line), style=style))


def _write_decisions(console: Console, verdict: Verdict) -> None:
    """Write the verdict on each implementation if they differ, and the one on the run."""
    if len(verdict.entries) > 1:
        decisions = [(entry, verdict.decision_on(entry)) for entry in verdict.entries]
        if len({decision.word for _, decision in decisions}) > 1:
            for entry, decision in decisions:
                line = f"{printable(entry.name)} {decision.sentence}"
                console.print(Text(line, style=_style(decision)))
    sentence = Text(verdict.decision.sentence, style=_style(verdict.decision))
    console.print(sentence, soft_wrap=True)


def _style(decision: Decision) -> str:
    return _VERDICT_STYLE.get(decision.word, "bold magenta")


def at_once(cell: Cell, names: Mapping[str, str]) -> str:
    """Return a failure as one line, to show during the run."""
    why = cell.cause or cell.message
    return printable(f"{word(cell)} {cell.requirement}   {names[cell.implementation]} -- {why}")


@dataclass(eq=False)
class Progress:
    """Shows a run in progress: each failure at once and, on a terminal, the progress."""

    total: int
    names: Mapping[str, str]
    statements: Mapping[str, str]
    strict: bool = False
    verbose: bool = False

    def __post_init__(self) -> None:
        self.done = 0
        self.console = console_for(sys.stdout)
        self.failures = Failures(self.console, strict=self.strict, whole=self.verbose)
        self.recommendations: list[Cell] = []
        self.status = self.console.status("starting") if sys.stdout.isatty() else None
        if self.status is not None:
            self.status.start()

    def pytest_conformance_cell(self, cell: Cell) -> None:
        """Count a cell that was decided."""
        self.done += 1
        if self.status is not None:
            self.status.update(f"{self.done}/{self.total} cells, {self.names[cell.implementation]}")

    def pytest_conformance_fault(self, cell: Cell) -> None:
        """Write a failure that no other failure can explain; recommendations come last."""
        if is_recommendation(cell, strict=self.strict):
            self.recommendations.append(cell)
        else:
            self._write(cell)

    def _write(self, cell: Cell) -> None:
        name, statement = self.names[cell.implementation], self.statements[cell.requirement]
        self.failures.write(cell, name, statement)

    def pytest_conformance_round(self, number: int, seed: int) -> None:
        """Show that another round begins."""
        if self.status is not None:
            self.status.update(f"round {number}, seed {seed}")

    def pytest_sessionfinish(self) -> None:
        """Write the recommendations that do not hold, and remove the progress line."""
        for cell in self.recommendations:
            self._write(cell)
        if self.status is not None:
            self.status.stop()
