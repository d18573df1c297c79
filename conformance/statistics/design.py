"""The designed experiment: which sizes and seeds the statistical rows look at.

Sizes are few, because each costs a compilation, and telling: wide, tall, square, in = 1 and 2, one
above 128, some no perfect square. No two sizes share a seed: from one seed, kernels of different
sizes are prefixes of the same numbers, so they would not be independent.
"""

import hashlib
from collections.abc import Iterable
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
        """The number of weights of this size."""
        return self.shape[0] * self.shape[1] * len(self.seeds)


@dataclass(frozen=True)
class Design:
    """A profile's experiment and the relative variance error that it promises to detect."""

    profile: str
    promised: float
    cells: tuple[Cell, ...]

    @property
    def count(self) -> int:
        """The number of weights of all sizes together."""
        return sum(cell.count for cell in self.cells)


_QUICK: tuple[Shape, ...] = ((1, 1024), (2, 1024), (4, 512), (200, 16), (48, 48), (64, 80))
_STANDARD: tuple[Shape, ...] = (
    (1, 2048),
    (2, 1024),
    (4, 1024),
    (64, 128),
    (512, 24),
    (96, 96),
    (200, 17),
)
_PROFILES: dict[str, tuple[float, int, tuple[Shape, ...]]] = {
    "quick": (0.05, 16, _QUICK),
    "standard": (0.02, 32, _STANDARD),
    "thorough": (0.01, 128, _STANDARD),
}


def design(profile: str, first_seed: int = FIRST_SEED) -> Design:
    """The experiment of `profile` (quick, standard or thorough) from `first_seed` on.

    Raises ValueError for another profile, or when the seeds would leave [0, 2**32).
    """
    if profile not in _PROFILES:
        raise ValueError(f"no profile {profile!r}; there are {', '.join(_PROFILES)}")
    promised, seeds, shapes = _PROFILES[profile]
    if not 0 <= first_seed <= 2**32 - seeds * len(shapes):
        raise ValueError(f"the seeds from {first_seed} on leave the legal domain 0 .. 2**32 - 1")
    starts = range(first_seed, first_seed + seeds * len(shapes), seeds)
    return Design(profile, promised, cells(shapes, starts, seeds))


def cells(shapes: Iterable[Shape], starts: Iterable[int], seeds: int) -> tuple[Cell, ...]:
    """One cell for each shape, with `seeds` consecutive seeds from its start on."""
    return tuple(
        Cell(shape, range(start, start + seeds))
        for shape, start in zip(shapes, starts, strict=True)
    )


def fresh_seed(seed: int, in_features: int, features: int, dtype: str = "float32") -> int:
    """A seed for a generated case that no other size shares: a hash of everything drawn.

    Adaptive search keeps the false-alarm bound only if each kernel is independent of those seen,
    which one seed at two sizes is not.
    """
    text = f"{seed}|{in_features}|{features}|{dtype}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
