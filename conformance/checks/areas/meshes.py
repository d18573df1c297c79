"""Places arrays on several devices of this process."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conformance.checks import programs, require
from conformance.checks.areas import gradients
from conformance.checks.arithmetic import rounded
from conformance.checks.arrays import as_jax
from conformance.checks.cases import Case
from conformance.checks.diagnosis.telling import require_value
from conformance.checks.diagnosis.wrong_gradients import Point
from conformance.checks.layer import Built, Layer
from conformance.checks.oracle import Bounded
from conformance.errors import Cause, Violation
from conformance.jax_setup.lazy import jax, linen, nnx

AXIS, SECOND = "model", "data"
BY_ROWS, BY_OUTPUTS = "the batch sharded", "the kernel sharded by outputs"
Axes = tuple[str | tuple[str, ...] | None, ...]
# The annotation of a kernel with sharded outputs.
ANNOTATION = (None, AXIS)


def require_devices() -> None:
    """Skip the test as not applicable if this process has one device, or the context sets some."""
    from conformance.jax_setup.compat import inside_some_mesh

    if inside_some_mesh():
        require.not_applicable("the layer's context sets a mesh, whose devices hold all arrays")
    count = jax.device_count()
    if count < 2:
        require.not_applicable(f"needs at least 2 devices, this process has {count}")


def mesh(devices: int, second: int = 1) -> Any:
    """Return a mesh of one axis over the first devices, or of two if the second one is longer."""
    found = np.array(jax.devices()[: devices * second])
    if second == 1:
        return jax.sharding.Mesh(found, (AXIS,))
    return jax.sharding.Mesh(found.reshape(second, devices), (SECOND, AXIS))


def most(dimension: int) -> int:
    """Return the largest number of devices that divides the dimension."""
    return max(n for n in range(1, jax.device_count() + 1) if dimension % n == 0)


@dataclass(frozen=True)
class Placement:
    """The sharding of kernel, bias and x: for each axis, the name of a mesh axis or None.

    ``devices`` and ``second`` are the lengths of the mesh's axes.
    """

    devices: int
    kernel: Axes = (None, None)
    bias: Axes = (None,)
    x: Axes = (None, None)
    second: int = 1

    def of_output(self) -> Any:
        """Return the sharding of f(x) that the inputs imply: rows as x, columns as the kernel."""
        axes = jax.sharding.PartitionSpec(self.x[0], self.kernel[1])
        return jax.sharding.NamedSharding(mesh(self.devices, self.second), axes)

    def put(self, *values: np.ndarray) -> list[Any]:
        """Put kernel, bias and x on their devices, and return them."""
        over = mesh(self.devices, self.second)
        axes = (self.kernel, self.bias, self.x)
        return [
            jax.device_put(value, jax.sharding.NamedSharding(over, jax.sharding.PartitionSpec(*a)))
            for value, a in zip(values, axes, strict=True)
        ]


def placements(case: Case) -> dict[str, Placement]:
    """Return the placements of the case's layer on more than one device, by name."""
    found = {
        BY_OUTPUTS: Placement(most(case.out_features), kernel=(None, AXIS), bias=(AXIS,)),
        "the kernel sharded by inputs": Placement(
            most(case.in_features), kernel=(AXIS, None), x=(None, AXIS)
        ),
        BY_ROWS: Placement(most(case.lead[0]), x=(AXIS, None)),
    }
    found = {how: placement for how, placement in found.items() if placement.devices > 1}
    half = most(case.out_features) // 2
    if half > 1 and most(case.lead[0]) == 2 * half:
        found["the batch sharded over both axes of a mesh"] = Placement(
            half, x=((SECOND, AXIS), None), second=2
        )
        found["the batch and the outputs sharded over an axis of a mesh each"] = Placement(
            half, kernel=(None, AXIS), bias=(AXIS,), x=(SECOND, None), second=2
        )
    return found


