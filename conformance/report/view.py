"""The content of the HTML page: plain values that a template lays out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from conformance.contract.requirement import Requirement
from conformance.layers.registry import Entry
from conformance.report.findings import COSTS, changes, costs
from conformance.report.summary import Summary
from conformance.report.tally import (
    LOOKS,
    Look,
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
from conformance.results.decision import NONCONFORMING, OK, Tally, Word, decide, overall_word, tally
from conformance.results.failure import described, word
from conformance.results.file import Results
from conformance.results.outcome import Outcome


@dataclass(frozen=True)
class Mark:
    """A cell of the matrix."""

    id: str
    href: str
    look: Look


@dataclass(frozen=True)
class Share:
    """How much of an area holds for an implementation."""

    count: Tally
    look: Look
    href: str


@dataclass(frozen=True)
class Card:
    """A card of the page: a failure, or several cells without results for the same reason."""

    id: str
    cell: Cell
    look: Look
    word: str
    implementation: str
    requirement: Requirement
    others: tuple[str, ...]
    environments: tuple[str, ...]
    blocked: tuple[str, ...]

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Return the failure as labelled lines, without the command, which can be copied."""
        lines = described(self.cell, blocked=len(self.blocked))
        return [(label, text) for label, text in lines if label != "reproduce"]

    @property
    def measured(self) -> list[tuple[str, str]]:
        """Return the numbers behind it, by name."""
        shown = {
            name: f"{value:.6g}" if isinstance(value, float) else str(value)
            for name, value in self.cell.measured.items()
        }
        return list(shown.items())


_Group = list[tuple[int, Cell]]
"""Cells of runs, by their index, that are shown together."""

# Outcomes that take one line each on the page; a failure takes a card.
_LINES = (Outcome.BLOCKED, Outcome.EXPECTED_FAILURE, Outcome.NOT_OFFERED)


