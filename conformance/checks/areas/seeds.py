"""Compares the numbers of different seeds: collisions and correlations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from conformance.checks import profiles, recording, require
from conformance.checks.areas.kernels import (
    Declared,
    beyond_the_experiment,
    declared,
    judge,
    kernels,
    law_evidence,
    samples,
    structure_evidence,
)
from conformance.checks.areas.mapped_draws import cost_of_a_draw, drawn_at_once
from conformance.checks.cases import Case
from conformance.checks.layer import Layer
from conformance.checks.once import once_per_layer
from conformance.checks.programs import HALF
from conformance.checks.scan.literals import seeds_in_code
from conformance.errors import Cause, Violation
from conformance.statistics import (
    by_requirement,
    diagnose_seeds,
    fresh_seed,
    identify_law,
    seed_set,
    structure,
)
from conformance.statistics.by_requirement import Shape, pooled
from conformance.statistics.correlation import linked_seeds, seed_pairs, seed_shifts
from conformance.statistics.evidence import chernoff_log_p
from conformance.statistics.resolution import MAGNITUDE_LEVELS
from conformance.statistics.seeds import BASES, crowd, random_seeds
from conformance.statistics.shape import coarsely_follows

IN_FEATURES, OUT_FEATURES = 6, 129
"""A size of every profile's pool, at which kernels of layers or outputs of functions are drawn."""

# Even with few levels, such as signs, two kernels of this size are never equal by chance; thousands
# of the larger ones take a third of a second.
_SMALL = (4, 40)

_FEWEST = (1, 4)
"""A size at which a quarter of a million kernels cost as much as thousands of the larger ones."""

_FEWEST_HALF = (1, 8)
"""The same in half precision, whose few levels repeat in four weights of so many kernels."""

_NUMBERS = 2**24
"""The count of numbers drawn for seeds beyond the set, which takes a processor a second."""

_PROBE = np.array([0.5, -1.25, 2.0, 0.75, -0.25, 1.5], np.float32)
_NEGATIVE = (1, 2, 5, 1_000, 2**31 - 1)


_Drawn = tuple[dict[int, np.ndarray], dict[int, np.ndarray], tuple[np.ndarray, np.ndarray]]
_NONE = (np.zeros(0, np.uint32), np.zeros((0, 8), np.float32))


@once_per_layer()
def _drawn(layer: Layer) -> _Drawn:
    """Return flat kernels or outputs for the profile's seeds, small kernels for more of them, and
    the smallest ones for a crowd of seeds.
    """
    profile = profiles.active().name
    seeds, size = seed_set(profile), (IN_FEATURES, OUT_FEATURES)
    written = tuple(seed for seed in seeds_in_code(layer) if seed not in seeds)
    if layer.implementation.init is None:
        return {seed: _output(layer, seed) for seed in seeds + written}, {}, _NONE
    # A layer that cuts its kernel from a large block draws the block for each seed.
    more = _NUMBERS // max(cost_of_a_draw(layer, _SMALL) // 4, 1)
    every = seeds + written + random_seeds(profile)[:more]
    fewest = _fewest(layer)
    most = _NUMBERS // max(cost_of_a_draw(layer, fewest) // 4, 1)
    many = np.unique(np.append(crowd()[:most], np.array(written, np.uint32)))
    at_once = drawn_at_once(layer, [(size, seeds), (_SMALL, every), (fewest, many.tolist())])
    if at_once is None:
        seeds += written
        return _by_seed(seeds, kernels(layer, *size, seeds)), {}, _NONE
    one, two, three = at_once
    return _by_seed(seeds, one), _by_seed(every, two), (many, three.reshape(len(many), -1))


def _fewest(layer: Layer) -> tuple[int, int]:
    return _FEWEST_HALF if layer.convention.parameter_dtype in HALF else _FEWEST


def _by_seed(seeds: Sequence[int], drawn: np.ndarray) -> dict[int, np.ndarray]:
    return {seed: kernel.ravel() for seed, kernel in zip(seeds, drawn, strict=True)}


