"""Expected failures are strict: invalid ones are rejected, stale ones fail the run."""

import re
import tomllib
from functools import partial
from pathlib import Path

import pytest

from conformance.cli.expect import proposals
from conformance.contract.requirement import Level
from conformance.errors import LoadError, UsageError, WrongCondition
from conformance.layers.expected_failure import Expected
from conformance.layers.registry import Entry
from conformance.results.cell import Cell
from conformance.results.conditions import holds, require_possible
from conformance.results.decision import NONCONFORMING, OK, USAGE
from conformance.results.expected import Expectations, from_project, is_strict, require_right
from conformance.results.outcome import Outcome
from conformance.results.verdict import Verdict, account
from conformance.running.cells import with_expectation
from conformance.selftest.processes import cells_in, command
from conformance.selftest.synthetic import requirement

ENTRY = Entry("acme:Dense", "acme.Dense", "acme.layers:Dense", "acme")
KNOWN = Expected("forward/zero-input", "known", implementation="acme.Dense")

LAYERS = """
from flax import nnx

class Good(nnx.Linear):
    pass

class Bad(nnx.Linear):
    def __call__(self, x):
        return super().__call__(x) - 2 * self.bias[...]
"""


def cell(outcome: Outcome, level: str = "MUST") -> Cell:
    """Return a cell of ``forward/zero-input``."""
    return Cell(ENTRY.id, "forward/zero-input", level, outcome, message="it differs")


RIGHT = {"implementation": "'a:B'", "requirement": "'forward/zero-input'", "reason": "'x'"}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("implementation", "", "has no implementation"),
        ("requirement", "", "has no requirement"),
        ("reason", "", "has no reason"),
        ("requirement", "'forward/zero'", "zero-input?"),
        ("requirement", "3", "requirement is text, found 3"),
        ("implementation", "'nnx.Linaer'", "did you mean nnx.Linear?"),
        ("if", "'y'", "unknown key 'if'"),
        ("when", "'flax < 0.1'", "has expired: the suite supports flax from"),
        ("when", "'some day'", "is not like 'flax < 0.11'"),
        ("witness", "{ size = 3 }", "a witness is a case"),
        ("witness", "{ in_features = 1.5, out_features = 2 }", "all numbers are integers"),
    ],
)
def test_a_wrong_expectation_is_refused_in_one_line(
    tmp_path: Path, key: str, value: str, said: str
) -> None:
    require_refused(tmp_path, {**RIGHT, key: value}, said)


def test_a_check_without_cases_has_no_witness(tmp_path: Path) -> None:
    witness = "{ in_features = 1, out_features = 2 }"
    entry = {**RIGHT, "requirement": "'initialization/kernel-variance'", "witness": witness}
    require_refused(tmp_path, entry, "remove the witness")


def require_refused(folder: Path, entry: dict[str, str], said: str) -> None:
    """Require the message about an entry of these keys and values, if they are not empty."""
    path = folder / "pyproject.toml"
    lines = [f"{key} = {value}\n" for key, value in entry.items() if value]
    path.write_text(f"\n[[tool.dense-conformance.expect]]\n{''.join(lines)}")
    with pytest.raises(UsageError) as refusal:
        Expectations.of_project(path, [])
    message = str(refusal.value)
    assert said in message
    assert message.startswith(f"{path}:2: ")
    assert "\n" not in message


def test_no_expectation_stands_twice() -> None:
    with pytest.raises(UsageError, match="stands twice"):
        require_right([KNOWN, KNOWN], "here")
    require_right([KNOWN, Expected(KNOWN.requirement, "r", when="flax < 99")], "here")


def test_a_project_without_expectations_has_none(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    assert from_project(path) == ()
    path.write_text("")
    assert from_project(path) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("expect = 3", "write [[tool.dense-conformance.expect]]"),
        ("expect = [3]", "has no implementation"),
        ("expect = [[]]", "has no implementation"),
        ("[tool.dense-conformance.expect]", "write [[tool.dense-conformance.expect]]"),
        ("strict = 3", "strict is true or false, found 3"),
        ("strict = {}", "strict is true or false, found {}"),
    ],
)
def test_a_project_of_wrong_types_is_refused(tmp_path: Path, text: str, said: str) -> None:
    header = "" if text.startswith("[") else "[tool.dense-conformance]\n"
    (tmp_path / "pyproject.toml").write_text(header + text)
    read = is_strict if text.startswith("strict") else from_project
    with pytest.raises(UsageError, match=re.escape(said)):
        read(tmp_path / "pyproject.toml")


