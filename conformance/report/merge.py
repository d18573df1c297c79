"""Merges results: shards of one environment become one run; environments stay separate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from conformance.contract.requirement import MAY, Requirement
from conformance.errors import ResultsError, safe_text
from conformance.layers.registry import Entry
from conformance.results.cell import Cell
from conformance.results.file import Results
from conformance.results.outcome import Outcome
from conformance.results.verdict import account

_SHOWN = 5
"""The number of missing shards to name; others are counted."""

# Shards may have different seeds; any other difference makes another environment.
_NOT_THE_ENVIRONMENT = ("seed", "profile")


def merge(found: Sequence[Results]) -> tuple[Results, ...]:
    """Return one run for each environment, in the order of their first results.

    A cell that one shard decided and another did not run counts as decided. A cell that no shard
    has is *not run*, because its shard is missing, and the run is incomplete.

    Raises
    ------
    ResultsError
        If two results of one environment contradict each other; the message says where.
    """
    by_environment: dict[tuple[tuple[str, str], ...], list[Results]] = {}
    for results in found:
        by_environment.setdefault(_environment(results), []).append(results)
    return tuple(_joined(shards) for shards in by_environment.values())


def _environment(results: Results) -> tuple[tuple[str, str], ...]:
    items = results.environment.items()
    return tuple(sorted((k, repr(v)) for k, v in items if k not in _NOT_THE_ENVIRONMENT))


def _joined(shards: Sequence[Results]) -> Results:
    if len(shards) == 1 and not shards[0].facts.get("shard"):
        return shards[0]
    entries: dict[str, tuple[Entry, Results]] = {}
    rows: dict[str, tuple[Requirement, Results]] = {}
    cells: dict[tuple[str, str], tuple[Cell, Results]] = {}
    versions: dict[str, dict[str, str]] = {}
    for shard in shards:
        _same("the profile", shards[0].facts["profile"], shards[0], shard.facts["profile"], shard)
        for entry in shard.verdict.entries:
            first, source = entries.setdefault(entry.id, (entry, shard))
            _same(f"the place of {entry.id}", first.spec, source, entry.spec, shard)
            _take_version(versions, entry.id, source, shard)
        for row in shard.verdict.rows:
            known, source = rows.setdefault(row.id, (row, shard))
            _same(f"the level of {row.id}", str(known.level), source, str(row.level), shard)
            _same(f"the text of {row.id}", known.statement, source, row.statement, shard)
        for cell in shard.verdict.cells:
            earlier = cells.get(cell.key)
            if earlier is None or earlier[0].outcome == Outcome.NOT_RUN:
                cells[cell.key] = cell, shard
            elif cell.outcome != Outcome.NOT_RUN:
                what = f"{cell.requirement} on {cell.implementation}"
                _same(what, _decided(earlier[0]), earlier[1], _decided(cell), shard)
    verdict = account(
        [entry for entry, _ in entries.values()],
        [row for row, _ in rows.values()],
        [_alone(cell, _missing(shards)) for cell, _ in cells.values()],
        strict=any(shard.verdict.strict for shard in shards),
        stopped=next(filter(None, (shard.verdict.stopped for shard in shards)), ""),
    )
    facts = {
        "environment": _environment_of(shards),
        "profile": shards[0].facts["profile"],
        "seconds": round(sum(shard.facts["seconds"] for shard in shards), 3),
        "versions": versions,
        "rounds": [record for shard in shards for record in shard.facts.get("rounds", ())],
    }
    return Results(verdict, facts, ", ".join(shard.source for shard in shards))


def _alone(cell: Cell, missing: str) -> Cell:
    """Return the cell as it was before blame; the account of all shards decides that again."""
    if cell.elsewhere:
        return replace(cell, elsewhere=False, reason=missing)
    if cell.outcome != Outcome.BLOCKED:
        return cell
    failed = Outcome.NOT_OFFERED if cell.level == MAY else Outcome.FAILED
    return replace(
        cell, outcome=failed if cell.message else Outcome.ERROR, blocked_by="", reason=""
    )


def _missing(shards: Sequence[Results]) -> str:
    """Return which shards are missing, in words."""
    given = [str(shard.facts.get("shard") or "") for shard in shards]
    counts = {text.partition("/")[2] for text in given if text}
    count = int(counts.pop()) if len(counts) == 1 else 0
    absent = [f"{i}/{count}" for i in range(1, count + 1) if f"{i}/{count}" not in given]
    if not absent:
        return "none of the merged shards has it: they do not divide the same run"
    more = f" or one of {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
    return f"it belongs to a missing shard: {' or '.join(absent[:_SHOWN])}{more}"


def _decided(cell: Cell) -> str:
    # Which of two requirements failed and which is blocked depends on the rest of the shard.
    return Outcome.FAILED if cell.outcome == Outcome.BLOCKED else cell.outcome


def _take_version(
    versions: dict[str, dict[str, str]], id: str, source: Results, shard: Results
) -> None:
    """Take a version from the other shard if the implementation was never loaded in this one."""
    found = shard.about(id)
    known = versions.get(id, {})
    if known.get("version") and found.get("version"):
        for key in ("library", "version"):
            _same(f"the {key} of {id}", known.get(key), source, found.get(key), shard)
    versions[id] = max(known, found, key=len) if bool(known) == bool(found) else known or found


def _environment_of(shards: Sequence[Results]) -> dict[str, Any]:
    environment = dict(shards[0].environment)
    if any(shard.environment.get("seed") != environment.get("seed") for shard in shards):
        environment["seed"] = None
    return environment


def _same(what: str, first: Any, source: Results, second: Any, other: Results) -> None:
    if first != second:
        raise ResultsError(
            f"{safe_text(what)} differs: {_short(first)} in {source.source}, {_short(second)} in "
            f"{other.source}; nothing was merged"
        )


def _short(value: Any) -> str:
    return safe_text(value if isinstance(value, str) else repr(value), 100)
