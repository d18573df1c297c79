"""Identify the initial law of kernels by likelihood, among the laws in common use.

The family comes first, because it needs no scale; then the variance as a function of fan_in and
fan_out. A candidate is consistent if every size accepts it; the best consistent one is named only
if no other comes within 14 nats. Otherwise the verdict is "ambiguous" or "unknown", because a wrong
name is worse than none.
Sizes must not be all square, where fan_in and fan_out are the same.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from conformance.statistics.evidence import Array
from conformance.statistics.laws import SIGNS, TRUNCATED_NORMAL, TRUNCATED_VARIANCE, UNIFORM, Family
from conformance.statistics.moments import chernoff
from conformance.statistics.shape import family_of

CONSISTENT = math.log(1e-9)
DECISIVE = 14.0
"""The nats by which the best candidate must lead: a likelihood ratio of a million."""

_MANY, _NEAR = 10_000, 0.01
"""So many weights have a largest one near the end of a truncated law."""

Shape = tuple[int, int]


@dataclass(frozen=True)
class LawDiagnosis:
    """`verdict` is known, ambiguous or unknown; `name` names the law; `sentence` is for people.

    `quantified` is true for an unknown law if all sizes agree on the numbers in the sentence.
    `remedy` says how to make the variance 1/fan_in.
    """

    verdict: str
    name: str
    sentence: str
    quantified: bool = False
    remedy: str = ""


_TARGET = "1/sqrt(in_features)"


@dataclass(frozen=True)
class Scale:
    """A variance law, its description, and the remedy (empty for the right law)."""

    name: str
    variance: Callable[[int, int], float]
    words: str
    remedy: str = f"Scale by {_TARGET}."


SCALES: tuple[Scale, ...] = (
    Scale("1/fan_in", lambda i, o: 1 / i, "the variance is 1/fan_in", ""),
    Scale(
        "not scaled",
        lambda i, o: 1.0,
        "the kernel is not scaled: its standard deviation is 1 at every size",
        f"Multiply by {_TARGET}.",
    ),
    Scale(
        "standard deviation 1/fan_in",
        lambda i, o: 1 / i**2,
        "the standard deviation is 1/fan_in: the square root is missing",
        f"Multiply by {_TARGET} instead of 1/in_features.",
    ),
    Scale(
        "standard deviation 2/fan_in",
        lambda i, o: 4 / i**2,
        "the standard deviation is 2/fan_in, as after a division by in_features ** 1/2, which is "
        "in_features / 2",
        "Divide by sqrt(in_features).",
    ),
    Scale(
        "standard deviation 1/(2 fan_in)",
        lambda i, o: 1 / (4 * i**2),
        "the standard deviation is 1/(2 fan_in), as of in_features ** -1/2, which is "
        "1 / in_features / 2",
        f"Multiply by {_TARGET}.",
    ),
    Scale(
        "standard deviation fan_in^(-3/2)",
        lambda i, o: 1 / i**3,
        "the variance is 1/fan_in^3: the product is divided by fan_in, as by a mean for a sum",
        f"Scale by {_TARGET} alone.",
    ),
    Scale(
        "standard deviation sqrt(fan_in)",
        lambda i, o: float(i),
        "the standard deviation is sqrt(fan_in): the kernel is multiplied where it must be divided",
        "Divide by sqrt(in_features).",
    ),
    Scale(
        "standard deviation fan_in^(-1/4)",
        lambda i, o: 1 / math.sqrt(i),
        "the variance is 1/sqrt(fan_in): the square root is taken twice",
        f"Multiply by {_TARGET}.",
    ),
    Scale("fan_out", lambda i, o: 1 / o, "the variance is 1/fan_out: the fans are swapped"),
    Scale(
        "Glorot",
        lambda i, o: 2 / (i + o),
        "the variance is 2/(fan_in + fan_out) (Glorot, fan_avg)",
        f"Scale by {_TARGET}: LeCun initialization uses only fan_in.",
    ),
    Scale("1/(fan_in + fan_out)", lambda i, o: 1 / (i + o), "the variance is 1/(fan_in + fan_out)"),
    Scale(
        "1/(fan_in + 1)",
        lambda i, o: 1 / (i + 1),
        "the variance is 1/(fan_in + 1): the bias is counted as an input",
    ),
    Scale(
        "1/(fan_in - 1)",
        lambda i, o: 1 / (i - 1) if i > 1 else math.inf,
        "the variance is 1/(fan_in - 1), as for a sample variance",
    ),
    Scale(
        "1/(fan_in fan_out)",
        lambda i, o: 1 / (i * o),
        "the variance is 1/(fan_in * fan_out): the number of weights is used as fan_in",
    ),
    Scale(
        "1/int(sqrt(fan_in))",
        lambda i, o: 1 / math.isqrt(i) ** 2,
        "the standard deviation is 1/int(sqrt(fan_in)): the root is rounded down",
        "Use the root without rounding.",
    ),
    Scale(
        "He",
        lambda i, o: 2 / i,
        "the variance is 2/fan_in (He, Kaiming)",
        "Multiply by sqrt(1/in_features) instead of sqrt(2/in_features).",
    ),
    Scale("He fan_out", lambda i, o: 2 / o, "the variance is 2/fan_out (He, fan_out)"),
    Scale(
        "1/min(fan_in, fan_out)",
        lambda i, o: 1 / min(i, o),
        "the variance is 1/min(fan_in, fan_out): the smaller of both sizes is used as fan_in",
    ),
    Scale(
        "1/max(fan_in, fan_out)",
        lambda i, o: 1 / max(i, o),
        "the variance is 1/max(fan_in, fan_out): the larger of both sizes is used as fan_in",
    ),
    Scale(
        "1/(next power of two)",
        lambda i, o: 0.5 ** math.ceil(math.log2(i)),
        "the variance is that of fan_in rounded up to a power of two",
    ),
    Scale(
        "1/(3 fan_in)",
        lambda i, o: 1 / (3 * i),
        "the variance is 1/(3 fan_in)",
        "Multiply by sqrt(3).",
    ),
    *(
        Scale(
            f"standard deviation {deviation}",
            lambda i, o, deviation=deviation: deviation**2,  # type: ignore[misc]
            f"the standard deviation is {deviation} at every size",
        )
        for deviation in (0.01, 0.02, 0.05, 0.1)
    ),
)
OWN_NAMES = {
    (UNIFORM.name, "1/(3 fan_in)"): (
        "uniform +-1/sqrt(fan_in)",
        "the kernel is uniform on +-1/sqrt(fan_in) (PyTorch, Equinox): its variance is "
        "1/(3 fan_in).",
        "Multiply by sqrt(3), or draw from the normal law.",
    ),
    (UNIFORM.name, "1/fan_in"): (
        "LeCun uniform",
        "the kernel is uniform on +-sqrt(3/fan_in) (LeCun uniform): its variance is 1/fan_in.",
        "",
    ),
    (UNIFORM.name, "Glorot"): (
        "Glorot uniform",
        "the kernel is uniform with variance 2/(fan_in + fan_out) (Glorot uniform, Keras).",
        "",
    ),
}


@dataclass(frozen=True)
class Candidate:
    """A candidate law: a variance and a family; `corrected` tells how a truncation is scaled."""

    scale: Scale
    family: Family
    corrected: bool = True

    def variance(self, shape: Shape) -> float:
        """Return the law's variance at a size."""
        return self.scale.variance(*shape) * (1.0 if self.corrected else TRUNCATED_VARIANCE)

    def diagnosis(self) -> LawDiagnosis:
        """Return the cause's name and sentence."""
        own = OWN_NAMES.get((self.family.name, self.scale.name))
        if own is not None:
            name, sentence, remedy = own
            return LawDiagnosis("known", name, sentence, remedy=remedy)
        name, sentence = f"{self.family.name}, {self.scale.name}", self.scale.words
        remedy = self.scale.remedy
        if not self.corrected:
            name += ", truncation not corrected"
            sentence += (
                ", and less: a normal law cut at two standard deviations has 0.774 of the variance"
            )
            correction = "Divide by 0.8796, the standard deviation of the truncated normal law."
            remedy = f"{remedy} {correction}".lstrip()
        elif not remedy:
            sentence += f" ({self.family.name})"
        return LawDiagnosis("known", name, f"{sentence}.", remedy=remedy)


