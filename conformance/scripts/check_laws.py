"""What scripts check of new parameters: samples of their own, and the same kind of bounds.

A sample that is smaller than the suite's sees only what is gross; ``explain`` runs a script
before it shows it, and shows none that misses the fault.
"""

# ruff: noqa: D103  # a check's text is the statement of its requirement

from __future__ import annotations

import math

import numpy as np

from conformance.scripts.given import IN, OUT, SEED
from conformance.scripts.of_nnx import build, parameters_of
from conformance.scripts.register import shows

MODULES = ("nnx", "linen")


def kernels(n: int, m: int, count: int = 2**17) -> np.ndarray:
    """Kernels (seeds, n, m) of as many seeds as give that many entries, 64 at most."""
    seeds = [(SEED + i) % 2**32 for i in range(min(64, max(4, count // (n * m))))]
    return np.stack([np.asarray(parameters_of(build(n, m, s))[0], np.float64) for s in seeds])


@shows("initialization/bias-zero")
def bias_zero() -> None:
    new = np.asarray(parameters_of(build())[1])
    assert not new.any(), f"{int((new != 0).sum())} of {new.size} entries of a new bias are not 0"


@shows("initialization/kernel-variance", sampled=True)
def kernel_variance() -> None:
    for n, m in ((IN, OUT), (1, 2048), (2, 2048), (4, 2048), (64, 256), (256, 64), (128, 128)):
        drawn = kernels(n, m)
        found = n * float((drawn**2).mean())
        # Twice the variance of a square of a normal, over the number of entries: 8 deviations.
        slack = 8 * math.sqrt(2 / drawn.size)
        assert abs(found - 1) <= slack, (
            f"in * E[K^2] = {found:.4g} at ({n}, {m}), not within {slack:.2g} of 1: the variance "
            f"of the kernel is not 1/in"
        )


@shows("initialization/kernel-mean", sampled=True)
def kernel_mean() -> None:
    for n, m in ((IN, OUT), (4, 2048), (64, 256), (256, 64)):
        drawn = kernels(n, m)
        found = float(drawn.sum() / np.sqrt((drawn**2).sum()))
        assert abs(found) <= 8, (
            f"the sum of {drawn.size} entries of kernels ({n}, {m}) is {found:.3g} times the root "
            f"of their sum of squares; 8 is what chance gives"
        )


@shows("initialization/kernel-law", sampled=True)
def kernel_law() -> None:
    def normal_law(x: np.ndarray) -> np.ndarray:
        return 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    n, m = 64, 256
    z = np.sort(kernels(n, m).ravel()) * math.sqrt(n)
    # A normal that is truncated at two deviations and scaled to variance 1.
    scale, tail = 0.87962566103423978, float(normal_law(np.array(-2.0)))
    truncated = np.clip((normal_law(z * scale) - tail) / (1 - 2 * tail), 0, 1)
    steps = np.arange(len(z) + 1) / len(z)
    distance = {}
    for name, law in (("normal", normal_law(z)), ("truncated normal", truncated)):
        distance[name] = max(np.abs(law - steps[1:]).max(), np.abs(law - steps[:-1]).max())
    # Dvoretzky, Kiefer and Wolfowitz with Massart's constant, for a false alarm of 1e-12.
    accepted = math.sqrt(math.log(2e12) / (2 * len(z)))
    assert min(distance.values()) <= accepted, (
        f"the distribution function of {len(z)} entries is {distance} away from these laws; "
        f"chance gives {accepted:.2g}"
    )


@shows("initialization/kernel-independence", "initialization/kernel-homogeneity", sampled=True)
def kernel_structure() -> None:
    for n, m in ((64, 256), (256, 64), (128, 128)):
        drawn = kernels(n, m) * math.sqrt(n)
        pairs = {"neighbours in a row": (drawn[:, :, 1:], drawn[:, :, :-1]),
                 "neighbours in a column": (drawn[:, 1:], drawn[:, :-1]),
                 "mirrored columns": (drawn[:, :, : m // 2], drawn[:, :, ::-1][:, :, : m // 2]),
                 "mirrored rows": (drawn[:, : n // 2], drawn[:, ::-1][:, : n // 2]),
                 "the halves of the columns": (drawn[:, :, : m // 2], drawn[:, :, m // 2 :]),
                 "the halves of the rows": (drawn[:, : n // 2], drawn[:, n // 2 :])}  # fmt: skip
        for what, (a, b) in pairs.items():
            found = float((a * b).sum() / np.sqrt((a**2 * b**2).sum()))
            assert abs(found) <= 8, f"{what} of kernels ({n}, {m}) are correlated: {found:.3g}"
        for axis, what in ((1, "row"), (2, "column")):
            squares = (drawn**2).mean(axis=(0, 3 - axis))
            slack = 9 * math.sqrt(2 / (drawn.size / len(squares)))
            worst = int(np.abs(squares - squares.mean()).argmax())
            far = abs(float(squares[worst] - squares.mean()))
            assert far <= slack * squares.mean(), f"{what} {worst} of ({n}, {m}) has its own scale"


@shows("initialization/kernel-resolution", sampled=True)
def kernel_resolution() -> None:
    drawn = kernels(128, 128)
    distinct = len(np.unique(np.abs(drawn)))
    # float32 normals have about 2^22 equally likely magnitudes.
    expected = 2**22 * (1 - math.exp(-drawn.size / 2**22))
    assert distinct >= 0.5 * expected, f"{drawn.size} entries have {distinct} different magnitudes"
