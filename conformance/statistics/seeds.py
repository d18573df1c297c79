"""Chooses the seeds to compare, and explains their collisions.

Two seeds with one kernel show that the seed is reduced. The set has two seeds that differ by m, for
every m up to a limit (a difference cover), so it detects every `seed % m`. It has flips of every
single bit of three bases, so it detects ignored bits, rounding, absolute values and clipping.
"""

import math
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

DOMAIN = 2**32
"""The range of seeds in JAX without x64, 32 bits; others are aliases of these."""

BASES = (0, 0x9E3779B9, 0xFFFFFFFF)
_DEFAULTS = (1, 42, 123, 1_234, 12_345, 1_337)
"""Usual replacements of a missing (or falsy) seed."""

_MODULI = (
    *(9_973, 10_000, 10_007, 32_767, 65_521, 65_535, 65_537, 99_991, 100_000, 100_003),
    *(999_983, 1_000_000, 1_000_003, 16_777_213, 16_777_619, 19_260_817, 20_000_000),
    *(99_999_989, 100_000_000, 100_000_007, 179_424_673, 433_494_437, 715_827_883),
    *(998_244_353, 999_999_937, 1_000_000_000, 1_000_000_007, 1_000_000_009, 1_073_741_789),
    *(2_000_000_000, 2_147_483_629, 2_654_435_761, 4_000_000_000, 4_294_967_291),
)
"""Usual moduli beyond the cover: powers of ten, and primes of hashes and of contests."""

_EXTRA = (*_MODULI, *_DEFAULTS)


def difference_cover(limit: int) -> tuple[int, ...]:
    """Return {0..c} and {2c, 3c, ..., c*c}, with two members that differ by m for all m <= c^2."""
    return (*range(limit + 1), *range(2 * limit, limit * limit + 1, limit))


def single_bit_flips() -> tuple[int, ...]:
    """Return each base and each base with one of its 32 bits flipped."""
    return tuple(base ^ flip for base in BASES for flip in (0, *(1 << bit for bit in range(32))))


def seed_set(profile: str) -> tuple[int, ...]:
    """Return the seeds of a profile: 196 in quick and standard, 636 and 900 random in thorough."""
    thorough = profile == "thorough"
    seeds = dict.fromkeys((*difference_cover(256 if thorough else 32), *single_bit_flips()))
    seeds.update(dict.fromkeys(_EXTRA))
    generator = random.Random(4)  # fixed: the design is data
    wanted = 636 + 900 if thorough else 196
    while len(seeds) < wanted:
        seeds[generator.randrange(DOMAIN)] = None
    return tuple(sorted(seeds))


_RANDOM = {"thorough": 8_000}
_RANDOM_OTHERWISE = 2_900
"""The number of random seeds; with the set, two collide in a hash to 16 bits, to 20 with P =
.99."""


def random_seeds(profile: str) -> tuple[int, ...]:
    """Return seeds beyond the set, for layers that draw many at once, to detect a hash."""
    generator = random.Random(16)  # fixed: the design is data
    wanted = _RANDOM.get(profile, _RANDOM_OTHERWISE)
    drawn = dict.fromkeys(generator.randrange(DOMAIN) for _ in range(wanted))
    return tuple(sorted(drawn.keys() - set(seed_set(profile))))


@lru_cache(maxsize=1)
def crowd() -> np.ndarray:
    """Return a quarter of a million seeds, as uint32; some collide in a hash to 32 bits.

    Of n seeds, n^2 / 2^33 pairs are expected to collide: seven, and none with P = 7e-4.
    """
    return np.unique(np.random.default_rng(17).integers(0, DOMAIN, 250_000, np.uint32))


_SLUGS = {
    "absolute": "sign-dropped",
    "low": "high-bits-ignored",
    "high": "low-bits-ignored",
    "ignores": "bits-ignored",
    "zero": "zero-replaced",
}


@dataclass(frozen=True)
class SeedDiagnosis:
    """The diagnosis of collisions; `verdict` is distinct, known, ambiguous or unknown."""

    verdict: str
    name: str
    sentence: str
    pairs: tuple[tuple[int, int], ...]

    @property
    def slug(self) -> str:
        """Return the id of the cause, without the numbers in the name."""
        kind = self.name.partition(" ")[0]
        return f"seed-{_SLUGS.get(kind, kind)}"


@dataclass(frozen=True)
class _Reduction:
    name: str
    sentence: str
    of: Callable[[int], Hashable]


def _signed(seed: int) -> int:
    return seed - DOMAIN if seed >= DOMAIN // 2 else seed


def _bfloat16(seed: int) -> int:
    bits = int(np.float32(seed).view(np.uint32))
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


def _default(seed: int) -> _Reduction:
    words = f"seed 0 counts as no seed and is replaced by {seed}."
    return _Reduction("zero is not a seed", words, lambda s: s or seed)


def _modulo(modulus: int) -> _Reduction:
    words = f"the seed is reduced modulo {modulus}. Use all of its bits."
    return _Reduction(f"modulo {modulus}", words, lambda s: s % modulus)


def _of_bits(bits: int) -> list[_Reduction]:
    low = f"only the low {bits} bits of the seed are used (seed modulo {2**bits})."
    high = f"the low {bits} bits of the seed are ignored."
    clipped = f"the seed is clipped: all seeds from {2**bits} on give the same kernel."
    return [
        _Reduction(f"low {bits} bits", low, lambda s: s % 2**bits),
        _Reduction(f"high {32 - bits} bits", high, lambda s: s >> bits),
        _Reduction(f"clipped at {2**bits}", clipped, lambda s: min(s, 2**bits)),
    ]


