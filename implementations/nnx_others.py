"""Other layers of Flax NNX that act as a Dense: general, adapted, and wrapped ones."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax.numpy as jnp
from flax import linen, nnx
from flax.nnx import LinearGeneral

from conformance.layers.adapters import adapt
from conformance.layers.adapters.linen import from_linen
from conformance.layers.adapters.nnx import from_nnx
from conformance.layers.expected_failure import Expected
from conformance.layers.implementation import FLAX

__all__ = ["Einsum", "LinearGeneral", "LoRALinear", "ToLinen", "ToNNX"]


def _einsum(in_features: int, out_features: int, rngs: nnx.Rngs) -> nnx.Module:
    shape = (in_features, out_features)
    return nnx.Einsum("...i,io->...o", shape, (out_features,), rngs=rngs)


def _to_nnx(in_features: int, out_features: int, rngs: nnx.Rngs) -> nnx.Module:
    wrapped = nnx.bridge.ToNNX(linen.Dense(out_features))
    # Rngs that are given to the call do not become part of the state.
    return wrapped.lazy_init(jnp.zeros((1, in_features)), rngs=rngs)


# An einsum broadcasts axes of length 1, so an x of any width passes if in_features is 1.
EINSUM = replace(FLAX, name="nnx.Einsum", checks_width=False)

Einsum = from_nnx(_einsum, "nnx.Einsum", EINSUM, "flax")
ToNNX = replace(
    from_nnx(_to_nnx, "nnx.bridge.ToNNX", FLAX, "flax"),
    expected_failures=(
        Expected(
            "state/pickles",
            "the wrapped linen.Dense keeps its initializers, which are closures: none pickles",
        ),
        Expected(
            "seeding/siblings-differ",
            "lazy_init reads the key of a stream, and does not draw it",
            when="flax < 0.10.5",
        ),
    ),
)

# The second factor is 0 in a new layer, so that its product adds nothing to the kernel.
LoRALinear = adapt(
    partial(nnx.LoRALinear, lora_rank=2),
    name="nnx.LoRALinear",
    extra_parameters=["lora.lora_a", "lora.lora_b"],
)
ToLinen = replace(
    from_linen(
        lambda n, m: nnx.bridge.to_linen(nnx.Linear, n, m), "nnx.bridge.ToLinen", FLAX, "flax"
    ),
    expected_failures=(
        Expected(
            "transforms/no-side-effects-in-jaxpr",
            "each apply constructs the wrapped nnx.Linear again, and discards its numbers",
            when="flax > 0.10.2",
        ),
        Expected(
            "serialization/round-trip",
            "the graph definition is a variable, which no checkpoint takes",
            when="flax < 0.10.3",
        ),
    ),
)
