"""The functional view of a class without a framework, or of a pytree class.

JAX flattens an object that is registered as a pytree, such as an Equinox module. The arrays of any
other object are its attributes, and those of the objects in them. A function has them in its
closure, and a partial among its arguments.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CellType, FunctionType, ModuleType
from typing import Any

import jax
import numpy as np
from flax import nnx

from conformance.layers.adapters.parameters import (
    Leaf,
    Parameters,
    implementation_of,
    is_key,
    leaves_of,
)
from conformance.layers.implementation import Convention, Implementation

_DEEPEST = 6


@dataclass(frozen=True, eq=False)
class _Skeleton:
    """An object without its arrays, which can be put back.

    Two are equal if their objects differ only in arrays, so that one trace serves both.
    """

    kind: Any
    paths: tuple[str, ...]
    others: tuple[tuple[str, Any], ...]
    rebuild: Callable[[Mapping[str, Any]], Any]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Skeleton)
            and (self.kind, self.paths) == (other.kind, other.paths)
            and [path for path, _ in self.others] == [path for path, _ in other.others]
            and all(_same(a[1], b[1]) for a, b in zip(self.others, other.others, strict=True))
        )

    def __hash__(self) -> int:
        return hash((self.kind, self.paths))


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    try:
        return type(a) is type(b) and bool(a == b)
    except Exception:
        return False


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def taken_apart(layer: Any) -> Parameters:
    """Return the arrays of an object, and the rest of it."""
    for name, value in getattr(layer, "__dict__", {}).items():
        if isinstance(value, nnx.Variable):
            kind = type(layer).__name__
            raise TypeError(
                f"{kind}.{name} is an nnx.{type(value).__name__}, but {kind} is not an nnx.Module: "
                f"write class {kind}(nnx.Module)"
            )
    leaves = leaves_of(layer)
    if len(leaves) == 1 and leaves[0].value is layer:
        found = dict(_attributes(layer))
        arrays = {path: value for path, value in found.items() if _is_array(value)}
        others = tuple((path, v) for path, v in found.items() if not _is_array(v))
        made_of: Any = layer.__code__ if isinstance(layer, FunctionType) else type(layer)
        skeleton = _Skeleton(made_of, tuple(arrays), others, lambda new: _filled(layer, new))
        return Parameters(skeleton, arrays)
    values, structure = jax.tree_util.tree_flatten(layer)
    names = _named(layer, leaves)
    arrays = {n: v for n, v in zip(names, values, strict=True) if _is_array(v)}
    others = tuple((n, v) for n, v in zip(names, values, strict=True) if not _is_array(v))
    rest = dict(others)

    def rebuild(new: Mapping[str, Any]) -> Any:
        flat = [new[name] if name in new else rest[name] for name in names]
        return jax.tree_util.tree_unflatten(structure, flat)

    return Parameters(_Skeleton(structure, tuple(arrays), others, rebuild), arrays)


def _named(layer: Any, leaves: Sequence[Leaf]) -> list[str]:
    """Return the paths of the leaves; one that JAX numbers has the name of its attribute."""
    paths = [".".join(leaf.path) for leaf in leaves]
    own = {id(value): path for path, value in _attributes(layer) if _is_array(value)}
    pairs = zip(paths, leaves, strict=True)
    names = [own.get(id(leaf.value), path) if leaf.name.isdigit() else path for path, leaf in pairs]
    return names if len(set(names)) == len(names) else paths


def _attributes(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the arrays and plain values below an object, by their paths."""
    children = _children(value, depth) if depth < _DEEPEST else None
    if children is None:
        yield path, value
        return
    for name, child in children.items():
        yield from _attributes(child, f"{path}.{name}" if path else str(name), depth + 1)


def _children(value: Any, depth: int) -> dict[Any, Any] | None:
    if _is_array(value):
        return None
    if isinstance(value, FunctionType) and not depth and value.__closure__:
        return {name: cell.cell_contents for name, cell in _cells(value) if cell != CellType()}
    if isinstance(value, functools.partial):
        return {"func": value.func, **dict(enumerate(value.args)), **value.keywords}
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    own = {**_slots(value), **getattr(value, "__dict__", {})}
    foreign = isinstance(value, type | FunctionType | ModuleType)
    if foreign or not own or type(value).__module__.partition(".")[0] in ("builtins", "jax"):
        return None
    return own


def _slots(value: Any) -> dict[str, Any]:
    """Return the attributes that the class of an object keeps in slots, as far as they are set."""
    declared = (vars(base).get("__slots__", ()) for base in type(value).__mro__)
    names = [name for slots in declared for name in ((slots,) if isinstance(slots, str) else slots)]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _cells(function: FunctionType) -> Iterator[tuple[str, CellType]]:
    """Return the cells of a closure by name; one is empty until its name has a value."""
    return zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)


