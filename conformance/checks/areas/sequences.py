"""Random sequences of ordinary uses of a few layers, each result compared with its reference.

A failing sequence is shortened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, product

import numpy as np

from conformance.checks.areas.uses import (
    BEFORE_GRADIENTS,
    CALLS,
    CHANGES,
    COPIES,
    GRADIENTS,
    LEADS,
    USES,
    Step,
    World,
)
from conformance.checks.cases import Case
from conformance.checks.layer import Layer
from conformance.errors import Violation

# The number of changes in a sequence: each call is in as many sequences as x has ranks.
_PAIRS = -(-len(CHANGES) // len(LEADS))


def _drawn(generator: np.random.Generator) -> list[list[Step]]:
    """Return sequences in which each change is made once between two calls of each kind.

    A layer that keeps something of a call uses it in the next call of that kind, rank and dtype, so
    each sequence repeats one call, and the sequences of a kind go through the ranks. The calls
    between them are of every kind and rank, for layers of both sizes. In half of the sequences the
    call after a copy is one of the copy, and changes go to the original.
    """
    found, ranks = [], range(len(LEADS))
    others = [cycle(generator.permutation([*product(CALLS, ranks)])) for _ in range(2)]
    for use in (*CALLS, *GRADIENTS):
        of_this = CHANGES if use in CALLS else BEFORE_GRADIENTS
        changes = [str(name) for name in generator.permutation([*of_this])]
        for rank, i in zip(ranks, range(0, len(changes), _PAIRS), strict=False):
            to_copy = generator.random() < 0.5
            # A copy takes the place of the other small layer.
            of = int(generator.integers(2)) if to_copy or generator.random() < 1 / 3 else 2
            call = Step(use, of, _of_rank(rank, generator))
            called, steps = call, [call]
            # Copies come first, so that changes follow them, and a cast to half precision last.
            for change in sorted(changes[i : i + _PAIRS], key=_place):
                if to_copy and change in COPIES:
                    called = replace(call, of=1 - of)
                other, its_rank = next(others[of == 2])
                more = Step(str(other), of, _of_rank(int(its_rank), generator))
                steps += [Step(change, of, _seed(generator)), called]
                steps += [call] * (called != call) or [more]
            found.append(steps)
    return found


def _place(change: str) -> int:
    return 0 if change in COPIES else 2 if change == "a cast" else 1


def _seed(generator: np.random.Generator) -> int:
    return int(generator.integers(2**20))


def _of_rank(rank: int, generator: np.random.Generator) -> int:
    """Return the seed of a call's numbers, for an x of this rank: see :meth:`World.x`."""
    return len(LEADS) * _seed(generator) + rank


def _failure(layer: Layer, case: Case, steps: Sequence[Step]) -> Violation | None:
    """Run the steps on new layers; return what fails, named by the steps before it."""
    world = World(layer, case)
    for i, step in enumerate(steps):
        try:
            USES[step.use](world, world[step.of], step)
        except Violation as violation:
            before = f"after {'; '.join(map(str, steps[:i]))}, " if i else ""
            violation.located(f"{before}at {step}")
            return violation
    return None


def require_in_any_order(layer: Layer, case: Case, times: int) -> None:
    """Require every result in random sequences of uses to follow from the present values.

    Parameters
    ----------
    layer
        The layer.
    case
        The case with the seed of the sequences and of their numbers.
    times
        How often each change is made between two calls of each kind.
    """
    generator, left_out = case.generator("sequences"), set[str]()
    for _ in range(times):
        for drawn in _drawn(generator):
            while True:
                steps = [step for step in drawn if step.use not in left_out]
                found = _failure(layer, case, steps)
                if found is None:
                    break
                steps, found = _shortest(layer, case, steps, found)
                alone = _recommended(layer, case, steps)
                if not alone:
                    raise found
                left_out.add(alone)


_RECOMMENDED = ("f(x) of bfloat16", "f(x) of integers")


def _recommended(layer: Layer, case: Case, steps: Sequence[Step]) -> str:
    """Return the use that fails by itself, if other requirements only recommend it; else "".

    They try it on a plain batch.
    """
    uses = [step.use for step in steps]
    alone = len(uses) == 1 and uses[0] in _RECOMMENDED
    if not (alone or (len(uses) == 2 and uses[0] == "a cast")):
        return ""
    plain = [replace(step, of=0, values=0) for step in steps]
    return uses[0] if _failure(layer, case, plain) else ""


def _shortest(
    layer: Layer, case: Case, steps: list[Step], found: Violation
) -> tuple[list[Step], Violation]:
    """Leave out steps for as long as the rest fails, and return it with its failure."""
    i = len(steps) - 1
    while i >= 0:
        fewer = steps[:i] + steps[i + 1 :]
        failure = _failure(layer, case, fewer)
        if failure is not None:
            steps, found = fewer, failure
        i = min(i, len(steps)) - 1
    return steps, found
