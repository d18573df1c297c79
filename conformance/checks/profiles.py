"""Defines how much a run explores: three profiles, one of them active in this process."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypothesis import settings
    from hypothesis.database import ExampleDatabase

Size = tuple[int, int]

# Edges first, in the order in which Hypothesis shrinks: (1, 1), a single row, a single column, a
# wide and a tall one, a square power of two, neighbours of a power of two, and both sides above
# 128.
_QUICK: tuple[Size, ...] = ((1, 1), (1, 7), (5, 1), (3, 10), (16, 16), (33, 20), (6, 129), (130, 4))
_STANDARD: tuple[Size, ...] = (*_QUICK, (2, 3), (7, 8), (64, 15), (257, 9))
_THOROUGH: tuple[Size, ...] = (*_STANDARD, (4, 4), (9, 33), (17, 2), (31, 65), (128, 64), (500, 12))


@dataclass(frozen=True)
class Profile:
    """The amount that a run explores.

    Parameters
    ----------
    name
        ``quick``, ``standard`` or ``thorough``.
    sizes
        The ``(in_features, out_features)`` from which Hypothesis draws. Each one is compiled, so
        they are few and mostly edges.
    examples
        The number of examples that Hypothesis generates for a property, besides one for each size.
    seed
        The seed of the generated cases; None derives it from the tests themselves.
    explain
        Whether to find the fields of a failing case that do not matter.
    database
        The database of failing cases; None keeps none, and makes runs without a seed repeatable.
    """

    name: str
    sizes: tuple[Size, ...]
    examples: int
    seed: int | None = None
    explain: bool = False
    own_sizes: tuple[Size, ...] = ()
    database: ExampleDatabase | None = None

    def statement(self) -> str:
        """Return a line on what it explores and what it can detect."""
        from conformance.statistics.design import design

        largest = max(max(size) for size in self.sizes)
        return (
            f"{len(self.sizes)} sizes up to {largest}, {self.examples} more cases a property"
            f"{'' if self.seed is None else f', seed {self.seed}'}: detects what shows in 1 of "
            f"{self.rarest} cases, a variance {100 * design(self.name).promised:g} % off"
        )

    @property
    def rarest(self) -> int:
        """Return the n such that a fault in 1 of n cases is missed in one run of 20.

        If a share p of the cases is wrong, n independent cases all pass with probability (1 - p)^n.
        """
        cases = len(self.sizes) + self.examples
        return int(1 / (1 - _MISSED ** (1 / cases)))

    def as_options(self) -> str:
        """Return the command's options for this profile, each with a leading space."""
        profile = f" --profile {self.name}" if self.name != DEFAULT else ""
        sizes = "".join(f" --size {n}x{m}" for n, m in self.own_sizes)
        return profile + sizes + (f" --seed {self.seed}" if self.seed is not None else "")

    def hypothesis(self, explain: bool = False) -> settings:
        """Return the settings for Hypothesis, without a deadline, because compiling is slow.

        With ``explain``, Hypothesis also finds the fields of a failing case that do not matter.
        """
        from hypothesis import HealthCheck, Phase, settings

        phases = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
        return settings(
            settings.get_profile("default"),
            max_examples=self.examples,
            phases=[*phases, Phase.explain] if explain else phases,
            derandomize=self.seed is None and self.database is None,
            database=self.database,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
            print_blob=False,
        )


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("quick", _QUICK, examples=6),
        Profile("standard", _STANDARD, examples=60),
        Profile("thorough", _THOROUGH, examples=400),
    )
}
DEFAULT = "quick"

# With a seed, these profiles also go beyond the pool. Every property compiles a fresh size, which
# only a long run can afford.
_ADDS_SIZES = ("thorough",)
_LARGEST = 600

_MISSED = 0.05

_active = PROFILES[DEFAULT]


def named(
    name: str, seed: int | None = None, *, explain: bool = False, examples: int | None = None
) -> Profile:
    """Return the profile of that name with a run's seed; ``examples`` replaces its number."""
    found = PROFILES[name]
    found = replace(found, seed=seed, explain=explain, examples=examples or found.examples)
    if name in _ADDS_SIZES and seed is not None:
        found = replace(found, sizes=(*found.sizes, *_fresh_sizes(seed)))
    return found


def activate(
    name: str,
    seed: int | None = None,
    *,
    explain: bool = False,
    examples: int | None = None,
    database: ExampleDatabase | None = None,
    own_sizes: Sequence[Size] = (),
) -> Profile:
    """Activate :func:`named` in this process, with further sizes at the end of its pool."""
    global _active  # a process checks with one profile
    found = named(name, seed, explain=explain, examples=examples)
    own = tuple(size for size in dict.fromkeys(own_sizes) if size not in found.sizes)
    _active = replace(found, sizes=(*found.sizes, *own), own_sizes=own, database=database)
    return _active


def _fresh_sizes(seed: int) -> tuple[Size, ...]:
    """Return two sizes that depend on the seed, small ones as likely as large ones."""
    generator = random.Random(seed)

    def side() -> int:
        return round(math.exp(generator.uniform(0, math.log(_LARGEST))))

    return tuple((side(), side()) for _ in range(2))


def active() -> Profile:
    """Return the active profile."""
    return _active
