"""The results file: the JSON document from which every report is made."""

from __future__ import annotations

import json
import math
import os
import secrets
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from conformance.contract.requirement import MUST, Level, Need, Requirement
from conformance.errors import ResultsError, printable_values, safe_text
from conformance.layers.registry import Entry
from conformance.results.cell import Cell
from conformance.results.decision import OK
from conformance.results.schema import fault
from conformance.results.verdict import Verdict

FORMAT = 2
# A run writes neither longer numbers nor deeper values.
_MOST_DIGITS = 20
_DEEPEST = 40

FOOTER = "dense-conformance results end here"


@dataclass(frozen=True)
class Results:
    """The content of a results file: the verdict, the cells and the environment.

    Parameters
    ----------
    verdict
        The implementations, the requirements, and a cell for each pair of them.
    facts
        ``environment``, ``profile``, ``seconds``, ``versions`` by implementation id, ``rounds`` of
        a run in rounds, and ``shard`` of a part of a run.
    source
        The path that it was read from.
    """

    verdict: Verdict
    facts: dict[str, Any]
    source: str = ""

    @property
    def environment(self) -> dict[str, Any]:
        """Return versions, devices and settings of the run."""
        found: dict[str, Any] = self.facts["environment"]
        return found

    def about(self, id: str) -> dict[str, Any]:
        """Return what is known of an implementation: library, version, laws, warnings, costs."""
        found: dict[str, Any] = self.facts["versions"].get(id, {})
        return found


def document(results: Results) -> dict[str, Any]:
    """Return the document of a run, as plain JSON values."""
    verdict, facts = results.verdict, results.facts
    return {
        "format": FORMAT,
        "environment": facts["environment"],
        "profile": facts["profile"],
        "seconds": facts["seconds"],
        "implementations": [
            {
                "id": entry.id,
                "spec": entry.spec,
                "name": entry.name,
                **facts["versions"].get(entry.id, {"library": entry.distribution, "version": ""}),
            }
            for entry in verdict.entries
        ],
        "requirements": [_requirement_record(row) for row in verdict.rows],
        "cells": [cell.as_dict() for cell in verdict.cells],
        **{key: facts[key] for key in ("rounds", "shard") if facts.get(key)},
        **({"stopped": verdict.stopped} if verdict.stopped else {}),
        **({"strict": True} if verdict.strict else {}),
        "complete": verdict.complete,
        "exit_code": verdict.exit_code,
        "footer": FOOTER,
    }


# The fields of a requirement that blame needs when shards are merged.
_FLAGS = ("declared", "foundation", "ground", "every_seed")


def _requirement_record(row: Requirement) -> dict[str, Any]:
    return {
        "id": row.id,
        "level": str(row.level),
        "needs": [str(need) for need in row.needs],
        "statement": row.statement,
        **({"rationale": row.rationale} if row.rationale else {}),
        **{flag: True for flag in _FLAGS if getattr(row, flag)},
        "rests_on": list(row.rests_on),
    }


def collection(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one document of runs in several environments, or the document of a single run."""
    if len(documents) == 1:
        return documents[0]
    return {"format": FORMAT, "runs": list(documents), "footer": FOOTER}


def text_of(found: dict[str, Any]) -> str:
    """Return a document as text, which is the same for the same document."""
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def text_of_runs(runs: Iterable[Results]) -> str:
    """Return the text of a results file with these runs."""
    return text_of(collection([document(run) for run in runs]))


def save(path: Path, text: str) -> None:
    """Write a file atomically.

    Links are followed. A device or a pipe is written to, never replaced. The umask sets the
    permissions of a new file.

    Raises
    ------
    OSError
        If that place cannot be written to.
    """
    place = Path(os.path.realpath(path))
    data = text.encode("utf-8")
    if place.exists() and not place.is_file():
        with place.open("wb") as stream:
            stream.write(data)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    new = place.parent / f".{place.name}.{os.getpid()}.{secrets.token_hex(4)}"
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        if place.is_file():
            os.chmod(new, stat.S_IMODE(place.stat().st_mode))
        os.replace(new, place)
    except BaseException:
        os.unlink(new)
        raise


def read(path: Path | str) -> Results:
    """Return the results of one run.

    Raises
    ------
    ResultsError
        If the file cannot be read, is truncated, of another format or inconsistent, or has the runs
        of several environments.
    """
    found = read_all(path)
    if len(found) > 1:
        raise ResultsError(
            f"{path}: holds the runs of {len(found)} environments where one run is expected"
        )
    return found[0]


def read_all(path: Path | str) -> tuple[Results, ...]:
    """Return the results in a file: one run, or one for each environment.

    Raises
    ------
    ResultsError
        If the file cannot be read, is truncated, of another format or inconsistent.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path}: is not JSON: byte {error.start} is not UTF-8") from None
    return parse(text, str(path))


