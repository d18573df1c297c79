"""Tests of independence: lags, pairs of rows and columns, reflections, seeds, magnitudes.

Every statistic is a sum of products z_i z_j over pairs (i, j) that form a forest, so given the
magnitudes the signs of the products are independent fair coins and the self-normalised bound
`evidence.linear_log_p` holds for every symmetric law, without a scale and for every n.

The magnitudes of weights are made symmetric as the differences of two seeds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from conformance.statistics.evidence import (
    FEWEST,
    Array,
    Evidence,
    at,
    linear_log_p,
    nothing,
    of_coins,
    self_normalised,
    threshold,
    weights,
)
from conformance.statistics.moments import magnitude_ranks


def between_seeds(z: Array) -> Array:
    """Return (z[0] - z[1]) / sqrt(2), (z[2] - z[3]) / sqrt(2), ..., symmetric under any law."""
    pairs = len(z) // 2
    return (z[: 2 * pairs : 2] - z[1 : 2 * pairs : 2]) / math.sqrt(2)


def magnitudes_between_seeds(z: Array) -> Array:
    """Return differences of the ranks of |z| of two seeds: symmetric, and independent of signs.

    Given the unordered pair at each position, a fair coin decides which seed has the larger
    magnitude, under any law. This detects copies with scrambled signs.
    """
    return between_seeds(magnitude_ranks(z)) if len(z) > 1 else between_seeds(z)


def lags(z: Array, what: str = "weights") -> Evidence:
    """Test the correlation at every lag along the flattened rows and columns of each kernel.

    An FFT gives all lags at once, with the seeds pooled; Bonferroni covers both directions and all
    lags. A lag of `out` along the rows is the neighbour in the column, and half a kernel is a lag
    too, so this detects autoregression, and repeated and antithetic blocks and rows.
    """
    seeds, size = len(z), z.shape[1] * z.shape[2]
    largest = size - 1 - FEWEST // max(seeds, 1)
    if seeds == 0 or largest < 1 or not z.any():
        return nothing(f"lag correlation of {what}", at(z.shape[1:]), "too few weights")
    flat = z.reshape(seeds, size)
    across = z.swapaxes(1, 2).reshape(seeds, size)
    ratios = np.stack([_autocorrelation(flat)[1:], _autocorrelation(across)[1:]])[:, :largest]
    direction, lag = (int(i) for i in np.unravel_index(int(np.argmax(ratios)), ratios.shape))
    statistic = float(ratios[direction, lag])
    direction, lag = _nearest(direction, lag + 1, z.shape[1:])
    along = ("along the rows", "along the columns")[direction]
    found = f"the {what} are correlated at lag {lag} {along}"
    evidence = of_coins(f"lag correlation of {what}", z, statistic, found, ratios.size)
    return replace(evidence, place=along if lag == 1 else "")


def _nearest(direction: int, lag: int, size: tuple[int, ...]) -> tuple[int, int]:
    """Return the lag in its shorter direction: whole rows are steps down a column."""
    line = size[1 - direction]
    return (1 - direction, lag // line) if lag % line == 0 and line > 1 else (direction, lag)


def _autocorrelation(flat: Array) -> Array:
    """Return |S_L| / sqrt(Q_L) for every lag L of the rows of `flat`, pooled over them."""
    padded = 1 << (2 * flat.shape[1] - 1).bit_length()

    def correlate(values: Array) -> Array:
        spectrum = np.square(np.abs(np.fft.rfft(values, padded, axis=1))).sum(axis=0)
        return np.asarray(np.fft.irfft(spectrum, padded)[: flat.shape[1]], np.float64)

    scale = float(np.mean(np.square(flat)))
    sums, squares = correlate(flat), correlate(np.square(flat))
    # The transform has a rounding error of about 1e-15 of the lag-0 value at every lag.
    reliable = squares > 1e-9 * squares[0]
    return self_normalised(sums, np.where(reliable & (scale > 0), squares, 0.0))


def pairs(z: Array, group: str, what: str = "weights") -> Evidence:
    """Test the correlation of every two rows (columns), pooled over seeds and within each seed."""
    lines = z if group == "row" else z.swapaxes(1, 2)
    seeds, number, length = lines.shape
    check = f"{group} pairs of {what}"
    if number < 2 or seeds * length < FEWEST or not z.any():
        return nothing(check, at(z.shape[1:]), f"fewer than two {group}s, or too short ones")
    squares = np.square(lines)
    sums_pooled, squares_pooled = np.zeros((number, number)), np.zeros((number, number))
    alone, place_alone = 0.0, (0, 0)
    for line, square in zip(lines, squares, strict=True):
        products, norms = line @ line.T, square @ square.T
        sums_pooled += products
        squares_pooled += norms
        if length >= FEWEST:
            best, place = _largest_pair(products, norms)
            if best > alone:
                alone, place_alone = best, place
    pooled, place = _largest_pair(sums_pooled, squares_pooled)
    comparisons = number * (number - 1) // 2 * (seeds + 1)
    if alone > pooled:
        pooled, place = alone, place_alone
    found = f"the {what} of {group}s {place[0]} and {place[1]} are correlated"
    return of_coins(check, z, pooled, found, comparisons)


def _largest_pair(sums: Array, squares: Array) -> tuple[float, tuple[int, int]]:
    ratios = self_normalised(sums, squares)
    np.fill_diagonal(ratios, 0.0)
    first, second = np.unravel_index(int(np.argmax(ratios)), ratios.shape)
    return float(ratios[first, second]), (int(first), int(second))


_IMAGES: dict[str, Callable[[Array], Array]] = {
    "upside down": lambda z: z[:, ::-1],
    "left to right": lambda z: z[:, :, ::-1],
    "turned by 180 degrees": lambda z: z[:, ::-1, ::-1],
    "transposed": lambda z: z.swapaxes(1, 2),
    "transposed about the other diagonal": lambda z: z[:, ::-1, ::-1].swapaxes(1, 2),
}
"""The mirror images of kernels (seeds, in, out); only square ones have the last two."""


def reflections(z: Array, what: str) -> Evidence:
    """Test the correlation of a kernel with its mirror images and, if square, its transposes."""
    images = [*_IMAGES.items()][: 5 if z.shape[1] == z.shape[2] else 3]
    place = np.arange(z.shape[1] * z.shape[2]).reshape(1, *z.shape[1:])
    worst, name = 0.0, "upside down"
    for label, image in images:
        once = (place < image(place))[0]
        product = (z * image(z))[:, once]
        ratio = float(
            self_normalised(np.asarray(product.sum()), np.asarray(np.square(product).sum()))
        )
        if ratio > worst:
            worst, name = ratio, label
    found = f"the {what} are correlated with the kernel {name}"
    return of_coins(f"reflections of {what}", z, worst, found, len(images))


def seed_pairs(z: Array) -> Evidence:
    """Test the correlation of the kernels of every two seeds."""
    seeds, size = len(z), z.shape[1] * z.shape[2]
    flat = z.reshape(seeds, size)
    if seeds < 2 or not z.any():
        return nothing("seed pairs", at(z.shape[1:]), "fewer than two seeds")
    worst, place = _largest_pair(flat @ flat.T, np.square(flat) @ np.square(flat).T)
    comparisons = seeds * (seeds - 1) // 2
    found = f"the kernels of seeds number {place[0]} and {place[1]} are correlated"
    return of_coins("seed pairs", z, worst, found, comparisons, f"{weights(size)} each")


def seed_shifts(z: Array) -> Evidence:
    """Test the correlation of each seed's kernel with every shift of the next one's (by FFT)."""
    seeds, size = len(z), z.shape[1] * z.shape[2]
    if seeds < 2 or size < FEWEST or not z.any():
        return nothing("seed shifts", at(z.shape[1:]), "too few weights")
    flat = z.reshape(seeds, size)
    padded = 1 << (2 * size - 1).bit_length()

    def correlate(values: Array) -> Array:
        spectrum = np.fft.rfft(values, padded, axis=1)
        return np.asarray(np.fft.irfft(spectrum[:-1] * spectrum[1:].conj(), padded, axis=1))

    sums, squares = correlate(flat), correlate(np.square(flat))
    reliable = squares > 1e-9 * float(squares.max())
    # Both signs of the lag, except lags with too few products to matter.
    lag = np.minimum(np.arange(padded), padded - np.arange(padded))
    ratios = self_normalised(sums, np.where(reliable & (lag <= size - FEWEST), squares, 0.0))
    first, shift = (int(i) for i in np.unravel_index(int(np.argmax(ratios)), ratios.shape))
    statistic, comparisons = float(ratios[first, shift]), (seeds - 1) * (2 * size - 1)
    found = (
        f"the kernels of seeds number {first} and {first + 1} are shifted copies (by "
        f"{int(lag[shift])})"
    )
    return of_coins("seed shifts", z, statistic, found, comparisons, f"{weights(size)} each")


def linked_seeds(z: Array, links: Sequence[tuple[int, int]], what: str) -> Evidence:
    """Test the correlation of kernels (by first index), pooled over `links`, a forest."""
    check = f"correlation of {what}"
    if not links or len(links) * z[0].size < FEWEST:
        return nothing(check, at(z.shape[1:]), "too few pairs")
    first, second = (list(side) for side in zip(*links, strict=True))
    products = z[first] * z[second]
    ratio = self_normalised(np.asarray(products.sum()), np.asarray(np.square(products).sum()))
    statistic, limit = float(ratio), threshold()
    found = f"the numbers of {what} are correlated: {statistic:.3g} standard errors"
    accepted_text = f"up to {limit:.3g} ({len(links)} pairs, {weights(products.size)})"
    return Evidence(
        check,
        linear_log_p(statistic),
        statistic,
        (0.0, limit),
        products.size,
        found,
        limit=accepted_text,
    )
