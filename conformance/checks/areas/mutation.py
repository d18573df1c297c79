"""Finds changes that a call makes to a layer, its variables and its input, and what it leaves."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import pickle
import re
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from conformance.checks import programs, require
from conformance.checks.areas.composition import linen_leaves
from conformance.checks.arrays import as_jax
from conformance.checks.cases import BATCH, Case
from conformance.checks.diagnosis.telling import require_value
from conformance.checks.layer import Built, Layer
from conformance.checks.once import once_per_layer
from conformance.checks.require import on_the_way
from conformance.errors import Cause, Violation
from conformance.jax_setup.lazy import jax, jnp, nnx
from conformance.layers.adapters.parameters import is_key

_OF_FLAX = ("_pytree__", "_object__")
"""The prefixes of the attributes that nnx adds to its modules."""


def require_forgotten(dense: Built, x: np.ndarray) -> None:
    """Require that the layer does not keep a reference to its input."""
    value = as_jax(x)
    reference = weakref.ref(value)
    jax.block_until_ready(dense(value))
    del value
    if reference() is not None:
        gc.collect()
    require.that(
        reference() is None,
        "after a call the layer still refers to its input",
        accepted="no reference",
        cause=Cause("input-kept", "the layer keeps its input"),
    )


def require_unchanged(
    dense: Built, inputs: Sequence[np.ndarray], what: str, *, raising: bool = False
) -> None:
    """Require that calls on these inputs change neither the bytes of a leaf nor a static value.

    ``what`` names these calls in messages; with ``raising`` they may raise.
    """
    before, static, attributes = _bytes(dense), _static(dense), _attributes(dense)
    variables = _variables(dense)
    for x in inputs:
        if raising:
            with contextlib.suppress(Exception):
                dense.raw(x)
            continue
        try:
            dense(x)
        except Violation as violation:
            raise violation.because(_why_refused(violation)) from violation
    after, static_after = _bytes(dense), _static(dense)
    allowed = dense.layer.kept
    changed = sorted(
        key
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key) and not {key, key.rpartition(".")[2]} & {*allowed}
    )
    require.that(
        not changed,
        f"{what} {'changes' if before.keys() & changed else 'adds'} {', '.join(changed)}",
        accepted="the same bytes",
        cause=_why_changed(changed, before, after, inputs),
    )
    replaced = [name for name, value in _variables(dense).items() if value is not variables[name]]
    require.that(
        not replaced,
        f"{what} replaces {' and '.join(replaced)} by another object",
        accepted="the same Variables, which other layers and optimizers may share",
        cause=Cause("variables-replaced", "the call puts new Variables in the place of the old"),
    )
    now = _attributes(dense)
    kept = [name for name in now if name not in attributes or now[name] != attributes[name]]
    require.that(
        static == static_after,
        f"{what} changes a static attribute of the layer",
        accepted="the same graphdef",
        cause=_why_static(dense, kept),
    )


def _why_refused(violation: Violation) -> str:
    """Return the attribute in which a call stores an array, if nnx refuses that."""
    refused = re.search(r"Cannot assign data value .* static attribute '(\w+)'", str(violation))
    if refused is None:
        return ""
    return Cause("call-stores", f"the call stores an array on the layer, as {refused[1]}")


def _why_static(dense: Built, kept: list[str]) -> str:
    if len(kept) != 1:
        return ""
    changes = f"the call changes the attribute {kept[0]}"
    if isinstance(getattr(type(dense.module), kept[0], None), functools.cached_property):
        words = "a functools.cached_property, which the first call stores: write @property"
        return Cause("cached-property", f"{changes}, {words}")
    if callable(getattr(dense.module, kept[0], None)):
        words = f"the call stores a function in the attribute {kept[0]}"
        return Cause("function-stored", f"{words}: compile outside of the layer, by nnx.jit")
    return Cause("static-changed", changes)


def _why_changed(
    changed: list[str],
    before: dict[str, bytes],
    after: dict[str, bytes],
    inputs: Sequence[np.ndarray],
) -> str:
    new = [key for key in changed if key not in before]
    if new:
        given = {np.asarray(x).tobytes() for x in inputs if np.size(x) > 1}
        if all(after[key] in given for key in new):
            names = " and ".join(f"self.{key}" for key in new)
            return Cause("input-stored", f"the call stores its input on the layer, as {names}")
        return Cause("call-stores", f"the call stores {', '.join(new)} on the layer")
    return Cause("call-writes", f"the call writes into {', '.join(changed)}")


def _bytes(dense: Built) -> dict[str, bytes]:
    return {
        ".".join(leaf.path): np.asarray(leaf.value).tobytes()
        for leaf in dense.leaves
        if not is_key(jnp.asarray(leaf.value))
    }


def _attributes(dense: Built) -> dict[str, str]:
    """Return the static attributes of a module by name: plain ones as text, functions by place."""
    plain = (int, float, str, tuple, list, dict, type(None))
    return {
        name: repr(value) if isinstance(value, plain) else str(id(value))
        for name, value in getattr(dense.module, "__dict__", {}).items()
        if not name.startswith(_OF_FLAX) and (isinstance(value, plain) or callable(value))
    }


def _variables(dense: Built) -> dict[str, Any]:
    attributes = getattr(dense.module, "__dict__", {})
    return {name: each for name, each in attributes.items() if isinstance(each, nnx.Variable)}


def _static(dense: Built) -> object:
    return getattr(dense.parameters, "static", None)


def require_unchanged_variables(dense: Built, x: np.ndarray) -> None:
    """Require that a call of a Linen model writes no collection, although all are mutable."""
    from flax.core import DenyList

    variables, model = dense.parameters.tree, dense.parameters.static
    with on_the_way("calling the layer with every collection mutable"):
        # Sowing into intermediates is allowed, because only callers that ask for them get them.
        mutable = DenyList("intermediates")
        y, updated = model.apply(variables, as_jax(x), mutable=mutable)
    before, after = (
        {
            ".".join((leaf.kind, *leaf.path)): np.asarray(leaf.value).tobytes()
            for leaf in linen_leaves(tree)
            if not any(map(leaf.is_called, dense.layer.kept))
        }
        for tree in (variables, updated)
    )
    changed = sorted(
        key for key in before.keys() | after.keys() if before.get(key) != after.get(key)
    )
    require.that(
        not changed,
        f"a call writes {', '.join(changed)}",
        accepted="no collection changed",
        cause=Cause(
            "call-writes-collection",
            "the call writes a variable collection: the layer is not a pure function of x",
        ),
    )
    plain = np.asarray(dense(x))
    cause = Cause(
        "mutable-taken", "the result of the call depends on the collections that it may write"
    )
    require.equal(y, plain, "f(x) with every collection mutable", cause=cause)
    with on_the_way("calling the layer with capture_intermediates"):
        y, _ = model.apply(
            variables, as_jax(x), capture_intermediates=True, mutable=["intermediates"]
        )
    require.equal(y, plain, "f(x) with capture_intermediates", cause=cause)


# The search for leaks visits every object of the process, so it runs once.
@once_per_layer(by=lambda case: case.kernel_shape)
def require_no_leaks(layer: Layer, case: Case) -> None:
    """Require that no tracer remains, and that the layer runs without ``jit``."""
    x = as_jax(case.x())
    dense = layer.written(case)
    given, own = case.x(), (layer.kernel_for(case), layer.bias_for(case))
    parameters = dense.parameters
    with jax.disable_jit(), require.during("the layer under jax.disable_jit"):
        found = programs.call(layer, parameters, x)
    require_value(layer, found, given, *own, "f(x) under jax.disable_jit")
    with jax.checking_leaks(), require.during("jax.jit under jax.checking_leaks"):
        found = jax.jit(lambda p, x: programs.call(layer, p, x))(parameters, x)
    require_value(layer, found, given, *own, "f(x) under jax.checking_leaks")
    if dense.module is not None and layer.accepts(BATCH):
        # Here the module is an argument, as in a function that a user compiles.
        with jax.checking_leaks(), require.during("nnx.jit under jax.checking_leaks"):
            found = nnx.jit(layer.through)(dense.module, x)
        require_value(layer, found, given, *own, "f(x) by nnx.jit, leaks checked,")


def differing_attributes(first: Built, second: Built) -> str:
    """Return a cause that names the static attributes in which two layers of one size differ."""
    found = _differing(_static_part(first), _static_part(second))
    if not found:
        return ""
    words = "is a static attribute that differs" if len(found) == 1 else "are such attributes"
    words = f"{' and '.join(found)} {words} between instances of one size"
    if all(callable(value) for value in found.values()):
        words += ": use functions that the module defines, and not new ones for each layer"
    return Cause("static-differs", words)


def _differing(one: object, another: object, place: str = "") -> dict[str, Any]:
    """Return the static attributes of a module and its submodules that differ, by path."""
    found: dict[str, Any] = {}
    for name, value in getattr(one, "__dict__", {}).items():
        other, path = getattr(another, "__dict__", {}).get(name), place + name
        if isinstance(value, nnx.Variable) and isinstance(other, nnx.Variable):
            value, other, path = _metadata(value), _metadata(other), f"the metadata of {path}"
        if isinstance(value, nnx.Module):
            found |= _differing(value, other, f"{path}.")
        if name.startswith(_OF_FLAX) or isinstance(value, nnx.Variable | nnx.Module | jax.Array):
            continue
        with contextlib.suppress(Exception):  # its comparison may raise anything
            if not bool(value == other):
                found[path] = value[0] if isinstance(value, tuple) and len(value) == 1 else value
    return found


def unhashable_attributes(dense: Built) -> str:
    """Return a cause that names the static attributes that have no hash."""
    found = []
    for name, value in getattr(dense.module, "__dict__", {}).items():
        if isinstance(value, list | dict | set) and not name.startswith(_OF_FLAX):
            found.append(f"{name}, a {type(value).__name__}")
    if not found:
        return ""
    words = f"{' and '.join(found)}, has no hash, which a static attribute needs"
    return Cause("static-unhashable", words)


def _metadata(variable: Any) -> Any:
    get = getattr(variable, "get_metadata", dict)  # not in every version of Flax
    return get()


def require_same_arrays(found: Built, expected: Built, what: str) -> None:
    """Require a copy to have the same kinds of arrays, of the same names, shapes and dtypes."""
    has, accepted = (", ".join(sorted(map(str, each.leaves))) for each in (found, expected))
    cause = Cause("copied-otherwise", f"{what} has other arrays")
    require.that(has == accepted, f"{what} has {has}", accepted=accepted, cause=cause)


def unpicklable_attributes(dense: Built) -> str:
    """Return a cause that names the attributes that pickle refuses, or "" if it takes each."""
    found = []
    for name, value in getattr(_static_part(dense), "__dict__", {}).items():
        try:
            pickle.dumps(value)
        except Exception:  # of any kind, as by __reduce__
            found.append(name)
    if not found:
        return ""
    words = f"pickle refuses the value of {' and '.join(found)}"
    return Cause("unpicklable", f"{words}: functions must have a name in their module")


def _static_part(dense: Built) -> object:
    """Return the module or the Linen model, whose only arrays should be Variables."""
    return getattr(dense.parameters, "static", None) if dense.module is None else dense.module


def require_own_buffers(one: Built, other: Built) -> None:
    """Require that two instances share no array, before the state of one is donated."""
    buffers = [
        {leaf.unsafe_buffer_pointer() for leaf in jax.tree_util.tree_leaves(each.parameters)}
        for each in (one, other)
    ]
    require.that(
        buffers[0].isdisjoint(buffers[1]),
        "two instances share an array, so that donating the state of one deletes it in both",
        accepted="arrays of their own",
        cause=Cause("buffer-shared", "two instances share a buffer"),
    )


def require_donation(layer: Layer, case: Case) -> None:
    """Require that donated state can be reused, and that other instances keep their arrays."""
    before, donor = layer.of(case), layer.of(case)
    require_own_buffers(before, donor)
    x = as_jax(case.x())
    # Copies, because JAX does not donate an array that NumPy shares.
    kernel = np.asarray(jnp.copy(layer.kernel_of(before.parameters)))
    bias = np.zeros(case.out_features, np.float32)
    if layer.convention.use_bias:
        bias = np.asarray(jnp.copy(layer.bias_of(before.parameters)))
    with require.during("jax.jit with donated state"):
        doubled, found = programs.donating(layer)(donor.parameters, x)
    require_value(layer, found, case.x(), kernel, bias, "f(x) with donated state")
    if not layer.reparameterized:
        require.equal(layer.kernel_of(doubled), 2 * kernel, "the kernel returned by the step")
    with require.during("calling an instance after another's state was donated"):
        again = np.asarray(before(x))
        np.asarray(layer.of(case)(x))
    require_value(layer, again, case.x(), kernel, bias, "f(x) of another instance")


def require_copied(dense: Built, x: np.ndarray) -> None:
    """Require each copy of an object without a framework that can be made to be the same layer."""
    from conformance.layers.adapters.plain import taken_apart

    rebuild = getattr(getattr(dense.parameters, "static", None), "rebuild", None)
    if rebuild is None:
        require.not_applicable("it is described by functions, and no object")
    subject, expected = rebuild(dense.parameters.tree), np.asarray(dense(x))
    ways: dict[str, Callable[[Any], Any]] = {
        "pickling": lambda layer: pickle.loads(pickle.dumps(layer)),
        "a deep copy": copy.deepcopy,
        "a shallow copy": copy.copy,
    }
    cause = Cause("copied-otherwise", "a copy has new arrays instead of those of the layer")
    for what, copied in ways.items():
        try:
            new = Built(dense.layer, parameters=taken_apart(copied(subject)))
        except Exception:  # as for a function in a closure
            continue
        require.equal(new(x), expected, f"f(x) after {what}", cause=cause)
