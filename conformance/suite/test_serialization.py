"""Whether the layer can be saved, and loaded by whoever knows what a Dense stores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from conformance import checkpoints, programs, require
from conformance.cases import Case, over
from conformance.layer import Layer
from conformance.requirement import LINEN, NNX, PARAMETERS, SHOULD, requirement


@requirement("serialization/stable-names", SHOULD, PARAMETERS, declared=True)
@over(every_size=False)
def test_stable_names(layer: Layer, case: Case) -> None:
    """The parameters are called as the layer declares: by default kernel and bias.

    Checkpoints, optimizer masks and sharding rules find parameters by their names.
    """
    leaves = layer.of(case).leaves
    names = [leaf.name for leaf in leaves]
    kernel, bias = layer.convention.parameter_names
    wanted = {kernel, bias} if layer.convention.use_bias else {kernel}
    called = " and ".join(sorted(set(names))) or "nothing"
    require.that(
        wanted <= set(names),
        f"the arrays of the layer are {', '.join(map(str, leaves)) or 'none'}",
        accepted=f"the names {' and '.join(sorted(wanted, reverse=True))}",
        cause=f"the layer's parameters are called {called}",
    )


@requirement("serialization/round-trip", SHOULD, NNX, LINEN, rests_on=["forward/affine-value"])
@over(every_size=False)
def test_round_trip(layer: Layer, case: Case) -> None:
    """To bytes or a pure dict and back into another instance, the layer computes the same.

    Through ``flax.serialization``, with a template and without, and through Orbax where it is
    installed. Values and results are compared bitwise: nothing is computed on the way.
    """
    dense = layer.written(case)
    x = case.x() if layer.accepts(case.lead) else case.x()[0]
    expected = np.asarray(dense(x))
    other = replace(case, seed=(case.seed + 1) % 2**32)
    with require.during("reading the layer's state as a pure dict"):
        values = checkpoints.values_of(dense)
    template = checkpoints.values_of(layer.of(other))
    with require.during("flax.serialization.to_bytes and from_bytes of the layer's state"):
        saved = {"a pure dict": values, **checkpoints.by_bytes(values, template)}
    if programs.is_plain(case):
        if checkpoints.has_orbax():
            with require.during("saving and restoring the layer's state by Orbax"):
                saved["Orbax"] = checkpoints.by_orbax(values, template)
        else:
            require.note("Orbax is not installed: the round trip through it was not tried")
    for by, loaded in saved.items():
        instance = layer.of(other)
        with require.during(f"putting the values from {by} into another instance"):
            instance = checkpoints.restored(instance, loaded)
        require.equal(instance.kernel, case.kernel(), f"the kernel after {by}")
        require.equal(instance.bias, layer.bias_for(case), f"the bias after {by}")
        require.equal(instance(x), expected, f"f(x) after {by}")