def _output(layer: Layer, seed: int) -> np.ndarray:
    return np.asarray(layer.forward(seed, _PROBE, OUT_FEATURES)).ravel()


def require_different(layer: Layer) -> None:
    """Fail on the first two seeds of the set with the same numbers; say what they share."""
    # All colliding seeds together show best what they have in common.
    few, more, many = _drawn(layer)
    if layer.implementation.init is None and not all(map(_is_finite, few.values())):
        return  # forward/additive reports such outputs
    for numbers in (more, few):
        _require_distinct(layer, numbers)
    _require_few_collisions(*many)
    if layer.implementation.init is None:
        _require_no_zero(few)
        _require_sign(layer, few)
        return
    for size, found in beyond_the_experiment(layer):
        first, second = (fresh_seed(seed, *size) for seed in (0, 1))
        if np.array_equal(*found.rows) and found.rows.any():
            cause = Cause("large-kernels-equal", "large kernels do not depend on the seed")
            _fail(first, second, f"of size {size}", cause, "the kernel", size)


def _is_finite(numbers: np.ndarray) -> bool:
    return bool(np.isfinite(numbers).all())


def _require_distinct(layer: Layer, numbers: Mapping[int, np.ndarray]) -> None:
    # Zeros of both signs count as the same kernel.
    found = diagnose_seeds({seed: (values + 0.0).tobytes() for seed, values in numbers.items()})
    if found.pairs:
        first, second = found.pairs[0]
        cause = Cause(found.slug, found.sentence) if found.verdict == "known" else ""
        if found.name == "ignored":
            cause = _constant(layer, numbers[first]) or cause
        zeros = [seed for seed, values in numbers.items() if not values.any()]
        if {first, second} <= set(zeros) and len(zeros) < len(numbers):
            cause = _zero(f"{len(zeros)} of {len(numbers)} seeds")
        _fail(first, second, f"{len(found.pairs)} of {len(numbers)} seeds repeat another", cause)


# The false-alarm rate of every exact comparison of drawn numbers.
_BY_CHANCE = 1e-12


def _require_few_collisions(seeds: np.ndarray, drawn: np.ndarray) -> None:
    """Fail on seeds with one kernel, unless so few levels make that likely.

    Each of the n^2/2 pairs of n seeds is equal with the probability q that all its entries are.
    Pairs without a common seed are independent, so that k such pairs are equal with a probability
    of at most (q n^2/2)^k / k!.
    """
    if not len(seeds):
        return
    _, counts = np.unique(drawn, return_counts=True)
    equal = float(np.square(counts / drawn.size).sum())
    rows = np.ascontiguousarray(drawn).view(np.dtype((np.void, drawn[0].nbytes))).ravel()
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] != np.arange(len(rows)))
    # Each kernel that repeats gives a pair of its own.
    pairs = len(np.unique(inverse[again]))
    expected = len(seeds) ** 2 / 2 * equal ** drawn.shape[1]
    if not pairs or pairs * np.log(expected) - math.lgamma(pairs + 1) > np.log(_BY_CHANCE):
        return
    one, other = int(seeds[first[inverse][again[0]]]), int(seeds[again[0]])
    more = f"{len(again)} of {len(seeds)} seeds repeat another"
    if not drawn[again].any():
        share = float((~drawn.any(1)).mean())
        _fail(one, other, more, _zero(f"{100 * share:.2g} % of the seeds"))
    bits = np.log2(len(seeds) ** 2 / 2 / len(again))
    words = f"as many seeds collide as in a hash of about {bits:.0f} bits."
    _fail(one, other, more, Cause("seed-hashed", words))