@programs.compiled
def sharded(layer: Layer) -> Any:
    """Return ``(parameters, kernel, bias, x) -> y``, compiled for the devices of the arrays."""
    return programs.affine(layer)


def on_their_devices(dense: Built, places: Placement, case: Case) -> Built:
    """Return the layer with the case's kernel and bias written on their devices."""
    layer = dense.layer
    kernel, bias, _ = places.put(layer.kernel_for(case), layer.bias_for(case), case.x())
    with require.during("writing sharded parameters"):
        new = layer.write(dense.parameters, kernel, bias)
        if dense.module is None:
            return Built(layer, parameters=new)
        nnx.update(dense.module, new.tree)
        return dense


def require_half(dense: Built, places: Placement, case: Case) -> None:
    """Require the result outside of jit for an x of bfloat16 on its devices.

    If it is wrong on one device, ``dtypes/half-input`` reports it, which is a recommendation.
    """
    x, layer = rounded(case.x(), "bfloat16"), dense.layer
    arithmetic = layer.arithmetic(case.in_features, "bfloat16").in_parts()
    kernel, bias = case.kernel(), layer.bias_for(case)
    right = False
    with contextlib.suppress(Violation):
        right = arithmetic.affine(x, kernel, bias).admits(
            layer.written(case)(as_jax(x, "bfloat16"))
        )
    if not right:
        return
    given = places.put(case.kernel(), case.bias(), as_jax(x, "bfloat16"))[2]
    what = f"f(x) outside of jit with {BY_ROWS}, for an x of bfloat16"
    y = np.asarray(dense(given), np.float32)
    require_value(layer, y, x, kernel, bias, what, arithmetic.affine)


def require_same_within_mesh(dense: Built, places: Placement, x: Any, reference: Bounded) -> None:
    """Require f(x) where the mesh of x is set, if the layer works there."""
    y = result_within_mesh(dense, places, x)
    if y is not None:
        cause = Cause("mesh-in-call", "the layer computes otherwise where a mesh is set")
        what = f"f(x) within a mesh, with {BY_ROWS},"
        require.near(np.asarray(y), reference, what, cause=cause)


def require_both_axes(layer: Layer, case: Case, reference: Bounded) -> None:
    """Require f(x) outside of jit for sequences that are sharded along their second axis.

    Both axes of the kernel are sharded as well, over a mesh of two axes.
    """
    half, lead = most(case.out_features) // 2, (2, 4)
    if half < 2 or lead[1] % half or case.in_features % half or not layer.accepts(lead):
        return
    places = Placement(half, kernel=(AXIS, SECOND), bias=(SECOND,), second=2)
    dense = on_their_devices(layer.of(case), places, case)
    axes = jax.sharding.PartitionSpec(None, AXIS)
    spread = jax.sharding.NamedSharding(mesh(half, 2), axes)
    y = dense(jax.device_put(case.x().reshape(*lead, -1), spread))
    what = "f(x) outside of jit with sequences along one axis of a mesh, and the kernel along both"
    require.near(np.asarray(y).reshape(reference.value.shape), reference, what)


def require_within_shard_map(layer: Layer, places: Placement, case: Case, found: Bounded) -> None:
    """Require f of the rows of each device, by ``jax.shard_map``, to be those of f(x).

    There, a layer sees the part on one device, and the axes of the mesh have names.
    """
    from conformance.jax_setup.compat import shard_map

    whole, by_rows = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
    mapped = shard_map(
        programs.affine(layer), mesh(places.devices), (whole, whole, whole, by_rows), by_rows
    )
    given = layer.of(case).parameters, case.kernel(), layer.bias_for(case), case.x()
    # A layer that constrains its result, or has rules of its own, may not work there.
    y = None
    with contextlib.suppress(Exception):
        y = np.asarray(jax.jit(mapped)(*given))
    if y is not None:
        cause = Cause("mesh-in-call", "the layer computes otherwise within jax.shard_map")
        require.near(y, found, f"f(x) within jax.shard_map, with {BY_ROWS},", cause=cause)


