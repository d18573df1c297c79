"""The cases that Hypothesis draws, and the arrays that follow from a case.

Sizes come from the profile's pool, because each new size has to be compiled; the seed of the layer
and the seed of the numbers are any 32-bit integers. A case is a small frozen value that can be
shown, stored and replayed; its arrays are functions of it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
from hypothesis import example, given
from hypothesis import seed as fixed_seed
from hypothesis import strategies as st

from conformance.checks import profiles, recording

F = TypeVar("F", bound=Callable[..., None])

Shape = tuple[tuple[int, int], tuple[int, ...]]
"""(in_features, out_features), and the leading dimensions of x."""

SEEDS = st.integers(0, 2**32 - 1)
BATCH = (8,)

# Sizes beyond the pool: two inputs; wide and tall ones of primes, which no block or tile divides;
# and a square one that is a multiple of most blocks. Properties share these sizes, because each
# costs a compilation of the construction.
SMALL, WIDE, TALL, LARGE = (2, 4), (4, 4099), (1543, 8), (128, 128)

# Leading dimensions besides the plain batch, one for each size of the pool in turn: ranks 2 to 5,
# batches of one row, of as many rows as features, and of a vector unit's width.
_ODD_LEADS: tuple[tuple[int, ...], ...] = (
    (3,),
    (2, 3),
    (1,),
    (2, 1, 2, 2),
    (16,),
    (24,),
    (1, 1, 2),
    (32,),
    (2, 2),
    (1, 2),
)


# A vector; batches of one row, of as many as inputs or outputs, and of sizes near those of blocks;
# leading dimensions that are equal to each other or to the sizes.
MANY_LEADS: tuple[tuple[int, ...], ...] = (
    *((), (1,), (2,), (3,), (4,), (5,), (7,), (12,), (64,), (100,), (128,), (257,)),
    *((5, 5), (3, 2), (3, 3, 2), (1, 1)),
)

# One input or one output, for a vector and for sequences; as many tokens as features.
NARROW: tuple[Shape, ...] = (
    *(((1, 7), ()), ((5, 1), ()), ((1, 7), (2, 3)), ((5, 1), (2, 3))),
    ((16, 16), (2, 16)),
)


@dataclass(frozen=True)
class Case:
    """One case: a draw of sizes, seeds and leading dimensions.

    Parameters
    ----------
    in_features, out_features
        The sizes.
    seed
        The seed of the layer, in ``[0, 2**32)``.
    values
        The seed of the kernel, the bias and ``x``.
    lead
        The leading dimensions of ``x``.
    """

    in_features: int
    out_features: int
    seed: int = 0
    values: int = 0
    lead: tuple[int, ...] = BATCH

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Return the shape of ``x``: leading dimensions, then in_features."""
        return (*self.lead, self.in_features)

    @property
    def kernel_shape(self) -> tuple[int, int]:
        """Return the shape of the kernel, ``(in_features, out_features)``."""
        return (self.in_features, self.out_features)

    def generator(self, stream: str) -> np.random.Generator:
        """Return a generator for the case's values and the name of a stream."""
        return np.random.default_rng([self.values, *stream.encode()])

    def x(self) -> np.ndarray:
        """Return a float32 ``x`` whose rows are of different kinds: see :func:`mixed_rows`.

        The rows after the first ones are plain normals.
        """
        count, generator = int(np.prod(self.lead)), self.generator("x")
        rows = mixed_rows(generator, min(count, _MIXED), self.in_features)
        more = generator.standard_normal((count - len(rows), self.in_features), np.float32)
        return np.concatenate([rows, more]).reshape(self.x_shape)

    def normal(self, stream: str, *shape: int, scale: float = 1.0) -> np.ndarray:
        """Return float32 normals of the given shape, well away from under- and overflow."""
        return (self.generator(stream).standard_normal(shape) * scale).astype(np.float32)

    def kernel(self, scale: float = 1.0) -> np.ndarray:
        """Return a float32 kernel ``(in_features, out_features)`` to write into the layer."""
        return self.normal("kernel", *self.kernel_shape, scale=scale)

    def bias(self, scale: float = 1.0) -> np.ndarray:
        """Return a float32 bias ``(out_features,)`` to write in, none of whose entries is 0."""
        bias = self.normal("bias", self.out_features, scale=scale)
        return np.where(bias == 0, np.float32(scale), bias)

    def integers(self, stream: str, *shape: int, bound: int = 9) -> np.ndarray:
        """Return integer-valued float32 numbers in ``[-bound, bound]``."""
        return self.generator(stream).integers(-bound, bound + 1, shape).astype(np.float32)

    def as_dict(self) -> dict[str, Any]:
        """Return the case as plain JSON values."""
        return {**asdict(self), "lead": list(self.lead)}


