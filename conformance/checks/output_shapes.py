"""The shapes of results, real and abstract, against the leading dimensions of x."""

from __future__ import annotations

import numpy as np

from conformance.checks import require, shapes
from conformance.checks.cases import Case
from conformance.checks.layer import Layer
from conformance.contract.requirement import PARAMETERS
from conformance.errors import Violation
from conformance.jax_setup.lazy import jax

__all__ = ["require_abstract_shapes", "require_shape"]


def require_shape(layer: Layer, found: tuple[int, ...], lead: tuple[int, ...], case: Case) -> None:
    """Require the shape of a result for an x with these leading dimensions."""
    expected = (*lead, case.out_features)
    cause = ""
    if tuple(found) != expected:
        cause = shapes.of_result(found, lead, case.out_features)
        if not cause and PARAMETERS not in layer.provides:
            cause = shapes.of_inputs_bias(layer, case)
    require.that(
        tuple(found) == expected,
        f"x of shape {(*lead, case.in_features)} gives a result of shape {tuple(found)}",
        accepted=f"shape {expected}",
        cause=cause,
    )


def require_abstract_shapes(layer: Layer, case: Case) -> bool:
    """Require the shape at every rank by abstract evaluation, which compiles nothing."""
    n = case.in_features
    leads = [(), (0,), (1,), (2,), (n,), (case.out_features,), (2, 3), (1, 1), (3, 0)]
    leads += [(2, 3, 4), (1, n, 1), (2, 1, 2, 3)]
    parameters = layer.of(case).parameters
    for lead in leads:
        if layer.accepts(lead):
            x = jax.ShapeDtypeStruct((*lead, n), np.float32)
            try:
                found = jax.eval_shape(layer.apply, parameters, x)
            except Exception:
                # Whether it can be traced is checked by transforms/jit.
                try:
                    found = layer.of(case)(np.ones(x.shape, np.float32))
                except Violation as violation:
                    raise violation.because(shapes.of_refusal(layer, case, lead)) from violation
            require_shape(layer, getattr(found, "shape", ()), lead, case)
    return True
