"""Particular kinds of rows, kernels and biases, which generic random numbers never form.

A layer may have a branch for rows that look like padding, time stamps, one-hot vectors or repeated
work, for kernels that are sparse, symmetric or the identity, or for biases that look untrained.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from conformance.checks.areas.large_cases import at_ranks, require_scales
from conformance.checks.cases import BATCH, Case
from conformance.checks.diagnosis.telling import require_value
from conformance.checks.layer import Layer
from conformance.checks.once import once_per_layer

# A width at which rows have several entries of each kind, the side of square kernels, and the size
# for rows of many magnitudes.
_ROWS, _SQUARE, _MAGNITUDES = (33, 20), (16, 16), (3, 10)
# Magnitudes are spread over 24 powers of ten, so that seven rows are between v and 1.1 v.
_MANY, _EXPONENT = 4096, 12


def require_kinds(layer: Layer, case: Case) -> None:
    """Require f(x) for numbers of every scale, and for rows, kernels and biases of every kind.

    Particular kinds are checked once for each of a few sizes.
    """
    require_scales(layer, case)
    checks = {_ROWS: _require_rows, _SQUARE: _require_kernels, _MAGNITUDES: _require_magnitudes}
    check = checks.get(case.kernel_shape)
    if check is not None and case.lead == BATCH and layer.accepts(BATCH):
        check(layer, case)


@once_per_layer()
def _require_rows(layer: Layer, case: Case) -> None:
    """Require f(x) to be right for batches, each of one kind of row."""
    dense, kernel, bias = layer.written(case), layer.kernel_for(case), layer.bias_for(case)
    for kind, x in rows_by_kind(case, BATCH[0]):
        for rank, f in at_ranks(dense):
            require_value(layer, f(x), x, kernel, bias, f"f(x) for rows of {kind}{rank}")
    x = np.repeat(kernel[:, :1].T, BATCH[0], axis=0)
    what = "f(x) for rows that are the kernel's first column"
    require_value(layer, dense(x), x, kernel, bias, what)


@once_per_layer()
def _require_magnitudes(layer: Layer, case: Case) -> None:
    dense, kernel, bias = layer.written(case), layer.kernel_for(case), layer.bias_for(case)
    generator = case.generator("magnitudes")
    scales = 10.0 ** generator.uniform(-_EXPONENT, _EXPONENT, (_MANY, 1))
    x = (generator.standard_normal((_MANY, case.in_features)) * scales).astype(np.float32)
    what = f"f(x) for {_MANY} rows of magnitudes from 1e-{_EXPONENT} to 1e{_EXPONENT}"
    require_value(layer, dense.rows(x), x, kernel, bias, what)


@once_per_layer()
def _require_kernels(layer: Layer, case: Case) -> None:
    if layer.reparameterized:
        return  # the written values would be rounded, or have no direction
    x, bias, dense = case.normal("x", *case.x_shape), layer.bias_for(case), layer.of(case)
    for kind, kernel in _kernels_by_kind(case):
        dense.write(kernel, case.bias())
        for rank, f in at_ranks(dense):
            require_value(layer, f(x), x, kernel, bias, f"f(x) for {kind}{rank}")
    if layer.convention.use_bias:
        for kind, bias in _biases_by_kind(case):
            dense.write(case.kernel(), bias)
            kernel = layer.kernel_for(case)
            for rank, f in at_ranks(dense):
                require_value(layer, f(x), x, kernel, bias, f"f(x) for {kind}{rank}")


def rows_by_kind(case: Case, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each kind of rows, in words, with float32 rows of it."""
    generator, n = case.generator("kinds"), case.in_features
    shape = (count, n)
    plain = generator.standard_normal(shape)
    whole = generator.integers(-9, 10, shape).astype(float)
    chance = generator.random(shape)
    nonzero = np.sort(chance, axis=1)[np.arange(count), np.arange(count) % n][:, None]
    balanced = whole - np.where(np.arange(n) == n - 1, whole.sum(1, keepdims=True), 0)
    powers = 2.0 ** generator.integers(-9, 10, shape)
    mirrored = plain.copy()
    mirrored[:, n - n // 2 :] = plain[:, : n // 2][:, ::-1]
    kinds = {
        "ascending numbers": np.sort(plain, axis=1),
        "descending numbers": -np.sort(plain, axis=1),
        "equal steps": plain[:, :1] + np.arange(n) * np.abs(plain[:, -1:]),
        "few entries that are not 0": np.where(chance <= nonzero, plain, 0),
        "few entries that are 0": np.where(chance > nonzero, plain, 0),
        "a single 1": (chance == chance.max(1, keepdims=True)) * 1.0,
        "equal numbers": np.repeat(plain[:, :1], n, axis=1),
        "numbers that add to 0": balanced,
        "numbers of mean 0 and variance 1": (plain - plain.mean(1, keepdims=True))
        / np.maximum(plain.std(1, keepdims=True), 1e-3),
        "norm 1": plain / np.linalg.norm(plain, axis=1, keepdims=True),
        "numbers from 0 to 1": chance,
        "shares of 1": np.exp(plain) / np.exp(plain).sum(1, keepdims=True),
        "zeros and ones": (chance < 0.5) * 1.0,
        "ones and minus ones": np.sign(plain),
        "whole numbers from 0 on": np.abs(whole),
        "whole numbers from 0 to 255": generator.integers(0, 256, shape).astype(float),
        "whole numbers from 0 to 999": generator.integers(0, 1000, shape).astype(float),
        "alternating signs": np.abs(plain) * (-1.0) ** np.arange(n),
        "mirrored halves": mirrored,
        "powers of two": powers * np.sign(plain),
        "the same numbers as the row before": np.repeat(plain[:1], count, axis=0),
        "zeros before the last one": np.where(np.arange(count)[:, None] == count - 1, plain, 0),
    }
    for kind, rows in kinds.items():
        yield kind, rows.astype(np.float32)


def _kernels_by_kind(case: Case) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each kind of square kernels, in words, with one such kernel."""
    generator, n = case.generator("kernels of kinds"), case.in_features
    plain, eye = generator.standard_normal((n, n)), np.eye(n)
    few = generator.random((n, n)) < 0.1
    row, column = np.arange(n)[:, None] == n // 2, np.arange(n) == n // 2
    first = np.arange(n) < n // 2
    kinds = {
        "a kernel that is the identity": eye,
        "a diagonal kernel": eye * plain,
        "a kernel that is a permutation": eye[generator.permutation(n)],
        "a symmetric kernel": plain + plain.T,
        "a triangular kernel": np.tril(plain),
        "an orthogonal kernel": np.linalg.qr(plain)[0],
        "a kernel of mostly zeros": np.where(few, plain, 0),
        "a kernel of few zeros": np.where(few, 0, plain),
        "a kernel with a row of zeros": np.where(row, 0, plain),
        "a kernel with a column of zeros": np.where(column, 0, plain),
        "a kernel of equal weights": np.full((n, n), plain[0, 0]),
        "a kernel of equal rows": np.repeat(plain[:1], n, axis=0),
        "a kernel of equal columns": np.repeat(plain[:, :1], n, axis=1),
        "a kernel of positive weights": np.abs(plain),
        "a kernel of -1, 0 and 1": np.sign(plain) * (np.abs(plain) > 0.5),
        "a kernel of two blocks": np.where(first[:, None] == first, plain, 0),
        "a kernel of ascending columns": np.sort(plain, axis=0),
        "a kernel with one large weight": np.where(row & column, 1e4, plain),
    }
    for kind, kernel in kinds.items():
        yield kind, kernel.astype(np.float32)


def _biases_by_kind(case: Case) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each kind of biases, in words, with one such bias."""
    generator, m = case.generator("biases of kinds"), case.out_features
    plain, half = generator.standard_normal(m), np.arange(m) % 2 == 0
    # Detectors start with a bias of -4.6, so that an object is rare; forget gates, with ones.
    kinds = {
        "a bias of equal entries": np.full(m, -4.6),
        "a bias of ones": np.ones(m),
        "a bias of negative entries": -np.abs(plain),
        "a bias of positive entries": np.abs(plain),
        "a bias of ascending entries": np.sort(plain),
        "a bias of whole numbers": np.arange(m) - m // 2,
        "a bias with a 0 at every other entry": np.where(half, plain, 0),
        "a bias of one entry that is not 0": np.where(np.arange(m) == m // 2, plain, 0),
        "a bias with one large entry": np.where(np.arange(m) == m // 2, 1e4, plain),
    }
    for kind, bias in kinds.items():
        yield kind, bias.astype(np.float32)