def _anchor(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-") or "x"


class View:
    """One page of one run, or of one run for each environment.

    Parameters
    ----------
    runs
        The runs; at least one.
    missing
        A line for each expected environment that is missing.
    """

    def __init__(self, runs: Sequence[Results], missing: Sequence[str] = ()) -> None:
        self.runs = tuple(runs)
        self.several = len(self.runs) + len(missing) > 1
        self.summary = Summary(self.runs, tuple(missing))
        self.titles = self.summary.titles
        entries = {e.id: e for run in self.runs for e in run.verdict.entries}
        self.entries: tuple[Entry, ...] = tuple(entries.values())
        rows = {row.id: row for run in self.runs for row in run.verdict.rows}
        self.areas = by_area(list(rows.values()))
        self.rows = rows
        self._cells = {
            (i, *cell.key): cell for i, run in enumerate(self.runs) for cell in run.verdict.cells
        }
        taken: Counter[str] = Counter()
        self._anchors: dict[str, str] = {}
        for entry in self.entries:
            anchor = _anchor(entry.name)
            taken[anchor] += 1
            self._anchors[entry.id] = anchor + (f"-{taken[anchor]}" if taken[anchor] > 1 else "")

    @property
    def heading(self) -> str:
        """Return the verdict over all environments, in words."""
        said = list(dict.fromkeys(run.verdict.decision.word for run in self.runs))
        return said[0] if len(said) == 1 else "environments differ: " + ", ".join(said)

    @property
    def summaries(self) -> list[dict[str, object]]:
        """Return the headline of each environment."""
        return [
            {
                "title": title,
                "decision": run.verdict.decision,
                "tone": ("ok", "bad", "lost", "lost")[run.verdict.exit_code],
                "denominator": denominator(run.verdict, run.facts.get("shard", "")),
                "explored": [*not_offered(run.verdict), *explored(run.verdict, run.facts)],
                "suite": run.environment.get("suite", ""),
                "versions": versions(run),
                "profile": run.facts["profile"],
                "seconds": run.facts["seconds"],
                "shares": [self.overview(entry, i)[0] for entry in self.entries],
            }
            for i, (title, run) in enumerate(zip(self.titles, self.runs, strict=True))
        ]

    @property
    def must(self) -> Tally:
        """Return how many MUST requirements hold, over all environments."""
        return decide(cell for run in self.runs for cell in run.verdict.own).must

    @property
    def tone(self) -> str:
        """Return the colour of the whole run; a missing environment does not count as a pass."""
        code = overall_word(run.verdict.decision for run in self.runs).exit_code
        if code == NONCONFORMING:
            return "bad"
        return "lost" if self.summary.missing or code != OK else "ok"

    @property
    def suites(self) -> str:
        """Return the versions of the suite that made the results."""
        return ", ".join(dict.fromkeys(str(run.environment.get("suite", "")) for run in self.runs))

    @property
    def profiles(self) -> str:
        """Return the profiles of the runs."""
        return ", ".join(dict.fromkeys(run.facts["profile"] for run in self.runs))

    @property
    def legend(self) -> list[tuple[Look, int]]:
        """Return every outcome that occurs: its look and its count."""
        count = Counter(self._look(run, cell) for (run, *_), cell in self._cells.items())
        return [(look, count[look]) for look in LOOKS if count[look]]

    def _look(self, run: int, cell: Cell) -> Look:
        return look_of(cell, strict=self.runs[run].verdict.strict)

    def label(self, id: str) -> str:
        """Return an implementation with its version; only its name if the versions differ."""
        known = [run for run in self.runs if any(e.id == id for e in run.verdict.entries)]
        labels = {label(run, id) for run in known}
        return labels.pop() if len(labels) == 1 else self.summary.names[id]

    def cell_id(self, run: int, implementation: str, requirement: str) -> str:
        """Return the address of a cell, which is independent of the rest of the page."""
        place = f"{self._anchors[implementation]}--{_anchor(requirement)}"
        return f"cell-{place}" + (f"--{run + 1}" if run else "")

    def row_id(self, requirement: str) -> str:
        """Return the address of a requirement."""
        return f"req-{_anchor(requirement)}"

    def area_id(self, area: str) -> str:
        """Return the address of an area's matrix."""
        return f"area-{_anchor(area)}"

    def overview(self, entry: Entry, run: int = 0) -> list[Share]:
        """Return all requirements, then those of each area."""
        own = [self._cells.get((run, entry.id, id)) for id in self.rows]
        cells = [cell for cell in own if cell is not None]
        line = [self._share(cells, "#matrix", run)]
        for area in self.areas:
            part = [cell for cell in cells if cell.requirement.startswith(f"{area}/")]
            line.append(self._share(part, f"#{self.area_id(area)}", run))
        return line

    def _share(self, cells: Sequence[Cell], href: str, run: int) -> Share:
        strict = self.runs[run].verdict.strict
        return Share(tally(cells), worst_look(cells, strict=strict), href)

    def decision(self, entry: Entry, run: int = 0) -> Word:
        """Return the verdict on an implementation in a run, in words."""
        return self.runs[run].verdict.decision_on(entry).word

    def mark(self, run: int, implementation: str, requirement: str) -> Mark | None:
        """Return a cell as the matrix shows it; None if the run does not have it."""
        cell = self._cells.get((run, implementation, requirement))
        if cell is None:
            return None
        id = self.cell_id(run, implementation, requirement)
        why = self._why.get((run, implementation, requirement)) or self.row_id(requirement)
        return Mark(id, f"#{why}", self._look(run, cell))

    def levels(self, area: str) -> list[tuple[str, int]]:
        """Return the levels of an area's columns, and how many columns each has."""
        return list(Counter(str(row.level) for row in self.areas[area]).items())

    @cached_property
    def _failures(self) -> list[_Group]:
        """Return the cells that take a card each, those without results for one reason together."""
        groups: dict[tuple[str, ...], _Group] = {}
        for (run, _, _), cell in self._cells.items():
            if cell.outcome.worth_reading and not cell.elsewhere:
                # A wrong registration gives the same message in each of its cells.
                found = (cell.requirement, cell.cause, cell.message)
                own = found if cell.outcome == Outcome.FAILED else (cell.reason,)
                key = (cell.implementation, cell.outcome, *own)
                groups.setdefault(key, []).append((run, cell))
        return list(groups.values())

    @cached_property
    def cards(self) -> list[Card]:
        """Return the cards by implementation, the worst first in each."""
        order = [entry.id for entry in self.entries]
        return sorted(
            map(self._card, self._failures),
            key=lambda card: (order.index(card.cell.implementation), LOOKS.index(card.look)),
        )

    @property
    def cards_by_implementation(self) -> list[tuple[str, list[Card]]]:
        """Return the cards under the names of their implementations."""
        return [
            (self.label(id), list(own))
            for id, own in groupby(self.cards, key=lambda card: card.cell.implementation)
        ]

    def _card(self, group: _Group) -> Card:
        run, cell = group[0]
        requirements = dict.fromkeys(member.requirement for _, member in group)
        environments = dict.fromkeys(self.titles[i] for i, _ in group) if self.several else {}
        verdict = self.runs[run].verdict
        return Card(
            id=self._address(group),
            cell=cell,
            look=self._look(run, cell),
            word=word(cell, strict=verdict.strict),
            implementation=self.label(cell.implementation),
            requirement=self.rows[cell.requirement],
            others=tuple(requirements)[1:],
            environments=tuple(environments),
            blocked=tuple(c.requirement for c in verdict.blocked_by(cell)),
        )

    @cached_property
    def _alike(self) -> dict[tuple[str, ...], _Group]:
        """Return cells that take a line each, one line for all environments with equal cells."""
        alike: dict[tuple[str, ...], _Group] = {}
        for (i, implementation, row), cell in self._cells.items():
            if cell.outcome in _LINES:
                key = (cell.outcome, implementation, row, cell.reason, cell.message)
                alike.setdefault(key, []).append((i, cell))
        return alike

    @cached_property
    def _why(self) -> dict[tuple[int, str, str], str]:
        """Return the address of the card or the line that explains a cell."""
        groups = (*self._failures, *self._alike.values())
        return {(i, *cell.key): self._address(same) for same in groups for i, cell in same}

    def _address(self, same: _Group) -> str:
        run, cell = same[0]
        return f"why-{self.cell_id(run, *cell.key)}"

    def listed(self, outcome: str) -> list[tuple[str, str, Cell, str]]:
        """Return the lines of an outcome: address, implementation, cell, environments."""
        return [
            (
                self._address(same),
                self.label(key[1]),
                same[0][1],
                self.summary.where([i for i, _ in same]),
            )
            for key, same in self._alike.items()
            if key[0] == outcome
        ]

    @property
    def notes(self) -> list[tuple[str, str, list[str]]]:
        """Return the remarks of checks: requirement, text and implementations."""
        found: dict[tuple[str, str], dict[str, None]] = {}
        for cell in self._cells.values():
            for text in cell.notes:
                name = self.label(cell.implementation)
                found.setdefault((cell.requirement, text), {})[name] = None
        return [(id, text, list(names)) for (id, text), names in found.items()]

    @property
    def not_applicable(self) -> list[tuple[str, int]]:
        """Return the reasons why cells do not apply, with their counts."""
        reasons = (c.reason for c in self._cells.values() if c.outcome == Outcome.NOT_APPLICABLE)
        return Counter(reasons).most_common()

    @property
    def differences(self) -> list[tuple[list[str], list[Requirement], list[Mark | None]]]:
        """Return the differing outcomes, the worst first.

        Implementations and requirements with the same outcomes share a line.
        """
        found = []
        for change in changes(self.runs):
            together: dict[tuple[str, ...], list[str]] = {}
            for id, rows in change.rows.items():
                together.setdefault(tuple(rows), []).append(id)
            for own, ids in together.items():
                marks = [self.mark(i, ids[0], own[0]) for i, _ in enumerate(self.runs)]
                names = [self.label(id) for id in ids]
                found.append((names, [self.rows[id] for id in own], marks))
        return found

    @property
    def costs(self) -> list[tuple[str, str, str, list[str]]]:
        """Return implementation, kind, milliseconds in the newest environment, and ratios."""
        found = []
        for id, kind, seconds in costs(self.runs):
            base = seconds[self.summary.reference]
            ratios = [f"{s / base:.2f}" if s is not None and base else "-" for s in seconds]
            shown = f"{1000 * base:.3g}" if base is not None else "-"
            found.append((self.label(id), kind, shown, ratios))
        return found

    cost_kinds = COSTS

    @property
    def settings(self) -> list[tuple[str, list[str]]]:
        """Return the settings side by side: name, value in each environment."""
        keys = dict.fromkeys(key for run in self.runs for key in run.environment)
        return [(key, [_shown(run.environment.get(key)) for run in self.runs]) for key in keys]

    @property
    def declared(self) -> list[tuple[Entry, dict[str, Any]]]:
        """Return each implementation with its library and its declaration."""
        names = ("library", "version", "convention", "kernel_law", "bias_law", "differences")
        found = []
        for entry in self.entries:
            known: dict[str, Any] = {}
            for run in self.runs:
                known = {**run.about(entry.id), **known}
            found.append((entry, {name: known.get(name, "") for name in names}))
        return found


def _shown(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
