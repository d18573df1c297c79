"""The zoo reports the suite's errors, and requirements that are idle."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import conformance
from conformance.contract.catalogue import catalogue
from conformance.contract.requirement import Requirement
from conformance.errors import UsageError
from conformance.results.cell import Cell
from conformance.results.outcome import Outcome
from conformance.running.pytest_call import call
from conformance.zoo import necessity
from conformance.zoo.judge import Judgement, Subject, judge, sole_killers
from conformance.zoo.kill_matrix import kill_rate, matrix, summary
from conformance.zoo.plan import cells_of
from conformance.zoo.run import blocked_across_gaps, subjects
from implementations.defects import Defect, all_defects
from implementations.defects.record import name_layers

DEFECT = Defect("T001", "forward/affine-value", ("transforms/jit",), cause_id="bias-twice")


def cell(requirement: str, outcome: Outcome, cause: str = "", level: str = "MUST") -> Cell:
    """Return a cell of the layer; a cause is given by its id."""
    words = cause.replace("-", " ")
    return Cell("zoo:Layer", requirement, level, outcome, cause=words, cause_id=cause)


def judged(*cells: Cell, defect: Defect | None = DEFECT) -> Judgement:
    """Return the judgement of these cells."""
    return judge(Subject("zoo:Layer", defect), cells)


FAULT = cell("forward/affine-value", Outcome.FAILED, "bias-twice")


def test_right_blame_with_declared_collateral_is_no_problem() -> None:
    found = judged(
        FAULT,
        cell("transforms/jit", Outcome.FAILED),
        cell("transforms/gradients", Outcome.BLOCKED),
        cell("forward/zero-input", Outcome.PASSED),
    )
    assert found.problems == ()
    assert found.killed
    assert found.blamed == "forward/affine-value"
    assert found.blocked == ("transforms/gradients",)


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ([cell("forward/affine-value", Outcome.PASSED)], "survived"),
        ([cell("forward/zero-input", Outcome.FAILED), FAULT], "the first to fail"),
        ([FAULT, cell("purity/silent", Outcome.FAILED)], "purity/silent"),
        (
            [cell("forward/affine-value", Outcome.FAILED, "output-scaled")],
            "names the cause 'output-scaled'",
        ),
        ([cell("forward/affine-value", Outcome.FAILED)], "names the cause nothing"),
        ([replace(FAULT, message="Parameters(static=GraphDef(")], "prints an object"),
        ([FAULT, cell("purity/silent", Outcome.ERROR)], "purity/silent error"),
        ([FAULT, cell("purity/silent", Outcome.CRASHED)], "purity/silent crashed"),
        ([], "nothing was checked"),
    ],
)
def test_every_error_of_the_suite_is_a_problem(cells: list[Cell], problem: str) -> None:
    assert any(problem in text for text in judged(*cells).problems)


def test_what_was_not_run_did_not_survive() -> None:
    rows = ("forward/affine-value", "forward/zero-input")
    stopped = [replace(cell(row, Outcome.NOT_RUN), reason="it was stopped") for row in rows]
    assert judged(*stopped).problems == ("2 requirements not-run: it was stopped",)


def test_a_cause_that_is_not_declared_is_a_problem() -> None:
    """Each printed cause has an id, and is declared by the defect."""
    plain = Defect("T003", "forward/affine-value")
    assert judged(FAULT, defect=plain).problems
    unnamed = Cell("zoo:Layer", "forward/affine-value", "MUST", Outcome.FAILED, cause="words")
    assert judged(unnamed, defect=plain).problems
    assert not judged(cell("forward/affine-value", Outcome.FAILED), defect=plain).problems


def test_a_correct_layer_may_fail_nothing_but_a_may() -> None:
    assert judged(FAULT, defect=None).problems
    may = cell("dtypes/x64-stable", Outcome.EXPECTED_FAILURE, level="MAY")
    assert judged(may, defect=None).problems == ()


def test_a_may_kills_the_defect_that_is_declared_to_break_it() -> None:
    """Elsewhere a MAY is reported only; here it counts."""
    may = cell("dtypes/x64-stable", Outcome.EXPECTED_FAILURE, level="MAY")
    assert judged(may, defect=Defect("T002", "dtypes/x64-stable")).problems == ()
    assert judged(may, defect=DEFECT).problems


def test_a_blocked_requirement_kills_as_well() -> None:
    """Without the requirement that blocks it, it would have failed."""
    alone = judged(FAULT)
    helped = judged(FAULT, cell("transforms/jit", Outcome.BLOCKED))
    assert sole_killers([alone]) == {"forward/affine-value": ["T001"]}
    assert sole_killers([helped]) == {}


def test_the_matrix_marks_blame_collateral_and_blocked() -> None:
    rows = catalogue()[:5]
    ids = [row.id for row in rows]
    found = Judgement(
        Subject("zoo:Layer", DEFECT), (ids[0], ids[1]), (ids[2],), (), frozenset(ids[:4])
    )
    marks = matrix([found], rows)[-1]
    assert sorted(marks.removeprefix("T001").replace(" ", "")) == sorted("#xo.")
    assert kill_rate([found])["killed"] == 1
    assert any(line.startswith("all") and "1/1" in line for line in summary([found], rows))


def test_the_plan_holds_all_that_blame_needs_and_a_fixed_share_of_the_rest() -> None:
    rows = catalogue()
    subject = Subject("zoo:Layer", DEFECT)
    planned = cells_of(subject, rows)
    below = next(row.rests_on for row in rows if row.id == DEFECT.breaks)
    assert {DEFECT.breaks, *DEFECT.collateral, *below} <= set(planned)
    assert len(planned) < len(rows)
    assert planned == cells_of(subject, rows)
    assert cells_of(subject, rows, full=True) == [row.id for row in rows]


@pytest.mark.parametrize(
    ("level", "expected"), [("SHOULD", Outcome.FAILED), ("MUST", Outcome.BLOCKED)]
)
def test_only_a_must_hides_a_must_beyond_what_the_plan_left_out(
    level: str, expected: Outcome
) -> None:
    below = cell("transforms/no-side-effects-in-jaxpr", Outcome.FAILED, level=level)
    above = cell("transforms/abstract-forward", Outcome.FAILED)
    found = blocked_across_gaps([below, above], catalogue())
    assert [each.outcome for each in found] == [Outcome.FAILED, expected]


def test_every_defect_names_requirements_of_the_contract() -> None:
    """A misspelt id would never be blamed."""
    known = {row.id for row in catalogue()}
    for subject in subjects():
        if subject.defect is not None:
            assert {subject.defect.breaks, *subject.defect.collateral} <= known, subject.name


# With the reasons why no defect has it as the cause of its first failure.
_OF_NO_DEFECT = {
    "another-key": "the file of the function needs a MyDense, as in test_grade",
    "outputs-first": "the file of the function needs a MyDense, as in test_grade",
    "mesh-of-its-own": "a right layer without the declaration of its mesh, as in test_meshes",
    "parameters-in-one-array": "a right layer, which is described by functions instead",
    "effect-in-call": "every effect that JAX has now is a callback's",
    "not-trained": "a gradient is wrong as well",
    "parameter-numpy": "the state is wrong as well",
}


def test_every_cause_that_the_checks_name_has_a_defect() -> None:
    """A cause that nobody has seen may be a false one."""
    folder, named = Path(conformance.__file__).parent, set()
    for path in (*folder.glob("checks/**/*.py"), *folder.glob("suite/*.py")):
        named |= set(re.findall(r'\bCause\(\s*"([^"]+)"', path.read_text(encoding="utf-8")))
    assert len(named) > 250
    declared = {known.defect.cause_id for known in all_defects()}
    assert named - declared == set(_OF_NO_DEFECT)


@pytest.mark.parametrize("row", catalogue(), ids=lambda row: row.id)
def test_every_requirement_has_a_candidate_or_a_reason(row: Requirement) -> None:
    assert necessity.candidates(row) or row.idle_because


@pytest.mark.parametrize(
    ("slug", "defect"),
    [("scalar-raises", "X081"), ("rngs-forms", "X589"), ("bad-arguments-raise", "X258")],
)
def test_a_defect_lives_without_its_requirement(slug: str, defect: str) -> None:
    row = necessity.one(slug)
    judgements = necessity.without(row, call(workers="2"), [defect])
    assert [necessity.lives(judgement, row) for judgement in judgements] == [True]
    assert necessity.lines(row, judgements)[-1].startswith(f"{row.id} is needed: 1 of 1")


def test_a_lambda_is_named_beside_an_object_that_has_every_attribute() -> None:
    """As an old nnx.Rngs does, which answers every name with a stream."""

    class Everything:
        def __getattr__(self, name: str) -> object:
            return Everything()

    layer = lambda x: x  # noqa: E731
    name_layers({"RNGS": Everything(), "LAYER": layer})
    assert layer.__name__ == layer.__qualname__ == "LAYER"


def test_one_requirement_is_meant() -> None:
    """An area names several."""
    with pytest.raises(UsageError, match=r"names \d+ requirements"):
        necessity.one("numerics")
