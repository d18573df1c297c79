"""The numbers and comparisons of scripts, which contain the sources of these functions."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.checks.cases import mixed_rows
from conformance.scripts.given import IN, OUT, VALUES


def generator(stream: str) -> np.random.Generator:
    """Return the generator of the case's numbers for one use."""
    return np.random.default_rng([VALUES, *stream.encode()])


def normal(stream: str, *shape: int) -> np.ndarray:
    """Return float32 normals."""
    return generator(stream).standard_normal(shape).astype(np.float32)


def integers(stream: str, *shape: int) -> np.ndarray:
    """Return integer-valued float32 numbers from -9 to 9."""
    return generator(stream).integers(-9, 10, shape).astype(np.float32)


def kernel() -> np.ndarray:
    """Return a kernel (in, out) to write into the layer."""
    return normal("kernel", IN, OUT)


def bias() -> np.ndarray:
    """Return a bias (out,) without zeros to write into the layer."""
    drawn = normal("bias", OUT)
    return np.where(drawn == 0, np.float32(1), drawn)


def mixed(*lead: int) -> np.ndarray:
    """Return an input whose rows are of different kinds."""
    return mixed_rows(generator("x"), int(np.prod(lead)), IN).reshape(*lead, IN)


def product(left: Any, right: Any, added: Any = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return ``left @ right + added`` in float64, and the bound on float32's rounding error.

    The bound is (n + 1) u (|left| |right| + |added|) with u = 2^-24, for any order of summation;
    the last term covers numbers so small that the platform flushes them to 0.
    """
    a, b, c = (np.asarray(value, float) for value in (left, right, added))
    n = a.shape[-1]
    size = np.abs(a) @ np.abs(b) + np.abs(c)
    flushed = 2 * n + 2 + np.abs(a).sum(-1, keepdims=True) + np.abs(b).sum(0)
    return a @ b + c, (n + 1) * 2.0**-24 * size + np.finfo(np.float32).tiny * flushed


def equal(found: Any, expected: Any, what: str) -> None:
    """Require equal entries; NaN equals NaN, and -0.0 equals 0.0."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"{what} has shape {found.shape}, not {expected.shape}"
    same = (found == expected) | ((found != found) & (expected != expected))
    wrong = np.argwhere(~same)
    if len(wrong):
        place = tuple(int(i) for i in wrong[0])
        raise AssertionError(
            f"{what} differs in {len(wrong)} of {found.size} entries; at {list(place)} it is "
            f"{found[place]}, not {expected[place]}"
        )


def within(found: Any, reference: tuple[Any, Any], what: str) -> None:
    """Require every entry to be within its bound of the float64 reference."""
    found, (value, bound) = np.asarray(found), reference
    assert found.shape == value.shape, f"{what} has shape {found.shape}, not {value.shape}"
    with np.errstate(all="ignore"):
        error = np.abs(found.astype(value.dtype) - value)
        ratio = np.nan_to_num(np.where(error == 0, 0.0, error / bound), nan=np.inf)
    if found.size and ratio.max() > 1:
        place = tuple(int(i) for i in np.unravel_index(ratio.argmax(), ratio.shape))
        raise AssertionError(
            f"{what} at {list(place)} is {found[place]}, and should be {value[place]:.9g}: the "
            f"error is {ratio[place]:.3g} times what rounding explains"
        )
