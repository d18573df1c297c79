"""The grade of a solution: each pitfall by name, with a hint; what else fails; exit codes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console

from conformance.cli.grade import PITFALLS, _calls_class, avoided, names_in, write_grade
from conformance.cli.main import main
from conformance.cli.submission import suspicious, wrong_outputs
from conformance.contract.catalogue import catalogue
from conformance.layers.registry import Entry
from conformance.results.cell import Cell
from conformance.results.decision import NONCONFORMING, OK, USAGE
from conformance.results.outcome import Outcome
from conformance.results.verdict import Verdict
from conformance.running.pytest_call import call, run_quietly
from conformance.selftest import processes

RIGHT = f"""{processes.RIGHT}

def dense_forward(seed, x, features):
    return MyDense(x.shape[-1], int(features), rngs=nnx.Rngs(int(seed)))(x)
"""


class Solution(NamedTuple):
    """The changes of the right solution, the states of the pitfalls, and a line of the grade."""

    changes: tuple[tuple[str, str], ...]
    states: str
    found: str


ZEROS = "jax.numpy.zeros((out_features,))"
SIZES = ("MyDense(x.shape[-1], int(features)", "MyDense(int(features), x.shape[-1]")
FLOAT = ("int(features)", "features")
SOLUTIONS = {
    "right": Solution((), "yes yes yes yes", "a right solution: "),
    "right by name": Solution(
        (
            ("self, in_features, out_features, *", "self, *, out_features, in_features"),
            (SIZES[0], "MyDense(in_features=x.shape[-1], out_features=int(features)"),
        ),
        "yes yes yes yes",
        "a right solution: ",
    ),
    "raw": Solution(
        ((f"nnx.Param({ZEROS})", ZEROS),),
        "no yes yes yes",
        "  found     the state is bias: Array float32[7], kernel: Param float32[1x7]",
    ),
    "unscaled": Solution(
        (("kernel / in_features**0.5", "kernel"),),
        "yes no yes yes",
        "  found     in_features * mean(K**2) = 1",
    ),
    "bias_in": Solution(
        ((ZEROS, "jax.numpy.zeros((in_features,))"),),
        "yes yes no open",
        "  found     the bias has shape (",
    ),
    "floats": Solution((FLOAT,), "yes yes yes no", "TypeError"),
    "both floats": Solution((FLOAT, ("int(seed)", "seed")), "yes yes yes no", "; and f(seed="),
    "no return": Solution(
        (("return x @", "x @"),),
        "yes yes yes open",
        "- the result is computed and not returned: the return statement is missing",
    ),
    "scaled": Solution(
        (("return x @", "return (x / 255) @"),),
        "yes yes yes yes",
        "- x @ kernel is multiplied by 0.003922 before the bias is added",
    ),
    "outputs first": Solution(
        (("self, in_features, out_features", "self, out_features, in_features"), SIZES),
        "yes yes yes yes",
        "- MyDense takes out_features first",
    ),
    "another key": Solution(
        (("nnx.Rngs(int(seed))", "nnx.Rngs(jax.random.split(jax.random.key(int(seed)))[1])"),),
        "yes yes yes yes",
        "- the layer is built from the second half of jax.random.split(key)",
    ),
    "exchanged": Solution((SIZES,), "yes yes yes open", "- the sizes of the layer are exchanged"),
}
ROWS = (
    *("state/exact-state", "state/call-changes-nothing"),
    *("construction/builds", "construction/bias-shape"),
    *("initialization/kernel-variance", "exercise/float-arguments", "forward/output-shape"),
    *("forward/basis-input", "exercise/recovered-kernel", "exercise/fixed-result"),
)


@pytest.fixture(scope="module")
def grades(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[str, Verdict]]:
    """Return the grade of each solution, from one run of all."""
    folder = tmp_path_factory.mktemp("solutions")
    for name, solution in SOLUTIONS.items():
        text = RIGHT
        for old, new in solution.changes:
            assert old in text
            text = text.replace(old, new)
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    specs = [
        f"{folder}/{name}.py:{of}" for name in SOLUTIONS for of in ("MyDense", "dense_forward")
    ]
    verdict = run_quietly(
        [*call(ROWS, workers="0"), *(f"--conformance-impl={spec}" for spec in specs)]
    )
    return {name: _graded(name, verdict) for name in SOLUTIONS}


def _graded(name: str, of_all: Verdict) -> tuple[str, Verdict]:
    entries = tuple(e for e in of_all.entries if Path(e.spec.partition(":")[0]).stem == name)
    ids = {entry.id for entry in entries}
    cells = tuple(cell for cell in of_all.cells if cell.implementation in ids)
    verdict = Verdict(entries, of_all.rows, cells)
    text = io.StringIO()
    console = Console(file=text, width=100, highlight=False)
    write_grade(console, f"{name}.py", verdict, of_class=True)
    return text.getvalue(), verdict


@pytest.mark.parametrize("name", SOLUTIONS)
def test_each_pitfall_is_named(grades: Mapping[str, tuple[str, Verdict]], name: str) -> None:
    text, verdict = grades[name]
    lines = text.splitlines()
    assert lines[0] == f"{name}.py: MyDense and dense_forward"
    states = SOLUTIONS[name].states.split()
    for number, (pitfall, state) in enumerate(zip(PITFALLS, states, strict=True), start=1):
        assert f"{number}. {pitfall.name}: {state}" in lines
        words = " ".join(text.split())
        assert (pitfall.hint in words) == (state == "no")
    assert any(SOLUTIONS[name].found in line for line in lines), text
    assert len(lines) <= 24
    assert verdict.exit_code == (OK if name.startswith("right") else NONCONFORMING)


def test_nothing_checked_is_no_right_solution() -> None:
    text = io.StringIO()
    entry = Entry("x", "x", "mine.py:dense_forward")
    cells = (Cell("x", "exercise/vector-out", "MUST", Outcome.NOT_APPLICABLE),)
    verdict = Verdict((entry,), (), cells)
    write_grade(Console(file=text, width=100), "mine.py", verdict)
    assert text.getvalue().splitlines()[-1] == "nothing was checked"
    assert verdict.exit_code == USAGE


def test_a_hint_does_not_give_the_code_away() -> None:
    for pitfall in PITFALLS:
        for code in ("nnx.Param(", "sqrt", "int(", "(out_features,)"):
            assert code not in pitfall.hint


def test_what_hides_a_pitfall_is_shown() -> None:
    blocked = Cell(
        "f", "exercise/float-arguments", "MUST", Outcome.BLOCKED, reason="blocked by x/y"
    )
    other = Cell("f", "exercise/float-arguments", "MUST", Outcome.NOT_APPLICABLE)
    assert avoided(PITFALLS[3], [blocked])[0] == "open"
    assert avoided(PITFALLS[3], [other])[0] == "not shown"


def test_what_keeps_a_file_from_being_loaded_is_shown_once() -> None:
    rows = catalogue()[:5]
    reason = "broken.py:MyDense: importing broken.py raised ModuleNotFoundError: no 'nope'"
    cells = [Cell("x:MyDense", r.id, "MUST", Outcome.ERROR, reason=reason) for r in rows]
    text = io.StringIO()
    entry = Entry("x:MyDense", "MyDense", "broken.py:MyDense")
    write_grade(Console(file=text, width=200), "broken.py", Verdict((entry,), rows, tuple(cells)))
    # No pitfall can be judged, and nothing is counted.
    assert text.getvalue().splitlines() == [
        "broken.py: MyDense",
        "",
        "The file cannot be used:",
        f"- {reason}",
        "",
        "the file could not be used",
    ]


def test_a_function_alone_shows_its_bias() -> None:
    """A pitfall is recognized by the id of the cause, not by its words."""
    cell = Cell("f", "forward/output-shape", "MUST", Outcome.FAILED, cause_id="bias-of-inputs")
    assert avoided(PITFALLS[2], [cell])[0] == "no"
    other = Cell("f", "forward/output-shape", "MUST", Outcome.FAILED, cause_id="axes-added")
    assert avoided(PITFALLS[2], [other])[0] != "no"
    scalar = Cell("f", "construction/bias-shape", "MUST", Outcome.FAILED, cause_id="bias-scalar")
    assert avoided(PITFALLS[2], [scalar])[0] == "no"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise SystemExit('not to be run')\n", "defines neither MyDense nor dense_forward; "),
        (None, "cannot be read: No such file"),
        ("def broken(:\n", "cannot be used: SyntaxError: "),
        ("def broken(:\n", "\n      def broken(:\n                 ^\n"),
        (RIGHT.replace("MyDense", "Mydense"), "defines Mydense: rename it to MyDense"),
        (RIGHT.replace("MyDense", "my_dense"), "defines my_dense: rename it to MyDense"),
        (RIGHT.replace("MyDense", "MyDens"), "defines MyDens: rename it to MyDense"),
        (
            "class MyDense:\n    def dense_forward(seed, x, features): ...\n",
            "line 2: dense_forward is defined inside",
        ),
    ],
)
def test_a_file_without_a_solution_is_wrong_usage(
    text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "solution.py"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    assert main(["grade", str(path)]) == USAGE
    error = capsys.readouterr().err
    assert error.startswith(f"dense-conformance: {path}")
    assert said in error


def test_names_are_read_without_running_the_file(tmp_path: Path) -> None:
    path = tmp_path / "solution.py"
    for text, names in (
        ("from elsewhere import Layer as MyDense", ["MyDense"]),
        ("dense_forward = print", ["dense_forward"]),
        ("class MyDense: ...\ndef dense_forward(): ...", ["MyDense", "dense_forward"]),
    ):
        path.write_text(text, encoding="utf-8")
        assert names_in(str(path)) == names


def test_a_star_import_of_a_sibling_defines_its_names(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "__init__.py").write_text("from ._layer import *\n")
    (tmp_path / "inner" / "_layer.py").write_text("class MyDense: ...\n")
    path = tmp_path / "__init__.py"
    path.write_text("from math import *\nfrom .inner import *\n")
    assert names_in(str(path)) == ["MyDense"]


def test_a_star_import_that_leads_nowhere_ends(tmp_path: Path) -> None:
    """In a circle, to a file with an error, or out of every package: its import reports it."""
    (tmp_path / "circle.py").write_text("from .solution import *\n")
    (tmp_path / "broken.py").write_text("class Other(:\n")
    path = tmp_path / "solution.py"
    above = "." * 99
    for module in (".circle", ".broken", f"{above}z"):
        path.write_text(f"from {module} import *\nclass MyDense: ...\n")
        assert names_in(str(path)) == ["MyDense"]


def test_a_function_may_use_the_class_in_another_file_of_a_package(tmp_path: Path) -> None:
    path, inner = tmp_path / "__init__.py", tmp_path / "inner.py"
    path.write_text("from .inner import MyDense, dense_forward\n")
    for text, uses in ((RIGHT, True), (RIGHT.replace("return MyDense", "return Other"), False)):
        inner.write_text(f"from . import MyDense as again\n{text}")
        assert _calls_class(str(path)) == uses


def test_names_that_a_layer_has_no_need_of_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "solution.py"
    path.write_text(
        "import gc\nimport sys\nfrom conformance.checks import require\nfrom flax import nnx\n"
        "sys.modules.clear()\nrequire.that.__code__ = None\n"
    )
    assert suspicious(str(path)) == [
        "conformance.checks (line 3)",
        "gc (line 1)",
        "require.that.__code__ (line 6)",
        "sys.modules (line 5)",
    ]
    path.write_text(RIGHT)
    assert suspicious(str(path)) == []


def test_outputs_of_another_process_are_compared_in_this_one(tmp_path: Path) -> None:
    path = tmp_path / "solution.py"
    path.write_text(
        "import jax.numpy as jnp\nimport numpy as np\n"
        "np.testing = np.abs = np.allclose = lambda *a, **k: True\n"
        "def dense_forward(seed, x, features):\n"
        "    return jnp.ones(int(features)) * jnp.sum(x * x)\n"
    )
    wrong = "; ".join(wrong_outputs(str(path), "dense_forward"))
    assert "f(x) is not x @ K + b" in wrong
    assert "the seeds (0, 7) give the same kernel" in wrong
    path.write_text(RIGHT)
    assert wrong_outputs(str(path), "MyDense") == []
