"""How outcomes are counted and named, the same in every report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conformance.contract.requirement import AREAS, MAY, MUST, SHOULD, Level, Requirement
from conformance.results.cell import Cell, Outcome
from conformance.results.file import Results
from conformance.results.verdict import INCOMPLETE, NONCONFORMING, OK

__all__ = [
    "LOOK",
    "WORTH_READING",
    "Look",
    "Tally",
    "by_area",
    "denominator",
    "explored",
    "judgement",
    "label",
    "smallest",
    "tally",
    "versions",
]


@dataclass(frozen=True)
class Look:
    """How an outcome is shown: never by its colour alone.

    Parameters
    ----------
    symbol
        One character.
    word
        The outcome in as few letters as a narrow column has.
    meaning
        What it says, for the legend.
    """

    symbol: str
    word: str
    meaning: str


# The worst first.
LOOK: dict[Outcome, Look] = {
    Outcome.FAILED: Look("✗", "failed", "does not hold"),
    Outcome.UNEXPECTED_PASS: Look("!", "unexpected", "passes, and was expected to fail"),
    Outcome.CRASHED: Look("▼", "crashed", "the process died"),
    Outcome.TIMED_OUT: Look("◔", "timed out", "took longer than its time limit"),
    Outcome.ERROR: Look("E", "error", "the registration, or the suite, is at fault"),
    Outcome.NOT_RUN: Look("?", "not run", "no result of it came back"),
    Outcome.BLOCKED: Look("↳", "blocked", "follows from another failure"),
    Outcome.EXPECTED_FAILURE: Look("~", "known", "does not hold, as is known or permitted"),
    Outcome.PASSED: Look("✓", "passed", "holds"),
    Outcome.NOT_APPLICABLE: Look("-", "n/a", "cannot be asked of this layer"),
}

_SHOWN_SEEDS = 6

# What a reader has to look at, one by one; what is blocked follows from one of these.
WORTH_READING = (
    Outcome.FAILED,
    Outcome.UNEXPECTED_PASS,
    Outcome.CRASHED,
    Outcome.TIMED_OUT,
    Outcome.ERROR,
    Outcome.NOT_RUN,
)


@dataclass(frozen=True)
class Tally:
    """How many of the requirements that apply hold; never a percentage, which would round.

    Parameters
    ----------
    held
        Cells that passed; an expected failure is no pass.
    total
        Cells that apply, whether they ran or not.
    """

    held: int
    total: int

    def __str__(self) -> str:
        return f"{self.held}/{self.total}"

    @property
    def full(self) -> bool:
        """Whether all hold, and there is at least one."""
        return 0 < self.held == self.total


def tally(cells: Iterable[Cell], level: Level | None = None) -> Tally:
    """Count the cells of a level, or all of them."""
    counted = [
        cell
        for cell in cells
        if cell.outcome != Outcome.NOT_APPLICABLE and level in (None, cell.level)
    ]
    return Tally(sum(cell.outcome == Outcome.PASSED for cell in counted), len(counted))


def judgement(results: Results) -> str:
    """The verdict in words."""
    words = {OK: "conforms", NONCONFORMING: "does not conform", INCOMPLETE: "incomplete"}
    return words.get(results.verdict.exit_code, "a registration is wrong")


def denominator(cells: Sequence[Cell]) -> str:
    """How many cells there are and what became of them; what did not run is shown."""
    count = Counter(cell.outcome for cell in cells)
    shown = [
        f"{count[outcome]} {outcome}"
        for outcome in (Outcome.PASSED, *LOOK)
        if count[outcome] or outcome in (Outcome.PASSED, Outcome.FAILED)
    ]
    return f"{len(cells)} cells: {', '.join(dict.fromkeys(shown))}"


def explored(facts: Mapping[str, Any]) -> list[str]:
    """What a run that went on in rounds has explored, and what ended one early: a line for each."""
    rounds = facts.get("rounds") or []
    lines = []
    if rounds:
        examples = sum(record["examples"] for record in rounds)
        seeds = ["fixed" if r["seed"] is None else str(r["seed"]) for r in rounds]
        shown = seeds if len(seeds) <= _SHOWN_SEEDS else [*seeds[: _SHOWN_SEEDS - 1], "..."]
        plural = "s" if len(rounds) > 1 else ""
        lines.append(
            f"{len(rounds)} round{plural}, {examples} examples; seed{plural} {', '.join(shown)}"
        )
    if facts.get("stopped"):
        whole = " in the first round" if len(rounds) == 1 else ""
        lines.append(f"the run was stopped{whole}: {facts['stopped']}")
    return lines


def versions(results: Results) -> str:
    """The versions that decide what a run finds, in a line."""
    shown = ("jax", "flax", "python", "device")
    known = [f"{k} {results.environment[k]}" for k in shown if results.environment.get(k)]
    return ", ".join(known) or "environment unknown: no cell got as far as importing JAX"


def label(results: Results, id: str) -> str:
    """An implementation's name, with the version of its library where that is known."""
    name = next(entry.name for entry in results.verdict.entries if entry.id == id)
    version = results.facts["versions"].get(id, {}).get("version", "")
    return f"{name} {version}".strip()


def smallest(cell: Cell) -> str:
    """The smallest case in a line, and what of it may be anything."""
    case = cell.case or {}
    shown = ", ".join(f"{name}={value}" for name, value in case.items())
    return f"{shown}; any {' and any '.join(cell.free)} will do" if cell.free else shown


_WEIGHT = {MUST: 0, SHOULD: 1, MAY: 2}


def by_area(rows: Sequence[Requirement]) -> dict[str, list[Requirement]]:
    """The requirements by area, the areas in the contract's order, in each MUST before SHOULD."""
    areas = [*AREAS, *(row.area for row in rows)]
    found = {
        area: sorted((row for row in rows if row.area == area), key=lambda row: _WEIGHT[row.level])
        for area in dict.fromkeys(areas)
    }
    return {area: members for area, members in found.items() if members}