def parse(text: str, source: str) -> tuple[Results, ...]:
    """Return the results in the text of a file.

    Raises
    ------
    ResultsError
        As in :func:`read_all`; the message begins with ``source``.
    """

    def refuse(why: str) -> NoReturn:
        raise ResultsError(f"{source}: {why}")

    found = _loaded(text, refuse)
    if not isinstance(found, dict) or "format" not in found:
        refuse("is JSON, but not a results file of dense-conformance (it has no 'format')")
    if found["format"] != FORMAT or isinstance(found["format"], bool):
        refuse(
            f"is of format {ascii(found['format'])[:40]}; this version reads format {FORMAT}: "
            "run it again, or read it with the version that wrote it"
        )
    runs = "runs" in found
    wrong = fault(found, "collection" if runs else "run")
    if wrong:
        refuse(f"does not match the schema of format {FORMAT}: {wrong}")
    found = printable_values(found)
    return tuple(_results(run, source, refuse) for run in (found["runs"] if runs else [found]))


Refusal = Callable[[str], NoReturn]


def _loaded(text: str, refuse: Refusal) -> Any:
    if not text.strip():
        refuse("is empty")
    truncated = f"is truncated: it ends after {len(text.encode())} bytes, without its footer"

    def finite(digits: str) -> float:
        number = float(digits)
        if math.isinf(number) or math.isnan(number):
            raise ValueError(f"{digits[:20]} is not a finite number")
        return number

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]
        if twice:
            raise ValueError(f"the key {twice[0]!a} comes twice in one object")
        return dict(pairs)

    def bounded(digits: str) -> int:
        if len(digits) > _MOST_DIGITS:
            raise ValueError(f"an integer of {len(digits)} digits is out of range")
        return int(digits)

    try:
        found = json.loads(
            text,
            parse_int=bounded,
            parse_float=finite,
            parse_constant=finite,
            object_pairs_hook=unique,
        )
        _require_shallow(found)
        # An escaped half of a character is valid JSON, but cannot be written to a file.
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        if _cut(text, error):
            refuse(truncated)
        why = "its values are nested too deeply" if isinstance(error, RecursionError) else error
        refuse(f"is not JSON: {safe_text(why, 200)}")
    # The newline is the last byte of the footer.
    if isinstance(found, dict) and found.get("footer") == FOOTER and not text.endswith("\n"):
        if f"{text}\n" == text_of(found):
            refuse(truncated)
        refuse("was changed by another program: its last newline is missing")
    return found


def _require_shallow(value: Any) -> None:
    """Require values to be nested no deeper than in any results file."""
    level, depth = [value] if isinstance(value, dict | list) else [], 0
    while level:
        if depth > _DEEPEST:
            raise RecursionError
        depth += 1
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [item for values in inner for item in values if isinstance(item, dict | list)]


def _cut(text: str, error: Exception) -> bool:
    """Return whether invalid JSON is the beginning of valid JSON."""
    ends = text.rstrip().endswith("}") and FOOTER in text[-80:]
    last = isinstance(error, json.JSONDecodeError) and error.pos >= len(text.rstrip())
    return text.lstrip().startswith("{") and (last or not ends)


