"""The sizes, batches and dtypes at which the scan traces a layer."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np

from conformance.checks import profiles
from conformance.checks.cases import BATCH, Case
from conformance.checks.layer import Layer
from conformance.checks.scan.literals import lengths_in_code

Size = tuple[int, int]

BASE = (3, 10)
# Odd, prime and rich in divisors; powers of two and their neighbours; multiples of 100; wide, tall
# and square; sizes of real models; and sizes that no memory holds.
_SIZES: tuple[Size, ...] = (
    *(BASE, (2, 4), (16, 16), (24, 36), (33, 20), (64, 100), (63, 65), (101, 50), (127, 257)),
    *((128, 128), (144, 240), (257, 130), (256, 1000), (300, 500), (384, 77), (512, 512)),
    *((600, 601), (784, 10), (840, 720), (1000, 2001), (1024, 1024), (1155, 1210), (768, 3072)),
    *((2049, 130), (3000, 50257), (4099, 8200), (4096, 4096), (10**4, 10**4 + 1)),
    *((64, 10**5), (10**5, 64), (10**6, 10**6)),
    # Few inputs and outputs, and multiples of primes: 17 * 19 * 23 and 13 * 29 * 31.
    *((7, 12), (10, 3), (7429, 11687)),
    # Heads of two outputs, and other small sizes.
    *((33, 2), (5, 2), (4, 6), (6, 5), (9, 8), (11, 9)),
    # One size is a multiple of the other: 768 and 3072 above, and these.
    *((102, 51), (231, 77), (1028, 257), (144, 288), (155, 465)),
)
# JAX squeezes axes of length 1, so these are compared only with each other.
_ONES: tuple[Size, ...] = ((1, 7), (1, 300), (1, 1024), (5, 1), (300, 1), (4096, 1))
# Beyond 128 on both axes: multiples of 32, 100, 128 and 256, their neighbours, and primes.
_LARGER: tuple[Size, ...] = (
    *((160, 224), (300, 200), (256, 384), (257, 255), (131, 139), (144, 400), (512, 129)),
    *((193, 500), (255, 256), (401, 199), (384, 257), (200, 768), (640, 132), (307, 311)),
)
_FEWER: tuple[Size, ...] = (BASE, (64, 100), (128, 128), (300, 500), (840, 720), (1000, 2001))
_ROWS = (64, 100, 127, 256, 300, 512, 625, 1000, 1024, 4096, 2**15 + 1, 70_001, 2**17)
_LEADS: tuple[tuple[int, ...], ...] = (
    *((2, 3), (3, 2), (3, 3), (10, 10), (3, 10), (5, 10), (5, 3), (64, 64), (12, 100), (100, 12)),
    *((7, 300), (1000, 7), (9, 128), (128, 9), (64, 1000)),
    *((2, 3, 4), (3, 3, 3), (2, 10, 10), (5, 4, 10), (8, 8, 8), (10, 20, 30), (4, 3, 64)),
    *((2, 3, 2, 4), (2, 2, 2, 2), (4, 5, 6, 7), (3, 2, 10, 10), (8, 16, 8, 16)),
    *((2, 3, 2, 4, 2), (2, 2, 2, 2, 2), (4, 5, 6, 7, 3)),
    *((2, 3, 2, 2, 2, 3), (2, 2, 3, 2, 2, 2, 3)),
    *((1, 5), (1, 64), (1, 1000), (5, 1), (64, 1), (1000, 1)),
)
_DTYPES = ("float16", "bfloat16", "int32", "complex64")
# Sound has dtype int16, and a shape of (batch, time, channels).
_OF_SOUND = ("int8", "int16", "uint16", "uint32")
INTEGERS = ("int32", "uint8", "bool", *_OF_SOUND)

# The limits of a call at an edge: numbers of x and result each, half of those of the kernel, and
# products. A limit of 16 MiB for an array, as users write it, is passed by one row or column.
NUMBERS, _PRODUCTS = 2**22 + 2**16, 2**29
# The maximum number of weights of a kernel that is inspected.
WEIGHTS = 2**20


@dataclass(frozen=True)
class Point:
    """A size, the leading axes of x, and its dtype."""

    in_features: int
    out_features: int
    lead: tuple[int, ...] = BATCH
    dtype: str = "float32"

    @property
    def axes(self) -> tuple[int, ...]:
        """Return in, out, and the leading axes of x."""
        return (self.in_features, self.out_features, *self.lead)

    def moved(self, axis: int, length: int) -> Point:
        """Return the point with another length of one axis."""
        axes = [*self.axes]
        axes[axis] = length
        return Point(axes[0], axes[1], tuple(axes[2:]), self.dtype)

    def name(self, axis: int) -> str:
        """Return the name of the axis."""
        rows = "rows" if len(self.lead) == 1 else f"x.shape[{axis - 2}]"
        return ("in_features", "out_features")[axis] if axis < 2 else rows

    @property
    def fits(self) -> bool:
        """Return whether a call fits into the memory and the time of a check."""
        rows = int(np.prod(self.lead))
        n, m = self.in_features, self.out_features
        fits = max(n * m // 2, rows * n, rows * m) <= NUMBERS
        return fits and rows * n * m <= _PRODUCTS

    def case(self) -> Case:
        """Return the case of this size and batch."""
        return Case(self.in_features, self.out_features, 0, 1, self.lead)


def base_of(layer: Layer) -> Point:
    """Return the point with which the others are compared."""
    return replace(Point(*BASE), lead=BATCH if layer.accepts(BATCH) else layer.fewest)


def points_of(layer: Layer) -> list[Point]:
    """Return every point to trace, those of one class in order of interest."""
    base = base_of(layer)
    sized = [replace(base, in_features=n, out_features=m) for n, m in (*_SIZES, *_drawn(), *_ONES)]
    some = [(n, m) for n, m in _FEWER if n in (3, 64, 300, 1000)]
    batches = [(BASE, (rows,)) for rows in _ROWS] + [(BASE, lead) for lead in _LEADS]
    batches += [((64, 64), (64,)), ((64, 64), (1000,)), ((130, 300), (500,)), ((64, 48), (4096,))]
    batches += [((n, m), lead) for n, m in some for lead in ((), (1,), (3,), (2, 3), (30, 40))]
    batches += [((512, 512), ()), ((768, 3072), (2, 3)), ((768, 3072), (4, 128))]
    batches += [((512, 16), (4096,)), ((512, 16), (4, 1024)), ((16, 16), (4, 4))]
    batches += [((16, 16), (2, 16)), ((16, 16), (2, 16, 16))]  # as many tokens as features
    points = [*sized, *(Point(n, m, lead) for (n, m), lead in batches)]
    lengths = lengths_in_code(layer)
    points += [point for n in lengths for point in written(layer, n)]
    points += [replace(base, in_features=n, out_features=m) for n in lengths for m in lengths]
    points += [Point(*BASE, lead) for n in lengths for lead in ((n, 2), (2, n), (n, n))]
    short = [(BASE, (rows,)) for rows in (100, 300, 1024, 4096)] + [(BASE, ()), (BASE, (2, 3))]
    for dtype in _DTYPES:
        points += [replace(base, in_features=n, out_features=m, dtype=dtype) for n, m in _FEWER]
        # Beyond the powers of two at which sums are usually split.
        points += [replace(base, in_features=4097, out_features=33, dtype=dtype)]
        points += [replace(base, in_features=n + 1, dtype=dtype) for n in lengths]
        points += [Point(n, m, lead, dtype) for (n, m), lead in short]
        points += [Point(*BASE, lead, dtype) for lead in ((2, 3, 4), (2, 3, 2, 4))]
        points += [Point(64, 100, lead, dtype) for lead in ((2, 3), (2, 3, 4))]
    # Images have dtype uint8, and masks bool.
    points += [Point(*BASE, lead, of) for lead in ((2, 3), (2, 3, 4)) for of in ("uint8", "bool")]
    points += [replace(base, in_features=n, out_features=m, dtype="uint8") for n, m in _FEWER[::2]]
    points += [Point(*BASE, lead, of) for lead in ((), (2, 3)) for of in _OF_SOUND]
    return [p for p in dict.fromkeys(points) if layer.accepts(p.lead)]


def written(layer: Layer, length: int) -> list[Point]:
    """Return the points at which a length that is written in the layer's code may matter.

    It may be a number of rows, inputs, outputs, entries of x, or weights; from it on, or beyond it.
    """
    base, root = base_of(layer), math.isqrt(length) + 1
    found = [
        point
        for beyond in (length, length + 1)
        for point in (
            Point(*BASE, (beyond,)),
            replace(base, in_features=beyond),
            replace(base, out_features=beyond),
        )
    ]
    found += [
        Point(*BASE, (length // BASE[0] + 1,)),
        replace(base, in_features=root, out_features=root),
    ]
    return [p for p in found if layer.accepts(p.lead)]


def larger(layer: Layer, *, others: bool = False) -> list[Case]:
    """Return the case of a size, drawn for this run, beyond 128 on both axes.

    With ``others``, there is a second one, with another batch: a branch on both that runs only
    outside of a trace is not in the programs that the scan compares.
    """
    sizes = random.Random(profiles.active().seed or 0).sample(_LARGER, 2)
    leads = (base_of(layer).lead, *((3, 100),) * others)
    return [
        Point(*size, lead).case()
        for size, lead in zip(sizes, leads, strict=False)
        if layer.accepts(lead)
    ]


def _drawn() -> list[Size]:
    """Return sizes that are drawn for this run, small ones as likely as large ones."""
    generator = random.Random(profiles.active().seed or 0)
    return [
        (int(2 ** generator.uniform(5, 12)), int(2 ** generator.uniform(5, 12))) for _ in range(3)
    ]