def _require_no_zero(numbers: Mapping[int, np.ndarray]) -> None:
    zeros = [seed for seed, values in numbers.items() if not values.any()]
    if zeros:
        some = f"{len(zeros)} of {len(numbers)} seeds"
        recording.current().draw(Case(IN_FEATURES, OUT_FEATURES, seed=zeros[0]))
        found = f"f(x) is 0 for {some}, first for {zeros[0]}"
        require.fail(found, accepted="a kernel drawn for every seed", cause=_zero(some))


def _zero(some: str) -> Cause:
    return Cause("zero-for-some-seeds", f"every weight is 0 for {some}, not for the others")


def require_each_scaled(layer: Layer) -> None:
    """Fail if the variance of one kernel among a quarter of a million is not the declared one.

    Chernoff's bound holds for each of n kernels, so that n times the smallest bounds the p-value of
    all. It shows kernels of ten times the deviation, or of a thousandth; among the thousands of
    larger kernels, it shows twice the variance.
    """
    law = declared(layer)
    if all(family.strictly_subgaussian for family in law.families):
        for size, seeds, drawn in _crowds(layer):
            _require_scale(layer, law, size, seeds, drawn)


def _crowds(layer: Layer) -> Iterator[tuple[Shape, np.ndarray, np.ndarray]]:
    """Yield a size, thousands of seeds and their flat kernels, if all weights are finite."""
    if layer.implementation.init is None or not declared(layer).families:
        return
    _, more, (seeds, drawn) = _drawn(layer)
    for size, of, kernels_of_size in (
        (_SMALL, np.array([*more], np.uint32), np.array([*more.values()])),
        (_fewest(layer), seeds, drawn),
    ):
        if len(of) and np.isfinite(kernels_of_size).all():
            yield size, of, kernels_of_size


_ZERO = 2.0**-20
"""A bound of the probability that a weight is 0; the 2^23 levels of `jax.random` include one."""


def require_no_rare_structure(layer: Layer) -> None:
    """Fail if a few seeds of a quarter of a million give dead or repeated weights.

    Weights of float32 are 0, or repeat another one of their kernel, so rarely that Chernoff's bound
    of their number judges all seeds together, and each seed by itself.
    """
    for size, seeds, drawn in _crowds(layer):
        n, k = drawn.shape
        magnitudes = np.sort(np.abs(drawn), axis=1)
        again = (np.diff(magnitudes) == 0) & (magnitudes[:, 1:] > 0)
        for odd, expected, slug, what in (
            (drawn == 0, k * _ZERO, "dead-for-some-seeds", "are 0"),
            (again, k * k / 2 / MAGNITUDE_LEVELS, "copies-for-some-seeds", "repeat another one"),
        ):
            counts = odd.sum(1)
            log_p = math.log(2) + min(
                chernoff_log_p(int(counts.sum()), n * expected),
                chernoff_log_p(int(counts.max()), expected) + math.log(n),
            )
            some, words = int(np.count_nonzero(counts)), f"a few seeds give weights that {what}"
            found = f"for {some} of {n} seeds, up to {counts.max()} of {k} weights {what}"
            _require_usual(size, seeds, counts, log_p, found, Cause(slug, words))


def _require_usual(
    size: Shape, seeds: np.ndarray, values: np.ndarray, log_p: float, found: str, cause: Cause
) -> None:
    """Fail if chance gives values by seed with a probability that is too small."""
    if log_p <= np.log(_BY_CHANCE):
        worst = int(seeds[int(np.argmax(values))])
        recording.current().draw(Case(*size, seed=worst))
        accepted = f"what chance gives, false alarm {_BY_CHANCE:.0e}"
        require.fail(f"{found}, most for seed {worst}", accepted=accepted, cause=cause)


def _follows_its_law(layer: Layer) -> bool:
    law = declared(layer)
    if not law.variance_slack:
        return not any(piece.rejected for piece in law_evidence(layer))
    # The few levels of half precision repeat, as no draw of the law does.
    return not coarsely_follows(pooled(law.rescaled), law.families).rejected


