"""The parameters of a Flax layer as one pytree, with its static part.

Kernel and bias are found among the leaves by their declared names, else by their rank, so a layer
with other names is still checked for everything else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conformance.errors import Violation
from conformance.jax_setup.lazy import jax
from conformance.layers.implementation import Convention, Implementation


@dataclass(frozen=True)
class Parameters:
    """A pytree: ``tree`` has the arrays, ``static`` the rest of the layer."""

    static: Any
    tree: Any


@dataclass(frozen=True)
class Leaf:
    """One array of a layer: its path, the name of its Variable type or collection, its value."""

    path: tuple[str, ...]
    kind: str
    value: Any

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        return self.path[-1] if self.path else ""

    @property
    def is_stream(self) -> bool:
        """Return whether it is the key of a random stream of Flax, or the stream's count."""
        return self.kind.startswith("Rng")

    def is_called(self, name: str) -> bool:
        """Return whether the text is its name, or its whole path with dots."""
        return name in (self.name, ".".join(self.path))

    def __str__(self) -> str:
        shape = "x".join(map(str, np.shape(self.value)))
        dtype = getattr(self.value, "dtype", type(self.value).__name__)
        return f"{'.'.join(self.path)}: {self.kind} {dtype}[{shape}]"


def is_key(array: Any) -> bool:
    """Return whether the array holds random keys, which NumPy cannot hold."""
    return bool(jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key))


def register() -> None:
    """Register :class:`Parameters` as a pytree."""
    with contextlib.suppress(ValueError):  # it is registered already
        jax.tree_util.register_pytree_node(
            Parameters,
            lambda parameters: ((parameters.tree,), parameters.static),
            lambda static, children: Parameters(static, children[0]),
        )


def _key_name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def leaves_of(tree: Any) -> list[Leaf]:
    """Return the array leaves of any pytree, in its own order."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [Leaf(_names(path), "Array", value) for path, value in paths]


def leaves_in(its: Implementation, parameters: Any) -> list[Leaf]:
    """Return the leaves of the parameters, by the implementation's own way if it has one."""
    return (its.leaves or leaves_of)(parameters)


def _names(path: Sequence[Any]) -> tuple[str, ...]:
    """Return the parts of a path, without numbers inside a container that has no names."""
    unnamed = jax.tree_util.FlattenedIndexKey
    named = [key for key in path if not isinstance(key, unnamed)]
    return tuple(_key_name(key) for key in named or path)


def find(leaves: Sequence[Leaf], convention: Convention, which: str) -> int:
    """Return the index of the kernel's or the bias's leaf.

    Raises
    ------
    Violation
        If no leaf, or more than one, can be it.
    """
    names = dict(zip(("kernel", "bias"), convention.parameter_names, strict=True))
    rank, other = {"kernel": (2, 1), "bias": (1, 2)}[which]
    named = [i for i, leaf in enumerate(leaves) if leaf.is_called(names[which])]
    of_rank = [i for i, leaf in enumerate(leaves) if np.ndim(leaf.value) == rank]
    if len(named) == 1 and (named[0] in of_rank or len(of_rank) != 1):
        return named[0]
    if len(of_rank) == 1 and any(np.ndim(leaves[i].value) == other for i in named):
        return of_rank[0]  # the names are swapped, which stable-names reports
    others = {name for key, name in names.items() if key != which}
    candidates = named or [
        i
        for i, leaf in enumerate(leaves)
        if np.ndim(leaf.value) == rank and not any(map(leaf.is_called, others))
    ]
    if len(candidates) > 1:
        params = [i for i in candidates if leaves[i].kind in ("Param", "params")]
        candidates = params or candidates
    if len(candidates) == 1:
        return candidates[0]
    listed = ", ".join(map(str, leaves)) or "no arrays at all"
    accepted = f"one array called {names[which]!r}"
    if not candidates:
        raise Violation(f"the layer's state has no {which}: found {listed}", accepted=accepted)
    raise Violation(
        f"the layer's state has more than one {which}: found {listed}",
        accepted=f"{accepted}; if the {which} is made of several, describe it by functions: see "
        "'A description in Python' in docs/libraries.md",
    )


@dataclass(frozen=True)
class Access:
    """Reads and writes kernel and bias among the leaves of :class:`Parameters`.

    Parameters
    ----------
    leaves
        The leaves of the ``tree``, in JAX's order.
    convention
        The names and the layout.
    """

    leaves: Callable[[Any], list[Leaf]]
    convention: Convention

    def every(self, parameters: Parameters) -> list[Leaf]:
        """Return all leaves."""
        return self.leaves(parameters.tree)

    def kernel(self, parameters: Parameters) -> Any:
        """Return the kernel ``(in, out)``."""
        leaves = self.every(parameters)
        return self._as_stored(leaves[find(leaves, self.convention, "kernel")].value)

    def bias(self, parameters: Parameters) -> Any:
        """Return the bias ``(out,)``."""
        leaves = self.every(parameters)
        return leaves[find(leaves, self.convention, "bias")].value

    def with_parameters(self, parameters: Parameters, kernel: Any, bias: Any) -> Parameters:
        """Return the parameters with these values; `bias` is None for a layer without one."""
        leaves = self.every(parameters)
        flat, structure = jax.tree_util.tree_flatten(parameters.tree)
        flat[find(leaves, self.convention, "kernel")] = self._as_stored(kernel)
        if bias is not None:
            flat[find(leaves, self.convention, "bias")] = bias
        return Parameters(parameters.static, jax.tree_util.tree_unflatten(structure, flat))

    def _as_stored(self, kernel: Any) -> Any:
        return kernel.T if self.convention.layout == "out,in" else kernel


def implementation_of(
    leaves: Callable[[Any], list[Leaf]], *, convention: Convention, **more: Any
) -> Implementation:
    """Return an implementation whose parameters are :class:`Parameters`, with further fields.

    ``leaves`` is the argument of :class:`Access`.
    """
    register()
    access = Access(leaves, convention)
    return Implementation(
        kernel=access.kernel,
        bias=access.bias,
        with_parameters=access.with_parameters,
        leaves=access.every,
        convention=convention,
        **more,
    )
