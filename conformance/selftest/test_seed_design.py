"""The seed design detects every reduction of a seed; the diagnosis names it or is "unknown"."""

import zlib
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest

from conformance.statistics import diagnose_seeds, seed_set
from conformance.statistics.seeds import DOMAIN, random_seeds


def _signed(seed: int) -> int:
    return seed - DOMAIN if seed >= DOMAIN // 2 else seed


NAMED: dict[str, Callable[[int], object]] = {
    "ignored": lambda s: 0,
    "modulo 1000": lambda s: s % 1_000,
    "modulo 7": lambda s: s % 7,
    "modulo 997": lambda s: s % 997,
    "modulo 10000": lambda s: s % 10_000,
    "modulo 1000003": lambda s: s % 1_000_003,
    "modulo 1000000007": lambda s: s % 1_000_000_007,
    "low 8 bits": lambda s: s & 0xFF,
    "low 16 bits": lambda s: s & 0xFFFF,
    "low 31 bits": lambda s: s & 0x7FFFFFFF,
    "high 16 bits": lambda s: s >> 16,
    "high 31 bits": lambda s: s >> 1,
    "float32": lambda s: float(np.float32(s)),
    "zero is not a seed": lambda s: s or 42,
    "absolute value": lambda s: abs(_signed(s)),
    "clipped at 2^31 - 1": lambda s: min(s, 2**31 - 1),
    "clipped below 0": lambda s: max(_signed(s), 0),
    "ignores bits 5, 17": lambda s: s & ~(1 << 5 | 1 << 17),
}


@pytest.mark.parametrize("profile", ["quick", "standard", "thorough"])
@pytest.mark.parametrize("name", NAMED)
def test_every_reduction_is_named(name: str, profile: str) -> None:
    found = diagnose_seeds({seed: NAMED[name](seed) for seed in seed_set(profile)})
    assert (found.verdict, found.name) == ("known", name)


def covers(seeds: Sequence[int], limit: int) -> bool:
    """Return whether some two seeds differ by every m up to `limit`."""
    differences = {abs(a - b) for a, b in combinations(seeds, 2)}
    return differences.issuperset(range(1, limit + 1))


def test_the_sets_are_as_large_and_as_dense_as_stated() -> None:
    """196 seeds cover all moduli up to 1 024; 636 and 900 random ones up to 65 536."""
    quick, thorough = seed_set("quick"), seed_set("thorough")
    assert (len(quick), len(thorough)) == (196, 636 + 900)
    assert covers(quick, 1_024)
    assert covers(thorough, 65_536)
    assert all(0 <= seed < DOMAIN for seed in thorough)


@pytest.mark.parametrize("profile", ["quick", "thorough"])
def test_the_random_seeds_meet_in_a_hash(profile: str) -> None:
    seeds = random_seeds(profile)
    assert not {*seeds} & {*seed_set(profile)}
    hashed = {zlib.crc32(seed.to_bytes(4, "little")) >> 12 for seed in seeds}
    assert len(hashed) < len(seeds)


def test_every_modulus_collides() -> None:
    """The quick set detects every `seed % m` up to 1 024; its name is right or withheld."""
    for modulus in range(1, 1_025):
        found = diagnose_seeds({seed: seed % modulus for seed in seed_set("quick")})
        assert found.verdict != "distinct"
        if found.verdict == "known" and modulus > 1 and modulus & (modulus - 1):
            assert found.name == f"modulo {modulus}"


def test_distinct_kernels_and_hashes_are_not_diagnosed() -> None:
    """Collisions of a short hash have no pattern to name."""
    assert diagnose_seeds({seed: seed for seed in seed_set("quick")}).verdict == "distinct"
    hashed = {seed: zlib.crc32(str(seed).encode()) % 500 for seed in seed_set("quick")}
    assert diagnose_seeds(hashed).verdict == "unknown"
