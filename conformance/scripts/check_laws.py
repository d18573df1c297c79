"""What scripts check of new parameters: samples of their own, and the same kind of bounds.

A sample that is smaller than the suite's sees only what is gross; ``explain`` runs a script
before it shows it, and shows none that misses the fault.
"""

# ruff: noqa: D103  # a check's text is the statement of its requirement

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from conformance.scripts.given import IN, OUT, SEED, Layer
from conformance.scripts.numbers import equal, normal
from conformance.scripts.of_linen import arrays
from conformance.scripts.of_nnx import build, parameters_of
from conformance.scripts.register import shows


def kernels(n: int, m: int, count: int = 2**17) -> np.ndarray:
    """Kernels (seeds, n, m) of as many seeds as give that many entries, 512 at most."""
    seeds = [(SEED + i) % 2**32 for i in range(min(512, max(4, count // (n * m))))]
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
    z = np.sort(kernels(n, m, 2**20).ravel()) * math.sqrt(n)
    values, counts = np.unique(np.abs(z), return_counts=True)
    # Of 2^22 equally likely magnitudes, none comes up so often in 2^20 draws.
    often = f"the value {values[counts.argmax()]:.4g} occurs {counts.max()} times in {len(z)} draws"
    assert counts.max() <= 40, often
    # A normal that is truncated at two deviations and scaled to variance 1.
    scale, tail = 0.87962566103423978, float(normal_law(np.array(-2.0)))
    truncated = np.clip((normal_law(z * scale) - tail) / (1 - 2 * tail), 0, 1)
    steps = np.arange(len(z) + 1) / len(z)
    distance = {}
    for name, law in (("normal", normal_law(z)), ("truncated normal", truncated)):
        distance[name] = max(np.abs(law - steps[1:]).max(), np.abs(law - steps[:-1]).max())
    # One of 2^20 normals exceeds 4, and no truncated one 2 / scale, but for what has no chance.
    largest = float(np.abs(z).max())
    distance["normal"] = max(distance["normal"], float(largest < 4))
    distance["truncated normal"] = max(distance["truncated normal"], float(largest > 2.2738))
    # Dvoretzky, Kiefer and Wolfowitz with Massart's constant, for a false alarm of 1e-12.
    accepted = math.sqrt(math.log(2e12) / (2 * len(z)))
    assert min(distance.values()) <= accepted, (
        f"the distribution function of {len(z)} entries is {distance} away from these laws "
        f"(1 where the largest, {largest:.3g}, excludes one); chance gives {accepted:.2g}"
    )


@shows("initialization/kernel-independence", "initialization/kernel-homogeneity", sampled=True)
def kernel_structure() -> None:
    for n, m in ((IN, OUT), (64, 256), (256, 64), (128, 128)):
        drawn = kernels(n, m) * math.sqrt(n)
        left, top = drawn[:, :, : m // 2], drawn[:, : n // 2]
        pairs = {
            "neighbours in a row": (drawn[:, :, 1:], drawn[:, :, :-1]),
            "neighbours in a column": (drawn[:, 1:], drawn[:, :-1]),
            "mirrored columns": (left, drawn[:, :, ::-1][:, :, : m // 2]),
            "mirrored rows": (top, drawn[:, ::-1][:, : n // 2]),
            "the halves of the columns": (left, drawn[:, :, -(m // 2) :][:, :, : m // 2]),
            "the halves of the rows": (top, drawn[:, -(n // 2) :][:, : n // 2]),
        }
        if n == m:
            i, j = np.triu_indices(n, 1)
            pairs["mirror images in the diagonal"] = (drawn[:, i, j], drawn[:, j, i])
        for what, (a, b) in pairs.items():
            found = float((a * b).sum() / max(1e-300, math.sqrt((a**2 * b**2).sum())))
            assert abs(found) <= 8, f"{what} of kernels ({n}, {m}) are correlated: {found:.3g}"
        for axis, what in (((0, 2), "row"), ((0, 1), "column"), ((0,), "entry")):
            squares, sums = (drawn**2).mean(axis), drawn.sum(axis)
            mean = max(1e-300, squares.mean())
            slack = 9 * math.sqrt(2 * squares.size / drawn.size)
            far = float(np.abs(squares / mean - 1).max())
            assert far <= slack, (
                f"one {what} of kernels ({n}, {m}) has a scale of its own: {far:.3g}"
            )
            errors = float(np.abs(sums / np.sqrt(mean * drawn.size / sums.size)).max())
            assert errors <= 9, (
                f"one {what} of kernels ({n}, {m}) has a mean of its own: {errors:.3g}"
            )


@shows("initialization/kernel-resolution", sampled=True)
def kernel_resolution() -> None:
    drawn = kernels(128, 128)
    distinct = len(np.unique(np.abs(drawn)))
    # float32 normals have about 2^22 equally likely magnitudes.
    expected = 2**22 * (1 - math.exp(-drawn.size / 2**22))
    assert distinct >= 0.5 * expected, f"{drawn.size} entries have {distinct} different magnitudes"


@shows("initialization/data-free-init", kinds=("linen",))
def data_free_init() -> None:
    plain = jnp.zeros((1, IN))
    examples = {
        "other values": jnp.asarray(normal("example", 1, IN) + np.float32(1)),
        "a batch of 4": jnp.zeros((4, IN)),
        "integers": plain.astype(jnp.int32),
        "half precision": plain.astype(jnp.float16),
        "a vector": plain[0],
        "rank 3": jnp.zeros((2, 3, IN)),
    }
    model, key = Layer(features=OUT), jax.random.key(SEED)
    expected = arrays((model, model.init(key, plain)))
    for what, example in examples.items():
        found = arrays((model, model.init(key, example)))
        assert sorted(found) == sorted(expected), f"with {what} as the example: {sorted(found)}"
        for path, value in expected.items():
            equal(found[path], value, f"with {what} as the example input, {path}")
            assert found[path].dtype == value.dtype, f"with {what}, {path} is {found[path].dtype}"
