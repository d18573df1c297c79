"""Requires that a layer is called with ``x`` alone, and says how to declare more arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from conformance.errors import NotAdaptable

INPUTS = frozenset(("x", "xs", "input", "inputs", "input_array", "data", "batch", "arr", "array"))
"""The usual names of an argument for ``x``."""

RANDOM = frozenset(
    (
        *("rngs", "rng", "key", "seed", "prng", "prng_key", "rng_key", "random_key"),
        *("random_seed", "rng_seed"),
    )
)
"""The usual names of an argument for the source of randomness."""


def require_plain_call(layer: type, call: Collection[str]) -> None:
    """Require that the layer's ``__call__`` needs no argument besides ``x``.

    Raises
    ------
    NotAdaptable
        If it needs one; the message names it, and says how to declare its value.
    """
    try:
        parameters = list(inspect.signature(layer.__call__).parameters.values())[1:]
    except (AttributeError, TypeError, ValueError):
        return
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    named.sort(key=lambda p: p.name != name_of_input(layer))
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = [n for n in call if not takes_any and n not in [p.name for p in named]]
    if unknown:
        raise NotAdaptable(f"{layer.__name__}, whose call has no argument {unknown[0]!r}")
    needed = [p.name for p in named[1:] if p.default is p.empty and p.name not in call]
    if needed:
        raise NotAdaptable(
            f"{layer.__name__}, whose call also needs {' and '.join(map(repr, needed))}",
            how_to_declare("call", needed),
        )


def name_of_input(layer: type) -> str:
    """Return the name of a call's argument for ``x``, if another one comes first; else nothing."""
    try:
        names = list(inspect.signature(layer.__call__).parameters)[1:]
    except (AttributeError, TypeError, ValueError):
        return ""
    found = next((name for name in names if name.lower() in INPUTS), "")
    return "" if names[:1] == [found] else found


def called(call: Callable[..., Any], name: str, x: Any, further: Mapping[str, Any]) -> Any:
    """Return the result of a call that takes ``x`` by this name, or first if that is empty."""
    return call(**{name: x}, **further) if name else call(x, **further)


def how_to_declare(table: str, names: Sequence[str]) -> str:
    """Return how to declare arguments of these names: ``table`` is ``call`` or ``arguments``."""
    values = ", ".join(f"{name} = ..." for name in names)
    return (
        f'Declare what to give: {table} = {{ {values} }}; "module:attribute" is an object\n'
        f"or on the command line: --declare {table}.{names[0]}=..."
    )


OF_LINEN = ("parent", "name")
"""The fields that Linen adds to each module."""


def as_call(name: str, signature: inspect.Signature) -> str:
    """Return the call of a constructor as text, without what Linen adds to it."""
    parameters = signature.parameters
    added = OF_LINEN if set(OF_LINEN) <= set(parameters) else ()
    own = signature.replace(
        parameters=[each for name, each in parameters.items() if name not in added],
        return_annotation=inspect.Signature.empty,
    )
    return f"{name}{own}"
