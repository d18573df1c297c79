"""Kernels of many seeds at once, for the statistical requirements.

Construction is vmapped over the seeds if the layer can be traced, at the cost of one compilation
for each size. If it cannot, or if tracing gives other numbers, layers are built one by one.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from conformance.checks import profiles, recording, require
from conformance.checks.areas.mapped_draws import built, drawn_at_once
from conformance.checks.cases import Case
from conformance.checks.layer import Layer
from conformance.checks.once import once_per_layer
from conformance.checks.scan.edges import FUNCTIONS, NEW, scan
from conformance.checks.scan.points import WEIGHTS
from conformance.errors import Cause, Violation
from conformance.jax_setup.lazy import jax
from conformance.layers import experiments
from conformance.statistics import (
    ALPHA,
    Design,
    Evidence,
    by_requirement,
    causes,
    design,
    fresh_seed,
    rejections,
    strongest,
)
from conformance.statistics.by_requirement import Shape, VarianceLaw
from conformance.statistics.identify import declared_names
from conformance.statistics.laws import Family, families_named

_AT_EDGES = 2**16
"""The weights drawn at each edge of a construction; at least four kernels are drawn."""


def experiment() -> Design:
    """Return the active profile's designed experiment; the run's seed shifts its seeds."""
    profile = profiles.active()
    if profile.seed is None:
        return design(profile.name)
    digest = hashlib.blake2b(str(profile.seed).encode(), digest_size=4).digest()
    return design(profile.name, int.from_bytes(digest, "little") % 2**31)


@once_per_layer(by=experiment)
def samples(layer: Layer) -> dict[Shape, np.ndarray]:
    """Return the experiment's kernels by size, (seeds, in, out), drawn once for each layer.

    They include kernels at the edges of the layer's construction. If different seeds give equal
    kernels, only one is kept: ``seeding/seeds-differ`` reports them, and duplicates would make
    other requirements fail.
    """
    plan = experiment()
    wanted = {cell.shape: cell.seeds for cell in plan.cells}
    first = plan.cells[-1].seeds.stop
    at_edges = (case.kernel_shape for _, case in scan(layer).places(NEW))
    for size in (size for size in at_edges if math.prod(size) <= WEIGHTS):
        seeds = range(first, first + min(max(_AT_EDGES // math.prod(size), 4), 256))
        if size not in wanted:
            wanted[size], first = seeds, seeds.stop
    drawn = kernels_of(layer, list(wanted.items()))
    return {size: _distinct(found) for size, found in zip(wanted, drawn, strict=True)}


def kernels(
    layer: Layer,
    in_features: int,
    out_features: int,
    seeds: Sequence[int],
    which: str = "kernel",
    *,
    again: bool = False,
) -> np.ndarray:
    """Return new kernels of one size, (seeds, in, out); see :func:`kernels_of`."""
    (drawn,) = kernels_of(layer, [((in_features, out_features), seeds)], which, again=again)
    return drawn


def kernels_of(
    layer: Layer,
    wanted: Sequence[tuple[Shape, Sequence[int]]],
    which: str = "kernel",
    *,
    again: bool = False,
) -> list[np.ndarray]:
    """Return new kernels of each size, (seeds, in, out), in the order of the seeds.

    With ``which="bias"``, return new biases, (seeds, 1, out). With ``again``, keep the compiled
    program for other draws of as many seeds; a run of the suite draws only once.
    """
    drawn = drawn_at_once(layer, wanted, which, again=again)
    if drawn is None:
        drawn = [np.stack([built(layer, *size, s, which) for s in seeds]) for size, seeds in wanted]
    return [_of_size(w, size, which) for w, (size, _) in zip(drawn, wanted, strict=True)]


_RECOVERED: tuple[Shape, ...] = ((1, 1024), (4, 512), (64, 80), (200, 24))
_RECOVERED_SEEDS = 24
"""312 000 weights: a variance error of 5 % is missed with a probability below 1e-6."""


def recovered(layer: Layer) -> dict[Shape, np.ndarray]:
    """Return the kernels of a forward function by size, (seeds, in, out), found by basis vectors.

    All basis vectors are probed at once if the function can be vmapped, else one by one at one
    size.
    """

    def probe(size: Shape, number: int) -> np.ndarray:
        seeds = range(10_000 * number, 10_000 * number + _RECOVERED_SEEDS)
        return np.stack([_probed(layer, size, seed) for seed in seeds])

    edges = [case.kernel_shape for _, case in scan(layer).places(FUNCTIONS)]
    # As many numbers as the basis vectors have are given at once.
    few = [size for size in edges if size[0] * max(size) <= experiments.AT_ONCE]
    sizes = [*_RECOVERED, *(size for size in few if math.prod(size) <= _AT_EDGES)]
    try:
        return {size: probe(size, i) for i, size in enumerate(dict.fromkeys(sizes), start=1)}
    except Exception:
        # Other requirements report a function that cannot be vmapped.
        one = (4, 512)
        kernels = [layer.affine(Case(*one, seed=seed))[0] for seed in range(_RECOVERED_SEEDS)]
        return {one: np.stack(kernels)}


def _probed(layer: Layer, size: Shape, seed: int) -> np.ndarray:
    basis = jax.device_put(np.eye(size[0], dtype=np.float32))
    return np.asarray(jax.vmap(lambda x: layer.of_function(seed, x, size[1]))(basis))


def _of_size(drawn: np.ndarray, size: Shape, which: str) -> np.ndarray:
    expected = size if which == "kernel" else (1, size[1])
    if drawn.shape[1:] != expected:
        require.fail(f"the {which} has shape {drawn.shape[1:]}", accepted=f"{expected}")
    return drawn


def _distinct(kernels: np.ndarray) -> np.ndarray:
    """Return each kernel once; all of them if they are so small that chance repeats some."""
    if kernels[0].size < 4:
        return kernels
    first = {kernel.tobytes(): i for i, kernel in reversed(list(enumerate(kernels)))}
    return kernels[sorted(first.values())]


_SLACK = {"bfloat16": (0.025, 0.01, 2.0**-8), "float16": (0.004, 0.003, 2.0**-10)}
"""The shift of the mean (in deviations) and of the variance by the lattice of half precision, and a
bound of the relative error of a weight; that of float16 has room for subnormal numbers."""


@dataclass(frozen=True)
class Declared:
    """The experiment of a layer, in units of its declared law of kernels.

    Parameters
    ----------
    plan
        The experiment.
    families
        The declared families; empty if only a variance is declared.
    names
        Their names in `identify_law`.
    variance
        The declared variance as a function of fan_in and fan_out.
    finite
        The unscaled kernels of the sizes at which all weights are finite.
    mean_slack, variance_slack
        The shifts of mean and variance that a declared half-precision dtype causes.
    rounding
        The bound of the relative error of a weight of half precision; 0 in full precision.
    rescaled
        The kernels divided by their declared deviation, or by the measured one if the declared is
        wrong.
    centred
        The same, minus the measured mean if the mean is wrong.
    """

    plan: Design
    families: tuple[Family, ...]
    names: tuple[str, ...]
    variance: VarianceLaw
    finite: dict[Shape, np.ndarray]
    mean_slack: float
    variance_slack: float
    rounding: float
    rescaled: dict[Shape, np.ndarray]
    centred: dict[Shape, np.ndarray]

    @property
    def count(self) -> int:
        """Return the number of weights."""
        return sum(kernels.size for kernels in self.finite.values())


@once_per_layer(by=experiment)
def declared(layer: Layer) -> Declared:
    """Return the samples of the layer in units of its declared law, computed once.

    Sizes with weights that are not finite are left out: ``construction/finite`` reports them.
    """
    law = layer.convention.kernel
    if law.is_constant(2, 3):
        astray = sum(int(np.count_nonzero(w)) for w in samples(layer).values())
        require.that(
            not astray,
            f"{astray} weights of new kernels are not 0",
            accepted="a kernel that starts at 0, as the layer declares",
        )
        require.not_applicable("the layer declares a kernel that starts at 0")
    finite = {size: w for size, w in samples(layer).items() if np.isfinite(w).all()}
    if not finite:
        require.fail("no kernel of the experiment is finite", accepted="finite kernels")
    rescaled = by_requirement.rescaled(finite, law.variance)
    families = families_named(law.families)
    slack = _SLACK.get(layer.convention.parameter_dtype, (0.0, 0.0, 0.0))
    return Declared(
        plan=experiment(),
        families=families,
        names=declared_names(families, law.variance),
        variance=law.variance,
        finite=finite,
        mean_slack=slack[0],
        variance_slack=slack[1],
        rounding=slack[2],
        rescaled=rescaled,
        centred=by_requirement.centred(rescaled),
    )


_structures: dict[bytes, list[Evidence]] = {}
"""Evidence from kernels, by their digest."""


@once_per_layer(by=experiment)
def structure_evidence(layer: Layer) -> list[Evidence]:
    """Return evidence on independence within kernels, in any scale; computed once.

    Two requirements share it, and so do layers with equal kernels, which differ only in forward or
    state.
    """
    finite = {s: w.astype(np.float64) for s, w in samples(layer).items() if np.isfinite(w).all()}
    numbers = hashlib.blake2b()
    for size, kernels in finite.items():
        numbers.update(f"{size} {kernels.shape}".encode() + kernels.tobytes())
    key = numbers.digest()
    if key not in _structures:
        _structures[key] = (
            by_requirement.structure_row(by_requirement.centred(finite)) if finite else []
        )
    return _structures[key]


@once_per_layer(by=experiment)
def law_evidence(layer: Layer) -> list[Evidence]:
    """Return evidence on the declared law of kernels, computed once for two requirements."""
    law = declared(layer)
    return by_requirement.law_row(law.rescaled, law.families)


LARGE_KERNEL = (1024, 1024)
"""A size of real models; its million weights show repetition and rounding."""


def large_kernel(layer: Layer) -> np.ndarray:
    """Return a new kernel of a million weights, built once; record its case."""
    case = Case(*LARGE_KERNEL, seed=experiment().cells[-1].seeds.stop + 10_000)
    recording.current().draw(case)
    return layer.remember("large kernel", lambda: layer.of(case).kernel)


def kernel_of(layer: Layer, case: Case) -> np.ndarray:
    """Return the case's kernel as float64, from a seed that no other size uses."""
    seed = fresh_seed(case.seed, *case.kernel_shape)
    return np.asarray(layer.build(*case.kernel_shape, seed).kernel, np.float64)


