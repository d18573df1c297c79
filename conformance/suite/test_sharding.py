"""The layer on several devices: results, placement and sharding annotations.

On one host, XLA emulates several devices; see ``conformance.jax_setup.compile_cache``.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from conformance.checks import jaxprs, programs, require
from conformance.checks.areas import input_dtypes, meshes
from conformance.checks.cases import Case, over
from conformance.checks.diagnosis.stale_values import require_written
from conformance.checks.diagnosis.telling import require_value
from conformance.checks.layer import Layer
from conformance.contract.requirement import (
    ANY,
    FLOAT32_THROUGHOUT,
    LINEN,
    MAY,
    MUST,
    NNX,
    PARAMETERS,
    SHOULD,
    requirement,
    rests_on,
)
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax


@requirement(
    "sharding/sharded-equals-local",
    SHOULD,
    PARAMETERS,
    wrong_numbers=MUST,
    presumes=[FLOAT32_THROUGHOUT],
)
@rests_on("forward/zero-input", "forward/affine-value", "transforms/jit")
@over(sizes=[(3, 10), (16, 16)])
def test_sharded_equals_local(layer: Layer, case: Case) -> None:
    """With the kernel sharded by outputs or by inputs, f(x) is within the rounding-error bound.

    The same holds with a sharded batch, also within ``jax.shard_map``. If the kernel is sharded by
    inputs, every device sums a part, so that the order of summation differs; the bound holds for
    every order.
    """
    meshes.require_devices()
    x, kernel, bias = case.x(), case.kernel(), layer.bias_for(case)
    value = layer.arithmetic(case.in_features).in_parts().affine
    parameters = layer.of(case).parameters
    for how, places in meshes.placements(case).items():
        with require.during(f"the layer with {how}"):
            found = meshes.sharded(layer)(parameters, *places.put(kernel, bias, x))
            found = np.asarray(found)
        what = f"f(x) with {how} on {places.devices * places.second} devices"
        require_value(layer, found, x, kernel, bias, what, value)
        if how == meshes.BY_ROWS and programs.is_plain(case):
            meshes.require_within_shard_map(layer, places, case, value(x, kernel, bias))


@requirement("sharding/default-device", SHOULD, PARAMETERS, wrong_numbers=MUST)
@rests_on(
    "seeding/same-seed-same-bits",
    "forward/output-shape",
    "state/exact-state",
    "state/instances-independent",
    "construction/parameter-dtype",
)
@over(sizes=[(16, 16)], at_most=1)
def test_default_device(layer: Layer, case: Case) -> None:
    """Parameters that are built under ``jax.default_device(d)`` lie on d, and have the same values
    for every d. They have them within a mesh as well.
    """
    meshes.require_devices()
    device, here = jax.devices()[1], layer.of(case).kernel
    with jax.default_device(device):
        dense = layer.of(case)
        found = meshes.devices_of(dense.parameters)
        kernel = dense.kernel
    require.that(
        found == {device},
        f"under jax.default_device({device}), the parameters lie on {_listed(found)}",
        accepted=str(device),
        cause=Cause(
            "device-of-choice", "construction puts parameters on a device of its own choice"
        ),
    )
    require.equal(kernel, here, "the kernel on another device")
    within = meshes.kernel_within_mesh(layer, case)
    cause = Cause("mesh-in-draw", "the kernel that is drawn depends on the mesh")
    if within is not None:
        require.equal(
            within, here, "the kernel of a layer that is built within a mesh", cause=cause
        )


def _listed(devices: set[Any]) -> str:
    return ", ".join(sorted(map(str, devices)))


@requirement("sharding/second-device", SHOULD, ANY, wrong_numbers=MUST)
@rests_on("forward/zero-input", "forward/affine-value", "state/updates-used")
@over(sizes=[(3, 10)], at_most=1)
def test_second_device(layer: Layer, case: Case) -> None:
    """With parameters and x on the same device, f(x) is computed and lies there, for any device;
    the parameters and x stay where they are. A function computes on the device of x.
    """
    meshes.require_devices()
    device, x = jax.devices()[1], layer.x_for(case)
    given = jax.device_put(x, device)
    if PARAMETERS in layer.provides:
        dense = layer.written(case).replaced(lambda value: jax.device_put(value, device))
        y, held = dense(given), dense.parameters
        own = layer.kernel_for(case), layer.bias_for(case)
    else:
        y, held, own = layer.at(case)(given), given, layer.affine(case)
    for what, value in (("f(x)", y), ("x", given), ("the layer", held)):
        found = meshes.devices_of(value)
        require.that(
            found == {device},
            f"with all on {device}, {what} lies on {_listed(found)} after the call",
            accepted=str(device),
            cause=Cause("device-moved", f"the call moves {what} to another device"),
        )
    require_value(layer, y, x, *own, f"f(x) on {device}")
    if PARAMETERS in layer.provides:
        with jax.default_device(device):
            require_written(dense, case, given, f"a call on {device}")


@requirement("sharding/eager", MUST, PARAMETERS, presumes=[FLOAT32_THROUGHOUT])
# JAX may crash on an array of several devices that a call has donated.
@rests_on(
    *("sharding/sharded-equals-local", "sharding/second-device", "purity/input-kept"),
    *("transforms/gradients", "dtypes/half-input"),
)
@over(sizes=[(16, 16)], at_most=1)
def test_eager(layer: Layer, case: Case) -> None:
    """Outside of jit, with sharded parameters and inputs, f(x) is within the rounding-error bound.

    The same holds for the gradients, with the batch or the outputs sharded, for an x of bfloat16,
    for sequences that are sharded along their second axis, and within the mesh of x. Under jit a
    layer sees whole arrays; outside of it, a layer that inspects arrays may take the part on one
    device for the whole.
    """
    meshes.require_devices()
    if not layer.accepts(case.lead):
        require.not_applicable("the layer takes no batch that could be sharded")
    x, kernel, bias = case.x(), layer.kernel_for(case), layer.bias_for(case)
    value = layer.arithmetic(case.in_features).in_parts().affine
    for how, places in meshes.placements(case).items():
        dense = meshes.on_their_devices(layer.of(case), places, case)
        spread = places.put(case.kernel(), case.bias(), x)[2]
        what = f"f(x) outside of jit with {how}"
        require_value(layer, dense(spread), x, kernel, bias, what, value)
        if how == meshes.BY_ROWS:
            meshes.require_same_within_mesh(dense, places, spread, value(x, kernel, bias))
            if input_dtypes.works_with(layer, "bfloat16"):
                meshes.require_half(dense, places, case)
        if places.x[0] and layer.accepts((8, 1)):
            y = np.asarray(dense(places.put(kernel, bias, x[:, None])[2]))[:, 0]
            what = f"f(x) outside of jit with {how}, for an x of rank 3"
            require_value(layer, y, x, kernel, bias, what, value)
        if how in (meshes.BY_ROWS, meshes.BY_OUTPUTS):
            meshes.require_gradients(layer, places, case, how)
    meshes.require_both_axes(layer, case, value(x, kernel, bias))


@requirement("sharding/output-sharding", SHOULD, PARAMETERS, presumes=[FLOAT32_THROUGHOUT])
@rests_on("sharding/eager", "sharding/sharded-equals-local", "state/updates-used")
@over(sizes=[(16, 16)], at_most=1)
def test_output_sharding(layer: Layer, case: Case) -> None:
    """The result is sharded as its inputs imply: its rows like those of x, its columns like those
    of the kernel, both outside of jit and under it. Within the mesh of x, no device has all rows.

    In a large model, an array that is gathered on one device or on each of them does not fit there.
    """
    meshes.require_devices()
    if not layer.accepts(case.lead):
        require.not_applicable("the layer takes no batch that could be sharded")
    if jaxprs.loops(programs.traced(layer, case)):
        require.not_applicable("it goes through x in a loop, which devices cannot share")
    parameters = layer.of(case).parameters
    for how, places in meshes.placements(case).items():
        if places.x[1] is not None:
            continue  # a sum over devices may lie anywhere
        values = places.put(case.kernel(), layer.bias_for(case), case.x())
        dense = meshes.on_their_devices(layer.of(case), places, case)
        for when, y in (
            ("outside of jit", dense(values[2])),
            ("under jit", meshes.sharded(layer)(parameters, *values)),
        ):
            require.that(
                y.sharding.is_equivalent_to(places.of_output(), y.ndim),
                f"with {how}, f(x) {when} has the sharding {y.sharding}",
                accepted=str(places.of_output()),
                cause=_GATHERED,
            )
        if how == meshes.BY_ROWS:
            y = meshes.result_within_mesh(dense, places, values[2])
            require.that(
                y is None or not y.sharding.is_fully_replicated,
                f"with {how}, and within its mesh, each device has all of f(x)",
                accepted=str(places.of_output()),
                cause=_GATHERED,
            )


_GATHERED = Cause("array-gathered", "the layer gathers x, or its result, from all devices")


@requirement("sharding/sharding-metadata", MAY, NNX, order=110, seconds=0.8)
@over(sizes=[(16, 16)])
def test_sharding_metadata(layer: Layer, case: Case) -> None:
    """A sharding annotation survives on the Param, under jit init and in a copy.

    ``kernel_init=nnx.with_partitioning(...)`` gives the annotation, and ``bias_init`` does so
    for the bias. ``nnx.get_partition_spec`` finds it, and a module that is built under ``nnx.jit``
    has its kernel sharded by it. ``kernel_metadata`` and ``bias_metadata`` reach their own Params.
    """
    built = type(layer.of(case).module)
    if "kernel_init" not in inspect.signature(built.__init__).parameters:
        require.not_applicable("its constructor takes no kernel_init that could be annotated")
    meshes.require_devices()
    meshes.require_annotated(layer, built, case)
    meshes.require_metadata(layer, built, case)


@requirement("sharding/linen-annotations", SHOULD, LINEN)
@rests_on("state/updates-used", "construction/kernel-shape", "construction/bias-shape")
@over(sizes=[(3, 10)], at_most=1)
def test_linen_annotations(layer: Layer, case: Case) -> None:
    """The sharding annotations of a Linen layer, its own or those of ``kernel_init`` and
    ``bias_init``, name one mesh axis for each array axis; the bias has the kernel's output axis.

    ``nn.get_partition_spec`` reads them to place the parameters of a large model.
    """
    own = meshes.annotated_axes(layer, case)
    options = ["kernel_init", "bias_init"] if layer.convention.use_bias else ["kernel_init"]
    if any(own.values()):
        pass  # a layer that names the axes itself does not take other names from an initializer
    elif set(options) <= layer.implementation.options - layer.implementation.chosen:
        annotated = layer.with_options(**meshes.annotating(options))
        given = meshes.annotated_axes(annotated, case)
        for name in options:
            found = given.get(name.partition("_")[0], ())
            require.that(
                found == meshes.AXES[name],
                f"an initializer that annotates {meshes.AXES[name]} gives {found}",
                accepted=str(meshes.AXES[name]),
                cause=Cause("annotation-lost", f"the annotation of {name} is lost"),
            )
    else:
        require.not_applicable("its parameters have no annotations, and no option brings them")
    _require_fitting(layer, own)


def _require_fitting(layer: Layer, own: dict[str, tuple[Any, ...]]) -> None:
    """Require a layer's own annotations to fit the ranks, and the bias to lie along the outputs."""
    for which, rank in meshes.RANKS.items():
        names = own.get(which, ())
        require.that(
            len(names) in (0, rank),
            f"the annotation of the {which} is {names}",
            accepted=f"{rank} names",
            cause=meshes.annotation_too_long(which, names) if len(names) > rank else "",
        )
    kernel, bias = own.get("kernel", ()), own.get("bias", ())
    inputs, outputs = kernel[:: -1 if layer.convention.layout == "out,in" else 1] or ((), ())
    words = "the names of the kernel are reversed, or the bias has the name of the inputs"
    require.that(
        not (kernel and bias) or bias[0] in (None, outputs),
        f"the kernel is annotated {kernel}, the bias {bias}",
        accepted="for the bias, the name of the kernel's output axis",
        cause=Cause("bias-along-inputs", words) if bias and bias[0] == inputs else "",
    )


@requirement("sharding/nnx-annotations", SHOULD, NNX)
@rests_on("state/exact-state", "construction/kernel-shape", "construction/bias-shape")
@over(sizes=[(3, 10)], at_most=1)
def test_nnx_annotations(layer: Layer, case: Case) -> None:
    """The sharding annotations of an nnx layer name one mesh axis for each array axis; the bias has
    the kernel's output axis.

    ``nnx.get_partition_spec`` reads them to place the parameters of a large model.
    """
    own = meshes.annotated_axes(layer, case)
    if not any(own.values()):
        require.not_applicable("its parameters have no annotations")
    _require_fitting(layer, own)
