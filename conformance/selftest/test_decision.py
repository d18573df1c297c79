"""Every report shows the same verdict, for every set of cells."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.contract.requirement import MAY, MUST, SHOULD, Requirement
from conformance.layers.registry import Entry
from conformance.report.badge import endpoint
from conformance.report.markdown import markdown
from conformance.report.notebook import table
from conformance.report.terminal import write_verdict
from conformance.results.cell import Cell
from conformance.results.decision import Word, decide
from conformance.results.file import Results, parse, text_of_runs
from conformance.results.outcome import Outcome
from conformance.results.verdict import Verdict, account
from conformance.selftest.pages import needs_extra
from conformance.selftest.synthetic import FACTS, requirement

ENTRIES = tuple(Entry(f"acme:{name}", name, f"acme:{name}") for name in ("One", "Two"))

KNOWN = {**FACTS, "versions": {e.id: {"library": "acme", "version": "1"} for e in ENTRIES}}


ROWS = (
    requirement("construction/a", MUST),
    requirement("construction/b", SHOULD, "construction/a"),
    requirement("construction/c", MUST, "construction/a"),
    requirement("purity/d", MUST, "construction/c"),
    requirement("purity/e", MAY, "construction/a"),
    requirement("purity/f", MUST),
)

_BEFORE_BLAME = [outcome for outcome in Outcome if outcome != Outcome.BLOCKED]


def cell(entry: Entry, of: Requirement, outcome: Outcome) -> Cell:
    """Return the cell of a requirement; a failed MAY is not offered."""
    if outcome in (Outcome.FAILED, Outcome.NOT_OFFERED):
        outcome = Outcome.NOT_OFFERED if of.level is MAY else Outcome.FAILED
    return Cell(entry.id, of.id, str(of.level), outcome, message="x", reason="why")


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    """Draw the account of a run that ended in any way."""
    entries = ENTRIES[: draw(st.integers(1, 2))]
    keys = [(entry, of) for entry in entries for of in ROWS]
    left = draw(st.sets(st.sampled_from([(e.id, of.id) for e, of in keys]), max_size=3))
    outcomes = draw(st.lists(st.sampled_from(_BEFORE_BLAME), min_size=12, max_size=12))
    cells = [cell(*key, outcome) for key, outcome in zip(keys, outcomes, strict=False)]
    return account(
        entries,
        ROWS,
        [c for c in cells if (c.implementation, c.requirement) not in left],
        frozenset((e.id, of.id) for e, of in keys) - left if draw(st.booleans()) else None,
        strict=draw(st.booleans()),
        stopped=draw(st.sampled_from(["", "terminated"])),
    )


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(verdicts())
def test_every_report_shows_the_same_verdict(verdict: Verdict) -> None:
    decision = verdict.decision
    text = io.StringIO()
    results = Results(verdict, KNOWN)
    write_verdict(results, text)
    assert text.getvalue().splitlines()[-1] == decision.sentence
    first = markdown([results]).splitlines()[0]
    assert first.lower() == f"## {decision.sentence}".lower()
    assert decision.sentence in table(results)
    said = json.loads(endpoint([results]))
    red = decision.word in (Word.DOES_NOT_CONFORM, Word.OUTDATED)
    assert (said["color"] == "red") == red
    assert (said["color"] in ("brightgreen", "yellow")) == (decision.exit_code == 0)
    if decision.word not in (Word.CONFORMS, Word.DOES_NOT_CONFORM):
        assert decision.word in said["message"]
    (again,) = parse(text_of_runs([results]), "x.json")
    assert again.verdict.decision == decision
    assert verdict.exit_code == decision.word.exit_code
    _require_right(verdict)


def _require_right(verdict: Verdict) -> None:
    """Require the verdict that the contract demands, stated without the code under test."""
    outcomes = {(c.implementation, c.requirement): c.outcome for c in verdict.own}
    levels = {SHOULD, MUST} if verdict.strict else {MUST}
    failed = [c for c in verdict.own if c.outcome == Outcome.FAILED and c.level in levels]
    word = verdict.decision.word
    assert not failed or word == Word.DOES_NOT_CONFORM
    if word == Word.CONFORMS:
        for c in verdict.own:
            if c.level == MUST:
                root = outcomes.get((c.implementation, c.blocked_by))
                fine = c.outcome in ("passed", "not-applicable", "expected-failure")
                assert fine or (c.outcome == "blocked" and root == "expected-failure"), c
    if word == Word.DOES_NOT_CONFORM:
        assert any(c.outcome == Outcome.FAILED for c in verdict.own)


@pytest.mark.parametrize(
    ("outcomes", "sentence"),
    [("pnn", "conforms: MUST 1/1; 2 MUST requirements do not apply"), ("pn", "conforms: MUST 1/1")],
)
def test_a_layer_that_is_asked_little_does_not_conform_plainly(
    outcomes: str, sentence: str
) -> None:
    found = {"p": Outcome.PASSED, "n": Outcome.NOT_APPLICABLE}
    musts = [of for of in ROWS if of.level is MUST]
    pairs = zip(musts, outcomes, strict=False)
    assert decide(cell(ENTRIES[0], of, found[k]) for of, k in pairs).sentence == sentence


@settings(max_examples=10, deadline=None, database=None)
@given(verdicts())
def test_the_page_shows_the_same(verdict: Verdict) -> None:
    needs_extra()
    from conformance.report.html import page

    text = page([Results(verdict, KNOWN)])
    assert f"<strong>{verdict.decision.word.capitalize()}</strong>" in text
    assert f"Dense conformance: {verdict.decision.word}" in text


def test_an_entry_to_remove_is_no_verdict_on_the_layer() -> None:
    """The layer meets a requirement that it was expected to break."""
    cells = [cell(ENTRIES[0], of, Outcome.PASSED) for of in ROWS]
    cells[4] = cell(ENTRIES[0], ROWS[4], Outcome.UNEXPECTED_PASS)
    found = decide(cells)
    assert found.exit_code == 1
    assert found.sentence == (
        "expected failures are out of date: MUST 4/4; 1 requirement holds now: remove its entry"
    )