def of_zeros(kernels: Mapping[Shape, np.ndarray]) -> str:
    """Return a cause if every weight is 0 at some of the sizes."""
    for size, drawn in kernels.items():
        if drawn.size and not drawn.any():
            return Cause("large-kernel-zero", f"every weight is 0 at some sizes, such as {size}")
    return ""


def why_of_variance(layer: Layer, kernel: np.ndarray, size: Shape) -> str:
    """Return why a single kernel (in, out) has a wrong variance, by those of two other sizes.

    A number in place of fan_in is known only for a layer that declares 1/fan_in.
    """
    zeros, (n, m) = of_zeros({size: kernel}), size
    if zeros or kernel.size > _MANY or not math.isclose(declared(layer).variance(n, m) * n, 1.0):
        return zeros
    with contextlib.suppress(Violation):
        others = {of: kernel_of(layer, case_of(of)) for of in ((2 * n + 3, m), (n, 2 * m + 3))}
        return causes.fan({size: kernel, **others})
    return ""


_MANY = 2**21
"""So many weights are drawn in little time."""


def case_of(size: Shape) -> Case:
    """Return the case of the experiment's first kernel of a size."""
    cells = experiment().cells
    first = next((c.seeds[0] for c in cells if c.shape == size), cells[-1].seeds.stop)
    return Case(*size, seed=first)


