"""What the layer computes: shapes, exact values, and values within rounding."""

from __future__ import annotations

import numpy as np

from conformance import oracle, require
from conformance.cases import Case, over
from conformance.layer import Layer
from conformance.requirement import MUST, PARAMETERS, requirement


@requirement("forward/zero-input", MUST, PARAMETERS)
@over()
def test_zero_input(layer: Layer, case: Case) -> None:
    """f(0) = b, bitwise.

    A random bias is written in first: on a new layer, whose bias is 0, a bias that is never
    used, used twice or subtracted gives the same.
    """
    dense = layer.written(case)
    found = dense(np.zeros(case.x_shape, np.float32))
    expected = np.broadcast_to(layer.bias_for(case), (*case.lead, case.out_features))
    require.equal(found, expected, "f(0)")


@requirement("forward/affine-value", MUST, PARAMETERS, rests_on=["forward/zero-input"])
@over(leads=True)
def test_affine_value(layer: Layer, case: Case) -> None:
    """f(x) = x @ K + b within the rounding-error bound of float32."""
    x = case.x()
    found = layer.written(case)(x)
    reference = oracle.affine(x, case.kernel(), layer.bias_for(case))
    require.within(found, reference.value, reference.bound, "f(x)")
