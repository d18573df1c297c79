"""``dense-conformance describe``: shows what a layer is, and how to declare it."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance.errors import LoadError, UsageError
from conformance.layers.registry import Entry, resolve
from conformance.running.options import add_to_command

if TYPE_CHECKING:
    from conformance.checks.description import Description

_WIDTH = 100


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("spec", metavar="SPEC", help="one implementation, as for run")
    add_to_command(parser, ["declare"])


def run(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Print what the layer is; return 0, or 2 if the layer cannot be used."""
    entries = resolve([options.spec], options.declare)
    if len(entries) != 1:
        raise UsageError(f"describe takes one layer, but {options.spec!r} names {len(entries)}")
    found = _described(entries[0])
    print("\n".join(lines(found, entries[0])))
    return 2 if found.trouble and not found.kernel else 0


def describe(layer: Any, **declared: Any) -> Description:
    """Return a layer's arrays, layout, law and dtypes, and the declaration of them.

    Parameters
    ----------
    layer
        A specification as for ``dense-conformance run``, or a class or function.
    **declared
        Its declaration, by the keys of the table: ``arguments={"activation": None}``.

    Raises
    ------
    UsageError
        If it does not exist, cannot be loaded, or is not a kind of object that can be checked.
    """
    from conformance.layers.declaration import as_json, as_options

    if isinstance(layer, str):
        (entry,) = resolve([layer], as_options(as_json(declared)))
        return _described(entry)
    from conformance.checks.description import describe_layer
    from conformance.checks.layer import Layer
    from conformance.layers.adapters import adapt

    return describe_layer(Layer(adapt(layer, **declared)))


def _described(entry: Entry) -> Description:
    from conformance.checks.description import describe_layer
    from conformance.checks.layer import Layer
    from conformance.layers.first_use import explained
    from conformance.layers.loading import load

    try:
        return describe_layer(Layer(load(entry), entry))
    except LoadError as error:
        raise UsageError(explained(error, entry)) from None


def lines(found: Description, entry: Entry) -> Iterator[str]:
    """Return the description as text for a terminal."""
    yield f"{found.name} is {found.kind}."
    keeps = ", ".join((*found.extra_parameters, *found.extra_state))
    stored = f", stored as ({found.layout})" if found.layout else ""
    facts = {
        "built as": found.bound,
        "arrays": "; ".join(found.arrays) + (" at 3 inputs, 10 outputs" if found.arrays else ""),
        "kernel": f"{found.kernel}{stored}" if found.kernel else "",
        "law": found.law,
        "bias": (found.bias or "none") if found.kernel else "",
        "result": f"{found.result_dtype} for a float32 x" if found.result_dtype else "",
        "x of rank": ", ".join(map(str, found.ranks)),
        "beside": keeps,
        "branches": "; ".join(found.branches),
        "trouble": found.trouble,
    }
    for label, text in facts.items():
        if text:
            indent = f"  {label:10}"
            yield from textwrap.wrap(
                text, _WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent)
            )
    if found.declaration is None and not found.differences:
        return
    yield ""
    if found.declaration == {}:
        yield "It follows Flax's convention; no declaration is needed."
        return
    yield "It differs from Flax's convention:"
    yield from (f"  {difference}" for difference in found.differences)
    yield ""
    if found.declaration is None:
        yield "If this is intended, describe it by functions: see 'A description in Python' in"
        yield "docs/libraries.md (dense-conformance help libraries)."
        return
    yield "If this is intended, declare it in pyproject.toml:"
    from conformance.checks.description import table_of

    name = entry.name
    if ".py:" in entry.spec:
        name = f"{Path(entry.spec.rpartition(':')[0]).stem}.{entry.spec.rpartition(':')[2]}"
    yield table_of(name, entry.spec, found.declaration)