def judge(
    evidence: Sequence[Evidence],
    cause: str | Callable[[], str] = "",
    drawn: Mapping[Shape, np.ndarray] | None = None,
    declaring: Callable[[], str] = str,
) -> None:
    """Require that no piece of evidence is rejected; report the strongest rejection.

    A cause that is a function is called only if evidence is rejected. With the samples `drawn`, the
    recorded case is the first kernel of the rejected size. `declaring` returns the line that
    declares what was found.
    """
    worst = strongest(evidence)
    if not worst.rejected:
        return
    if drawn is not None:
        n, m = worst.shape or experiment().cells[-1].shape
        recording.current().draw(case_of((n, m)))
    more, line = len(rejections(evidence)) - 1, declaring()
    found = worst.found + (f" (and {more} more of {len(evidence)} checks)" if more else "")
    intended = f"; if this is intended, declare {line}" if line else ""
    require.fail(
        found,
        accepted=f"{worst.limit or 'what chance gives'}, false alarm {ALPHA:.0e}{intended}",
        cause=cause if isinstance(cause, str) else cause(),
        check=worst.check,
        statistic=worst.statistic,
        accepted_from=worst.accepted[0],
        accepted_to=worst.accepted[1],
        weights=worst.count,
        log_p=worst.log_p,
    )


