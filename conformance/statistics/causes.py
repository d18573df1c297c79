"""Causes of rejected evidence, or "" if the evidence does not identify one.

`samples` maps a size to unscaled kernels (seeds, in, out); `evidence` is the strongest one.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from conformance.errors import Cause
from conformance.statistics import resolution as precision
from conformance.statistics.by_requirement import Samples, VarianceLaw
from conformance.statistics.evidence import Array, Evidence
from conformance.statistics.identify import SCALES, LawDiagnosis, Scale, common_factor, identify_law

_BFLOAT16_LEVELS = 512
_FLOAT16_LEVELS = 4096
_EXACT = 1e-5


def law(
    samples: Samples, accepted: tuple[str, ...] = (), declared: VarianceLaw | None = None
) -> str:
    """Return the law by likelihood (`identify_law`), unless it is one of the `accepted` names.

    The words include the factor to the `declared` variance; None declares 1/fan_in.
    """
    found: LawDiagnosis = identify_law(samples)
    if found.verdict == "known" and found.name in accepted:
        return ""
    finite = {s: w for s, w in samples.items() if np.isfinite(w).all()}
    if declared is None or all(math.isclose(declared(*size) * size[0], 1.0) for size in finite):
        if found.verdict != "known" and not found.quantified:
            return fan(finite)
        return Cause(_slug(found), f"{found.sentence} {found.remedy}".rstrip())
    ratios = {s: float(np.mean(np.square(w))) / declared(*s) for s, w in finite.items()}
    factor = common_factor(ratios, {s: w.size for s, w in finite.items()}) if ratios else None
    remedy = (
        f"Multiply by {1 / math.sqrt(factor):.4g} to get the declared variance." if factor else ""
    )
    if found.verdict == "known" or found.quantified:
        return Cause(_slug(found), f"{found.sentence} {remedy}".rstrip())
    words = f"the variance is {factor:.4g} of the declared one at every size. {remedy}"
    return Cause("scale-factor", words) if factor else ""


_SLUGS = {"not scaled": "scale-missing", "zeros": "kernel-zeros", "constant": "kernel-constant"}


def _slug(found: LawDiagnosis) -> str:
    """Return the id of a law's cause."""
    for words, slug in _SLUGS.items():
        if found.name.endswith(words):
            return slug
    return "law-other" if found.verdict != "known" else "law-" + _words(found.name)