def identify_law(samples: Mapping[Shape, Array]) -> LawDiagnosis:
    """Check the initial law of kernels, from `samples`: size (in, out) -> (seeds, in, out).

    Sizes with weights that are not finite are left out, unless all are.
    """
    finite = {shape: w for shape, w in samples.items() if w.size and np.isfinite(w).all()}
    if not finite:
        return LawDiagnosis("known", "not finite", "the kernel has NaN or infinite weights.")
    special = _special(finite)
    if special is not None:
        return special
    family = _common_family(finite)
    if family is None:
        scale, _ = _describe(finite)
        end = _cut(finite)
        return LawDiagnosis(
            "unknown", "", f"the law is not one that this suite knows; {scale}{end}.", bool(end)
        )
    candidates = [Candidate(scale, family) for scale in SCALES]
    if family is TRUNCATED_NORMAL:
        candidates += [Candidate(scale, family, corrected=False) for scale in SCALES]
    return _most_likely(finite, candidates, family)


def declared_names(
    families: Sequence[Family], variance: Callable[[int, int], float]
) -> tuple[str, ...]:
    """Return the names that `identify_law` gives to a law with these families and this variance."""
    sizes = ((3, 7), (200, 11), (5, 1000))
    return tuple(
        candidate.diagnosis().name
        for family in families
        for scale in SCALES
        for candidate in (Candidate(scale, family), Candidate(scale, family, corrected=False))
        if all(math.isclose(candidate.variance(size), variance(*size)) for size in sizes)
    )


