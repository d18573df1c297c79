"""Checks batches of many rows, and numbers of very different magnitude."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from conformance.checks import programs, require
from conformance.checks.areas import input_dtypes
from conformance.checks.arithmetic import rounded
from conformance.checks.cases import BATCH, Case
from conformance.checks.diagnosis import shapes
from conformance.checks.diagnosis.telling import require_value
from conformance.checks.layer import Built, Layer
from conformance.checks.once import once_per_layer
from conformance.checks.oracle import Bounded
from conformance.checks.scan.edges import scan


def at_ranks(dense: Built) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """Yield the layer as a function of the rows of a batch, with the rank of its x in words.

    It is called at rank 2, and at each rank at which it has other operations.
    """
    yield "", dense.rows
    for rank in scan(dense.layer).ranks:
        if dense.layer.accepts((1,) * (rank - 1)):
            yield f" at rank {rank}", functools.partial(_at_rank, dense, rank)


def _at_rank(dense: Built, rank: int, x: np.ndarray) -> np.ndarray:
    if rank == 1:
        return np.stack([np.asarray(dense(row)) for row in x])
    lead = (2, *(1,) * (rank - 3), len(x) // 2)
    return np.asarray(dense(x.reshape(*lead, -1))).reshape(len(x), -1)


def require_scales(layer: Layer, case: Case) -> None:
    """Require f(v e_i) = v K[i], bitwise, for v and columns of K of very different magnitude."""
    if not layer.arithmetic(case.in_features).is_float32:
        return
    if layer.reparameterized:
        return  # a kernel that is computed is rounded, or has another scale
    generator, (n, m) = case.generator("scales"), case.kernel_shape
    columns = generator.choice((1e-18, 1.0, 1e18), m).astype(np.float32)
    kernel, nothing = case.kernel() * columns, np.zeros(m, np.float32)
    values = generator.choice((-1e8, -1e-8, 1e-8, 1e8), BATCH).astype(np.float32)
    inputs = generator.integers(n, size=BATCH)
    x = np.where(np.arange(n) == inputs[:, None], values[:, None], np.float32(0))
    found = np.asarray(layer.of(case).write(kernel, nothing)(x))
    what = "for x of one entry of 1e8 or 1e-8 and columns of 1e18, 1 and 1e-18, f(x)"
    require.equal(found, values[:, None] * kernel[inputs], what)
    # The products of tiny numbers are normal in columns of 1e18 alone.
    tiny, large = np.where(x == 0, x, np.copysign(_TINY, x)), columns > 1
    found = np.asarray(layer.of(case).write(kernel, nothing)(tiny))[:, large]
    expected = np.copysign(_TINY, values)[:, None] * kernel[inputs][:, large]
    require.equal(found, expected, f"for x of one entry of {_TINY:.0g} and columns of 1e18, f(x)")


_TINY = np.float32(1e-32)
"""A number whose parts are normal, even if it is split into three numbers of eight bits."""


@once_per_layer()
def require_small_beside_large(layer: Layer, case: Case) -> None:
    """Require rows of small numbers to keep their bits beside a row of large ones.

    A batch that is divided by its largest number, and multiplied again, loses them.
    """

    def rows(x: np.ndarray) -> np.ndarray:
        dense = layer.of(case).write(case.kernel(), np.zeros(case.out_features, np.float32))
        return np.asarray(dense(x))[1:]

    small = case.normal("small x", *BATCH, case.in_features, scale=1e-10)
    beside = small.copy()
    beside[0] = case.normal("large row", case.in_features, scale=1e34)
    what = "f(x) for rows of 1e-10, beside a row of 1e34,"
    # The layers are new, so that none remembers another x.
    require.equal(rows(beside), rows(small), what, cause=shapes.ROWS_MIXED)


def require_tall(layer: Layer, case: Case) -> None:
    """Require f(x) to be right for long batches, eager at rank 2 and compiled at ranks 2 and 3."""
    x = case.normal("x", 70_001, case.in_features)
    dense, kernel, bias = layer.written(case), layer.kernel_for(case), layer.bias_for(case)
    right = layer.value(x, kernel, bias)  # once, because it is long
    require_value(layer, dense(x), x, kernel, bias, "f(x)", reference=right)
    if input_dtypes.takes_numpy(layer):  # which may go to the device in parts
        y = dense(x, as_given=True)
        require_value(layer, y, x, kernel, bias, "f of a NumPy array", reference=right)
    _require_long_sequences(layer, case)
    for lead in ((40_001,), (70_001,), (7, 5714)):
        if not layer.accepts(lead):
            continue
        rows = int(np.prod(lead))
        with require.during(f"jax.jit of the layer for x of shape {(*lead, case.in_features)}"):
            y = programs.forward(layer)(dense.parameters, x[:rows].reshape(*lead, -1))
        what = f"f(x) under jax.jit for leading dimensions {lead}"
        of_rows = Bounded(right.value[:rows], right.bound[:rows])
        y = np.asarray(y).reshape(rows, -1)
        require_value(layer, y, x[:rows], kernel, bias, what, reference=of_rows)


@once_per_layer()
def _require_long_sequences(layer: Layer, case: Case) -> None:
    """Require f(x) outside of jit for sequences of more than a million numbers, which are 4 MiB."""
    lead = (7, 10_007)
    if not layer.accepts(lead):
        return
    case = replace(case, in_features=16, out_features=16, lead=lead)
    x = case.normal("x", *case.x_shape)
    rows, y = x.reshape(-1, 16), np.asarray(layer.written(case)(x)).reshape(-1, 16)
    own = layer.kernel_for(case), layer.bias_for(case)
    require_value(layer, y, rows, *own, f"f(x) for x of shape {x.shape}")


# Values near the constant and far from it, on both sides.
_NEAR, _FAR = (1.0, 1.0 - 2.0**-24, 1.0 + 2.0**-23, 0.97, 1.03), (0.5, 2.0, 1.0)
_MOST_CONSTANTS = 6


def require_constants(layer: Layer, case: Case, constants: Sequence[float]) -> None:
    """Require f(x) to be right for values as large as constants of the layer's program.

    A program that compares with a constant may treat values at or beyond it differently. The check
    covers x, the parameters and the result.
    """
    computed = layer.convention.compute_dtype
    if "float64" in (layer.convention.parameter_dtype, computed):
        return
    generator, (n, m) = case.generator("constants"), case.kernel_shape

    def around(constant: float, multiples: Sequence[float], *shape: int) -> np.ndarray:
        signs = generator.choice((-1.0, 1.0), shape)
        values = signs * constant * generator.choice(multiples, shape)
        return rounded(values.astype(np.float32), computed)

    for constant in [c for c in constants if _LEAST < c < _GREATEST][:_MOST_CONSTANTS]:
        for multiples in (_NEAR, _FAR):
            x = around(constant, multiples, *BATCH, n)
            x[0] = rounded(np.full(n, constant, np.float32), computed)
            x[1] = -x[0]
            plain = case.normal("x", *BATCH, n)
            large = around(constant, multiples, n, m)
            drawn = [(x, case.kernel(), case.bias())]
            if not layer.reparameterized:
                drawn.append((plain, large, np.zeros(m, np.float32)))
                drawn.append((plain * 0, case.kernel(), around(constant, multiples, m)))
            for x, kernel, bias in drawn:
                if not layer.convention.use_bias:
                    bias = np.zeros_like(bias)
                size = np.abs(x).astype(np.float64) @ np.abs(kernel) + np.abs(bias)
                if size.max() < _GREATEST * 10:
                    what = f"f(x) for values as large as the constant {constant:.6g} of the program"
                    for rank, f in at_ranks(layer.of(case).write(kernel, bias)):
                        require_value(layer, f(x), x, kernel, bias, what + rank)


# Beyond these, products are subnormal, or overflow.
_LEAST, _GREATEST = 1e-30, 3.3e37