class Beyond(NamedTuple):
    """Parts of the kernels of two seeds, of a size beyond the experiment."""

    rows: np.ndarray
    """Some rows of each kernel, (2, rows, out)."""
    repeated: int
    """The number of rows and columns of the first kernel that repeat another."""


def beyond_the_experiment(layer: Layer) -> Iterator[tuple[Shape, Beyond]]:
    """Yield kernels that are too large for the experiment, each with its size; record its case.

    They are drawn once, and only where the construction has an edge at such a size.
    """
    for size in dict.fromkeys(case.kernel_shape for _, case in scan(layer).places(NEW)):
        if math.prod(size) > WEIGHTS:
            recording.current().draw(Case(*size, seed=fresh_seed(0, *size)))
            yield size, _beyond(layer, size)


@once_per_layer(by=lambda size: size)
def _beyond(layer: Layer, size: Shape) -> Beyond:
    first, second = (layer.build(*size, fresh_seed(seed, *size)).kernel for seed in (0, 1))
    chosen = np.linspace(0, size[0] - 1, min(size[0], 1 + _KEPT // size[1]), dtype=int)
    sizes = np.abs(first)
    repeated = sum(repeated_lines(each) for each in (sizes, sizes.T) if each.shape[1] >= _LONG)
    return Beyond(np.stack([first[chosen], second[chosen]]), repeated)


_KEPT = 2**18
_LONG = 16
"""Among 2^23 lines of as many bfloat16 weights, two are equal with P < 1e-15."""


def repeated_lines(kernel: np.ndarray) -> int:
    """Return how many rows repeat another; rows with zeros do not count."""
    rows = kernel[kernel.all(axis=1)]
    numbers, width = rows.tobytes(), rows.itemsize * rows.shape[1]
    return len(rows) - len({numbers[i : i + width] for i in range(0, len(numbers), width)})


def require_distinct_rows(kernel: np.ndarray) -> None:
    """Require distinct runs of four rows of a kernel (in, 1) of 10^5 rows.

    A type of 16 bits does not hold their numbers. If they are independent, two runs without zeros
    are equal with P < 1e-16.
    """
    rows = np.abs(kernel.ravel()).astype(np.float32)
    if not np.isfinite(rows).all() or np.unique(rows).size < rows.size / 4:
        return  # construction/finite, kernel-resolution and kernel-law report these
    repeated = repeated_lines(np.lib.stride_tricks.sliding_window_view(rows, 4))
    require.that(
        not repeated,
        f"{repeated} runs of four rows of a kernel of {kernel.shape} repeat another",
        accepted="different rows",
        cause=Cause("lines-copied", "rows repeat in tall kernels"),
    )