def _filled(value: Any, new: Mapping[str, Any], path: str = "", depth: int = 0) -> Any:
    """Return a copy of the object with these arrays."""
    if path in new:
        return new[path]
    inside = f"{path}." if path else ""
    if depth >= _DEEPEST or not any(name.startswith(inside) for name in new):
        return value
    children = _children(value, depth)
    if children is None:
        return value
    filled = {
        name: _filled(child, new, f"{inside}{name}", depth + 1) for name, child in children.items()
    }
    if isinstance(value, functools.partial):
        made, args = filled.pop("func"), [filled.pop(i) for i in range(len(value.args))]
        return functools.partial(made, *args, **filled)
    if isinstance(value, dict):
        return filled
    if isinstance(value, list | tuple):
        make = getattr(value, "_make", type(value))  # a named tuple takes its fields apart
        return make(filled.values())
    if isinstance(value, FunctionType):
        cells = tuple(CellType(filled[n]) if n in filled else cell for n, cell in _cells(value))
        code, defaults = value.__code__, value.__defaults__
        made = FunctionType(code, value.__globals__, value.__name__, defaults, cells)
        made.__kwdefaults__ = value.__kwdefaults__
        return made
    found = _shallow_copy(value)
    for name, child in filled.items():
        object.__setattr__(found, name, child)
    return found


def _shallow_copy(value: Any) -> Any:
    """Return an object with the same attributes, not by a way of its class, which may be wrong."""
    try:
        found = object.__new__(type(value))
    except TypeError:  # as for a class in C
        return copy.copy(value)
    for name, own in {**_slots(value), **getattr(value, "__dict__", {})}.items():
        object.__setattr__(found, name, own)
    return found


def _leaves(tree: Mapping[str, Any]) -> list[Leaf]:
    # JAX flattens a dict in this order.
    return [Leaf(tuple(name.split(".")), _kind(tree[name]), tree[name]) for name in sorted(tree)]


def _kind(value: Any) -> str:
    """Return the kind of a leaf, which nnx calls RngKey if it is a random key."""
    return "RngKey" if is_key(value) else "Array"


class InUse:
    """One object that keeps what calls leave in it, and whose arrays are set one by one."""

    def __init__(self, parameters: Parameters, call: Callable[[Any, Any], Any]) -> None:
        self._first, self._call = parameters, call
        self.layer = parameters.static.rebuild(parameters.tree)

    def __call__(self, x: Any) -> Any:
        """Return the result of the object."""
        return self._call(self.layer, x)

    @property
    def parameters(self) -> Parameters:
        """Return its arrays, and the rest of it as it was at first."""
        arrays = {path: getattr(*self._owner(path)) for path in self._first.tree}
        return Parameters(self._first.static, arrays)

    def put(self, parameters: Parameters) -> None:
        """Set its arrays."""
        for path, value in parameters.tree.items():
            setattr(*self._owner(path), value)

    def _owner(self, path: str) -> tuple[Any, str]:
        *steps, name = path.split(".")
        return functools.reduce(getattr, steps, self.layer), name

    def is_changed_in_place(self) -> bool:
        """Return whether its arrays are attributes that can be set.

        JAX replaces a registered pytree, and its user a frozen dataclass, by a new object.
        """
        if isinstance(self.layer, FunctionType | functools.partial) or not jax.tree_util.all_leaves(
            [self.layer]
        ):
            return False
        self.put(self._first)
        arrays, kept = self._first.tree, self.parameters.tree
        return all(kept[path] is arrays[path] for path in arrays)


def from_plain(
    construct: Callable[[int, int, Any], Any], name: str, convention: Convention, library: str,
    call: Callable[[Any, Any], Any],
) -> Implementation:  # fmt: skip
    """Return an implementation; ``construct(in_features, out_features, seed)`` builds the object.

    ``call(layer, x)`` returns the result of the object.
    """

    def init(seed: Any, in_features: int, out_features: int) -> Parameters:
        return taken_apart(construct(in_features, out_features, seed))

    def apply(parameters: Parameters, x: Any) -> Any:
        return call(parameters.static.rebuild(parameters.tree), x)

    def in_use(parameters: Parameters) -> InUse | None:
        try:
            found = InUse(parameters, call)
            return found if found.is_changed_in_place() else None
        except Exception:  # of any kind, as for a frozen dataclass, or an array in a list
            return None

    return implementation_of(
        _leaves,
        name=name,
        init=init,
        apply=apply,
        in_use=in_use,
        under=lambda other: from_plain(construct, name, other, library, call),
        convention=convention,
        library=library,
    )
