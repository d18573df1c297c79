"""The scripts of failures: each fails on its defect, and passes on a correct layer.

Importing JAX is most of the cost of a script, so one process imports it, and forks for every script
before it computes anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from conformance.cli.main import main
from conformance.contract.catalogue import catalogue
from conformance.layers.registry import Entry
from conformance.results.cell import Cell
from conformance.results.decision import NONCONFORMING
from conformance.results.outcome import Outcome
from conformance.scripts import LONGEST, checks, needs_the_suite, script_for
from conformance.scripts.compose import layer_import
from conformance.selftest.processes import SEARCHED, python

CORRECT = {
    "nnx": "implementations.defects.base:CorrectDense",
    "linen": "implementations.defects.base:CorrectLinenDense",
    "function": "implementations.defects.base:correct_dense_forward",
}

# The defect, the requirement that it breaks, the script's message, and the size of the case.
FAULTS: tuple[tuple[str, str, str, tuple[int, int]], ...] = (
    ("construction:SplitWithoutInt", "construction/builds", "the layer raised TypeError", (2, 1)),
    ("construction:BiasOfInputLength", "construction/bias-shape", "not (out,) = (10,)", (3, 10)),
    ("initialization_variance:Unscaled", "initialization/kernel-variance", "mean(K**2) =", (3, 10)),
    ("forward_zero_input:BiasSubtracted", "forward/zero-input", "which should be the bias",
     (3, 10)),
    ("forward_basis_input:ScaledAgain", "forward/affine-value", "what rounding explains", (3, 10)),
    ("forward_shapes:BatchCentred", "forward/batch-independent", "the rest differs", (3, 10)),
    ("numerics:NanOutputSwallowed", "numerics/nan-confined", "hides it in", (3, 10)),
    ("state_contents:RawBias", "state/exact-state", "wrap it in nnx.Param", (3, 4)),
    ("state_calls:CachedKernel", "state/updates-used", "values written in", (3, 10)),
    ("state_calls:DecayOnCall", "state/call-changes-nothing", "call", (3, 10)),
    ("seeding_keys:DropoutLeftOn", "seeding/repeatable-call", "differs", (3, 10)),
    ("transforms_gradients:BiasNotTrained", "transforms/gradients", "the gradient in the bias",
     (3, 10)),
    ("transforms_programs:TracedForgetsBias", "transforms/jit", "under jax.jit", (3, 10)),
    ("construction:KernelInStats", "construction/only-two-parameters", "stats", (3, 10)),
    ("exercise:features_not_cast", "exercise/float-arguments", "features as a float", (3, 10)),
    ("seeding_seeds:seed_ignored", "seeding/seeds-differ", "give the same f(x)", (3, 10)),
)  # fmt: skip
RUNNER = """\
import contextlib, json, os, runpy, sys, traceback
import flax.linen, flax.nnx, jax.numpy, numpy

for path in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        sys.argv[:] = [path]
        code = 0
        with open(path + ".said", "w") as said, contextlib.redirect_stdout(said):
            try:
                runpy.run_path(path, run_name="__main__")
            except BaseException as error:
                code = 1 if isinstance(error, AssertionError) else 3
                traceback.print_exception(error, file=said)
        os._exit(code)
    print(json.dumps([path, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]))
