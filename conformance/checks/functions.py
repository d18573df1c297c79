"""What is asked of a function as of a layer: kernel and bias are found by probing it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.checks import input_dtypes, oracle, require
from conformance.checks.cases import Case
from conformance.checks.layer import Layer, as_jax
from conformance.contract.requirement import PARAMETERS
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax

__all__ = [
    "is_function",
    "require_dtypes",
    "require_not_finite",
    "require_scales",
]

# Probing costs a call for each input: one size, and one that is wider than a vector unit.
_SIZES = ((3, 10), (33, 20))


def is_function(layer: Layer) -> bool:
    """Return whether the layer has no parameters that could be read or written."""
    return PARAMETERS not in layer.provides


def _require(layer: Layer, case: Case, x: Any, equivalent: np.ndarray, what: str) -> None:
    """Require f(x) to be x K + b, for the kernel and bias that probing finds."""
    if case.kernel_shape not in _SIZES or layer.convention.compute_dtype != "float32":
        return
    kernel, bias = layer.remember(("probed", case), lambda: layer.affine(case))
    found = layer.at(case)(x)
    wide = "complex64" if np.iscomplexobj(equivalent) else "float32"
    require.that(str(found.dtype) == wide, f"{what} is {found.dtype}", accepted=wide)
    reference = oracle.affine(equivalent, kernel, bias)
    # The kernel that is probed is itself rounded where there is a bias.
    require.within(found, reference.value, 2 * reference.bound, what)


def require_scales(layer: Layer, case: Case, *scales: float) -> None:
    """Require f(x) for x of these scales, whose signs are those of a column of the kernel."""
    for scale in scales:
        x = case.normal("x", case.in_features, scale=scale)
        kernel, _ = layer.remember(("probed", case), lambda: layer.affine(case))
        x = np.abs(x) * np.where(kernel[:, 0] < 0, np.float32(-1), np.float32(1))
        _require(layer, case, as_jax(x), x, f"f(x) for x of {scale:g}")


def require_not_finite(layer: Layer, case: Case, poison: float) -> None:
    """Require what is not finite in x to show in every output."""
    if jax.config.values["jax_debug_nans"] or case.kernel_shape not in _SIZES:
        return
    x = case.normal("x", case.in_features)
    x[int(case.generator("place").integers(case.in_features))] = poison
    found = np.asarray(layer.at(case)(x))
    shows = np.isnan(found) if np.isnan(poison) else ~np.isfinite(found)
    require.that(
        shows.all(),
        f"with {poison} in x, {int((~shows).sum())} outputs are finite numbers that hide it",
        accepted="no finite number made of one that is not",
        cause=Cause("not-finite-replaced", f"{poison} is replaced by a number"),
    )


def require_dtypes(layer: Layer, case: Case, *dtypes: Any) -> None:
    """Require x of these dtypes to give the result of the same numbers in float32 or complex64."""
    for x in _of_dtypes(case, dtypes):
        if not input_dtypes.takes(layer, x.dtype):
            input_dtypes.require_refused(layer.at(case), as_jax(x))
            continue
        wide = x if np.iscomplexobj(x) else x.astype(np.float32)
        _require(layer, case, as_jax(x), wide, f"f(x) for x of dtype {x.dtype}")


def _of_dtypes(case: Case, dtypes: Any) -> Iterator[np.ndarray]:
    plain = case.normal("x", case.in_features)
    for dtype in dtypes:
        if np.dtype(dtype).kind in "iu":
            yield case.integers("integers", case.in_features, bound=100).astype(dtype)
        elif np.dtype(dtype).kind == "c":
            yield (plain + 1j * case.normal("imaginary", case.in_features)).astype(dtype)
        else:
            yield plain.astype(dtype)
