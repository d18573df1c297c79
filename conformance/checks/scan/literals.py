"""Finds the numbers in the layer's own code: candidates for a length at which it branches.

The scan sees a branch only if it traces a shape on each side of it. A layer that treats 777 rows
specially has the number 777 in its code, or a class attribute, or a default.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import itertools
import sys
from collections import deque
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from conformance.checks.layer import Layer
from conformance.checks.once import once_per_layer
from conformance.jax_setup.lazy import nnx

# Libraries whose code is known; the layer's own package and small libraries are read.
_KNOWN = {"jax", "jaxlib", "flax", "numpy", "scipy", "optax", "orbax", "ml_dtypes", "conformance"}
# Objects of these packages may hold the layer: its description, and transformed functions.
_HOLDING = ("conformance.layers", "jax", "flax")
# The maximum number of functions, classes and collections that are read, and of parts of each.
_MOST_READ, _MOST_PARTS = 400, 1000
_MOST_CALLS, _MOST_CONSTRUCTIONS = 5000, 300
# What code does and calls that keeps something for later.
_STORES = {"STORE_ATTR", "STORE_GLOBAL", "STORE_SUBSCR", "STORE_DEREF"}
_STORING = {"append", "add", "update", "setattr", "__setattr__", "__dict__", "next", "count"}
_CONSTRUCTING = {"__init__", "__new__", "__post_init__", "setup"}
_LONGEST, _MOST_LENGTHS, _MOST_SEEDS = 2**20, 8, 20
_MOST_LETTERS, _MOST_NAMES = 16, 12
_LARGEST = 2.0**128
"""The end of float32: larger numbers are limits of other dtypes."""


def numbers_in_code(layer: Layer) -> tuple[float, ...]:
    """Return the magnitudes of numbers in the layer's code, those nearest to the layer first.

    Its classes and functions are read, and what these refer to, but not JAX, Flax and the standard
    library. 0 and 1 are left out.
    """
    return _read(layer).numbers


def lengths_in_code(layer: Layer) -> list[int]:
    """Return the first numbers in the layer's code that may be a length of an axis."""
    lengths = [int(n) for n in numbers_in_code(layer) if n == int(n) and 2 < n <= _LONGEST]
    return lengths[:_MOST_LENGTHS]


def names_in_code(layer: Layer) -> list[str]:
    """Return the first strings in the layer's code that may be the name of an axis."""
    names = [
        name for name in _read(layer).texts if name.isidentifier() and len(name) <= _MOST_LETTERS
    ]
    return names[:_MOST_NAMES]


def seeds_in_code(layer: Layer) -> list[int]:
    """Return the numbers in the layer's code that may be seeds, and their neighbours."""
    whole = [int(n) for n in numbers_in_code(layer) if n == int(n) and n < 2**32]
    near = {seed for n in whole[:_MOST_SEEDS] for seed in (n - 1, n, n + 1)}
    return sorted(seed for seed in near if seed < 2**32)


def counts_in_code(layer: Layer) -> list[int]:
    """Return the largest number of calls that the layer's code may count to, if it counts.

    Code that stores nothing outside of its constructor does not count.
    """
    counts = [n for n in lengths_in_code(layer) if n <= _MOST_CALLS]
    return [max(counts)] if counts and any(map(_stores, _read(layer).code)) else []


def constructions_in_code(layer: Layer) -> int:
    """Return the largest number of layers that the layer's code may count to, or 0."""
    return max((n for n in lengths_in_code(layer) if n <= _MOST_CONSTRUCTIONS), default=0)


def _stores(code: CodeType) -> bool:
    if code.co_name in _CONSTRUCTING:
        return False
    names = {*code.co_names} & _STORING
    return bool(names) or any(step.opname in _STORES for step in dis.get_instructions(code))


class _Code(NamedTuple):
    """The code of a layer, and the numbers and the strings in it."""

    numbers: tuple[float, ...]
    code: list[CodeType]
    texts: tuple[str, ...]


@once_per_layer()
def _read(layer: Layer) -> _Code:
    numbers, texts, parts = _walk(layer)
    code = [part for part in parts if isinstance(part, CodeType)]
    return _Code(tuple(numbers), code, tuple(texts))


def _walk(layer: Layer) -> tuple[dict[float, None], dict[str, None], list[Any]]:
    """Return the numbers and strings to which the layer's code refers, and everything else."""
    found: dict[float, None] = {}
    names: dict[str, None] = {}
    parts: dict[int, Any] = {}
    its = layer.registered
    waiting = deque[Any]((its.module, its.linen, its.forward, its.init, its.apply))
    while waiting and len(parts) < _MOST_READ:
        part = waiting.popleft()
        if type(part) in (int, float):
            if 1 < abs(part) < _LARGEST:
                found[abs(float(part))] = None
        elif type(part) is str:
            names[part] = None
        elif id(part) not in parts:
            parts[id(part)] = part
            # What a user's class or metaclass raises when it is looked at is not a fault.
            with contextlib.suppress(Exception):
                waiting.extend(itertools.islice(_parts(part), _MOST_PARTS))
    return found, names, [*parts.values()]


def rngs_in_code(layer: Layer) -> list[Any]:
    """Return the ``nnx.Rngs`` to which the layer's code refers, as a default or a global."""
    *_, parts = _walk(layer)
    return [part for part in parts if isinstance(part, nnx.Rngs)]


def entries_held(layer: Layer) -> int:
    """Return how many entries the collections have to which the layer's code refers.

    They are globals, attributes of classes and values in closures. A deque with a maximum length
    does not count, because it stops growing.
    """
    *_, parts = _walk(layer)
    return sum(
        len(part)
        for part in parts
        if isinstance(part, list | dict | set | deque) and getattr(part, "maxlen", None) is None
    )


def _parts(part: Any) -> Iterator[Any]:
    """Yield what a value refers to: constants, functions, classes, and values that they use."""
    if type(part) in (tuple, list):
        yield from part
    elif type(part) is frozenset:
        yield from sorted(part, key=repr)
    elif type(part) is dict:
        yield from part.values()
    elif isinstance(part, MethodType):
        yield part.__func__
    elif isinstance(part, functools.partial | functools.partialmethod):
        yield from (part.func, part.args, part.keywords)
    elif isinstance(part, staticmethod | classmethod):
        yield part.__func__
    elif isinstance(part, property):
        yield from (part.fget, part.fset)
    elif isinstance(part, FunctionType):
        yield from _of_function(part)
    elif isinstance(part, CodeType):
        yield from part.co_consts
    elif isinstance(part, type) and _is_read(part.__module__):
        yield from part.__mro__
        yield from vars(part).values()
    elif type(part).__module__.startswith(_HOLDING):
        yield getattr(part, "__wrapped__", None)
        yield from getattr(part, "__dict__", {}).values()


def _of_function(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue
    # Adapters of the suite and decorators of Flax hold the layer's code in their cells.
    yield getattr(function, "__wrapped__", None)
    if _is_read(function.__module__):
        yield function.__code__
        yield function.__defaults__
        yield function.__kwdefaults__
        names = list(dict.fromkeys(_names(function.__code__)))
        for value in map(function.__globals__.get, names):
            if isinstance(value, ModuleType) and _is_read(value.__name__):
                yield from map(vars(value).get, names)
            yield value


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _names(part)


def _is_read(module: Any) -> bool:
    package = str(module).partition(".")[0]
    return package == "__main__" or package not in _KNOWN | sys.stdlib_module_names