def mixed_rows(generator: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """Return float32 rows of different kinds, in a random order.

    Normal, integers, all negative, all positive, a scaled unit vector, large, tiny, of mixed
    magnitude, half zeros of both signs, one constant: so every example covers layers that are wrong
    only for some inputs. No entry is subnormal, and no product overflows.
    """
    kinds = 10
    x = generator.standard_normal((rows, width))
    order = (np.arange(rows) + int(generator.integers(kinds))) % kinds
    for i, kind in enumerate(order):
        if kind == 1:
            x[i] = generator.integers(-50, 51, width)
        elif kind == 2:
            x[i] = -np.abs(x[i])
        elif kind == 3:
            x[i] = np.abs(x[i])
        elif kind == 4:
            x[i] = np.where(np.arange(width) == generator.integers(width), x[i], 0.0)
        elif kind == 5:
            x[i] *= 10.0 ** generator.integers(4, 25)
        elif kind == 6:
            x[i] *= 10.0 ** -generator.integers(4, 25)
        elif kind == 7:
            x[i] *= 2.0 ** generator.integers(-20, 21, width)
        elif kind == 8:
            x[i] = np.where(generator.random(width) < 0.5, np.copysign(0.0, x[i]), x[i])
        elif kind == 9:
            # The constants include those that mark padding.
            x[i] = (x[i, 0], -1.0, 1.0)[int(generator.integers(3))]
    return x.astype(np.float32)


# The number of rows of different kinds, which are generated one by one.
_MIXED = 256

# The number of cases generated in the search for one that Hypothesis can explain.
_SEARCHED = 40


@dataclass(frozen=True, kw_only=True)
class over:
    """Let Hypothesis draw the property's ``case``, with each size of the pool at least once.

    :func:`settled` applies the run's profile when it is known.

    Parameters
    ----------
    leads
        Whether ``x`` also has other leading dimensions than the plain batch.
    every_size
        False where compiling each size costs more than it finds.
    sizes
        Other sizes than the profile's pool.
    up_to
        Draw any size up to this one besides the pool, for properties that compile nothing.
    at_most
        The maximum number of generated examples, for costly properties.
    also
        Further sizes and leading dimensions, each used once.
    """

    leads: bool = False
    every_size: bool = True
    sizes: Sequence[tuple[int, int]] | None = None
    up_to: int | None = None
    at_most: int | None = None
    also: Sequence[Shape] = ()

    def __call__(self, test: F) -> F:
        """Let the test draw its case so."""
        test.__draws__ = self  # type: ignore[attr-defined]  # functions take attributes
        return test

    def shapes(self, profile: profiles.Profile) -> list[Shape]:
        """Return the sizes and leading dimensions of a profile, each used once."""
        pool = list(self.sizes if self.sizes is not None else profile.sizes)
        if not self.every_size:
            pool = [pool[i] for i in sorted({1, 3, len(pool) // 2, len(pool) - 1})]
        return [
            (size, lead)
            for i, size in enumerate(pool)
            for lead in ((BATCH, _ODD_LEADS[i % len(_ODD_LEADS)]) if self.leads else (BATCH,))
        ]

    def strategy(self, shapes: Sequence[Shape]) -> st.SearchStrategy[Case]:
        """Return the strategy from which Hypothesis draws a case."""
        drawn: st.SearchStrategy[Shape] = st.sampled_from(shapes)
        if self.up_to is not None:
            free = st.integers(1, self.up_to)
            drawn = st.tuples(st.tuples(free, free), st.just(BATCH))
        # Pass them by keyword, because Hypothesis's notes name keywords.
        return st.builds(_case, shape=drawn, seed=SEEDS, values=SEEDS)


def _case(shape: Shape, seed: int, values: int) -> Case:
    (in_features, out_features), lead = shape
    return Case(in_features, out_features, seed, values, lead)


def settled(property: Callable[..., None], profile: profiles.Profile) -> Callable[..., None]:
    """Return the property as a test that draws its cases by the profile.

    A property without :class:`over` is returned as it is.
    """
    how: over | None = getattr(property, "__draws__", None)
    if how is None:
        return property
    if how.at_most is not None:
        profile = replace(profile, examples=min(profile.examples, how.at_most))
    shapes = how.shapes(profile)
    strategy = how.strategy(shapes)

    def recorded() -> Callable[..., None]:
        @functools.wraps(property)
        def run(layer: Any, case: Case) -> None:
            # Hypothesis generates the simplest case first, which is the first attached example.
            layer.remember(
                (property, case), lambda: property(layer, recording.current().draw(case))
            )

        return run

    wrapped = given(case=strategy)(profile.hypothesis()(recorded()))
    if profile.seed is not None:
        wrapped = fixed_seed(profile.seed)(wrapped)
    # Hypothesis runs the last attached example first, so the smallest is attached last.
    for (in_features, out_features), lead in reversed([*shapes, *how.also]):
        first = Case(in_features, out_features, 0, 0, lead)
        wrapped = example(case=first)(wrapped)
    if profile.explain:
        # Hypothesis explains generated examples only, not explicit ones.
        more = replace(profile, examples=max(profile.examples, how.at_most or _SEARCHED))
        searched = given(case=strategy)(more.hypothesis(explain=True)(recorded()))
        wrapped = _one_after_the_other(searched, wrapped)
    # Hypothesis does not copy attributes, such as the record of the requirement. The wrapped
    # function is not copied, because its signature has the case.
    vars(wrapped).update({k: v for k, v in vars(property).items() if k != "__wrapped__"})
    return wrapped


def every_case(property: Callable[..., None], layer: Any) -> None:
    """Run a property over all cases of the run's profile, inside another property."""
    settled(property, profiles.active())(layer=layer)


def _one_after_the_other(
    first: Callable[..., None], second: Callable[..., None]
) -> Callable[..., None]:
    @functools.wraps(second)
    def both(layer: Any) -> None:
        first(layer)
        second(layer)

    return both


def free_parts(error: BaseException) -> list[str]:
    """Return the fields of the failing case that do not matter, from Hypothesis's note."""
    found = re.findall(r"(\w+)=.*# or any other generated value", "\n".join(_notes(error)))
    parts = {"case": ["size", "seed", "values"], "shape": ["size"]}
    return [part for name in found for part in parts.get(name, [name])]


def _notes(error: BaseException) -> list[str]:
    return [str(note) for note in getattr(error, "__notes__", ())]
