"""From rejected evidence to a cause in words, or to nothing where the evidence names none.

`samples` maps a size to kernels (seeds, in, out) as they came; `evidence` is the strongest one.
"""

import math
import re
from collections.abc import Iterator

import numpy as np

from conformance.errors import Cause
from conformance.statistics.by_requirement import Samples, VarianceLaw
from conformance.statistics.evidence import Array, Evidence
from conformance.statistics.identify import LawDiagnosis, common_factor, identify_law

_BFLOAT16_LEVELS = 512
_FLOAT16_LEVELS = 4096
_EXACT = 1e-5


def law(
    samples: Samples, accepted: tuple[str, ...] = (), declared: VarianceLaw | None = None
) -> str:
    """The law by likelihood (`identify_law`), unless it is one of the `accepted` names.

    With what makes it the `declared` variance; None declares 1/fan_in.
    """
    found: LawDiagnosis = identify_law(samples)
    if found.verdict == "known" and found.name in accepted:
        return ""
    finite = {s: w for s, w in samples.items() if np.isfinite(w).all()}
    if declared is None or all(math.isclose(declared(*size) * size[0], 1.0) for size in finite):
        if found.verdict != "known" and not found.quantified:
            return ""
        return Cause(_slug(found), f"{found.sentence} {found.remedy}".rstrip())
    ratios = {s: float(np.mean(np.square(w))) / declared(*s) for s, w in finite.items()}
    factor = common_factor(ratios, {s: w.size for s, w in finite.items()}) if ratios else None
    remedy = (
        f"Multiply by {1 / math.sqrt(factor):.4g} for what the layer declares." if factor else ""
    )
    if found.verdict == "known" or found.quantified:
        return Cause(_slug(found), f"{found.sentence} {remedy}".rstrip())
    words = f"the variance is {factor:.4g} of the declared one at every size. {remedy}"
    return Cause("scale-factor", words) if factor else ""


_SLUGS = {"not scaled": "scale-missing", "zeros": "kernel-zeros", "constant": "kernel-constant"}


def _slug(found: LawDiagnosis) -> str:
    """The id of a law's cause: the scale where that is a law of its own."""
    for words, slug in _SLUGS.items():
        if found.name.endswith(words):
            return slug
    return "law-other" if found.verdict != "known" else "law-" + _words(found.name)


