"""A recommendation that a layer does not meet fails no MUST."""

from __future__ import annotations

import pytest
from jax import Array

from conformance.selftest.processes import Checked, failing
from implementations.defects.base import CorrectDense, affine, is_float


class OfTheDtypeOfX(CorrectDense):
    """The parameters are cast to the dtype of a floating-point x."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        dtype = x.dtype if is_float(x) else kernel.dtype
        return affine(x, kernel.astype(dtype), bias.astype(dtype))


class RefusesHalf(CorrectDense):
    """An x of half precision is refused."""

    def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
        if x.dtype.itemsize == 2:
            raise TypeError(f"expected float32, found {x.dtype}")
        return affine(x, kernel, bias)


@pytest.mark.parametrize(
    ("layer", "not_met", "rows"),
    [
        (OfTheDtypeOfX, "dtypes/half-input", ("sharding/eager",)),
        (RefusesHalf, "dtypes/half-input", ("sharding/eager",)),
    ],
)
def test_what_rests_on_it_is_right(
    layer: type, not_met: str, rows: tuple[str, ...], checked: Checked
) -> None:
    code, text = checked(layer, rows=(not_met, *rows))
    assert failing(text) == {not_met}
    assert code == 0
