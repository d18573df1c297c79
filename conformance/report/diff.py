"""Compares two runs, by requirement and implementation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from conformance.contract.requirement import MAY
from conformance.report.bits import TOLERATED_ULP, beyond_tolerance, entries, fingerprint
from conformance.report.tally import label
from conformance.results.cell import Cell
from conformance.results.decision import plural
from conformance.results.file import Results
from conformance.results.outcome import Outcome

SAME, WORSE, NOT_COMPARABLE = 0, 1, 2

_FAILS = (Outcome.FAILED, Outcome.BLOCKED, Outcome.UNEXPECTED_PASS, Outcome.ERROR)

# Besides the code, these settings determine the bits of a kernel.
_DECIDES_BITS = ("prng", "threefry_partitionable", "x64")
_DECIDES_PRECISION = ("backend", "device", "matmul_precision", "x64")

# A cell's seconds are one measurement, most of it compiling. The spread of all the cells' ratios
# is the noise; a cell has changed if it is six standard deviations (by the median absolute
# deviation) from the median ratio: for normal noise one false alarm in 5e8 cells. Below half a
# second the clock and the compilation cache decide, and eight cells are too few for a spread.
_SIGMAS = 6.0
_LEAST_SECONDS = 0.5
_LEAST_CELLS = 8
# All cells together vary less: their median has changed if it is as far from 1 by its own standard
# error, and by at least a quarter, which a processor's clock alone may cause.
_LEAST_FACTOR = 1.25
_MAD_OF_NORMAL = 0.6745


@dataclass
class Difference:
    """The lines of a comparison, by kind.

    Parameters
    ----------
    incomparable
        Why the two cannot be compared; everything else is then empty.
    failing, not_run
        Worse: cells that held before and fail now, or that were decided before and did not run now.
    passing, expected, other
        Cells that are better, that are now expected to fail, and that changed but are neither
        better nor worse.
    may
        MAY requirements that changed; they never count as worse.
    laws, bits, warnings, seconds
        Changed laws, versions and precision; kernels with changed bits; changed warnings of
        construction and call; cells that became slower or faster beyond the noise.
    compared
        The number of cells that both runs have.
    """

    incomparable: str = ""
    failing: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    passing: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    may: list[str] = field(default_factory=list)
    laws: list[str] = field(default_factory=list)
    bits: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: list[str] = field(default_factory=list)
    compared: int = 0

    @property
    def exit_code(self) -> int:
        """Return 0 if nothing is worse, 1 if something is, 2 if the runs are not comparable."""
        if self.incomparable:
            return NOT_COMPARABLE
        return WORSE if self.failing or self.not_run else SAME


def compare(old: Results, new: Results) -> Difference:
    """Compare two runs.

    A cell of the old run that the new one lacks counts as not run. Changed bits, laws and seconds
    are reported, but do not count as worse.
    """
    difference = Difference()
    before = {c.key: c for c in old.verdict.cells}
    after = {c.key: c for c in new.verdict.cells}
    if old.facts["profile"] != new.facts["profile"]:
        difference.incomparable = (
            f"the profiles differ ({old.facts['profile']}, {new.facts['profile']}): a deeper one "
            "finds more in the same layer"
        )
    elif not before.keys() & after.keys():
        difference.incomparable = "they have no requirement on an implementation in common"
    if difference.incomparable:
        return difference
    _implementations(difference, old, new)
    kept = {e.id for e in old.verdict.entries} & {e.id for e in new.verdict.entries}
    kept -= _not_run_at_all(difference, old, new)
    for key, cell in before.items():
        if key[0] in kept:
            _outcome(difference, old, cell, after.get(key))
    for key, cell in after.items():
        if key[0] in kept and key not in before:
            _added(difference, new, cell)
    difference.compared = len(before.keys() & after.keys())
    common = [(before[key], after[key]) for key in before if key in after]
    _settings(difference, old, new)
    _levels(difference, old, new)
    _bits(difference, old, new, common)
    _warnings(difference, old, new)
    difference.seconds += _slower_or_faster(old, common)
    return difference


def _implementations(difference: Difference, old: Results, new: Results) -> None:
    """Add a line for each implementation that only one of the runs has."""
    for run, other, lines, said in (
        (old, new, difference.not_run, "the new run does not have it"),
        (new, old, difference.other, "not in the old run"),
    ):
        known = {entry.id for entry in other.verdict.entries}
        for entry in run.verdict.entries:
            if entry.id not in known:
                decision = run.verdict.decision_on(entry)
                lines.append(f"{label(run, entry.id)}: {said}; {decision.sentence}")


def _not_run_at_all(difference: Difference, old: Results, new: Results) -> set[str]:
    """Return the ids of layers without any result in the new run, each with its line."""
    lost = set()
    for entry in new.verdict.entries:
        own = new.verdict.of(entry)
        before = {
            cell.outcome.lost for cell in old.verdict.cells if cell.implementation == entry.id
        }
        if own and before == {False} and all(cell.outcome.lost for cell in own):
            reasons = ", ".join(dict.fromkeys(cell.reason for cell in own))
            lost.add(entry.id)
            difference.not_run.append(
                f"{label(new, entry.id)}: none of its {plural(len(own), 'cell')} has a result: "
                f"{reasons}"
            )
    return lost


def _outcome(difference: Difference, old: Results, before: Cell, after: Cell | None) -> None:
    place = f"{before.requirement}   {label(old, before.implementation)}"
    now = after.outcome if after is not None else Outcome.NOT_RUN
    if now == before.outcome:
        return
    detail = _detail(after) if after is not None else "the new run does not have it"
    line = f"{place}: {before.outcome} -> {now}{f'; {detail}' if detail else ''}"
    if before.level == MAY:
        difference.may.append(line)
    elif now.lost and not before.outcome.lost:
        difference.not_run.append(line)
    elif now in _FAILS and before.outcome not in _FAILS:
        difference.failing.append(line)
    elif now == Outcome.PASSED:
        difference.passing.append(line)
    elif now == Outcome.EXPECTED_FAILURE:
        # The user expects it, so it is shown and does not count as worse.
        difference.expected.append(line)
    else:
        difference.other.append(line)


def _detail(cell: Cell) -> str:
    return cell.cause or cell.message or cell.reason


def _added(difference: Difference, new: Results, cell: Cell) -> None:
    """Report the failures of a new requirement, which do not count as worse."""
    if cell.outcome in (Outcome.PASSED, Outcome.NOT_APPLICABLE):
        return
    detail = _detail(cell)
    lines = difference.may if cell.level == MAY else difference.other
    lines.append(
        f"{cell.requirement}   {label(new, cell.implementation)}: not in the old run -> "
        f"{cell.outcome}{f'; {detail}' if detail else ''}"
    )


def _settings(difference: Difference, old: Results, new: Results) -> None:
    for key in dict.fromkeys([*old.environment, *new.environment]):
        a, b = old.environment.get(key), new.environment.get(key)
        if a != b and key != "seed":
            kind = "precision" if key in _DECIDES_PRECISION else "environment"
            difference.laws.append(f"{kind}: {key} {_said(a)} -> {_said(b)}")
    for entry in new.verdict.entries:
        a, b = (run.about(entry.id) for run in (old, new))
        for key in ("library", "version", "convention", "kernel_law", "bias_law"):
            if a and b and a.get(key) != b.get(key):
                word = key.replace("_", " ")
                difference.laws.append(
                    f"{entry.name}: {word} {_said(a.get(key))} -> {_said(b.get(key))}"
                )
    _measured_laws(difference, old, new)


def _measured_laws(difference: Difference, old: Results, new: Results) -> None:
    laws = [
        {(c.implementation, p["law"]) for c in run.verdict.cells for p in c.plots if "law" in p}
        for run in (old, new)
    ]
    both = {id for id, _ in laws[0]} & {id for id, _ in laws[1]}
    for id in sorted(both):
        a, b = (", ".join(sorted(law for of, law in found if of == id)) for found in laws)
        if a != b:
            difference.laws.append(f"{label(new, id)}: the kernel's law {a} -> {b}")


def _warnings(difference: Difference, old: Results, new: Results) -> None:
    for entry in new.verdict.entries:
        a, b = (run.about(entry.id).get("warnings") for run in (old, new))
        # A run without a results file, or of an older suite, has not recorded warnings.
        if a is None or b is None:
            continue
        difference.warnings += [f"{entry.name}: new: {text}" for text in b if text not in a]
        difference.warnings += [f"{entry.name}: gone: {text}" for text in a if text not in b]


def _said(value: object) -> str:
    return "unknown" if value in (None, "") else str(value)


def _levels(difference: Difference, old: Results, new: Results) -> None:
    before = {row.id: row for row in old.verdict.rows}
    for row in new.verdict.rows:
        known = before.get(row.id)
        if known is not None and known.level != row.level:
            difference.other.append(f"{row.id}: {known.level} -> {row.level}")
        elif known is not None and known.statement != row.statement:
            difference.other.append(f"{row.id}: its text changed")


def _bits(
    difference: Difference, old: Results, new: Results, common: Sequence[tuple[Cell, Cell]]
) -> None:
    compared = [(a, b) for a, b in common if fingerprint(a) and fingerprint(b)]
    settings = [
        f"{key} {_said(old.environment.get(key))} -> {_said(new.environment.get(key))}"
        for key in _DECIDES_BITS
        if old.environment.get(key) != new.environment.get(key)
    ]
    for a, b in compared:
        if fingerprint(a) != fingerprint(b):
            place = label(new, b.implementation)
            difference.bits.append(f"{place}: same seed, other bits; {_how_far(a, b)}")
    if difference.bits and settings:
        difference.bits.append(f"kernels depend on {', '.join(settings)}")


def _how_far(a: Cell, b: Cell) -> str:
    far = beyond_tolerance(a, b)
    if far is None:
        return "how far they are apart is not recorded"
    count = len(entries(a))
    if not far:
        return f"the {count} recorded entries agree within {TOLERATED_ULP} ulp"
    return (
        f"{len(far)} of {count} recorded entries differ by more than {TOLERATED_ULP} ulp, "
        f"the first {far[0][0]:.9g} -> {far[0][1]:.9g}"
    )


def _slower_or_faster(old: Results, common: Sequence[tuple[Cell, Cell]]) -> Iterator[str]:
    timed = [
        (a, b, math.log(b.seconds / a.seconds))
        for a, b in common
        if a.outcome == b.outcome == Outcome.PASSED and a.seconds > 0 and b.seconds > 0
    ]
    if len(timed) < _LEAST_CELLS:
        return
    usual = statistics.median(ratio for *_, ratio in timed)
    spread = statistics.median(abs(ratio - usual) for *_, ratio in timed) / _MAD_OF_NORMAL
    # The standard error of the median of n is sqrt(pi / 2) / sqrt(n) of their deviation.
    error = math.sqrt(math.pi / 2 / len(timed)) * spread
    if abs(usual) > max(_SIGMAS * error, math.log(_LEAST_FACTOR)):
        total = (sum(cell.seconds for cell in cells) for cells in zip(*common, strict=True))
        yield (
            f"all cells: a factor of {math.exp(usual):.2f} in the median, {next(total):.1f} s -> "
            f"{next(total):.1f} s in total: the cause may be the machine, its load, the compile "
            f"cache or the layer"
        )
    for a, b, ratio in timed:
        beyond = abs(ratio - usual) > _SIGMAS * spread
        # Compared with the seconds that the cell would take had it changed like the others.
        if beyond and abs(b.seconds - a.seconds * math.exp(usual)) > _LEAST_SECONDS:
            yield (
                f"{a.requirement}   {label(old, a.implementation)}: {a.seconds:.2f} s -> "
                f"{b.seconds:.2f} s; all cells: a factor of {math.exp(usual):.2f}, up or down by "
                f"{math.exp(spread):.2f}"
            )


_HEADINGS = (
    ("newly failing", "failing"),
    ("newly not run", "not_run"),
    ("newly passing", "passing"),
    ("now expected", "expected"),
    ("changed otherwise", "other"),
    ("MAY requirements (never worse)", "may"),
    ("law, versions, precision", "laws"),
    ("kernels", "bits"),
    ("warnings at construction and call", "warnings"),
    ("seconds beyond noise", "seconds"),
)


def text(difference: Difference) -> str:
    """Return the comparison as text: worse cells first, and the verdict in the last line."""
    if difference.incomparable:
        return f"not comparable: {difference.incomparable}\n"
    lines: list[str] = []
    for heading, name in _HEADINGS:
        found: list[str] = getattr(difference, name)
        if found:
            lines += [f"{heading}:", *(f"  {line}" for line in found), ""]
    worse = len(difference.failing) + len(difference.not_run)
    verdict = f"worse in {worse}" if worse else "nothing is worse"
    lines.append(f"{plural(difference.compared, 'cell')} compared: {verdict}")
    return "\n".join(lines) + "\n"
