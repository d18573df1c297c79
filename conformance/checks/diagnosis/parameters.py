"""Checks the parameters of a new layer: names, use, and further arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from conformance.checks.exceptions import NOT_CALLED
from conformance.checks.layer import Built, Layer
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax
from conformance.layers import experiments
from conformance.layers.adapters.parameters import Leaf, is_key
from conformance.layers.looking import SIZES

NUMPY = Cause("parameter-numpy", "a parameter is an array of NumPy: make it with jax.numpy")
LAZY = Cause(
    "parameters-lazy",
    "the parameters are created lazily, in the first call: create them in __init__",
)
NO_ONE_KERNEL = Cause(
    "no-one-kernel",
    "no parameter has the kernel's shape at every size: a kernel that is a product of several "
    "parameters is described by functions, as conformance.Implementation",
)


def values_beside_arrays(leaves: Sequence[Leaf]) -> dict[str, tuple[Any, ...]]:
    """Return what the parameters hold that is not an array, by their names."""
    held: dict[str, tuple[Any, ...]] = {}
    for leaf in leaves:
        if not hasattr(leaf.value, "dtype"):
            held[leaf.name] = (*held.get(leaf.name, ()), leaf.value)
    return held


def why_no_arrays(held: Mapping[str, tuple[Any, ...]], shape: tuple[int, int]) -> str:
    """Return why parameters are not arrays, by what they hold; `shape` is that of the kernel."""
    if any(callable(value) for values in held.values() for value in values):
        return NOT_CALLED
    shapes = [name for name, values in held.items() if values in (shape, shape[1:])]
    if not shapes:
        return ""
    hold = "holds its shape" if len(shapes) == 1 else "hold their shapes"
    words = f"{' and '.join(shapes)} {hold}, and no array: jnp.zeros(shape), for example, makes one"
    return Cause("shape-as-parameter", words)


def require_both(dense: Built) -> None:
    """Raise a violation if the kernel or the bias is missing."""
    for read in (lambda: dense.kernel, lambda: dense.bias):
        read()


def all_are_used(layer: Layer) -> bool:
    """Return whether kernel and bias depend on every array among the parameters.

    With one input, a normalized kernel has only a sign, which hardly any change reaches.
    """
    leaves, structure = jax.tree_util.tree_flatten(layer.build(*SIZES[0]).parameters)

    def read(values: list[Any]) -> list[np.ndarray]:
        parameters = jax.tree_util.tree_unflatten(structure, values)
        return [np.asarray(value) for value in named(layer, parameters).values()]

    plain = read(leaves)
    for i, leaf in enumerate(leaves):
        if is_key(leaf):
            continue
        moved = read([*leaves[:i], 2 * leaf + 1, *leaves[i + 1 :]])
        if all(map(np.array_equal, moved, plain)):
            return False
    return True


def named(layer: Layer, parameters: Any) -> dict[str, Any]:
    """Return the kernel ``(in, out)`` and, if the layer has one, the bias, by their names."""
    found = {"kernel": layer.kernel_of(parameters)}
    if layer.convention.use_bias:
        found["bias"] = layer.bias_of(parameters)
    return found


def declaring(layer: Layer, wrong: Sequence[Leaf]) -> str:
    """Return the line that declares these leaves as further state, or "" if impossible.

    A frozen kernel or bias is a fault, unless the layer has other parameters that are trained.
    """
    names = [".".join(leaf.path) for leaf in wrong]
    frozen = layer.seen.frozen if layer.seen.extra_parameters else ()
    beside = bool(names) and set(names) <= {*layer.kept, *frozen}
    return f"extra_state = {json.dumps(names)}" if beside else ""


def declaring_beside(layer: Layer, others: Sequence[Leaf]) -> str:
    """Return the line that declares these parameters, if f is affine while they are as when new."""
    names = [".".join(leaf.path) for leaf in others]
    if not names or not layer.seen.kernel or not set(names) <= set(layer.seen.extra_parameters):
        return ""
    try:
        error = experiments.error_of(layer.implementation, SIZES[0])
    except Exception:  # forward/output-shape checks whether it can be called
        return ""
    return f"extra_parameters = {json.dumps(names)}" if error < experiments.CLOSE else ""


def why_absent(shapes: Sequence[tuple[int, ...]], kernel: tuple[int, int] | None = None) -> Cause:
    """Return why the state has no kernel, no bias or neither, by the shapes of its arrays.

    ``kernel`` is the kernel's shape (in, out), if a single array may have the numbers of both.
    """
    n, m = kernel or (0, 0)
    if n and [np.prod(shape) for shape in shapes] == [(n + 1) * m]:
        return Cause(
            "parameters-in-one-array",
            "kernel and bias are stored in one array: describe the layer by functions, see "
            "'A description in Python' in docs/libraries.md",
        )
    ranks = [len(shape) for shape in shapes]
    missing = "bias" if ranks == [2] else "kernel" if ranks == [1] else "parameter"
    return Cause(
        "parameter-hidden",
        f"the state has no {missing}: the layer has none, makes it in each call, or keeps it "
        "where nnx does not look, as in a closure, on the class or in a plain container",
    )


def are_refused_in_a_call(dense: Built, x: np.ndarray) -> bool:
    """Return whether Flax refuses a Param that the call puts where the constructor put None."""
    try:
        dense.raw(x)
    except ValueError as error:
        return "Cannot assign data value" in str(error) and "Param" in str(error)
    except Exception:  # other requirements check whether it can be called
        return False
    return False


def raw_array(names: Sequence[str]) -> Cause:
    """Return the cause that these attributes are arrays without a Variable around them."""
    words = "is a raw array: wrap it" if len(names) == 1 else "are raw arrays: wrap each"
    # A product of a Param is what a scale behind the parenthesis leaves.
    words += " in nnx.Param, around the whole value: a Param times a number is a raw array"
    return Cause("raw-array", f"{' and '.join(names)} {words}")


def _is_copy(leaf: Leaf, parameter: Leaf) -> bool:
    """Return whether a leaf has the numbers of a new parameter, or of its transpose."""
    if is_key(leaf.value) or is_key(parameter.value):
        return False
    value, own = np.asarray(leaf.value), np.asarray(parameter.value)
    return bool(own.any()) and (np.array_equal(value, own) or np.array_equal(value, own.T))


def why_not_param(wrong: Sequence[Leaf], leaves: Sequence[Leaf], use_bias: bool) -> str:
    """Return why leaves that are not Params are wrong."""
    leaf, own = wrong[0], [np.shape(each.value) for each in leaves if not each.is_stream]
    if not own or (leaf.is_stream and [len(shape) for shape in own] == [1]):
        return why_absent(own)
    if leaf.is_stream:
        return Cause("rngs-kept", "the layer keeps its Rngs: keys and counters are state")
    kind = "a raw array" if leaf.kind == "Array" else f"an nnx.{leaf.kind}"
    there = {np.ndim(each.value) for each in leaves if each.kind == "Param"}
    if {2, 1} <= there or (2 in there and not use_bias):
        words = f"the layer keeps {leaf.name}, {kind}, beside its parameters: "
        copied = [each.name for each in leaves if each.kind == "Param" and _is_copy(leaf, each)]
        more = f"a copy of {copied[0]}, which does not follow it" if copied else ""
        return Cause("state-beside-parameters", words + (more or "it is part of the state"))
    if leaf.kind == "Array":
        raw = [each.name for each in wrong if each.kind == "Array"]
        return raw_array(raw)
    same = [each.name for each in wrong if each.kind == leaf.kind]
    which, them = (f"is {kind}", "it") if len(same) == 1 else (f"are nnx.{leaf.kind}s", "them")
    return Cause(
        "not-a-param",
        f"{' and '.join(same)} {which}, not an nnx.Param: no optimizer will see {them}",
    )