def _most_likely(
    samples: Mapping[Shape, Array], candidates: Sequence[Candidate], family: Family
) -> LawDiagnosis:
    squares = {shape: float(np.mean(np.square(w))) for shape, w in samples.items()}
    scored = []
    for candidate in candidates:
        score = 0.0
        for shape, square in squares.items():
            expected = candidate.variance(shape)
            fit = chernoff(square / expected, samples[shape].size) if expected < math.inf else -1e9
            fit *= 2 / max(family.kurtosis - 1, 2.0)
            if math.log(2) + fit <= CONSISTENT:
                break
            score += fit * max(family.kurtosis - 1, 2.0) / (family.kurtosis - 1)
        else:
            scored.append((score, candidate))
    if not scored:
        measured, average = _describe(samples)
        sentence = f"the kernel is {family.name}, but {measured}."
        remedy = f"Multiply by {1 / math.sqrt(average):.4g}." if average else ""
        return LawDiagnosis("unknown", "", sentence, average is not None, remedy)
    scored.sort(key=lambda pair: -pair[0])
    near = [candidate for score, candidate in scored if score > scored[0][0] - DECISIVE]
    if len(near) > 1:
        names = " or ".join(candidate.diagnosis().name for candidate in near[:3])
        return LawDiagnosis("ambiguous", names, f"the sample fits {names} equally well.")
    return near[0].diagnosis()


def _describe(samples: Mapping[Shape, Array]) -> tuple[str, float | None]:
    """Return the measured variance in words, and its factor to 1/fan_in.

    The factor is None if the sizes disagree, and 0 if the variance is constant.
    """
    ratios = {s: float(np.mean(np.square(w))) for s, w in samples.items()}
    counts = {s: w.size for s, w in samples.items()}
    for exponent, words in ((1, "{:.4g}/fan_in at every size"), (0, "{:.4g} at every size")):
        factor = common_factor({s: r * s[0] ** exponent for s, r in ratios.items()}, counts)
        if factor is not None:
            found = f"the variance is {words.format(factor)} measured"
            return found, factor if exponent else 0.0
    sizes = ", ".join(f"{ratio * s[0]:.4g} at {s}" for s, ratio in list(ratios.items())[:4])
    return f"in_features * mean(K**2) is {sizes}", None


