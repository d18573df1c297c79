"""Decides the order of the cells, the workers of a run, and its shards.

The shards depend only on the cells that are asked for and their expected seconds, so the same
request gives the same shards on every machine.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from conformance.contract import catalogue
from conformance.contract.requirement import Requirement
from conformance.layers.registry import Entry
from conformance.results.prerequisites import prerequisites

T = TypeVar("T")

# A worker spends two seconds on imports and programs that others load as well: the time of so many
# cells of one layer with a warm cache.
_PAYS = 40

Key = tuple[str, str]
"""The ids of a cell's implementation and requirement."""

# The seconds that the first cell of an implementation in a process pays for all others.
_BEGINNING = 2.0


def in_order(rows: Sequence[Requirement]) -> tuple[Requirement, ...]:
    """Return the requirements in the order of checking, each after those that it rests on."""
    known = prerequisites(tuple(rows))
    wanted = catalogue.in_order(rows)
    ids = dict.fromkeys(id for row in wanted for id in (*known.below[row.id], row.id))
    return tuple(known.rows[id] for id in ids)


_FIRST = 12
"""So many requirements come first, because most others rest on them."""

_OF_NEW_LAYERS = frozenset(
    {"construction", "initialization", "seeding", "state", "models", "serialization", "exercise"}
)
"""The areas that share new kernels and the other process; the others share compiled programs."""


def dealt(layers: Sequence[Sequence[T]], workers: int, area: Callable[[T], str]) -> list[T]:
    """Return the cells in the order in which pytest-xdist should give them to the workers.

    pytest-xdist cuts the cells into parts of equal length. Whole layers stay together, because they
    share compiled programs. Of a layer that does not fit, each worker has some of the first
    requirements, on which the others rest, and then areas that share what they make.

    ``layers`` has the cells of each implementation, in their order; ``area`` returns the area of a
    cell.
    """
    total = sum(map(len, layers))
    # As pytest-xdist divides them.
    room = [(total + i) // workers for i in range(workers)]
    parts: list[list[T]] = [[] for _ in room]
    divided: list[Sequence[T]] = []
    for layer in layers:
        fits = [i for i, part in enumerate(parts) if len(layer) <= room[i] - len(part)]
        if fits:
            parts[fits[0]].extend(layer)
        else:
            divided.append(layer)
    for layer in divided:
        left, shares = len(layer), []
        for part, size in zip(parts, room, strict=True):
            shares.append(min(left, size - len(part)))
            left -= shares[-1]
        for part, places in zip(parts, _divided([*map(area, layer)], shares), strict=True):
            part.extend(layer[place] for place in places)
    return [cell for part in parts for cell in part]


def _divided(areas: Sequence[str], shares: Sequence[int]) -> list[list[int]]:
    """Return the places of the cells of a layer that each worker gets, as many as its share."""
    found: list[list[int]] = [[] for _ in shares]
    turn = itertools.cycle(range(len(shares)))
    first, rest = range(len(areas))[:_FIRST], range(len(areas))[_FIRST:]
    for place in first:
        found[next(i for i in turn if len(found[i]) < shares[i])].append(place)
    for place in sorted(rest, key=lambda place: areas[place] not in _OF_NEW_LAYERS):
        found[next(i for i, own in enumerate(found) if len(own) < shares[i])].append(place)
    return [*map(sorted, found)]


def workers_that_pay(cells: int, most: int) -> int:
    """Return how many workers pay off for so many cells: each takes seconds to start."""
    return max(1, min(most, cells // _PAYS))


@dataclass(frozen=True)
class Shard:
    """One part of a run.

    Parameters
    ----------
    number, count
        It is number ``number`` of ``count``, counted from 1.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse an option such as ``2/5``.

        Raises
        ------
        ArgumentTypeError
            If it has another form, or the number is too large.
        """
        number, _, count = text.partition("/")
        if re.fullmatch(r"[0-9]{1,4}/[0-9]{1,4}", text) and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise argparse.ArgumentTypeError(
            f"a shard such as 2/5, the second of five and of at most 9999, found {text!r}"
        )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def cells(
        self, entries: Sequence[Entry], rows: Sequence[Requirement], seconds: Mapping[Key, float]
    ) -> frozenset[Key]:
        """Return the cells of this shard; all shards together have each cell once.

        The longest cells are dealt first, each to the shard with the least to do; an implementation
        is cheaper in a shard that already has cells of it.
        """
        usual = {row.id: row.seconds for row in rows}
        costs = {(e.id, id): seconds.get((e.id, id), usual[id]) for e in entries for id in usual}
        loads = [0.0] * self.count
        parts: list[set[Key]] = [set() for _ in loads]
        begun: list[set[str]] = [set() for _ in loads]
        for key, cost in sorted(costs.items(), key=lambda item: (-item[1], item[0])):
            totals = [
                load + cost + (0.0 if key[0] in known else _BEGINNING)
                for load, known in zip(loads, begun, strict=True)
            ]
            chosen = totals.index(min(totals))
            loads[chosen] = totals[chosen]
            parts[chosen].add(key)
            begun[chosen].add(key[0])
        return frozenset(parts[self.number - 1])


def expected_seconds(path: Path | str | None) -> dict[Key, float]:
    """Return the seconds of each cell in a results file; empty without a file.

    Raises
    ------
    ResultsError
        If the file cannot be used.
    """
    if path is None:
        return {}
    from conformance.results.file import read_all

    cells = [cell for run in read_all(path) for cell in run.verdict.cells]
    return {c.key: c.seconds for c in cells if c.seconds > 0}
