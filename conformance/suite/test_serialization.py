"""The layer can be saved, and loaded by code that knows what a Dense stores."""

from __future__ import annotations

import difflib
import itertools
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.checks import profiles, programs, require
from conformance.checks.areas import checkpoints
from conformance.checks.cases import Case, over
from conformance.checks.layer import Built, Layer
from conformance.checks.once import once_per_layer
from conformance.contract.requirement import (
    LINEN,
    MUST,
    NNX,
    PARAMETERS,
    SHOULD,
    idle_because,
    requirement,
    rests_on,
)
from conformance.errors import Cause
from conformance.jax_setup.lazy import jnp
from conformance.layers.storage import BiasRow, Scaled


@requirement(
    "serialization/stable-names", SHOULD, PARAMETERS, declared=True, foundation=True, order=-180
)
@over(sizes=programs.FEW_SIZES)
def test_stable_names(layer: Layer, case: Case) -> None:
    """The parameters have the names that the layer declares, by default kernel and bias.

    Checkpoints, optimizer masks and sharding rules find parameters by their names. The last part of
    a path counts here; ``serialization/flax-checkpoint`` compares whole paths with those of Flax.
    The areas ``state`` and ``construction`` check for a kernel or bias that is missing altogether.
    """
    leaves = layer.of(case).leaves
    is_whole = isinstance(layer.seen.storage, BiasRow | Scaled | None)
    if layer.has_no_one_kernel or not is_whole:
        return  # construction/only-two-parameters reports that; renaming would not help
    kernel, bias = layer.declared.parameter_names
    # A declared name may be a whole path.
    names = [
        next(filter(leaf.is_called, layer.declared.parameter_names), leaf.name) for leaf in leaves
    ]
    ranks = {np.ndim(leaf.value) for leaf in leaves}
    wanted = {kernel} if 2 in ranks else set()
    wanted |= {bias} if 1 in ranks and layer.convention.use_bias else set()
    called = " and ".join(sorted(set(names))) or "nothing"
    cause = Cause("names-other", f"the layer's parameters are called {called}")
    if names and all(name.isdigit() for name in names):
        words = "jax.tree_util.register_pytree_with_keys_class gives names"
        if layer.of(case).module is not None:
            words = "keep each as an attribute, not in a list"
        cause = Cause("names-none", f"numbers stand for the names of the parameters: {words}")
    for name, wrong in itertools.product(sorted(wanted - {*names}), names):
        if difflib.get_close_matches(wrong, [name], cutoff=0.8):
            cause = Cause("name-misspelled", f"{wrong} is a misspelling of {name}: rename it")
    swapped = {(leaf.name, np.ndim(leaf.value)) for leaf in leaves} >= {(kernel, 1), (bias, 2)}
    require.that(
        not swapped,
        f"the arrays of the layer are {', '.join(map(str, leaves))}",
        accepted=f"{kernel} of rank 2, {bias} of rank 1",
        cause=Cause("names-exchanged", f"{kernel} and {bias} have each other's names"),
    )
    require.that(
        wanted <= set(names),
        f"the arrays of the layer are {', '.join(map(str, leaves)) or 'none'}",
        accepted=f"the names {' and '.join(sorted(wanted, reverse=True))}",
        declare=_line(layer),
        cause=cause,
    )


def _line(layer: Layer) -> str:
    """Return the line that declares the names that were found, or "" if they are declared."""
    keys = ("kernel", "bias") if layer.convention.use_bias else ("kernel",)
    pairs = zip(
        keys, layer.convention.parameter_names, layer.declared.parameter_names, strict=False
    )
    named = [f'{key} = "{found}"' for key, found, declared in pairs if found != declared]
    return f"names = {{ {', '.join(named)} }}" if named else ""