def _require_scale(
    layer: Layer, law: Declared, size: tuple[int, int], seeds: np.ndarray, drawn: np.ndarray
) -> None:
    squares = np.square(drawn.astype(np.float64)) / law.variance(*size)
    ratios, slack = squares.mean(1), law.variance_slack
    with np.errstate(divide="ignore"):
        nearest = np.clip(1.0, ratios - slack, ratios + slack)
        log_p = np.log(2 * len(seeds)) - drawn.shape[1] / 2 * (nearest - 1 - np.log(nearest))
    worst = int(np.argmin(log_p))
    rejected = int((log_p < np.log(_BY_CHANCE)).sum())
    # The bound holds for the declared law; kernel-law reports another one.
    if not rejected or not _follows_its_law(layer):
        return
    recording.current().draw(Case(*size, seed=int(seeds[worst])))
    require.fail(
        f"the kernels of {rejected} of {len(seeds)} seeds have another variance than the others: "
        f"in_features * mean(K**2) = {ratios[worst] * law.variance(*size) * size[0]:.3g} for seed "
        f"{int(seeds[worst])}",
        accepted=f"the declared variance for every seed, false alarm {_BY_CHANCE:.0e}",
        cause=Cause("scale-for-some-seeds", "a few seeds give a kernel of another scale"),
    )


def _constant(layer: Layer, numbers: np.ndarray) -> str:
    """Return a cause if all seeds give these numbers because they are all equal."""
    if layer.implementation.init is not None:
        law = identify_law(samples(layer))
        if law.name in ("zeros", "constant"):
            return Cause(f"kernel-{law.name}", law.sentence)
        if all(n == 1 for (n, _), kernels in samples(layer).items() if kernels.any()):
            words = (
                "every weight is 0, for every seed, unless in_features is 1: so is a scale of "
                "1 // sqrt(in_features), which is rounded down"
            )
            return Cause("kernel-zeros", words)
    if np.ptp(numbers):
        return ""
    what = "output" if layer.implementation.init is None else "weight of some sizes"
    words = f"every {what} is {numbers[0]:.4g}, for every seed"
    return Cause("kernel-zeros" if not numbers.any() else "kernel-constant", words)


def _require_sign(layer: Layer, numbers: Mapping[int, np.ndarray]) -> None:
    """Require that a function refuses negative seeds, or takes -s as 2^32 - s, as JAX does."""
    found: dict[bytes, int] = {}
    for seed in _NEGATIVE:
        try:
            negative = _output(layer, -seed)
        except Violation:
            return
        positive = numbers[seed] if seed in numbers else _output(layer, seed)
        if np.array_equal(negative, positive):
            words = "the sign of the seed is dropped: -s gives the kernel of s."
            _fail(seed, -seed, "", Cause("seed-sign-dropped", words))
        other = found.setdefault(negative.tobytes(), seed)
        if other != seed:
            _fail(-other, -seed, "", "")


def _fail(
    first: int, second: int, more: str, cause: str, what: str = "the numbers",
    size: Shape = (IN_FEATURES, OUT_FEATURES),
) -> None:  # fmt: skip
    recording.current().draw(Case(*size, seed=second % 2**32))
    more = f" ({more})" if more else ""
    require.fail(
        f"seeds {first} and {second} share {what}{more}",
        accepted="different kernels for seeds that differ modulo 2^32",
        cause=cause,
        first_seed=first,
        second_seed=second,
    )


