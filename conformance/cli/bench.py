"""``dense-conformance bench``: measures what a run costs, prints a table and writes it to files."""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conformance.bench.parts import DEFAULT, PARTS, Bench
from conformance.bench.table import HEADINGS, Row, by, line, markdown, text
from conformance.errors import UsageError
from conformance.jax_setup.devices import cores
from conformance.results.environment import version
from conformance.results.file import save, text_of
from conformance.running.options import require_writable

FORMAT = 1

_SHOWN = 12

_LISTED = "\n".join(f"  {name:10} {what}" for name, (what, _) in PARTS.items())
EPILOG = f"""\
parts:
{_LISTED}
  all        all of these
Each part has compile caches of its own. Targets are shown for information; nothing fails."""


def bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``bench``."""
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help="what to measure, see below (default: import one five examples naive, "
        "which takes some minutes)",
    )
    parser.add_argument(
        "--naive-examples",
        type=_count,
        default=5,
        metavar="N",
        help="on how many examples a property the naive suite is measured; its time is then "
        "extrapolated to 100 (default: 5)",
    )
    parser.add_argument(
        "--results", metavar="PATH", help="write all measurements to this file (JSON)"
    )
    parser.add_argument(
        "--markdown", metavar="PATH", help="write the table to this file (Markdown)"
    )
    parser.add_argument(
        "--picture",
        metavar="PATH",
        help="draw how the cost grows with layers, examples and workers (SVG; needs the parts "
        "growth and examples, and the extra report)",
    )
    parser.epilog = EPILOG


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 10_000):
        raise argparse.ArgumentTypeError(f"a number from 1 to 10000, found {text!r}")
    return int(text)


def chosen(parts: Sequence[str]) -> tuple[str, ...]:
    """Return the named parts in the order of measuring.

    Raises
    ------
    UsageError
        If a part does not exist.
    """
    unknown = sorted(set(parts) - {*PARTS, "all"})
    if unknown:
        raise UsageError(
            f"bench has no part {unknown[0]!r}; the parts are {', '.join(PARTS)} and all"
        )
    named = PARTS if "all" in parts else parts or DEFAULT
    return tuple(part for part in PARTS if part in named)


def bench(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Measure the parts, and print each row as soon as it is known."""
    names = chosen(options.parts)
    for path in (options.results, options.markdown, options.picture):
        require_writable(path)
    if options.picture:
        if not {"growth", "examples"} <= {*names}:
            raise UsageError("--picture needs the parts growth and examples: name both, or all")
        if importlib.util.find_spec("matplotlib") is None:
            raise UsageError("--picture needs matplotlib: pip install 'dense-conformance[report]'")
    load = _load()
    print(f"{_machine()}; load before: {load}", line(HEADINGS), sep="\n", flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="dense-conformance-bench-") as folder:
        found = Bench(Path(folder), options.naive_examples)
        for name in names:
            for row in PARTS[name][1](found):
                rows.append(row)
                print(text(row), flush=True)
    facts = document(names, rows, found, load)
    _by_requirement(facts)
    if options.results:
        save(Path(options.results), text_of(facts))
    if options.markdown:
        said = (
            f"{facts['date'][:10]}, {_machine()}, load {load} to {facts['machine']['load_after']}"
        )
        save(Path(options.markdown), f"{said}:\n\n{markdown(rows)}\n")
    if options.picture:
        from conformance.bench.picture import growth

        save(Path(options.picture), growth(found.raw))
    return 0


def document(
    parts: Sequence[str], rows: Sequence[Row], found: Bench, load_before: str
) -> dict[str, Any]:
    """Return all measurements as plain JSON values."""
    cells = found.full.cells if found.full is not None else []
    return {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "parts": list(parts),
        "machine": {
            "platform": platform.platform(),
            "cores": cores(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "jaxlib", "flax", "hypothesis")},
            "load_before": load_before,
            "load_after": _load(),
        },
        "rows": [row.record() for row in rows],
        "seconds_by_layer": by("implementation", cells),
        "seconds_by_requirement": by("requirement", cells),
        "runs": found.raw,
    }


def _by_requirement(facts: dict[str, Any]) -> None:
    """Print the seconds of the full run by requirement and by implementation."""
    for what in ("layer", "requirement"):
        seconds = facts[f"seconds_by_{what}"]
        total = sum(seconds.values())
        if total:
            print(f"\nseconds in cells by {what}, five layers, quick, warm: {total:.1f} in all")
            for name, value in list(seconds.items())[:_SHOWN]:
                print(f"  {name:40} {value:6.1f} s  {100 * value / total:4.0f} %")


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _machine() -> str:
    names = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax"))
    return f"{cores()} cores, {names}, python {platform.python_version()}"
