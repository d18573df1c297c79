"""The designed experiment: the sizes and seeds of the statistical requirements.

Sizes are few, because each costs a compilation: wide, tall, square, in = 1 and 2, one above 128,
and some that are not perfect squares. No two sizes share a seed, because kernels of different sizes
from one seed may be prefixes of the same numbers, and so not independent.
"""

import hashlib
from dataclasses import dataclass

Shape = tuple[int, int]
FIRST_SEED = 1_000


@dataclass(frozen=True)
class Cell:
    """One size of the experiment and the consecutive seeds that its kernels are drawn from."""

    shape: Shape
    seeds: range

    @property
    def count(self) -> int:
        """Return the number of weights of this size."""
        return self.shape[0] * self.shape[1] * len(self.seeds)


@dataclass(frozen=True)
class Design:
    """A profile's experiment and the relative variance error that it promises to detect."""

    profile: str
    promised: float
    cells: tuple[Cell, ...]

    @property
    def count(self) -> int:
        """Return the number of weights of all sizes together."""
        return sum(cell.count for cell in self.cells)


# A small size with many seeds comes first, because only there each entry is drawn often enough.
_QUICK: tuple[tuple[Shape, int], ...] = (
    # An odd number of weights leaves one over in a layer that draws in pairs.
    ((3, 11), 256),
    ((1, 1024), 16),
    ((2, 1024), 16),
    ((4, 512), 16),
    ((520, 8), 16),
    ((48, 48), 16),
    ((64, 80), 16),
)
_STANDARD: tuple[tuple[Shape, int], ...] = (
    ((3, 11), 256),
    ((1, 2048), 32),
    ((2, 1024), 32),
    ((4, 1024), 32),
    ((64, 128), 32),
    ((512, 24), 32),
    ((96, 96), 32),
    ((200, 17), 32),
)
_THOROUGH = tuple((shape, 4 * seeds) for shape, seeds in _STANDARD)
_PROFILES: dict[str, tuple[float, tuple[tuple[Shape, int], ...]]] = {
    "quick": (0.05, _QUICK),
    "standard": (0.02, _STANDARD),
    "thorough": (0.01, _THOROUGH),
}


def design(profile: str, first_seed: int = FIRST_SEED) -> Design:
    """Return the experiment of `profile` (quick, standard or thorough), starting at `first_seed`.

    Raises ValueError for another profile, or if the seeds would leave [0, 2**32).
    """
    if profile not in _PROFILES:
        raise ValueError(f"no profile {profile!r}; the profiles are {', '.join(_PROFILES)}")
    promised, sizes = _PROFILES[profile]
    cells = []
    start = first_seed
    for shape, seeds in sizes:
        cells.append(Cell(shape, range(start, start + seeds)))
        start += seeds
    if first_seed < 0 or start > 2**32:
        raise ValueError(f"the seeds from {first_seed} on leave the legal domain 0 .. 2**32 - 1")
    return Design(profile, promised, tuple(cells))


def fresh_seed(seed: int, in_features: int, features: int) -> int:
    """Return a seed for a generated case that no other size uses, a hash of the whole case.

    Adaptive search keeps the false-alarm bound only if each kernel is independent of earlier ones;
    kernels of one seed at two sizes are not.
    """
    text = f"{seed}|{in_features}|{features}|float32"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