def _results(run: dict[str, Any], source: str, refuse: Refusal) -> Results:
    records = run["implementations"]
    entries = tuple(Entry(id=r["id"], name=r["name"], spec=r["spec"]) for r in records)
    rows = tuple(_requirement(record) for record in run["requirements"])
    _require_consistent(run, entries, rows, refuse)
    cells = tuple(Cell.from_dict(record) for record in run["cells"])
    _require_drawable(cells, refuse)
    verdict = Verdict(entries, rows, cells, run.get("strict", False), run.get("stopped", ""))
    if run["complete"] != verdict.complete:
        refuse(
            f"is inconsistent: it says complete: {str(run['complete']).lower()}, and its cells "
            f"say {str(verdict.complete).lower()}"
        )
    if run["exit_code"] == OK and verdict.exit_code != OK:
        refuse("is inconsistent: it says that all conforms, and its cells do not")
    own = {"id", "spec", "name"}
    facts = {
        "environment": run["environment"],
        "profile": run["profile"],
        "seconds": run["seconds"],
        "versions": {r["id"]: {k: v for k, v in r.items() if k not in own} for r in records},
        "rounds": run.get("rounds", []),
        "shard": run.get("shard", ""),
    }
    return Results(verdict, facts, source)


def _requirement(record: dict[str, Any]) -> Requirement:
    return Requirement(
        id=record["id"],
        level=Level(record["level"]),
        needs=tuple(Need(need) for need in record["needs"]),
        statement=record["statement"],
        rationale=record.get("rationale", ""),
        rests_on=tuple(record["rests_on"]),
        test="",
        **{flag: record.get(flag, False) for flag in _FLAGS},
    )


def _require_consistent(
    run: dict[str, Any], entries: Sequence[Entry], rows: Sequence[Requirement], refuse: Refusal
) -> None:
    levels = {row.id: str(row.level) for row in rows}
    ids = {entry.id for entry in entries}
    _require_unique((entry.id for entry in entries), "implementation", refuse)
    _require_unique((row.id for row in rows), "requirement", refuse)
    for cell in run["cells"]:
        place = f"{cell['requirement']!a} on {cell['implementation']!a}"
        if cell["implementation"] not in ids:
            refuse(f"is inconsistent: the cell of {place} is of an implementation not listed")
        if cell["requirement"] not in levels:
            refuse(f"is inconsistent: the cell of {place} is of a requirement not listed")
        if cell["level"] not in (levels[cell["requirement"]], MUST):
            refuse(
                f"is inconsistent: the cell of {place} is a {cell['level']}, the requirement a "
                f"{levels[cell['requirement']]}"
            )
    keys = [(cell["implementation"], cell["requirement"]) for cell in run["cells"]]
    _require_unique((f"{row} on {entry}" for entry, row in keys), "cell", refuse)
    known = set(keys)
    missing = [(e.id, r.id) for e in entries for r in rows if (e.id, r.id) not in known]
    if missing:
        entry, row = missing[0]
        refuse(
            f"is inconsistent: {len(missing)} of {len(entries) * len(rows)} cells are missing, "
            f"the first of them {row!a} on {entry!a}"
        )


# The lists of a plot that must have equal lengths; a histogram has one edge more than counts.
_TOGETHER = {
    "kernel-histogram": ("counts", "expected"),
    "kernel-variance": ("fan_in", "value", "low", "high"),
    "error-over-bound": ("in_features", "ratio"),
}


def _require_drawable(cells: Iterable[Cell], refuse: Refusal) -> None:
    for cell in cells:
        for plot in cell.plots:
            lengths = [len(plot.get(name, ())) for name in _TOGETHER[plot["kind"]]]
            if plot["kind"] == "kernel-histogram":
                lengths.append(len(plot.get("edges", ())) - 1)
            if len(set(lengths)) > 1:
                refuse(
                    f"is inconsistent: a plot of {cell.requirement!a} on {cell.implementation!a} "
                    f"has lists of the lengths {', '.join(map(str, lengths))}"
                )


def _require_unique(names: Iterable[str], what: str, refuse: Refusal) -> None:
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        refuse(f"is inconsistent: the {what} {twice[0]!a} comes twice")
