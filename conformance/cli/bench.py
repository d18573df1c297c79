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
from typing import TYPE_CHECKING, Any

from conformance.errors import UsageError
from conformance.jax_setup.devices import cores

if TYPE_CHECKING:
    from conformance.bench.parts import Bench
    from conformance.bench.table import Row

FORMAT = 1

# Listed here because --help must not import the code that measures.
PARTS = ("import", "one", "five", "examples", "naive", "standard", "growth", "zoo")
_SHOWN = 12

EPILOG = """\
parts:
  import     import time
  one        one layer, quick: cold, warm, without a cache; a wrong one beside it
  five       the five built-in layers, quick: cold and warm, by layer and by requirement
  examples   growth over 25, 100 and 400 examples, and the warm floor
  naive      a naive suite of the same properties, beside the suite cold and warm
  standard   the five built-in layers, standard: cold and warm
  growth     growth over 1 to 16 layers, and over workers
  zoo        the kill matrix of the whole zoo
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
    from conformance.bench.parts import DEFAULT

    named = PARTS if "all" in parts else parts or DEFAULT
    return tuple(part for part in PARTS if part in named)


def bench(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Measure the parts, and print each row as soon as it is known."""
    names = chosen(options.parts)
    _writable(options.results)
    _writable(options.markdown)
    _writable(options.picture)
    if options.picture:
        if not {"growth", "examples"} <= {*names}:
            raise UsageError("--picture needs the parts growth and examples: name both, or all")
        if importlib.util.find_spec("matplotlib") is None:
            raise UsageError("--picture needs matplotlib: pip install 'dense-conformance[report]'")
    from conformance.bench.parts import PARTS, Bench
    from conformance.bench.table import HEADINGS, line, markdown, text
    from conformance.results.file import save, text_of

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


def _writable(path: str | None) -> None:
    """Raise at the start, not after minutes, if the output files cannot be written."""
    if path is None:
        return
    if Path(path).is_dir() or (Path(path).parent.exists() and not Path(path).parent.is_dir()):
        raise UsageError(f"{path}: cannot be written: give a file in a directory")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=Path(path).parent).close()
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from None


def document(
    parts: Sequence[str], rows: Sequence[Row], found: Bench, load_before: str
) -> dict[str, Any]:
    """Return all measurements as plain JSON values."""
    from conformance.bench.table import by
    from conformance.results.environment import version

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
    from conformance.results.environment import version

    names = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax"))
    return f"{cores()} cores, {names}, python {platform.python_version()}"
