"""The layer on several devices: computed in parts, and annotated for it.

On one host, XLA stands in for several devices; see ``conformance.jax_setup.compile_cache``.
"""

from __future__ import annotations

import inspect

import numpy as np

from conformance.checks import meshes, require
from conformance.checks.cases import Case, over
from conformance.checks.layer import Layer
from conformance.contract.requirement import (
    FLOAT32_RESULTS,
    FLOAT32_THROUGHOUT,
    MAY,
    NNX,
    PARAMETERS,
    SHOULD,
    requirement,
)


@requirement(
    "sharding/sharded-equals-local",
    SHOULD,
    PARAMETERS,
    rests_on=["forward/zero-input", "forward/affine-value", "transforms/jit"],
    presumes=[FLOAT32_RESULTS, FLOAT32_THROUGHOUT],
)
@over(sizes=[(3, 10), (16, 16)])
def test_sharded_equals_local(layer: Layer, case: Case) -> None:
    """With the kernel sharded by outputs or by inputs, f(x) is within the rounding-error bound.

    Also with the batch sharded. Sharded by inputs, every device sums a part, so that the order
    of summation differs; the bound holds for every order.
    """
    meshes.require_devices()
    x, kernel, bias = case.x(), case.kernel(), layer.bias_for(case)
    reference = layer.value(x, kernel, bias)
    parameters = layer.of(case).parameters
    for how, places in meshes.placements(case).items():
        with require.during(f"the layer with {how}"):
            found = meshes.sharded(layer)(parameters, *places.put(kernel, bias, x))
            found = np.asarray(found)
        what = f"f(x) with {how} on {places.devices} devices"
        require.within(found, reference.value, reference.bound, what)


@requirement(
    "sharding/sharding-metadata",
    MAY,
    NNX,
    order=110,
    seconds=0.8,
)
@over(sizes=[(16, 16)])
def test_sharding_metadata(layer: Layer, case: Case) -> None:
    """A sharding annotation survives on the Param and under jit init.

    Given by ``kernel_init=nnx.with_partitioning(...)``: ``nnx.get_partition_spec`` finds it,
    and a module that is built under ``nnx.jit`` has its kernel spread accordingly.
    """
    built = type(layer.of(case).module)
    if "kernel_init" not in inspect.signature(built.__init__).parameters:
        require.not_applicable("its constructor takes no kernel_init that could be annotated")
    meshes.require_devices()
    with require.during("construction under nnx.jit with an annotated kernel_init"):
        found = meshes.annotated_kernel(layer, built, case)
    for what, spec in found.items():
        require.that(
            spec == meshes.ANNOTATION,
            f"{what} is {spec}",
            accepted=str(meshes.ANNOTATION),
            cause="the annotation of kernel_init does not reach the Param",
        )
