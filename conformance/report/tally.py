"""Counts, names and looks of outcomes, the same in every report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conformance.contract.requirement import AREAS, MAY, MUST, SHOULD, Requirement
from conformance.results.cell import Cell
from conformance.results.decision import plural
from conformance.results.failure import is_recommendation
from conformance.results.file import Results
from conformance.results.outcome import Outcome
from conformance.results.verdict import Verdict


@dataclass(frozen=True)
class Look:
    """The look of an outcome: a symbol, a word and a colour.

    Parameters
    ----------
    symbol
        One character.
    word
        The outcome, short enough for a narrow column.
    meaning
        Its meaning, for the legend.
    tone
        The class of its colour on a page.
    style
        Its colour on a terminal.
    """

    symbol: str
    word: str
    meaning: str
    tone: str
    style: str


LOOK: dict[Outcome, Look] = {
    Outcome.FAILED: Look("✗", "failed", "does not hold", "bad", "bold red"),
    Outcome.UNEXPECTED_PASS: Look(
        "!", "unexpected", "holds, and was expected to fail", "bad", "bold red"
    ),
    Outcome.CRASHED: Look("▼", "crashed", "the process died", "lost", "bold magenta"),
    Outcome.TIMED_OUT: Look(
        "◔", "timed out", "took longer than its time limit", "lost", "bold magenta"
    ),
    Outcome.ERROR: Look(
        "E", "error", "the registration, or the suite, is at fault", "lost", "bold magenta"
    ),
    Outcome.NOT_RUN: Look("?", "not run", "no result came back", "lost", "bold magenta"),
    Outcome.BLOCKED: Look(
        "↳",
        "blocked",
        "could not be checked, because a requirement below it does not hold",
        "after",
        "yellow",
    ),
    Outcome.EXPECTED_FAILURE: Look(
        "~", "expected", "does not hold, and was expected to fail", "known", "cyan"
    ),
    Outcome.NOT_OFFERED: Look("○", "not offered", "a MAY that does not hold", "known", "cyan"),
    Outcome.PASSED: Look("✓", "passed", "holds", "ok", "green"),
    Outcome.NOT_APPLICABLE: Look("-", "n/a", "does not apply to this layer", "na", "dim"),
}
"""The look of each outcome, the most severe first."""

RECOMMENDATION = Look(
    "△", "not met", "a recommendation (SHOULD) that does not hold", "after", "yellow"
)

_WORSE = tuple(look for outcome, look in LOOK.items() if outcome.worth_reading)

LOOKS = (*_WORSE, RECOMMENDATION, *(look for look in LOOK.values() if look not in _WORSE))
"""Every look, the most severe first."""

_COUNTED = {
    Outcome.PASSED: ("passed", "passed"),
    Outcome.FAILED: ("failed", "failed"),
    Outcome.UNEXPECTED_PASS: ("unexpected pass", "unexpected passes"),
    Outcome.ERROR: ("error", "errors"),
    Outcome.EXPECTED_FAILURE: ("expected failure", "expected failures"),
}

_SHOWN_SEEDS = 6


def look_of(cell: Cell, *, strict: bool = False) -> Look:
    """Return the look of a cell."""
    return RECOMMENDATION if is_recommendation(cell, strict=strict) else LOOK[cell.outcome]


def worst_look(cells: Iterable[Cell], *, strict: bool = False) -> Look:
    """Return the look of the most severe of several cells."""
    looks = {look_of(cell, strict=strict) for cell in cells}
    return next((look for look in LOOKS if look in looks), LOOK[Outcome.NOT_APPLICABLE])


def denominator(verdict: Verdict, shard: str = "") -> str:
    """Return the number of cells by outcome, including those that did not run."""
    count = Counter(
        "not met" if is_recommendation(cell, strict=verdict.strict) else str(cell.outcome)
        for cell in verdict.own
    )
    shown = [f"{count[Outcome.PASSED]} passed", f"{count[Outcome.FAILED]} failed"]
    shown += [f"{count['not met']} not met"] if count["not met"] else []
    for outcome in LOOK:
        if count[outcome] and outcome not in (Outcome.PASSED, Outcome.FAILED):
            words = _COUNTED.get(outcome, (outcome.replace("-", " "),) * 2)
            shown.append(f"{count[outcome]} {words[count[outcome] != 1]}")
    cells = plural(len(verdict.cells), "cell")
    if len(verdict.own) < len(verdict.cells):
        left = f"shard {shard}" if shard else "the others were deselected"
        cells = f"{len(verdict.own)} of {cells} ({left})"
    return f"{cells}: {', '.join(shown)}"


def not_offered(verdict: Verdict) -> list[str]:
    """Return the MAY requirements that do not hold, a line for each implementation."""
    lines = []
    for entry in verdict.entries:
        ids = [c.requirement for c in verdict.of(entry) if c.outcome == Outcome.NOT_OFFERED]
        if ids:
            whose = f" by {entry.name}" if len(verdict.entries) > 1 else ""
            lines.append(f"not offered{whose}: {', '.join(ids)}")
    return lines


def explored(verdict: Verdict, facts: Mapping[str, Any]) -> list[str]:
    """Return a line on the rounds of a run, and one on why it ended early."""
    rounds = facts.get("rounds") or []
    lines = []
    if rounds:
        examples = sum(record["examples"] for record in rounds)
        seeds = ["fixed" if r["seed"] is None else str(r["seed"]) for r in rounds]
        shown = seeds if len(seeds) <= _SHOWN_SEEDS else [*seeds[: _SHOWN_SEEDS - 1], "..."]
        seeds_are = "seed" if len(rounds) == 1 else "seeds"
        lines.append(
            f"{plural(len(rounds), 'round')}, {plural(examples, 'example')}; {seeds_are} "
            f"{', '.join(shown)}"
        )
    if verdict.stopped:
        whole = " in the first round" if len(rounds) == 1 else ""
        lines.append(f"the run was stopped{whole}: {verdict.stopped}")
    return lines


def known_versions(results: Results) -> str:
    """Return the versions that decide the results of a run; empty if no cell imported JAX."""
    shown = ("jax", "flax", "python", "device")
    return ", ".join(f"{k} {results.environment[k]}" for k in shown if results.environment.get(k))


def versions(results: Results) -> str:
    """Return the versions that decide the results of a run, in a line."""
    return known_versions(results) or "environment unknown: no cell imported JAX"


def label(results: Results, id: str) -> str:
    """Return an implementation's name, with the version of its library if known."""
    return f"{results.verdict.names[id]} {results.about(id).get('version', '')}".strip()


_WEIGHT = {MUST: 0, SHOULD: 1, MAY: 2}


def by_area(rows: Sequence[Requirement]) -> dict[str, list[Requirement]]:
    """Return the requirements by area in the contract's order, MUST before SHOULD in each."""
    areas = [*AREAS, *(row.area for row in rows)]
    found = {
        area: sorted((row for row in rows if row.area == area), key=lambda row: _WEIGHT[row.level])
        for area in dict.fromkeys(areas)
    }
    return {area: members for area, members in found.items() if members}
