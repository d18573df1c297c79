"""Checks how many different numbers new kernels have, if they are large or of half precision."""

from __future__ import annotations

import numpy as np

from conformance.checks import require
from conformance.checks.areas.kernels import beyond_the_experiment, judge, large_kernel
from conformance.checks.layer import Layer
from conformance.errors import Cause
from conformance.statistics import by_requirement, causes

_MOST_AT_THE_END, _FEWEST_LEVELS = 0.02, 16


def require_levels(layer: Layer) -> None:
    """Require a million weights of half precision to be neither clipped nor of very few levels.

    JAX draws normal numbers of bfloat16 from a uniform one of 8 bits. That leaves tens of levels
    between one power of two and the next, and less than 1 % of the weights at the largest one.
    """
    kernel = np.abs(large_kernel(layer).astype(np.float64))
    if not np.isfinite(kernel).all() or not kernel.any():
        return
    share = float((kernel == kernel.max()).mean())
    require.that(
        share < _MOST_AT_THE_END,
        f"{100 * share:.3g} % of the weights have the largest magnitude",
        accepted=f"less than {100 * _MOST_AT_THE_END:g} %",
        cause=Cause("weights-clipped", "the weights are clipped at some magnitude"),
    )
    octave = 2.0 ** np.floor(np.log2(np.sqrt(np.square(kernel).mean())))
    levels = np.unique(kernel[(octave <= kernel) & (kernel < 2 * octave)]).size
    require.that(
        levels >= _FEWEST_LEVELS,
        f"the weights from {octave:.3g} to {2 * octave:.3g} have {levels} different magnitudes",
        accepted=f"at least {_FEWEST_LEVELS}",
        cause=Cause("weights-of-few-levels", "the weights are drawn in a coarser format"),
    )


def require_resolution_at_edges(layer: Layer) -> None:
    """Require full mantissas of kernels that are too large for the experiment."""
    for size, found in beyond_the_experiment(layer):
        part = {size: found.rows[:1]}
        if np.isfinite(found.rows).all():
            judge(by_requirement.resolution_row(part), causes.resolution(part))