def _words(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def mean(samples: Samples) -> str:
    """One sign only, or one constant."""
    together = np.concatenate([w.ravel() for w in samples.values()])
    if np.ptp(together) == 0:
        return "all weights are the same number."
    for sign, word in ((1, "positive"), (-1, "negative")):
        if (sign * together >= 0).all():
            return f"every weight is {word}, as after an absolute value or a one-sided draw."
    return ""


def independence(samples: Samples, evidence: Evidence) -> str:
    """Copies, negatives, sorted lines, symmetry, low rank, neighbours: the first that fits."""
    for axis, group in ((1, "row"), (2, "column")):
        repeated = [_repetition(w, axis) for w in _long_lines(samples, axis)]
        if repeated and all(repeated):
            if "equal" in repeated:
                return f"{group}s of the kernel are copies of each other: each needs its own draw."
            return (
                f"{group}s of the kernel are antithetic: for a {group} there is another that is "
                "its negative. Draw all of them."
            )
    kernels = [w.astype(np.float64) for w in samples.values()]
    for axis, group in ((1, "column"), (2, "row")):
        steps = [np.diff(w, axis=axis) for w in kernels if w.shape[axis] > 2]
        if steps and all((step >= 0).all() or (step <= 0).all() for step in steps):
            return f"the {group}s of the kernel are sorted."
    squares = [w for w in kernels if w.shape[1] == w.shape[2] > 1]
    if squares and all(np.array_equal(w, w.swapaxes(1, 2)) for w in squares):
        return "the kernel is symmetric where it is square."
    if evidence.check.startswith("lag") and evidence.place:
        return f"neighbours {evidence.place} are correlated."
    if evidence.check == "rank":
        return "the kernel is of low rank: its rows depend on fewer draws than it has entries."
    if evidence.check == "permuted lines":
        if any(_has_copies(w) for shape, w in samples.items() if shape == evidence.shape):
            return "lines of the kernel are copies of each other: each needs its own draw."
        return "lines of the kernel hold the same numbers in another order: each needs its own."
    if evidence.check == "sign products":
        return "signs of the kernel determine each other."
    if evidence.check == "signs and magnitudes":
        return "the signs of weights follow the magnitudes of their neighbours."
    return ""


def _has_copies(w: Array) -> bool:
    """Whether two rows, or two columns, of any of the kernels are equal."""
    lines = (list(each) for kernel in w for each in (kernel, kernel.T) if each.shape[1] >= 4)
    return any(len({line.tobytes() for line in each}) < len(each) for each in lines)


def _long_lines(samples: Samples, axis: int) -> Iterator[Array]:
    """Yield kernels whose lines of `axis` hold 4 weights or more: equality is not due to chance."""
    for w in samples.values():
        if w.shape[axis] > 1 and w.shape[3 - axis] >= 4:
            yield w


def _repetition(w: Array, axis: int) -> str:
    """`equal` or `opposite` if lines of the first kernel repeat, else the empty string."""
    lines = w[0] if axis == 1 else w[0].T
    seen = {line.tobytes() for line in np.ascontiguousarray(lines) if line.any()}
    alive = sum(bool(line.any()) for line in lines)
    if len(seen) < alive:
        return "equal"
    opposite = sum(line.tobytes() in seen for line in np.ascontiguousarray(-lines) if line.any())
    return "opposite" if opposite else ""


def dispersion(samples: Samples) -> str:
    """Orthogonal, standardised or centred kernels."""
    found = identify_law(samples)
    if found.name == "orthogonal":
        return found.sentence
    kernels = [w.astype(np.float64) for w in samples.values() if w[0].size > 1]
    squares = [np.square(w).mean(axis=(1, 2)) for w in kernels]
    if kernels and all(np.ptp(s) <= _EXACT * s.max() for s in squares):
        return (
            "every kernel is standardised: its own sample variance is the same exact number, "
            "where it should vary from seed to seed."
        )
    limit = [_EXACT * np.abs(w).max() for w in kernels]
    sums = [np.abs(w.mean(axis=(1, 2))).max() for w in kernels]
    if kernels and all(s <= e for s, e in zip(sums, limit, strict=True)):
        return "every kernel is centred: its own sample mean is 0."
    if kernels and all(np.abs(np.sign(w).sum(axis=(1, 2))).max() <= 1 for w in kernels):
        return "the signs of every kernel are balanced: as many are positive as negative."
    return ""


def resolution(samples: Samples) -> str:
    """The precision that the values were stored or drawn in."""
    kernel = max((w for w in samples.values()), key=lambda w: w[0].size)
    bits = np.ascontiguousarray(kernel, np.float32).view(np.uint32)
    together = int(np.bitwise_or.reduce(bits[bits << 1 != 0] & 0x7FFFFF)) | 0x800000
    zeros = (together & -together).bit_length() - 1
    stored = {16: "bfloat16", 13: "float16"}.get(zeros)
    if stored:
        return f"the kernel was drawn or rounded in {stored}: its mantissas have {23 - zeros} bits."
    if zeros > 3:
        return f"the last {zeros} of the 23 mantissa bits are 0 in every weight."
    levels = np.unique(np.abs(kernel[0])).size
    number = f"{levels} different magnitudes among {kernel[0].size} weights"
    if levels <= _BFLOAT16_LEVELS:
        return f"the kernel was drawn in bfloat16 (or coarser) and scaled afterwards: {number}."
    if levels <= _FLOAT16_LEVELS:
        return f"the kernel was drawn in float16 (or on a grid) and scaled afterwards: {number}."
    return f"the kernel lies on a grid: {number}."


def homogeneity(evidence: Evidence) -> str:
    """Dead lines speak for themselves."""
    if not evidence.check.startswith("dead"):
        return ""
    return f"weights are 0 in every kernel: {evidence.place}."


def bias(samples: Samples) -> str:
    """What biases (seeds, 1, out) that should be 0 are instead."""
    found = identify_law(samples)
    every = np.concatenate([b.ravel() for b in samples.values()])
    random = np.unique(every).size > every.size / 2
    if found.verdict == "known" and random:
        return f"the bias is drawn at random ({found.name}) instead of starting from zeros."
    if random:
        return "the bias is drawn at random instead of starting from zeros."
    places = {int(i) for b in samples.values() for i in np.flatnonzero(b.any((0, 1)))}
    if all(np.flatnonzero(b.any((0, 1))).tolist() == [b.shape[2] - 1] for b in samples.values()):
        return "only the last entry of the bias is not 0."
    if places == {0}:
        return "only the first entry of the bias is not 0."
    return "the bias starts from constants other than 0."