def _words(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def mean(samples: Samples) -> str:
    """Return a cause if all weights have one sign or one value."""
    together = np.concatenate([w.ravel() for w in samples.values()])
    if np.ptp(together) == 0:
        return Cause("kernel-constant", "all weights are the same number.")
    large = [w / w.max() for w in samples.values() if w.size > 10**4 and w.min() >= 0 < w.max()]
    off = [abs(w.mean() - 0.5) + abs(w.std() - 12**-0.5) for w in large]
    if together.min() >= 0 and off and max(off) < 0.02:
        words = "the weights are uniform from 0 on, as jax.random.uniform draws them"
        return Cause("uniform-unit", f"{words}: jax.random.normal has the mean 0.")
    for sign, word in ((1, "positive"), (-1, "negative")):
        if (sign * together >= 0).all():
            return Cause(
                "one-sign",
                f"every weight is {word}, as after an absolute value or a one-sided draw.",
            )
    return ""


def _shared_by_seeds(w: np.ndarray) -> bool:
    """Return whether the mean over seeds is far larger than that of independent kernels.

    The number of seeds times the square of that mean has the mean square of a kernel as its
    expectation; for 16 or more normal weights the quotient exceeds 4 with probability below 1e-7.
    """
    if len(w) < 8 or w[0].size < 16:
        return False
    w = w.astype(np.float64)
    if (np.sign(w) == np.sign(w[0])).all(axis=0).mean() > 0.9:
        # If positions determine the signs, the magnitudes still differ between seeds.
        w = np.abs(w) - np.abs(w).mean()
    square = np.square(w).mean()
    # A few places, such as a diagonal, may have a mean of their own.
    means = np.sort(np.square(w.mean(axis=0)), axis=None)[: 3 * w[0].size // 4]
    return bool(square > 0 and means.mean() * len(w) > 4 * square)


def independence(samples: Samples, evidence: Evidence) -> str:
    """Return the first cause that fits: copies, negatives, order, symmetry, rank, neighbours."""
    law = identify_law(samples)
    if law.name == "orthogonal":
        return Cause("kernel-orthogonal", law.sentence)
    for axis, group in ((1, "column"), (2, "row")):
        lines = [w for w in samples.values() if w.shape[axis] > 1 and w.shape[3 - axis] > 1]
        if lines and all(_has_equal_lengths(w, axis) for w in lines):
            words = f"every {group} of the kernel has one length: it is divided by its norm."
            return Cause("lines-normalized", words)
    for axis, group in ((1, "row"), (2, "column")):
        repeated = [_repetition(w, axis) for w in _long_lines(samples, axis)]
        if repeated and all(repeated):
            if "equal" in repeated:
                return Cause(
                    "lines-copied",
                    f"{group}s of the kernel are copies of each other: each needs its own draw.",
                )
            return Cause(
                "lines-antithetic",
                f"{group}s of the kernel are antithetic: for a {group} there is another that is "
                "its negative. Draw all of them.",
            )
    kernels = [w.astype(np.float64) for w in samples.values()]
    for axis, group in ((1, "column"), (2, "row")):
        steps = [np.diff(w, axis=axis) for w in kernels if w.shape[axis] > 2]
        if steps and all((step >= 0).all() or (step <= 0).all() for step in steps):
            return Cause("lines-sorted", f"the {group}s of the kernel are sorted.")
    squares = [w for w in kernels if w.shape[1] == w.shape[2] > 1]
    # A compiler may compute both halves with other roundings.
    if squares and all(np.allclose(w, w.swapaxes(1, 2), rtol=1e-4, atol=1e-8) for w in squares):
        return Cause("kernel-symmetric", "the kernel is symmetric where it is square.")
    if any(_shared_by_seeds(w) for shape, w in samples.items() if shape == evidence.shape):
        return Cause(
            "seeds-share-numbers",
            "kernels of this size have numbers in common for different seeds.",
        )
    if evidence.check.startswith("lag") and evidence.place:
        return Cause("neighbors-correlated", f"neighbours {evidence.place} are correlated.")
    if evidence.check == "permuted lines":
        kernels = [w for shape, w in samples.items() if shape == evidence.shape]
        if any(map(_has_copies, kernels)):
            return Cause(
                "lines-copied",
                "lines of the kernel are copies of each other: each needs its own draw.",
            )
        permuted = any(_has_copies(w, np.sort) for w in kernels)
        what = "numbers in another order" if permuted else "magnitudes, with other signs"
        words = f"lines of the kernel hold the same {what}: each needs its own."
        return Cause("lines-permuted" if permuted else "magnitudes-shared", words)
    return _OF_CHECKS.get(evidence.check, "")


_OF_CHECKS = {
    "rank": Cause(
        "low-rank", "the kernel is of low rank: its rows depend on fewer draws than it has entries."
    ),
    "sign products": Cause("signs-determined", "signs of the kernel determine each other."),
    "signs and magnitudes": Cause(
        "signs-follow-magnitudes", "the signs of weights follow the magnitudes of their neighbours."
    ),
}
"""The causes that a check shows by itself."""


def _has_equal_lengths(w: Array, axis: int) -> bool:
    """Return whether lines along the axis have one length, and not merely the same magnitudes."""
    lengths = np.sqrt(np.square(w.astype(np.float64)).sum(axis=axis))
    magnitudes = np.sort(np.abs(w), axis=axis)
    return bool(
        np.ptp(lengths) <= _EXACT * lengths.max() and np.ptp(magnitudes, axis=3 - axis).any()
    )


def _has_copies(w: Array, arranged: Callable[[Array], Array] = np.asarray) -> bool:
    """Return whether two rows, or two columns, of any kernel are equal in the same order."""
    lines = (list(each) for kernel in w for each in (kernel, kernel.T) if each.shape[1] >= 4)
    return any(len({arranged(line).tobytes() for line in each}) < len(each) for each in lines)


def _long_lines(samples: Samples, axis: int) -> Iterator[Array]:
    """Yield kernels whose lines of `axis` hold 4 weights or more: equality is not due to chance."""
    for w in samples.values():
        if w.shape[axis] > 1 and w.shape[3 - axis] >= 4:
            yield w


def _repetition(w: Array, axis: int) -> str:
    """Return `equal` or `opposite` if lines of the first kernel repeat, else the empty string."""
    lines = w[0] if axis == 1 else w[0].T
    seen = {line.tobytes() for line in np.ascontiguousarray(lines) if line.any()}
    alive = sum(bool(line.any()) for line in lines)
    if len(seen) < alive:
        return "equal"
    opposite = sum(line.tobytes() in seen for line in np.ascontiguousarray(-lines) if line.any())
    return "opposite" if opposite else ""


def dispersion(samples: Samples) -> str:
    """Return a cause if kernels are orthogonal, standardised or centred."""
    found = identify_law(samples)
    if found.name == "orthogonal":
        return Cause("kernel-orthogonal", found.sentence)
    kernels = [w.astype(np.float64) for w in samples.values() if w[0].size > 1]
    squares = [np.square(w).mean(axis=(1, 2)) for w in kernels]
    if kernels and all(np.ptp(s) <= _EXACT * s.max() for s in squares):
        return Cause(
            "kernel-standardized",
            "every kernel is standardised: its own sample variance is the same exact number, "
            "where it should vary from seed to seed.",
        )
    limit = [_EXACT * np.abs(w).max() for w in kernels]
    sums = [np.abs(w.mean(axis=(1, 2))).max() for w in kernels]
    if kernels and all(s <= e for s, e in zip(sums, limit, strict=True)):
        return Cause("kernel-centered", "every kernel is centred: its own sample mean is 0.")
    if kernels and all(np.abs(np.sign(w).sum(axis=(1, 2))).max() <= 1 for w in kernels):
        return Cause(
            "signs-balanced",
            "the signs of every kernel are balanced: as many are positive as negative.",
        )
    return ""


def resolution(samples: Samples) -> str:
    """Return the precision in which the values were stored or drawn, as a cause."""
    kernel = max((w for w in samples.values()), key=lambda w: w[0].size)
    if not (precision.resolution(kernel).rejected or precision.trailing_zeros(kernel).rejected):
        return ""  # only smaller kernels are of few values, such as those of one normalized row
    bits = np.ascontiguousarray(kernel, np.float32).view(np.uint32)
    together = int(np.bitwise_or.reduce(bits[bits << 1 != 0] & 0x7FFFFF)) | 0x800000
    zeros = (together & -together).bit_length() - 1
    stored = {16: "bfloat16", 13: "float16"}.get(zeros)
    if stored:
        return Cause(
            "kernel-of-half-precision",
            f"the kernel was drawn or rounded in {stored}: its mantissas have {23 - zeros} bits.",
        )
    if zeros > 3:
        return Cause(
            "mantissa-cut", f"the last {zeros} of the 23 mantissa bits are 0 in every weight."
        )
    magnitudes = np.unique(np.abs(kernel[0]))
    levels = magnitudes.size
    number = f"{levels} different magnitudes among {kernel[0].size} weights"
    if _evenly_spaced(magnitudes):
        words = f"the kernel lies on a grid, as after rounding to decimals: {number}."
        return Cause("kernel-on-grid", words)
    if levels <= _BFLOAT16_LEVELS:
        return Cause(
            "kernel-of-half-precision",
            f"the kernel was drawn in bfloat16 (or coarser) and scaled afterwards: {number}.",
        )
    if levels <= _FLOAT16_LEVELS:
        return Cause(
            "kernel-of-half-precision",
            f"the kernel was drawn in float16 (or on a grid) and scaled afterwards: {number}.",
        )
    return Cause("kernel-on-grid", f"the kernel lies on a grid: {number}.")


def _evenly_spaced(levels: Array) -> bool:
    """Return whether most neighbours among sorted numbers are one step apart, unlike floats."""
    steps = np.diff(levels.astype(np.float64))
    if steps.size < 8:
        return False
    equal = np.abs(steps - np.median(steps)) < 1e-6 * levels[-1]
    return bool(equal.mean() > 0.5 and np.median(steps) > 1e-5 * levels[-1])


def homogeneity(evidence: Evidence) -> str:
    """Return a cause that names rows, columns or entries that are 0 in every kernel."""
    if not evidence.check.startswith("dead"):
        return ""
    return Cause("weights-dead", f"weights are 0 in every kernel: {evidence.place}.")


def bias(samples: Samples) -> str:
    """Return a cause for biases (seeds, 1, out) that are not 0."""
    found = identify_law(samples)
    every = np.concatenate([b.ravel() for b in samples.values()])
    random = np.unique(every).size > every.size / 2
    if found.verdict == "known" and random:
        return Cause(
            "bias-random",
            f"the bias is drawn at random ({found.name}) instead of starting from zeros.",
        )
    if random:
        return Cause("bias-random", "the bias is drawn at random instead of starting from zeros.")
    places = {int(i) for b in samples.values() for i in np.flatnonzero(b.any((0, 1)))}
    if all(np.flatnonzero(b.any((0, 1))).tolist() == [b.shape[2] - 1] for b in samples.values()):
        return Cause("bias-last-entry", "only the last entry of the bias is not 0.")
    if places == {0}:
        return Cause("bias-first-entry", "only the first entry of the bias is not 0.")
    return Cause("bias-constant", "the bias starts from constants other than 0.")


def _fan_of(scale: Scale) -> Callable[[int, int], float]:
    return lambda i, o: 1 / scale.variance(i, o)


def fan(kernels: Mapping[tuple[int, int], Array]) -> str:
    """Return what is used in place of fan_in, if one number explains the kernels of all sizes.

    Each variance must be within five standard errors of the number's, and no other one may be.
    The kernels are ``(..., in, out)``.
    """
    squares = {size: np.square(kernel.astype(np.float64)) for size, kernel in kernels.items()}
    if any(not each.any() or not np.isfinite(each).all() for each in squares.values()):
        return ""
    errors = {size: each.std() / each.mean() / each.size**0.5 for size, each in squares.items()}
    off = {s: abs(each.mean() * s[0] - 1) / max(errors[s], _EXACT) for s, each in squares.items()}
    worst = max(off, key=off.__getitem__)
    if errors[worst] > _ROUGH or off[worst] < 5:
        return ""
    c = 1 / squares[worst].mean()
    candidates: dict[Cause, Callable[[int, int], float]] = {
        **{
            Cause("fan-other", f"at large sizes, {scale.words}"): _fan_of(scale) for scale in SCALES
        },
        Cause("fan-capped", f"fan_in counts as about {c:.0f} where it is larger"): lambda i, o: min(
            i, c
        ),
        Cause("fan-floored", f"fan_in counts as about {c:.0f} where it is smaller"): lambda i, o: (
            max(i, c)
        ),
    }
    named = [
        cause
        for cause, of in candidates.items()
        if all(
            abs(each.mean() * of(*size) - 1) < 5 * max(errors[size], _EXACT)
            for size, each in squares.items()
        )
    ]
    return named[0] if len(named) == 1 else ""


_ROUGH = 0.02
"""The largest relative standard error of a variance that tells such numbers apart."""
