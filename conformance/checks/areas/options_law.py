"""Compares the laws of new kernels with and without a constructor option."""

from __future__ import annotations

import numpy as np

from conformance.checks import require
from conformance.checks.arithmetic import rounded
from conformance.checks.layer import Layer
from conformance.checks.require import during
from conformance.errors import Cause

# A size whose construction other requirements have compiled, and how often it is drawn.
_LAW, _DRAWS = (128, 128), 4
_OFF = 0.15
"""The mean square of 2^14 draws of kurtosis 3 has a relative deviation of 1.1 %, so the ratio of
two of them leaves 1 +- 0.15 once in 10^20 times; for the kurtosis 6 of a Laplace law, in 10^9."""
_APART, _NEAR = 0.045, 2.0**-5
"""The distribution functions of 2^16 draws of one law are 0.033 apart with P < 1e-15 (Dvoretzky,
Kiefer, Wolfowitz and Massart), and JAX draws 2^7 magnitudes in bfloat16, which adds 2^-7. A scale
that is computed in half precision moves each magnitude by a few roundings."""


def require_same_law(layer: Layer, given: Layer, option: str) -> None:
    """Require that new kernels have with an option the law that they have without.

    Their mean squares, signs, magnitudes, and numbers of different rows and columns are compared.
    """

    def drawn(layer: Layer) -> np.ndarray:
        kernels = [layer.build(*_LAW, seed).kernel for seed in range(_DRAWS)]
        return np.stack(kernels).astype(np.float32)

    without = layer.remember("law without options", lambda: drawn(layer))
    with during(f"construction with {option}"):
        if np.array_equal(given.build(*_LAW, 0).kernel, without[0]) or not without.any():
            return
        with_it = drawn(given)
    without = rounded(without, given.convention.parameter_dtype)
    ratio = float(
        np.square(with_it, dtype=np.float64).mean() / np.square(without, dtype=np.float64).mean()
    )
    at, sizes = np.quantile(np.abs(without), _SHARES), np.sort(np.abs(with_it), axis=None)
    low, high = (np.searchsorted(sizes, (1 + s) * at) / sizes.size for s in (-_NEAR, _NEAR))
    found = {
        f"the mean square of a new kernel is {ratio:.3g} times that without": abs(ratio - 1)
        <= _OFF,
        "more, or fewer, weights are positive than without": abs(
            np.mean(with_it > 0) - np.mean(without > 0)
        )
        <= _APART,
        "the magnitudes of weights have another distribution than without": np.all(
            (low - _APART <= _SHARES) & (high + _APART >= _SHARES)
        ),
        "rows or columns of a new kernel repeat": all(
            _lines(new) > 0.75 * _lines(old)
            for new, old in ((with_it[0], without[0]), (with_it[0].T, without[0].T))
        ),
    }
    cause = Cause("law-by-option", f"with {option}, kernels are drawn from another law")
    for what, right in found.items():
        require.that(right, f"with {option}, {what}", accepted="the same law", cause=cause)


_SHARES = np.linspace(1 / 16, 15 / 16, 15)


def _lines(kernel: np.ndarray) -> int:
    return len({line.tobytes() for line in np.abs(kernel)})