@requirement("serialization/round-trip", SHOULD, NNX, LINEN, wrong_numbers=MUST)
@rests_on("forward/affine-value", "state/exact-state")
@over(sizes=programs.FEW_SIZES)
def test_round_trip(layer: Layer, case: Case) -> None:
    """Saved as bytes or a pure dict and loaded into another instance, the layer computes the same.

    The check uses ``flax.serialization``, with a template and without, and, in the standard and
    thorough profiles, Orbax if it is installed. The NumPy arrays that they return go into the layer
    unchanged. Values and results are compared bitwise, because saving and loading compute nothing.
    """
    dense = layer.written(case)
    with require.during("reading the layer's state as a pure dict"):
        values = checkpoints.values_of(dense)
    template = checkpoints.values_of(_another(layer, case))
    with require.during("flax.serialization.to_bytes and from_bytes of the layer's state"):
        saved = {"a pure dict": values, **checkpoints.by_bytes(values, template)}
    for by, loaded in saved.items():
        _require_restored(layer, case, dense, by, loaded)
    if programs.is_plain(case) and profiles.active().name != "quick":
        # Importing Orbax takes as long as the rest of this requirement.
        _require_round_trip_by_orbax(layer, case, dense, values, template)


def _another(layer: Layer, case: Case) -> Built:
    return layer.of(replace(case, seed=(case.seed + 1) % 2**32))


def _require_restored(layer: Layer, case: Case, dense: Built, by: str, loaded: Any) -> None:
    x = case.x() if layer.accepts(case.lead) else case.x()[0]
    with require.during(f"putting the values from {by} into another instance"):
        instance = checkpoints.restored(_another(layer, case), loaded)
    require.equal(instance.kernel, layer.kernel_for(case), f"the kernel after {by}")
    require.equal(instance.bias, layer.bias_for(case), f"the bias after {by}")
    require.equal(instance(x), dense(x), f"f(x) after {by}")


# Orbax starts threads to write files.
@once_per_layer()
def _require_round_trip_by_orbax(
    layer: Layer, case: Case, dense: Built, values: Any, template: Any
) -> None:
    if not checkpoints.has_orbax():
        require.note("Orbax is not installed: the round trip through it was not tried")
        return
    with require.during("saving and restoring the layer's state by Orbax"):
        loaded = checkpoints.by_orbax(values, template)
    _require_restored(layer, case, dense, "Orbax", loaded)


@requirement("serialization/flax-checkpoint", SHOULD, NNX, LINEN, wrong_numbers=MUST)
@idle_because(
    "a layer that loads its own file loads Flax's with the same paths and shapes; this one "
    "reads such a file."
)
@rests_on(
    *("serialization/round-trip", "serialization/stable-names"),
    *("forward/affine-value", "forward/basis-input"),
)
@over(sizes=programs.FEW_SIZES[-1:], at_most=1)
def test_flax_checkpoint(layer: Layer, case: Case) -> None:
    """A checkpoint of ``nnx.Linear`` or ``linen.Dense`` loads into the layer, with their result.

    The file is msgpack; the NumPy arrays read from it go into the layer unchanged. The paths of
    kernel and bias must be those of Flax: a layer that wraps another one has them one level deeper,
    so the requirement does not apply to it.
    """
    dense = _another(layer, case)
    paths = {leaf.path for leaf in dense.leaves}
    wanted = {("kernel",), ("bias",)} if layer.convention.use_bias else {("kernel",)}
    if paths != wanted or layer.convention.layout != "in,out":
        shown = " and ".join(sorted(".".join(path) for path in paths))
        require.not_applicable(f"its arrays are {shown}, not those of a Flax layer")
    if isinstance(layer.seen.storage, Scaled):
        require.not_applicable("its kernel is scaled in each call, unlike that of Flax's Dense")
    if checkpoints.are_boxed(dense):
        require.not_applicable("its parameters are boxed, and so are those in its files")
    own = layer.convention.parameter_dtype
    dtype = jnp.dtype(own if own in programs.HALF else "float32")
    values = {"kernel": case.kernel().astype(dtype), "bias": case.bias().astype(dtype)}
    saved = checkpoints.of_flax({path[0]: values[path[0]] for path in wanted}, dense)
    x = case.x() if layer.accepts(case.lead) else case.x()[0]
    with require.during("loading the checkpoint of a Flax layer, as NumPy arrays,"):
        instance = checkpoints.restored(dense, saved)
        y = np.asarray(instance.raw(x))
    reference = layer.value_for(case, x)
    what = "f(x) with the checkpoint of a Flax layer"
    require.near(y, reference, what)
