"""Which requirements presume float32 or a drawn kernel, where a layer declares something else.

What can be said of half precision is held to the bounds of that dtype: see
:meth:`conformance.checks.layer.Layer.value`. These rows are exact, or bounded, in float32 alone.
A kernel that starts at 0 is the same for every seed.
"""

from __future__ import annotations

from conformance.layers.implementation import Convention

__all__ = ["DRAWN", "FLOAT32_COMPUTATION", "FLOAT32_PARAMETERS", "presumption", "presumptions"]

_BOTH = frozenset(
    {
        "numerics/precision",
        "numerics/no-saturation",
        "dtypes/half-input",
        "dtypes/integer-input",
        "dtypes/complex-input",
        "dtypes/strict-promotion",
        "state/optimizer-sees-both",
        "transforms/gradients",
        "transforms/forward-mode",
        "transforms/vmap",
        "transforms/scan-and-remat",
    }
)

FLOAT32_PARAMETERS = _BOTH | {"forward/integer-exact", "seeding/jitted-init"}
"""Rows on values that half-precision parameters cannot hold, or on a last place of theirs."""

FLOAT32_COMPUTATION = _BOTH | {
    "forward/additive",
    "forward/basis-input",
    "forward/homogeneous",
    "forward/integer-exact",
    "dtypes/rank-promotion",
    "dtypes/x64-stable",
    "sharding/sharded-equals-local",
    "transforms/no-side-effects-in-jaxpr",
}
"""Rows on results that half precision rounds, or on derivatives with float32 cotangents.

Of a kernel that is sharded by inputs, the sum of each device is rounded, and their sum again.
"""


FLOAT32_ALONE = frozenset(
    {
        "dtypes/strict-promotion",
        "forward/basis-input",
        "sharding/sharded-equals-local",
        "transforms/forward-mode",
        "transforms/gradients",
    }
)
"""Rows that write float32, or compare with it bit by bit; all others hold for float64 as well."""

DRAWN = frozenset(
    {
        "seeding/seeds-differ",
        "seeding/params-stream",
        "seeding/siblings-differ",
        "seeding/vmapped-init",
    }
)
"""Rows on what becomes of the key."""


def presumptions(requirement: str) -> list[str]:
    """What the requirement presumes, in words."""
    found = ["float32 parameters"] if requirement in FLOAT32_PARAMETERS else []
    found += ["results in float32"] if requirement in FLOAT32_COMPUTATION else []
    return found + (["a kernel that is drawn"] if requirement in DRAWN else [])


def presumption(requirement: str, convention: Convention) -> str | None:
    """Why the requirement does not apply to layers that declare this, or None if it does."""
    parameters, computation = convention.parameter_dtype, convention.compute_dtype
    if "float64" in (parameters, computation):
        if requirement in FLOAT32_ALONE:
            return "presumes float32; with 64-bit types in force, the layer is one of float64"
        return None
    if requirement in FLOAT32_PARAMETERS and parameters != "float32":
        return f"presumes float32 parameters; the layer's are {parameters}"
    if requirement in FLOAT32_COMPUTATION and computation != "float32":
        return f"presumes results in float32; the layer computes in {computation}"
    if requirement in DRAWN and convention.kernel.is_zero():
        return "presumes a kernel that is drawn; the layer declares one that starts at 0"
    if requirement == "dtypes/complex-input" and convention.casts_input:
        return f"the layer declares to compute in {computation}, whatever the dtype of x is"
    return None