_ROUNDED = "the seed passes through float32: it is rounded above 2^24. Keep it an integer."
_KNOWN = [
    _Reduction(
        "ignored",
        "the seed is ignored: every seed gives the same kernel. Draw it from the given key.",
        lambda s: 0,
    ),
    _Reduction("float32", _ROUNDED, lambda s: float(np.float32(s))),
    _Reduction("float32", _ROUNDED, lambda s: int(np.float32(s)) % DOMAIN),
    _Reduction(
        "float16",
        "the seed passes through float16. Keep it an integer.",
        lambda s: float(np.float16(s)) if s < 65_520 else math.inf,
    ),
    _Reduction("bfloat16", "the seed passes through bfloat16. Keep it an integer.", _bfloat16),
    _Reduction(
        "absolute value",
        "the absolute value of the 32-bit signed seed is used: s and 2^32 - s collide.",
        lambda s: abs(_signed(s)),
    ),
    _Reduction(
        "clipped at 2^31 - 1",
        "the seed is clipped at 2^31 - 1: all larger seeds give the same kernel.",
        lambda s: min(s, 2**31 - 1),
    ),
    _Reduction(
        "clipped below 0",
        "negative 32-bit seeds are clipped to 0: all seeds from 2^31 on give one kernel.",
        lambda s: max(_signed(s), 0),
    ),
    _Reduction(
        "modulo 2^31 - 1", "the seed is reduced modulo 2^31 - 1.", lambda s: s % (2**31 - 1)
    ),
    *(reduction for bits in range(1, 32) for reduction in _of_bits(bits)),
]
"""The reductions that do not depend on the collisions; the first one is of every seed to one."""


def _reductions(ignored: int, moduli: Sequence[int]) -> list[_Reduction]:
    """Return every reduction of a seed that this suite can name.

    `ignored` masks the bits that no collision distinguishes, `moduli` are the candidates for m.
    """
    known = [*_KNOWN]
    if ignored:
        bits = ", ".join(str(bit) for bit in range(32) if ignored >> bit & 1)
        words = f"the seed's bits {bits} are ignored."
        known.append(_Reduction(f"ignores bits {bits}", words, lambda s: s & ~ignored))
    return known + [_modulo(modulus) for modulus in moduli if modulus & (modulus - 1)]


def diagnose_seeds(digests: Mapping[int, Hashable]) -> SeedDiagnosis:
    """Return what seeds with equal kernels (given as `digests`) have in common.

    A reduction is named only if it predicts exactly the collisions seen, no more and no fewer; two
    different ones that both do are reported as ambiguous, none as unknown.
    """
    seeds = sorted(digests)
    groups: dict[Hashable, list[int]] = {}
    for seed in seeds:
        groups.setdefault(digests[seed], []).append(seed)
    collisions = [members for members in groups.values() if len(members) > 1]
    pairs = tuple((members[0], other) for members in collisions for other in members[1:])
    if not collisions:
        return SeedDiagnosis("distinct", "", f"all {len(seeds)} seeds give different kernels.", ())
    first = f"seeds {pairs[0][0]} and {pairs[0][1]} give the same kernel"
    if len(groups) == 1:
        return SeedDiagnosis("known", _KNOWN[0].name, _KNOWN[0].sentence, pairs)
    seen = _partition(seeds, digests.__getitem__)
    fitting = [
        reduction
        for reduction in (
            *_reductions(_ignored_bits(digests), _moduli(pairs)),
            *(_default(second) for first, second in pairs if first == 0 and second in _DEFAULTS),
        )
        if _partition(seeds, reduction.of) == seen
    ]
    # If all low or all high bits are ignored, the cause has a simpler name.
    plain = [reduction for reduction in fitting if not reduction.name.startswith("ignores")]
    fitting = plain or fitting
    if len(fitting) == 1:
        return SeedDiagnosis("known", fitting[0].name, fitting[0].sentence, pairs)
    if fitting:
        names = " or ".join(reduction.name for reduction in fitting[:3])
        return SeedDiagnosis("ambiguous", names, f"{first}; that fits {names}.", pairs)
    return SeedDiagnosis(
        "unknown", "", f"{first}, and {len(pairs) - 1} more pairs; no known reduction does.", pairs
    )


def _partition(seeds: Sequence[int], key: Callable[[int], Hashable]) -> list[int]:
    """Return for each seed the index of the first seed with the same key."""
    first: dict[Hashable, int] = {}
    return [first.setdefault(key(seed), index) for index, seed in enumerate(seeds)]


def _ignored_bits(digests: Mapping[int, Hashable]) -> int:
    """Return the bits whose flips change no kernel among the seeds of the set."""
    ignored = 0
    for bit in range(32):
        flips = [
            digests[seed] == digests[seed ^ (1 << bit)]
            for seed in digests
            if seed < seed ^ (1 << bit) and seed ^ (1 << bit) in digests
        ]
        if flips and all(flips):
            ignored |= 1 << bit
    return ignored


def _moduli(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Return every m that divides all the differences of colliding seeds."""
    common = math.gcd(*(second - first for first, second in pairs))
    small = [m for m in range(2, math.isqrt(common) + 1) if common % m == 0]
    return sorted({*small, *(common // m for m in small), common} - {1})
