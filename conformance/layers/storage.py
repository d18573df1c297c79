"""Reads and writes a kernel and a bias that are not one array each.

A bias may be a row ``(1, out)``, or a row of the kernel's array; a kernel may be stored in blocks,
or be computed from a direction and a factor, or from one array and the sizes. The requirement on
that point reports it; all others see (in, out) and (out,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conformance.jax_setup.lazy import jax, jnp
from conformance.layers.adapters.parameters import leaves_in
from conformance.layers.implementation import Implementation, existing


def values_at(its: Implementation, parameters: Any, paths: Sequence[str]) -> list[Any]:
    """Return the arrays at these paths of the parameters."""
    found = {".".join(leaf.path): leaf.value for leaf in leaves_in(its, parameters)}
    return [found[path] for path in paths]


def with_values(its: Implementation, parameters: Any, new: Mapping[str, Any]) -> Any:
    """Return the parameters with these arrays at these paths."""
    leaves = [".".join(leaf.path) for leaf in leaves_in(its, parameters)]
    flat, structure = jax.tree_util.tree_flatten(parameters)
    flat = [new.get(path, value) for path, value in zip(leaves, flat, strict=True)]
    return jax.tree_util.tree_unflatten(structure, flat)


@dataclass(frozen=True)
class BiasRow:
    """A bias of the shape ``(1, out)`` at a path."""

    path: str

    def bias_of(self, its: Implementation, parameters: Any, bias: Any) -> dict[str, Any]:
        """Return a bias ``(out,)`` as it is stored, by its path; empty for None."""
        if bias is None:
            return {}
        (stored,) = values_at(its, parameters, [self.path])
        return {self.path: jnp.reshape(bias, stored.shape)}

    def seen_through(self, its: Implementation) -> Implementation:
        """Return the implementation, which reads and writes the row as a vector."""
        inner = existing(its.with_parameters)

        def write(parameters: Any, kernel: Any, bias: Any) -> Any:
            written = inner(parameters, kernel, None)
            return with_values(its, written, self.bias_of(its, parameters, bias))

        def read(parameters: Any) -> Any:
            return jnp.reshape(values_at(its, parameters, [self.path])[0], -1)

        return replace(its, bias=read, with_parameters=write)


@dataclass(frozen=True)
class Blocks:
    """The paths of a kernel's blocks, in their order, and of the bias; empty without a bias.

    The blocks follow each other along an axis of the kernel ``(in, out)``.
    """

    paths: tuple[str, ...]
    axis: int = 1
    bias: str = ""

    def __str__(self) -> str:
        return f"the kernel is stored in blocks: {', '.join(self.paths)}"

    def seen_through(self, its: Implementation) -> Implementation:
        """Return the implementation, which joins and splits the blocks."""
        row = BiasRow(self.bias)

        def write(parameters: Any, kernel: Any, bias: Any) -> Any:
            stored = values_at(its, parameters, self.paths)
            ends = np.cumsum([block.shape[self.axis] for block in stored])[:-1]
            parts = jnp.split(kernel, ends, axis=self.axis)
            new = dict(zip(self.paths, parts, strict=True))
            return with_values(its, parameters, new | row.bias_of(its, parameters, bias))

        def read(parameters: Any) -> Any:
            return jnp.concatenate(values_at(its, parameters, self.paths), self.axis)

        its = row.seen_through(its) if self.bias else its
        return replace(its, kernel=read, with_parameters=write)


@dataclass(frozen=True)
class Joined:
    """The path of an array whose row 0 or -1 is the bias, and whose other rows are the kernel."""

    path: str
    row: int

    def __str__(self) -> str:
        return f"kernel and bias are stored in one array, {self.path}"

    def seen_through(self, its: Implementation) -> Implementation:
        """Return the implementation, which takes the row for the bias."""
        whole, inner = existing(its.kernel), existing(its.with_parameters)
        first = self.row == 0

        def write(parameters: Any, kernel: Any, bias: Any) -> Any:
            rows = [bias[None], kernel] if first else [kernel, bias[None]]
            return inner(parameters, jnp.concatenate(rows), None)

        def read(parameters: Any) -> Any:
            return whole(parameters)[1:] if first else whole(parameters)[:-1]

        def bias(parameters: Any) -> Any:
            return whole(parameters)[self.row]

        return replace(its, kernel=read, bias=bias, with_parameters=write)


@dataclass(frozen=True)
class Scaled:
    """The path of a kernel that the layer multiplies by a number that depends on the sizes."""

    path: str

    def __str__(self) -> str:
        return f"x is multiplied by {self.path} times a number that depends on the sizes"

    def seen_through(self, its: Implementation) -> Implementation:
        """Return the implementation, whose kernel has the number as a factor."""
        apply, stored, inner = map(existing, (its.apply, its.kernel, its.with_parameters))

        def scale(parameters: Any) -> Any:
            """Return f(e_0) of a kernel of ones without a bias."""
            ones = jnp.ones_like(stored(parameters))
            if not ones.size:
                return jnp.ones((), ones.dtype)
            bias = jnp.zeros(ones.shape[1:], ones.dtype) if its.convention.use_bias else None
            # A layer that takes no vectors takes a batch of one row.
            first = jnp.zeros((*its.convention.fewest, len(ones)), ones.dtype).at[..., 0].set(1)
            return jnp.ravel(apply(inner(parameters, ones, bias), first))[0]

        def read(parameters: Any) -> Any:
            return stored(parameters) * scale(parameters)

        def write(parameters: Any, kernel: Any, bias: Any) -> Any:
            return inner(parameters, kernel / scale(parameters), bias)

        return replace(its, kernel=read, with_parameters=write)


@dataclass(frozen=True)
class Factored:
    """The paths of an array of the kernel's shape and of its factor: ``g v`` or ``g v / |v|``.

    One entry of the factor multiplies all entries over the axes ``over`` of the kernel
    ``(in, out)``.
    """

    direction: str
    factor: str
    over: tuple[int, ...] = (0,)
    is_normalized: bool = False

    def __str__(self) -> str:
        used = f"{self.direction} / |{self.direction}|" if self.is_normalized else self.direction
        return f"no array is the kernel: x is multiplied by {self.factor} * {used}"

    def _over(self, reduce: Callable[..., Any], values: Any) -> Any:
        """Return the values reduced over what one entry of the factor multiplies."""
        return reduce(values, axis=self.over, keepdims=True)

    def seen_through(self, its: Implementation) -> Implementation:
        """Return the implementation, which computes the kernel, and divides one that it writes."""
        apply, inner = existing(its.apply), existing(its.with_parameters)

        def read(parameters: Any) -> Any:
            """Return f(e_i) without the bias: every other product is an exact zero."""
            (direction,) = values_at(its, parameters, [self.direction])
            stored = direction.T if its.convention.layout == "out,in" else direction
            bias = jnp.zeros(stored.shape[1:], stored.dtype) if its.convention.use_bias else None
            return apply(inner(parameters, stored, bias), jnp.eye(len(stored), dtype=stored.dtype))

        def write(parameters: Any, kernel: Any, bias: Any) -> Any:
            (factor,) = values_at(its, parameters, [self.factor])
            # Powers of two are exact, and the length of a direction near 1 does not overflow.
            largest = jax.lax.stop_gradient(self._over(jnp.max, jnp.abs(kernel)))
            scale = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1)
            # A direction of zeros has no length: a factor of 0 makes the column.
            none = largest == 0
            direction = jnp.where(none, 1, kernel / scale)
            written = inner(parameters, direction, bias)
            of_one = read(with_values(its, written, {self.factor: jnp.ones_like(factor)}))
            ratio = self._over(jnp.sum, direction * of_one) / self._over(jnp.sum, of_one * of_one)
            new = jnp.reshape(jnp.where(none, 0, scale * ratio), factor.shape)
            return with_values(its, written, {self.factor: new.astype(factor.dtype)})

        return replace(its, kernel=read, with_parameters=write)


Storage = BiasRow | Blocks | Joined | Scaled | Factored
"""A way of storing a kernel and a bias other than as one array each."""
