"""Finds how environments differ in outcomes, bits, warnings and costs.

The newest environment is the reference, because users ask what an upgrade to it changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from packaging.version import InvalidVersion, Version

from conformance.report.bits import TOLERATED_ULP, beyond_tolerance, fingerprint
from conformance.report.tally import LOOK, versions
from conformance.results.cell import Cell
from conformance.results.file import Results
from conformance.results.outcome import Outcome

UNCOMPARED = "?"
"""The letter of a kernel that cannot be compared with another one."""

COSTS = {
    "compile": "first construction and call, in processor time",
    "construct": "construction at a known size",
    "call": "call at a known size",
}


def titles(runs: Sequence[Results]) -> tuple[str, ...]:
    """Return the names of the environments: the properties in which they differ."""
    if len(runs) == 1:
        return (versions(runs[0]),)
    modes = [str(run.environment.get("mode", "")) for run in runs]
    if all(modes) and len(set(modes)) == len(runs):
        return tuple(modes)
    shown = ("mode", "flax", "jax", "python", "device", "matmul_precision", "x64", "platform")
    every = dict.fromkeys([*shown, *(key for run in runs for key in run.environment)])
    differing = [
        key
        for key in every
        if key not in ("seed", "jaxlib", "hypothesis", "suite")
        and len({repr(run.environment.get(key)) for run in runs}) > 1
    ][:3]
    return tuple(
        ", ".join(f"{key} {run.environment.get(key, 'unknown')}" for key in differing)
        or f"environment {i + 1}"
        for i, run in enumerate(runs)
    )


def newest(runs: Sequence[Results]) -> int:
    """Return the index of the run with the newest JAX, then Flax and Python; the first if equal."""
    keys = [age(run) for run in runs]
    return keys.index(max(keys))


def in_order(runs: Sequence[Results]) -> bool:
    """Return whether every run has newer versions than the one before it."""
    keys = [age(run) for run in runs]
    return all(old < new for old, new in pairwise(keys))


def age(run: Results) -> tuple[Version, ...]:
    """Return the key by which environments are ordered: versions of JAX, Flax and Python."""
    return tuple(_version(run.environment.get(name)) for name in ("jax", "flax", "python"))


def _version(text: object) -> Version:
    try:
        return Version(str(text))
    except InvalidVersion:
        return Version("0")


@dataclass(frozen=True)
class Change:
    """Requirements whose outcomes differ between environments, all in the same way.

    Parameters
    ----------
    places
        The environments by outcome, the most common outcome last; the outcome is empty if the run
        does not have the cell.
    rows
        The ids of the requirements by the id of the implementation.
    """

    places: dict[str, tuple[int, ...]]
    rows: dict[str, list[str]]


def changes(runs: Sequence[Results]) -> list[Change]:
    """Return the requirements whose outcomes differ, the worst outcomes first."""
    outcomes: dict[tuple[str, str], list[str | None]] = {}
    have = [{entry.id for entry in run.verdict.entries} for run in runs]
    for i, run in enumerate(runs):
        for cell in run.verdict.cells:
            # None if the run does not have the implementation, which is shown once elsewhere.
            nothing = ["" if cell.implementation in own else None for own in have]
            outcomes.setdefault(cell.key, list(nothing))[i] = str(cell.outcome)
    alike: dict[tuple[str | None, ...], dict[str, list[str]]] = {}
    for (implementation, row), ends in outcomes.items():
        if len(set(ends) - {None}) > 1:
            alike.setdefault(tuple(ends), {}).setdefault(implementation, []).append(row)
    found = [Change(_places(ends), rows) for ends, rows in alike.items()]
    return sorted(found, key=lambda change: min(_weight(end) for end in change.places))


def _places(ends: Sequence[str | None]) -> dict[str, tuple[int, ...]]:
    found = {
        end: tuple(i for i, e in enumerate(ends) if e == end)
        for end in dict.fromkeys(ends)
        if end is not None
    }
    return dict(sorted(found.items(), key=lambda item: len(item[1])))


def _weight(end: str) -> int:
    """Return a sort key: the worst outcome first, a missing cell last."""
    return [*LOOK].index(Outcome(end)) if end else len(LOOK)


def partly(runs: Sequence[Results]) -> dict[str, tuple[int, ...]]:
    """Return the implementations that some environments lack, each with those environments."""
    ids = dict.fromkeys(entry.id for run in runs for entry in run.verdict.entries)
    without = {
        id: tuple(i for i, run in enumerate(runs) if all(e.id != id for e in run.verdict.entries))
        for id in ids
    }
    return {id: places for id, places in without.items() if places}


@dataclass(frozen=True)
class Kernels:
    """The kernels of one implementation for fixed seeds, by environment.

    Parameters
    ----------
    implementation
        Its id.
    kinds
        For each environment a letter, equal for kernels that agree within 2 ulp, ``A`` in the
        newest; ``?`` if the newest has no kernel to compare with, empty if nothing is recorded.
    exact
        For each environment whether its bits equal those of the first one with its letter.
    """

    implementation: str
    kinds: tuple[str, ...]
    exact: tuple[bool, ...]

    @property
    def change(self) -> bool:
        """Return whether anything changed at all."""
        return len({kind for kind in self.kinds if kind}) > 1 or not all(self.exact)


def kernels(runs: Sequence[Results]) -> list[Kernels]:
    """Return for each implementation the environments with equal kernels, the newest first."""
    cells: dict[str, dict[int, Cell]] = {}
    for i, run in enumerate(runs):
        for cell in run.verdict.cells:
            if fingerprint(cell):
                cells.setdefault(cell.implementation, {})[i] = cell
    return [_kernels(id, own, len(runs), newest(runs)) for id, own in cells.items()]


def _kernels(id: str, cells: dict[int, Cell], count: int, first: int) -> Kernels:
    kinds, exact = [""] * count, [True] * count
    if first not in cells:
        for i in cells:
            kinds[i] = UNCOMPARED
        return Kernels(id, tuple(kinds), tuple(exact))
    models: list[tuple[str, Cell]] = []
    for i in sorted(cells, key=lambda i: (i != first, -i)):
        cell = cells[i]
        kind, model = next(
            ((kind, model) for kind, model in models if _alike(model, cell)), ("", cell)
        )
        if not kind:
            kind = chr(ord("A") + len(models))
            models.append((kind, cell))
        kinds[i], exact[i] = kind, fingerprint(model) == fingerprint(cell)
    return Kernels(id, tuple(kinds), tuple(exact))


def _alike(a: Cell, b: Cell) -> bool:
    return fingerprint(a) == fingerprint(b) or beyond_tolerance(a, b) == []


def kernels_in_words(found: Kernels, place: int) -> str:
    """Return how the kernels of an environment compare, in a word or two."""
    kind = found.kinds[place]
    if not kind:
        return "not recorded"
    if kind == UNCOMPARED:
        return "not comparable"
    return kind if found.exact[place] else f"{kind}, within {TOLERATED_ULP} ulp"


@dataclass(frozen=True)
class Warned:
    """A warning that construction or call raised somewhere.

    Parameters
    ----------
    text
        Category, message and place.
    implementations
        The ids of the implementations that raised it.
    places
        The environments in which it was raised.
    """

    text: str
    implementations: tuple[str, ...]
    places: tuple[int, ...]


def warned(runs: Sequence[Results]) -> list[Warned]:
    """Return the warnings of construction and call, with their implementations and environments."""
    by_text: dict[str, dict[int, set[str]]] = {}
    for i, run in enumerate(runs):
        for entry in run.verdict.entries:
            for text in run.about(entry.id).get("warnings", ()):
                by_text.setdefault(text, {}).setdefault(i, set()).add(entry.id)
    return [
        Warned(text, tuple(sorted(set().union(*who.values()))), tuple(who))
        for text, who in by_text.items()
    ]


def costs(runs: Sequence[Results]) -> list[tuple[str, str, list[float | None]]]:
    """Return the seconds of each kind of cost, by implementation and environment, if known."""
    ids = dict.fromkeys(entry.id for run in runs for entry in run.verdict.entries)
    lines: list[tuple[str, str, list[float | None]]] = []
    for id in ids:
        known = [run.about(id).get("cost", {}) for run in runs]
        for kind in COSTS:
            seconds = [cost.get(kind) for cost in known]
            if any(value is not None for value in seconds):
                lines.append((id, kind, seconds))
    return lines