def require_gradients(layer: Layer, places: Placement, case: Case, how: str) -> None:
    """Require the gradients outside of jit, where kernel, bias, x and g are on their devices."""
    # At least two rows are on each device, so that they are not taken for a single one.
    places = replace(places, devices=min(places.devices, case.lead[0] // 2))
    g = case.normal("cotangent", *case.lead, case.out_features)
    point = Point(f"with {how}", case.kernel(), case.bias(), case.x(), g)
    values, spread = places.put(*point.values()), jax.device_put(g, places.of_output())
    loss = programs.weighted(layer, layer.of(case).parameters, spread)
    by = "jax.grad outside of jit"
    with require.during(f"{by}, with {how}"):
        found = jax.grad(loss, (0, 1, 2))(*values)
    arithmetic = layer.arithmetic(case.in_features).in_parts()
    gradients.require_gradients(layer, found, point, by, arithmetic=arithmetic)


def result_within_mesh(dense: Built, places: Placement, x: Any) -> Any:
    """Return f(x) where a mesh is set; None if the layer does not work within it.

    There, a layer may constrain its result, or its parameters to axes that this mesh does not have.
    """
    from conformance.jax_setup.compat import inside_mesh

    with inside_mesh(mesh(places.devices, places.second)), contextlib.suppress(Exception):
        return dense(x)
    return None


def kernel_within_mesh(layer: Layer, case: Case) -> np.ndarray | None:
    """Return the kernel of a layer that is built where a mesh is set; None if it is not built."""
    from conformance.jax_setup.compat import inside_mesh

    with contextlib.suppress(Exception), inside_mesh(mesh(most(case.out_features))):
        return layer.of(case).kernel
    return None


def devices_of(tree: Any) -> set[Any]:
    """Return every device that has an array of the pytree."""
    return {device for leaf in jax.tree_util.tree_leaves(tree) for device in leaf.devices()}


def require_annotated(layer: Layer, module: type, case: Case) -> None:
    """Require a module built under ``nnx.jit`` to have the annotations of its initializers.

    Its kernel is sharded by its own, and copies have the same.
    """
    from conformance.jax_setup.compat import inside_mesh

    wanted: dict[str, Axes] = {"kernel": ANNOTATION}
    if layer.convention.use_bias and "bias_init" in layer.implementation.options:
        wanted["bias"] = ANNOTATION[1:]
    place = ("annotated", case.kernel_shape)
    with inside_mesh(mesh(most(case.out_features))):
        with require.during("construction under nnx.jit with annotated initializers"):
            build = layer.remember(place, lambda: _annotated(module, case, wanted))
            dense = build(nnx.Rngs(case.seed))
            spread = tuple(dense.kernel[...].sharding.spec)
        with require.during("copying a layer with annotations"):
            copies = {"nnx.clone": nnx.clone(dense), "copy.deepcopy": copy.deepcopy(dense)}
        for which, axes in wanted.items():
            words = f"the annotation of {which}_init does not reach the Param"
            _require_axes(f"the annotation on the {which}", _axes_of(dense, which), axes, words)
            for how, copied in copies.items():
                words = f"{how} makes Params without the annotations of the layer's"
                what = f"the annotation on the {which} of a copy by {how}"
                _require_axes(what, _axes_of(copied, which), axes, words)
        words = "the annotation of kernel_init does not decide where the kernel lies"
        _require_axes("the sharding of the kernel", spread, ANNOTATION, words)


def require_metadata(layer: Layer, module: type, case: Case) -> None:
    """Require ``kernel_metadata`` and ``bias_metadata``, if taken, to reach their Params."""
    names = [which for which in RANKS if f"{which}_metadata" in layer.implementation.options]
    given: Any = {f"{which}_metadata": {"owner": which} for which in names}
    with require.during("construction with kernel_metadata and bias_metadata"):
        dense = module(*case.kernel_shape, **given, rngs=nnx.Rngs(case.seed))
    for which in names:
        found = getattr(getattr(dense, which), "owner", None)
        require.that(
            found == which,
            f"the Param of the {which} has the metadata of {found}",
            accepted=f"{which}_metadata",
            cause=Cause("metadata-elsewhere", f"{which}_metadata does not reach the {which}"),
        )


def _axes_of(module: Any, which: str) -> Axes:
    specs = nnx.get_partition_spec(nnx.state(module))[which]
    of_one = jax.sharding.PartitionSpec
    found = jax.tree_util.tree_leaves(specs, is_leaf=lambda leaf: isinstance(leaf, of_one))
    return tuple(found[0])


def _require_axes(what: str, found: Axes, wanted: Axes, lost: str) -> None:
    """Require the axes of an annotation; ``lost`` says in words why there may be none."""
    cause = "" if any(found) else Cause("annotation-lost", lost)
    if found != wanted and found == wanted[::-1]:
        cause = Cause("annotation-exchanged", "the axes of the annotation are swapped")
    require.that(found == wanted, f"{what} is {found}", accepted=str(wanted), cause=cause)


def _annotated(module: type, case: Case, wanted: dict[str, Axes]) -> Any:
    """Return the compiled function that builds a module with these annotations."""
    laws = {"kernel": nnx.initializers.lecun_normal(), "bias": nnx.initializers.zeros_init()}
    initial = {f"{which}_init": nnx.with_partitioning(laws[which], axes)
               for which, axes in wanted.items()}  # fmt: skip

    @nnx.jit
    def build(rngs: Any) -> Any:
        dense = module(case.in_features, case.out_features, **initial, rngs=rngs)
        state = nnx.state(dense)
        spread = jax.lax.with_sharding_constraint(state, nnx.get_partition_spec(state))
        nnx.update(dense, spread)
        return dense

    return build


AXES: dict[str, tuple[str, ...]] = {"kernel_init": ("in", "out"), "bias_init": ("out",)}
"""The axis names that :func:`annotating` gives to kernel and bias."""


def annotating(options: Sequence[str]) -> dict[str, Any]:
    """Return initializers of a Linen layer that annotate the arrays that they draw."""
    zeros = linen.initializers.zeros_init()
    return {name: linen.with_partitioning(zeros, AXES[name]) for name in options}


RANKS = {"kernel": 2, "bias": 1}


def of_annotations(layer: Layer, case: Case) -> str:
    """Return which annotation does not fit its array: one that no mesh mends."""
    from conformance.jax_setup.compat import without_placing

    with contextlib.suppress(Exception), without_placing():
        for which, names in annotated_axes(layer, case).items():
            if len(names) > RANKS[which]:
                return annotation_too_long(which, names)
    return ""


def annotation_too_long(which: str, names: tuple[Any, ...]) -> Cause:
    """Return the cause that the annotation of the kernel or the bias has more names than axes."""
    rank = RANKS[which]
    words = f"the sharding annotation of the {which}, {names}, has {len(names)} names for {rank}"
    return Cause("annotation-too-long", f"{words} {'axis' if rank == 1 else 'axes'}")


def annotated_axes(layer: Layer, case: Case) -> dict[str, tuple[Any, ...]]:
    """Return the names of mesh axes on kernel and bias of a Flax layer; () for none."""
    parameters = layer.of(case).parameters
    get: Any = linen.get_partition_spec if layer.implementation.linen else nnx.get_partition_spec
    with require.during("get_partition_spec of the layer's parameters"):
        specs = get(parameters.tree)
    found = jax.tree_util.tree_leaves(
        specs, is_leaf=lambda leaf: isinstance(leaf, jax.sharding.PartitionSpec)
    )
    leaves = Built(layer, parameters=parameters).leaves
    ranks = {rank: which for which, rank in RANKS.items()}
    return {
        ranks[np.ndim(leaf.value)]: tuple(spec)
        for leaf, spec in zip(leaves, found, strict=True)
        if np.ndim(leaf.value) in ranks
    }
