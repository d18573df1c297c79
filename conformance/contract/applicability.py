"""Decides to which layers a requirement applies, by what they provide and declare.

Layers of half precision have wider bounds, see :meth:`conformance.checks.layer.Layer.value`. The
decorator of a requirement declares what it presumes.
"""

from __future__ import annotations

from collections.abc import Collection

from conformance.contract.requirement import (
    ANY,
    EXERCISE,
    LINEN,
    NNX,
    PARAMETERS,
    Need,
    Presumption,
    Requirement,
)
from conformance.layers.implementation import Convention

_IN_WORDS = {
    EXERCISE: "a forward function",
    NNX: "an nnx module",
    LINEN: "a Linen module",
    PARAMETERS: "a layer with parameters that can be read and written",
    ANY: "a layer",
}
_MOST_SPECIFIC = (EXERCISE, NNX, LINEN, PARAMETERS)


def why_not_applicable(
    row: Requirement, provides: Collection[Need], convention: Convention
) -> str | None:
    """Return why the requirement cannot be checked on such a layer, or None if it can."""
    if set(provides) & set(row.needs):
        return presumption(row, convention)
    wanted = " or ".join(_IN_WORDS[need] for need in row.needs)
    given = next(_IN_WORDS[need] for need in _MOST_SPECIFIC if need in provides)
    return f"needs {wanted}; this is {given}"


def presumption(row: Requirement, convention: Convention) -> str | None:
    """Return why the requirement does not apply to layers that declare this, or None."""
    parameters, computation = convention.parameter_dtype, convention.compute_dtype
    presumes = row.presumes
    if "float64" in (parameters, computation):
        if Presumption.FLOAT32_THROUGHOUT in presumes:
            return "presumes float32; with 64-bit types enabled, this is a float64 layer"
        return None
    if Presumption.DRAWN_KERNEL in presumes and convention.kernel.is_constant():
        return "presumes a kernel that is drawn; the layer declares one that starts at 0"
    return None