def test_the_command_refuses_a_project_of_wrong_types(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("tool = 3")
    done = command(tmp_path, "run", "nnx.MyDense", "-n", "0")
    assert done.returncode == USAGE
    assert (done.stdout + done.stderr).strip().endswith("tool is a table, found 3")
    assert "Traceback" not in done.stdout + done.stderr


def test_conditions() -> None:
    assert holds("")
    assert holds("flax >= 0.10.2 and python >= 3.11")
    assert not holds("flax >= 0.10.2 and python < 3.11")
    assert not holds("nothing-of-this-name >= 1")
    require_possible("flax >= 0.10, < 0.11 and backend == gpu")
    for expired in ("python < 3.11", "jax <= 0.4.30", "flax == 0.9.*"):
        with pytest.raises(WrongCondition, match="expired"):
            require_possible(expired)


def test_only_a_failure_is_expected() -> None:
    for before, after in (
        (Outcome.FAILED, Outcome.EXPECTED_FAILURE),
        (Outcome.PASSED, Outcome.UNEXPECTED_PASS),
        (Outcome.CRASHED, Outcome.CRASHED),
        (Outcome.TIMED_OUT, Outcome.TIMED_OUT),
        (Outcome.ERROR, Outcome.ERROR),
        (Outcome.NOT_APPLICABLE, Outcome.NOT_APPLICABLE),
    ):
        assert with_expectation(KNOWN, cell(before)).outcome == after


def test_the_exit_code_is_strict() -> None:
    for outcome, level, code in (
        (Outcome.EXPECTED_FAILURE, "MUST", OK),
        (Outcome.UNEXPECTED_PASS, "MUST", NONCONFORMING),
        (Outcome.UNEXPECTED_PASS, "MAY", NONCONFORMING),
    ):
        assert Verdict((ENTRY,), (), (cell(outcome, level),)).exit_code == code


@pytest.mark.parametrize(
    ("level", "known", "outcome"),
    [
        ("MUST", Outcome.EXPECTED_FAILURE, "blocked"),
        ("MAY", Outcome.EXPECTED_FAILURE, "blocked"),
        ("MAY", Outcome.NOT_OFFERED, "failed"),
    ],
)
def test_what_follows_from_an_expected_failure_is_expected(
    level: str, known: Outcome, outcome: str
) -> None:
    """Consequences need no declaration; a failed MAY explains nothing."""
    below = requirement("forward/zero-input", Level(level))
    above = requirement("forward/basis-input", Level.MUST, below.id)
    cells = [cell(known, level), Cell(ENTRY.id, above.id, "MUST", Outcome.FAILED)]
    found = account([ENTRY], (below, above), cells)
    assert {c.outcome for c in found.cells} == {known, outcome}
    assert found.exit_code == (OK if outcome == "blocked" else NONCONFORMING)


def test_the_condition_decides_where() -> None:
    elsewhere = Expected("forward/zero-input", "other", "flax < 0.11", implementation="acme:Dense")
    own = Expected("forward/zero-input", "own")
    expectations = Expectations((elsewhere,), {ENTRY.id: (own,)})
    assert expectations.of(ENTRY, "forward/zero-input") is own
    assert Expectations((KNOWN,), {ENTRY.id: (own,)}).of(ENTRY, KNOWN.requirement) is KNOWN
    assert expectations.of(ENTRY, "forward/additive") is None
    assert Expectations.from_plain(expectations.as_plain()).project == (elsewhere,)


def test_a_registration_expects_nothing_that_cannot_fail() -> None:
    from dataclasses import replace

    from conformance import adapt
    from conformance.checks.layer import Layer
    from implementations.dense_forward import dense_forward

    for row, said in (("state/pickles", "not applicable"), ("state/pickle", "did you")):
        layer = replace(adapt(dense_forward), expected_failures=(Expected(row, "x"),))
        with pytest.raises(LoadError, match=said):
            Expectations().add(ENTRY, Layer(layer, ENTRY))


def test_a_run_from_failure_to_expectation_and_back(tmp_path: Path) -> None:
    (tmp_path / "layers.py").write_text(LAYERS)
    run = partial(command, tmp_path)
    row = ("--requirement", "forward/zero-input", "-n", "0", "--results", "r.json")
    failed = run("run", "layers.py:Bad", *row)
    assert failed.returncode == NONCONFORMING, failed.stderr
    proposed = run("expect", "r.json").stdout
    assert 'implementation = "layers.py:Bad"' in proposed
    assert 'reason = "the bias is subtracted instead of added"' in proposed
    assert "witness = {in_features = 1" in proposed
    (tmp_path / "pyproject.toml").write_text(
        proposed + proposed.replace("layers.py:Bad", "layers.py:Good")
    )
    both = run("run", "layers.py:Bad", "layers.py:Good", *row)
    assert both.returncode == NONCONFORMING, both.stderr
    outcomes = [c["outcome"] for c in cells_in(tmp_path / "r.json")]
    assert outcomes == ["expected-failure", "unexpected-pass"]
    assert "the witness passes now: remove the expectation" in " ".join(both.stdout.split())
    assert "fails as expected: layers.py:Bad" in both.stdout
    assert (
        "# Remove the expectation of forward/zero-input on layers.py:Good"
        in run("expect", "r.json").stdout
    )


def test_proposals_of_a_clean_run_are_none() -> None:
    (line,) = proposals(Verdict((ENTRY,), (), (cell(Outcome.PASSED),)))
    assert line.startswith("# Every failure is expected")


@pytest.mark.parametrize("name", ['x"\n[tool.evil]\ny = 1\n# ', "a:B\n]]", "\x1b[2Jx\u202e", "\\'"])
def test_what_is_proposed_is_what_a_run_accepts(tmp_path: Path, name: str) -> None:
    entry = Entry(name, name, f"{name}:Dense")
    case = {"in_features": 1, "out_features": 2, "seed": 0, "values": 0, "lead": [8]}
    cells = [
        Cell(name, id, level, Outcome.FAILED, message=name, cause=name, case=case)
        for id, level in (
            ("initialization/kernel-variance", "MUST"),
            ("forward/zero-input", "MUST"),
            ("state/pickles", "SHOULD"),
        )
    ]
    cells.append(Cell(name, "forward/additive", "MUST", Outcome.UNEXPECTED_PASS))
    cells.append(Cell(name, "forward/homogeneous", "MUST", Outcome.CRASHED))
    path = tmp_path / "pyproject.toml"
    path.write_text("\n".join(proposals(Verdict((entry,), (), tuple(cells)))), encoding="utf-8")
    found = Expectations.of_project(path, [entry]).project
    assert [each.requirement for each in found] == [cell.requirement for cell in cells[:3]]
    assert [each.witness is not None for each in found] == [False, True, True]
    assert {each.implementation for each in found} == {name}
    assert set(tomllib.loads(path.read_text(encoding="utf-8"))) == {"tool"}
