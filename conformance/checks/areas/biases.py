"""The biases of new layers: their declared law, and that they are independent of the kernels."""

from __future__ import annotations

import numpy as np

from conformance.checks.areas.kernels import judge, kernels, kernels_of
from conformance.checks.arithmetic import rounded
from conformance.checks.layer import Layer
from conformance.checks.once import once_per_layer
from conformance.errors import Cause
from conformance.statistics import by_requirement
from conformance.statistics.by_requirement import Shape
from conformance.statistics.correlation import linked_seeds
from conformance.statistics.laws import families_named


@once_per_layer()
def new(layer: Layer) -> dict[Shape, np.ndarray]:
    """Return new biases of a few sizes, (seeds, 1, out), drawn once.

    No two sizes share a seed, because one bias may be a prefix of another one of the same seed.
    """
    sizes = ((4, 512), (64, 80), (200, 16))
    wanted = [(size, range(64 * i, 64 * (i + 1))) for i, size in enumerate(sizes)]
    return dict(zip(sizes, kernels_of(layer, wanted, "bias"), strict=True))


def start(layer: Layer) -> np.float32:
    """Return the number that every entry of a new bias is, if none is drawn."""
    constant = np.full(1, layer.convention.bias.constant, np.float32)
    return np.float32(rounded(constant, layer.convention.parameter_dtype)[0])


@once_per_layer()
def require_law(layer: Layer) -> None:
    """Require new biases to follow their declared law."""
    law, drawn = layer.convention.bias, new(layer)
    families = families_named(law.families)
    standard = by_requirement.rescaled(drawn, law.variance)
    judge(
        [
            *by_requirement.variance_row(drawn, law.variance),
            *by_requirement.mean_row(standard),
            *by_requirement.law_row(standard, families),
        ]
    )


@once_per_layer()
def require_independent_of_kernels(layer: Layer) -> None:
    """Require new biases to be independent of the kernels of the same layers.

    One key gives one sequence of numbers, which fills a kernel by rows, or by columns if the layer
    draws it as (out, in). The bias is compared with the beginning of both.
    """
    size, seeds = (4, 512), range(64)
    drawn, by_rows = new(layer)[size], kernels(layer, *size, seeds)
    by_columns = by_rows.swapaxes(1, 2).reshape(by_rows.shape)
    pairs = [(i, i + len(seeds)) for i in seeds]
    for kernel, words in ((by_rows, "row"), (by_columns, "columns")):
        both = np.concatenate([drawn, kernel[:, :1]]).astype(np.float64)
        scales = np.sqrt(np.mean(np.square(both), axis=(1, 2), keepdims=True))
        both /= np.where(scales == 0, 1, scales)
        what = f"the bias and the first {words} of the kernel"
        of_bias, of_kernel = np.split(both, 2)
        is_same = np.allclose(of_bias, of_kernel, rtol=0, atol=1e-3)
        judge([linked_seeds(both, pairs, what)], _OF_ONE_KEY if is_same else "")


_OF_ONE_KEY = Cause(
    "bias-of-the-kernels-key",
    "the bias is drawn from the key of the kernel: it repeats the kernel's numbers",
)