"""


def _kind(spec: str) -> str:
    name = spec.partition(":")[2]
    return "linen" if name == "KernelInStats" else "function" if name.islower() else "nnx"


def _script(fault: tuple[str, str, str, tuple[int, int]]) -> tuple[str, str]:
    """Return the script for the defect, and the same script for a correct layer."""
    place, requirement, _, (n, m) = fault
    spec = f"implementations.defects.{place}"
    case = {"in_features": n, "out_features": m, "seed": 5, "values": 7, "lead": [8]}
    cell = Cell(spec, requirement, "MUST", Outcome.FAILED, message="found it", case=case)
    text = script_for(cell, Entry(spec, spec, spec))
    right = CORRECT[_kind(place)]
    if needs_the_suite(text):
        return text, text.replace(repr(spec).replace("'", ""), right)
    return text, text.replace(layer_import(spec), layer_import(right))


Ends = Mapping[tuple[str, str], tuple[int, str]]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    """Return exit code and output of each script, on the defect and on a correct layer."""
    folder = tmp_path_factory.mktemp("scripts")
    paths = {}
    for i, fault in enumerate(FAULTS):
        for subject, text in zip(("defect", "right"), _script(fault), strict=True):
            paths[fault[0], subject] = folder / f"{subject}_{i}.py"
            paths[fault[0], subject].write_text(text, encoding="utf-8")
    (folder / "runner.py").write_text(RUNNER, encoding="utf-8")
    files = map(str, paths.values())
    ended = python(folder, "-W", "ignore", "runner.py", *files, PYTHONPATH=SEARCHED)
    assert ended.returncode == 0, ended.stderr
    codes = dict(json.loads(line) for line in ended.stdout.splitlines())
    return {
        key: (codes[str(path)], Path(f"{path}.said").read_text(encoding="utf-8"))
        for key, path in paths.items()
    }


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0])
def test_a_script_fails_on_the_defect_and_on_no_right_layer(
    ends: Ends, fault: tuple[str, str, str, tuple[int, int]]
) -> None:
    code, said = ends[fault[0], "defect"]
    assert code == 1, said
    last = said[max(said.rfind("AssertionError: "), said.rfind("Violation: ")) :]
    assert fault[2] in last, last
    assert ends[fault[0], "right"] == (0, "no failure here\n")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0])
def test_a_script_needs_nothing_of_the_suite(fault: tuple[str, str, str, tuple[int, int]]) -> None:
    text, right = _script(fault)
    if fault[1] not in {requirement for requirement, _ in checks()}:
        assert len(text.splitlines()) < 25
        return
    assert text != right
    assert len(text) <= LONGEST
    without = text.replace(layer_import(f"implementations.defects.{fault[0]}"), "")
    assert "conformance" not in without
    assert "implementations" not in without
    compile(text, "script", "exec")


def test_a_script_runs_as_a_program_beside_the_users_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from implementations.defects.forward_zero_input import BiasSubtracted as MyDense\n",
        encoding="utf-8",
    )
    spec = f"{tmp_path / 'mine.py'}:MyDense"
    cell = Cell(spec, "forward/zero-input", "MUST", Outcome.FAILED)
    path = tmp_path / "script.py"
    path.write_text(script_for(cell, Entry(spec, spec, spec)), encoding="utf-8")
    ended = python(tmp_path, str(path))
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("AssertionError: f(0), which should be the bias, differs in 80 of 80")


def test_every_script_is_for_a_requirement_of_the_contract() -> None:
    assert {id for id, _ in checks()} <= {row.id for row in catalogue()}


def test_a_described_layer_is_checked_through_the_suite() -> None:
    described = Entry("x", "nnx.Linear", "implementations.nnx_others:Einsum")
    text = script_for(Cell("x", "forward/zero-input", "MUST", Outcome.FAILED), described)
    assert "recheck(" in text
    assert "'implementations.nnx_others:Einsum'" in text


def test_explain_says_everything_that_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    spec = "implementations.defects.forward_zero_input:BiasSubtracted"
    assert main(["explain", spec, "zero-input"]) == NONCONFORMING
    said = capsys.readouterr().out
    for text in (
        f"FAILED  forward/zero-input   {spec}   MUST",
        "requirement  f(0) = b, bitwise.",
        "A random bias is written first",
        "rests on     construction/kernel-shape",
        "cause        the bias is subtracted instead of added",
        "smallest     in_features=1, out_features=1, seed=0",
        "This script was run and reproduces the failure.",
        "from implementations.defects.forward_zero_input import BiasSubtracted as Layer",
    ):
        assert text in said, text