def require_uncorrelated(layer: Layer) -> None:
    """Fail if kernels of different seeds are correlated, with and without a shift.

    Correlations are pooled over neighbouring seeds, and over each base and its single-bit flips.
    Both sets of pairs are forests, so the bound of `linked_seeds` holds. It also holds for any
    single pair.
    """
    numbers, _, _ = _drawn(layer)
    _require_own_parts(numbers)
    _require_own_rows(layer, numbers)
    finite = {}
    if layer.implementation.init is not None:
        drawn = samples(layer)
        finite = {size: w.astype(np.float64) for size, w in drawn.items() if np.isfinite(w).all()}
    within = by_requirement.centred(finite) if finite else {}
    if finite and any(piece.rejected for piece in structure_evidence(layer)):
        return  # kernel-independence reports such kernels; those of few free numbers look alike
    values = np.stack(list(numbers.values())).astype(np.float64)[:, None, :]
    if not np.isfinite(values).all():
        return  # construction/finite and the forward requirements report that
    if not finite and all(np.unique(np.abs(v)).size < v.size / 2 for v in numbers.values()):
        return  # exercise/recovered-kernel reports columns that repeat each other
    values = by_requirement.centred({(1, values.shape[2]): values})[1, values.shape[2]]
    place = {seed: i for i, seed in enumerate(numbers)}
    neighbours = [(place[s], place[s + 1]) for s in numbers if s + 1 in place]
    flips = [
        (place[base], place[base ^ 1 << bit])
        for base in BASES[1:]
        for bit in range(32)
        if base ^ 1 << bit in place
    ]
    evidence = [
        linked_seeds(values, neighbours, "neighbouring seeds"),
        linked_seeds(values, flips, "seeds that differ in one bit"),
        seed_shifts(values[: min(len(values), 33)]),
        # Seeds that are equal modulo some number may share only a part of the kernel.
        seed_pairs(values),
        linked_seeds(*_magnitudes(values, neighbours), "neighbouring seeds (magnitudes)"),
    ]
    evidence += by_requirement.seeds_row(within)
    judge(evidence, "", finite or None)


def _magnitudes(
    values: np.ndarray, links: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return differences of magnitudes, and links between them, for `linked_seeds`.

    Two links (a, b) and (c, d) without a common kernel give |a| - |c| and |b| - |d|, which are
    symmetric about 0 if kernels are independent.
    """
    apart: list[tuple[int, int]] = []
    used: set[int] = set()
    for link in links:
        if used.isdisjoint(link):
            used.update(link)
            apart.append(link)
    size = np.abs(values)
    pairs = list(zip(apart[::2], apart[1::2], strict=False))
    rows = [size[one[side]] - size[two[side]] for one, two in pairs for side in (0, 1)]
    return np.stack(rows or [values[0]]), [(2 * i, 2 * i + 1) for i in range(len(pairs))]


def _require_own_parts(numbers: Mapping[int, np.ndarray]) -> None:
    """Fail if all seeds, with different kernels, have the signs or the magnitudes of one.

    Two kernels of 774 weights never have the same signs by chance, even if they are as dependent as
    those of low rank. Kernels of equal magnitudes, such as signs alone, have them in common.
    """
    values = np.stack(list(numbers.values()))
    if not values.all() or not np.isfinite(values).all():
        return
    magnitudes = np.abs(values)
    for part, what in ((np.sign(values), "signs"), (magnitudes, "magnitudes")):
        if (part == part[0]).all() and np.unique(part[0]).size > 1:
            words = f"the {what} of the weights are the same for every seed"
            first, second = [*numbers][:2]
            _fail(first, second, "", Cause(f"{what}-of-all-seeds", words), f"the {what}")


def _require_own_rows(layer: Layer, numbers: Mapping[int, np.ndarray]) -> None:
    if layer.implementation.init is None:
        return
    seeds = list(numbers)
    drawn = np.stack([numbers[s].reshape(IN_FEATURES, OUT_FEATURES) for s in seeds])
    shared = structure.shared_line(drawn)
    if shared is not None:
        cause = Cause(
            "seeds-share-rows", "kernels of different seeds share rows (up to their sign)."
        )
        _fail(seeds[shared[0]], seeds[shared[1]], "", cause, "a row")
    window = structure.shared_run(drawn)
    if window is not None:
        cause = Cause(
            "seeds-share-stream",
            "kernels of different seeds are windows into one stream of numbers.",
        )
        _fail(seeds[window[0]], seeds[window[1]], "", cause, "16 weights in a row")