def common_factor(ratios: Mapping[Shape, float], counts: Mapping[Shape, int]) -> float | None:
    """Return the common factor of the mean squares, given their numbers of weights, or None."""
    average = sum(ratios[s] * counts[s] for s in ratios) / sum(counts.values())
    if all(chernoff(ratios[s] / average, counts[s]) > CONSISTENT for s in ratios):
        return average
    return None


def _cut(samples: Mapping[Shape, Array]) -> str:
    """Return where the law ends, if the largest weights of all large samples agree."""
    ends = [np.abs(w).max() * math.sqrt(s[0]) for s, w in samples.items() if w.size >= _MANY]
    if len(ends) < 2 or max(ends) > (1 + _NEAR) * min(ends):
        return ""
    return f"; no weight is beyond {max(ends):.3g}/sqrt(fan_in), as after a cut"


def _common_family(samples: Mapping[Shape, Array]) -> Family | None:
    """Return the family on which all sizes agree, each rescaled by its own root mean square."""
    rescaled = [w.ravel() / math.sqrt(float(np.mean(np.square(w)))) for w in samples.values()]
    pooled = np.concatenate(rescaled)
    smallest = min(w.size for w in rescaled)
    return family_of(pooled, scale_count=smallest)


def _special(samples: Mapping[Shape, Array]) -> LawDiagnosis | None:
    """Return the diagnosis of a structured kernel, which likelihood cannot identify, or None."""
    if not any(w.any() for w in samples.values()):
        return LawDiagnosis("known", "zeros", "every weight is 0: the kernel is not initialized.")
    if not all(w.any() for w in samples.values()):
        return LawDiagnosis("unknown", "", "the kernel is 0 at some sizes and not at others.")
    if all(np.ptp(w) == 0 for w in samples.values()):
        return LawDiagnosis("known", "constant", "all weights of the kernel are the same number.")
    if all(_clipped(w) for w in samples.values()):
        return LawDiagnosis("known", "clipped", _clipping(samples))
    if all(np.ptp(m) / m.mean() < 1e-5 for m in map(np.abs, samples.values())):
        return LawDiagnosis(
            "known", SIGNS.name, "the weights are one number with random signs, not a normal law."
        )
    if all(_orthogonal(w) for w in samples.values()) and any(min(s) > 2 for s in samples):
        return LawDiagnosis(
            "known",
            "orthogonal",
            "the kernel is orthogonal: its rows or columns are perpendicular and equally long, so "
            "its weights are not independent.",
        )
    return None


def _clipped(w: Array) -> bool:
    """Return whether far more weights sit on the largest |w| than on any other value but 0."""
    values, counts = np.unique(np.abs(w[w != 0]), return_counts=True)
    if values.size < 8 or w.min() != -w.max():
        return False
    return bool(counts[-1] >= 8 and counts[-1] >= 5 * counts[:-1].max())


def _clipping(samples: Mapping[Shape, Array]) -> str:
    shape, w = max(samples.items(), key=lambda item: item[1].size)
    magnitudes = np.abs(w)
    share = float(np.mean(magnitudes == magnitudes.max()))
    end = float(magnitudes.max()) * math.sqrt(shape[0])
    return (
        f"the weights are clipped: {100 * share:.3g} % of them are exactly "
        f"+-{end:.4g}/sqrt(fan_in) at {shape}. Draw outliers again instead of moving them."
    )


def _orthogonal(w: Array) -> bool:
    """Return whether the shorter lines of every kernel are perpendicular and have one length."""
    lines = w if w.shape[1] <= w.shape[2] else w.swapaxes(1, 2)
    gram = lines[:8] @ lines[:8].swapaxes(1, 2)
    length = float(np.mean(np.diagonal(gram, axis1=1, axis2=2)))
    if length == 0.0:
        return False
    return bool(np.abs(gram / length - np.eye(gram.shape[1])).max() < 1e-4)
