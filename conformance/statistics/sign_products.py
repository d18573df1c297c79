"""Tests of dependence that pairs do not show: products of signs, signs that follow magnitudes."""

from itertools import combinations

import numpy as np

from conformance.statistics.evidence import (
    FEWEST,
    Array,
    Evidence,
    at,
    nothing,
    of_coins,
    self_normalised,
)

_REACH = 4
"""The distances along a line at which signs are multiplied."""


def sign_products(z: Array) -> Evidence:
    """Check that products of three or four neighbouring signs, or of whole lines, are fair coins.

    Given the magnitudes, the signs of independent symmetric weights are fair coins. So are products
    over windows that slide along a line, because each contains a sign that no earlier window has.
    The sum of n of them therefore exceeds T sqrt(n) with probability 2 exp(-T^2/2) at most
    (Hoeffding 1963).
    """
    check = "sign products"
    found: dict[str, tuple[float, float]] = {}
    signs = np.sign(z)
    for along, lines in (("rows", signs), ("columns", signs.swapaxes(1, 2))):
        flat, length = lines.reshape(len(lines), -1), lines.shape[2]
        near = range(1, _REACH + 1)
        offsets = {steps for count in (2, 3) for steps in combinations(near, count)}
        # Corners of two lines: an angle, and a square.
        offsets |= {(1, length), (length, length + 1), (1, length, length + 1)}
        for steps in sorted(offsets):
            last = max(steps)
            # On short lines two of the steps may be equal.
            if len({0, *steps}) <= len(steps) or last >= flat.shape[1]:
                continue
            windows = flat[:, : flat.shape[1] - last].copy()
            for step in steps:
                windows *= flat[:, step : step + windows.shape[1]]
            found[f"{len(steps) + 1} weights, 0, {_words(steps)} apart along the {along},"] = (
                float(windows.sum()),
                float(np.count_nonzero(windows)),
            )
        if length > 2:
            whole = lines.prod(axis=2)
            found[f"all weights of each of the {along}"] = (
                float(whole.sum()),
                float(np.count_nonzero(whole)),
            )
    found = {what: sums for what, sums in found.items() if sums[1] >= FEWEST}
    if not found:
        return nothing(check, at(z.shape[1:]), "too few weights")
    sums, numbers = np.array(list(found.values())).T
    ratios = self_normalised(sums, numbers)
    place = int(np.argmax(ratios))
    words = f"the product of the signs of {list(found)[place]} is not a fair coin"
    return of_coins(check, z, float(ratios[place]), words, len(found))


def _words(steps: tuple[int, ...]) -> str:
    return ", ".join(map(str, steps[:-1])) + f" and {steps[-1]}"


def signs_by_magnitudes(z: Array, ranks: Array) -> Evidence:
    """Check that no sign follows another weight's magnitude, at any lag along rows or columns.

    ``ranks`` are the centred ranks of the magnitudes, in the shape of z. Given them, the signs are
    fair coins, and the self-normalised bound holds for their weighted sum at each lag.
    """
    check = "signs and magnitudes"
    size = z.shape[1] * z.shape[2]
    if len(z) * size < FEWEST or size < 2 or not z.any():
        return nothing(check, at(z.shape[1:]), "too few weights")
    padded = 1 << (2 * size - 1).bit_length()

    def correlate(first: Array, second: Array, swap: bool) -> Array:
        flat = [
            np.fft.rfft((v.swapaxes(1, 2) if swap else v).reshape(len(z), size), padded, axis=1)
            for v in (first, second)
        ]
        both = (flat[0].conj() * flat[1]).sum(axis=0)
        return np.asarray(np.fft.irfft(both, padded), np.float64)

    signs = np.sign(z)
    ratios = []
    for swap in (False, True):
        sums = correlate(signs, ranks, swap)
        squares = correlate(np.square(signs), np.square(ranks), swap)
        # The transform has rounding errors. Lag 0, a sign and its own magnitude, belongs to the
        # law.
        squares = np.where(squares > 1e-9 * squares.max(), squares, 0.0)
        squares[0] = 0.0
        ratios.append(self_normalised(sums, squares))
    stacked = np.stack(ratios)
    comparisons = 2 * (2 * size - 2)
    direction, lag = (int(i) for i in np.unravel_index(int(np.argmax(stacked)), stacked.shape))
    statistic = float(stacked[direction, lag])
    lag = lag if lag < padded // 2 else lag - padded
    along = ("rows", "columns")[direction]
    found = f"signs follow the magnitudes {lag} further along the {along}"
    return of_coins(check, z, statistic, found, comparisons)
