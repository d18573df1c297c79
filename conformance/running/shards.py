"""One run in several parts, on as many machines: which cells each of them checks.

The parts depend on the cells that are asked for and on the seconds that they are expected to
take, and on nothing else of the machine: whoever asks the same divides the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.contract.requirement import Requirement
from conformance.layers.registry import Entry

__all__ = ["Shard", "expected_seconds"]

Key = tuple[str, str]
"""A cell: the implementation's id, and the requirement's."""

# What the first cell of an implementation in a process pays for all of its others.
_BEGINNING = 2.0


@dataclass(frozen=True)
class Shard:
    """One part of a run.

    Parameters
    ----------
    number, count
        It is number ``number`` of ``count``, the first of which is 1.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``2/5``, for options.

        Raises
        ------
        ArgumentTypeError
            If it is not of that form, or there is no such part.
        """
        number, _, count = text.partition("/")
        if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise argparse.ArgumentTypeError(f"a shard such as 2/5, the second of five, found {text!r}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def cells(
        self,
        entries: Sequence[Entry],
        rows: Sequence[Requirement],
        seconds: Mapping[Key, float],
    ) -> frozenset[Key]:
        """The cells of this part; all parts together have each cell once.

        The longest cells are dealt first, each to the part that has the least to do; an
        implementation that a part has begun is cheaper there than elsewhere.
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
    """The seconds that each cell took in the run of a results file; none without a file.

    Raises
    ------
    ResultsError
        If the file cannot be used.
    """
    if path is None:
        return {}
    from conformance.results.file import read_all

    cells = [cell for run in read_all(path) for cell in run.verdict.cells]
    return {(c.implementation, c.requirement): c.seconds for c in cells if c.seconds > 0}
