"""Summarizes several environments: a table, and how they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from conformance.contract.requirement import MUST, SHOULD
from conformance.report.bits import TOLERATED_ULP
from conformance.report.findings import (
    COSTS,
    Kernels,
    changes,
    costs,
    in_order,
    kernels,
    kernels_in_words,
    newest,
    partly,
    titles,
    warned,
)
from conformance.results.decision import OK, Word, tally
from conformance.results.file import Results
from conformance.results.outcome import Outcome


@dataclass(frozen=True)
class Summary:
    """Several environments, in words.

    Parameters
    ----------
    runs
        One for each environment.
    missing
        A line for each expected environment that is missing.
    """

    runs: tuple[Results, ...]
    missing: tuple[str, ...] = ()

    @cached_property
    def titles(self) -> tuple[str, ...]:
        """Return the names of the environments."""
        return titles(self.runs)

    @cached_property
    def reference(self) -> int:
        """Return the index of the environment with which the others are compared."""
        return newest(self.runs)

    @cached_property
    def names(self) -> dict[str, str]:
        """Return the implementations' names by id."""
        return {e.id: e.name for run in self.runs for e in run.verdict.entries}

    @cached_property
    def kernels(self) -> list[Kernels]:
        """Return for each implementation the environments with equal kernels."""
        return kernels(self.runs)

    def where(self, places: Sequence[int]) -> str:
        """Return environments in words with a preposition; a range is named by its ends."""
        count = len(self.runs)
        if len(places) == count:
            return "everywhere"
        run = list(places) == list(range(places[0], places[-1] + 1)) and in_order(self.runs)
        if run and len(places) > 1 and places[0] == 0:
            return f"up to {self.titles[places[-1]]}"
        if run and len(places) > 1 and places[-1] == count - 1:
            return f"from {self.titles[places[0]]} on"
        return f"in {'; '.join(self.titles[i] for i in places)}"

    @property
    def header(self) -> list[str]:
        """Return the columns of :attr:`table`."""
        return [
            "environment",
            "verdict",
            "MUST",
            "SHOULD",
            *(["kernels"] if self.kernels else []),
            *self._ratios,
        ]

    @property
    def table(self) -> list[list[str]]:
        """Return a line for each environment, the oldest first."""
        return [
            [
                title,
                str(run.verdict.decision.word),
                str(tally(run.verdict.cells, MUST)),
                str(tally(run.verdict.cells, SHOULD)),
                *(["/".join(self._letter(k, i) for k in self.kernels)] if self.kernels else []),
                *(ratios[i] for ratios in self._ratios.values()),
            ]
            for i, (title, run) in enumerate(zip(self.titles, self.runs, strict=True))
        ]

    @staticmethod
    def _letter(found: Kernels, place: int) -> str:
        kind = found.kinds[place] or "-"
        return kind if found.exact[place] else f"{kind}'"

    @cached_property
    def _ratios(self) -> dict[str, list[str]]:
        """Return each cost relative to the newest environment, as a median over implementations."""
        by_kind: dict[str, list[list[float]]] = {}
        for _, kind, seconds in costs(self.runs):
            base = seconds[self.reference]
            own = by_kind.setdefault(kind, [[] for _ in self.runs])
            for i, value in enumerate(seconds):
                if value is not None and base:
                    own[i].append(value / base)
        return {
            kind: [f"{median(own):.2f}" if own else "-" for own in by_kind[kind]]
            for kind in COSTS
            if kind in by_kind
        }

    def explanation(self) -> list[str]:
        """Return an explanation of the table's columns."""
        said = []
        if self.kernels:
            whose = ", ".join(self.names[found.implementation] for found in self.kernels)
            said.append(
                f"kernels: of {whose}, for fixed seeds; A is that of "
                f"{self.titles[self.reference]}, another letter is another kernel, ' marks "
                f"the same within {TOLERATED_ULP} ulp, ? a kernel that cannot be compared"
            )
        if self._ratios:
            said.append(
                f"times that of {self.titles[self.reference]} (median of the implementations): "
                + "; ".join(f"{kind}: {meaning}" for kind, meaning in COSTS.items())
            )
        return said

    @property
    def sentence(self) -> str:
        """Return the verdict on all environments in a line."""
        conform = sum(run.verdict.exit_code == OK for run in self.runs)
        total = len(self.runs) + len(self.missing)
        gone = f", {len(self.missing)} missing" if self.missing else ""
        words = [run.verdict.decision.word for run in self.runs]
        if Word.NOTHING in words:
            gone += f", in {words.count(Word.NOTHING)} {Word.NOTHING}"
        return f"{conform} of {total} environments conform{gone}"

    def sections(self) -> Iterator[tuple[str, list[tuple[str, list[str]]]]]:
        """Yield the differences of the environments: headings, each with its lines."""
        found = (
            ("requirements that changed", list(self.changed())),
            ("kernels that changed", [(name, [said]) for name, said in self.kernel_lines()]),
            ("warnings at construction and call", [(t, [said]) for t, said in self.warned()]),
        )
        for heading, entries in found:
            if entries:
                yield heading, entries
        if len(self.runs) > 1 and not found[0][1]:
            yield "requirements that changed", [("none: all outcomes are the same", [])]

    def changed(self) -> Iterator[tuple[str, list[str]]]:
        """Yield differing outcomes, with their environments, implementations and requirements."""
        for change in changes(self.runs):
            *rare, (usual, _) = change.places.items()
            ends = [f"{_word(end)} {self.where(places)}" for end, places in rare]
            rows = [f"{self.names[id]}: {', '.join(own)}" for id, own in change.rows.items()]
            yield f"{'; '.join(ends)}; elsewhere {_word(usual)}", rows
        for id, places in partly(self.runs).items():
            yield f"{self.names[id]}: not checked {self.where(places)}", []

    def warned(self) -> Iterator[tuple[str, str]]:
        """Yield the warnings of construction and call: text, implementations, environments."""
        for warning in warned(self.runs):
            who = ", ".join(self.names[id] for id in warning.implementations)
            yield warning.text, f"{who} {self.where(warning.places)}"

    def kernel_lines(self) -> Iterator[tuple[str, str]]:
        """Yield the implementations whose kernels changed in the same way, with the equal ones."""
        together: dict[str, list[str]] = {}
        for found in self.kernels:
            if found.change:
                alike: dict[str, list[int]] = {}
                for i in range(len(self.runs)):
                    alike.setdefault(kernels_in_words(found, i), []).append(i)
                *rare, (usual, _) = sorted(alike.items(), key=lambda item: len(item[1]))
                said = [f"{kind} {self.where(places)}" for kind, places in rare]
                said.append(f"elsewhere {usual}")
                together.setdefault("; ".join(said), []).append(self.names[found.implementation])
        for line, names in together.items():
            yield ", ".join(names), line


def _word(outcome: str) -> str:
    if not outcome:
        return "not in the run"
    return "expected to fail" if outcome == Outcome.EXPECTED_FAILURE else outcome.replace("-", " ")
