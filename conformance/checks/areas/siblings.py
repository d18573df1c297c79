"""Compares kernels of layers that are built from one source of keys."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from conformance.checks import require
from conformance.checks.areas.kernels import judge
from conformance.checks.layer import Built, Layer
from conformance.checks.require import during
from conformance.errors import Cause
from conformance.jax_setup.lazy import jnp, nnx
from conformance.layers.implementation import existing
from conformance.statistics import by_requirement, structure
from conformance.statistics.correlation import linked_seeds

_SIZE = (16, 16)
# One more than four bits can count. The check detects a correlation of .58 between two kernels, and
# of .07 between all neighbours; four times as many Rngs, at four times the cost, would detect .03.
_SIBLINGS, _SEEDS = 17, 4
# If the count of keys is reduced modulo a power of two or of ten, it begins again here; if it has a
# maximum, or is rounded to float32, keys repeat from here on.
_MANY_KEYS = 2**16 * 1000


def of_rngs(layer: Layer, first_seed: int) -> np.ndarray:
    """Return kernels (68, 16, 16), of seventeen layers of one ``Rngs`` for each of four seeds."""
    construct = existing(layer.implementation.module)
    found = []
    for seed in range(_SEEDS):
        rngs = nnx.Rngs((first_seed + seed) % 2**32)
        with during("construction of seventeen layers from one Rngs"):
            for i in range(_SIBLINGS):
                if (seed, i) == (_SEEDS - 1, _SIBLINGS // 2):
                    _skip_keys(rngs)
                found.append(Built(layer, module=construct(*_SIZE, rngs)).kernel)
    return np.stack(found)


def _skip_keys(rngs: Any) -> None:
    """Let the ``Rngs`` go on as if it had given many keys, as in a large model."""
    from conformance.jax_setup.compat import set_value

    count = getattr(getattr(rngs, "default", None), "count", None)
    if isinstance(count, nnx.Variable):
        set_value(count, jnp.uint32(_MANY_KEYS))


def require_unrelated(layer: Layer, kernels: Any, what: str) -> None:
    """Require that kernels (number, in, out) have neither correlations nor runs in common."""
    if layer.convention.kernel.is_constant():
        return
    wide = np.asarray(kernels, np.float64)
    if not np.isfinite(wide).all() or not wide.any():
        return  # construction/finite and kernel-variance report that
    same = structure.shared_run(np.asarray(kernels))
    require.that(
        same is None,
        f"{what} number {same[0] + 1 if same else 0} and {same[1] + 1 if same else 0} share 16 "
        "weights in a row",
        accepted="different numbers",
        cause=Cause("kernels-share-numbers", "kernels share one stream of numbers, or a key"),
    )
    size = (wide.shape[1], wide.shape[2])
    centred = by_requirement.centred({size: wide})
    cause = Cause("kernels-correlated", f"{what} have numbers in common")
    neighbours = linked_seeds(
        centred[size], list(itertools.pairwise(range(len(wide)))), f"neighbours among {what}"
    )
    judge([*by_requirement.seeds_row(centred), neighbours], cause)
