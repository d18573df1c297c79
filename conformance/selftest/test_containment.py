"""Changes that a layer makes in a process are found, named and undone."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance import errors
from conformance.checks.require import NotApplicable, during, not_applicable
from conformance.errors import Violation, safe_text
from conformance.isolation import leftovers, snapshot
from conformance.isolation.containment import Containment
from conformance.isolation.shared_code import SharedCode
from conformance.layers.registry import Entry
from conformance.selftest.processes import cells_in, command

ENTRY = Entry("a/mine.py:Dense", "mine.py:Dense", "a/mine.py:Dense")

CHANGES: dict[str, Callable[[], object]] = {
    "os.environ['XLA_FLAGS'] became 'x'": lambda: os.environ.update(XLA_FLAGS="x"),
    "the state of Python's global random generator changed": random.random,
    "the state of numpy.random's global generator changed": lambda: np.random.seed(3),
    "the recursion limit changed": lambda: sys.setrecursionlimit(5000),
    "an alarm changed": lambda: signal.setitimer(signal.ITIMER_REAL, 600),
    "the handling of signals changed": lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
    "the garbage collector changed": gc.disable,
    "the warning filters changed": lambda: warnings.simplefilter("error"),
    "the working directory changed": lambda: os.chdir("/"),
    "the mask of new files' permissions (os.umask) changed": lambda: os.umask(0o777),
    "the handling of floating-point errors (numpy.seterr) changed": lambda: np.seterr(all="raise"),
    "how modules are found (sys.meta_path, sys.path_hooks) changed": sys.meta_path.clear,
    "entries of sys.path were removed": sys.path.clear,
    "numpy.dot was replaced": lambda: setattr(np, "dot", print),
}


@pytest.mark.parametrize("said", CHANGES)
def test_a_change_is_named_and_put_back(said: str, tmp_path: Path) -> None:
    before = snapshot.take()
    try:
        CHANGES[said]()
        assert said in before.changes()
    finally:
        before.restore()
    assert before.changes() == []


def test_functions_methods_and_modules_are_put_back() -> None:
    shared = SharedCode()
    shared.learn()
    assert shared.put_back() == []
    module, function, method = sys.modules["json"], json.dumps, random.Random.random
    json.dumps = print  # type: ignore[assignment]
    random.Random.seed = print  # type: ignore[assignment, method-assign]
    sys.modules["json"] = sys.modules["random"]
    found = shared.put_back()
    assert found[0] == "the module json was replaced"
    assert set(found[1:]) == {"json.dumps was replaced", "random.Random.seed was replaced"}
    assert sys.modules["json"] is module
    assert json.dumps is function
    assert random.Random.random is method
    assert shared.put_back() == []


def test_what_a_function_is_made_of_is_put_back() -> None:
    from flax import nnx
    from jax._src.interpreters import mlir

    shared = SharedCode()
    shared.learn()
    keywords = nnx.Linear.__init__.__kwdefaults__ or {}
    primitive = next(iter(mlir._lowerings))
    rule, code, bias = mlir._lowerings[primitive], json.dumps.__code__, keywords["use_bias"]
    keywords["use_bias"] = not bias
    mlir._lowerings[primitive] = print  # type: ignore[assignment]
    json.dumps.__code__ = (lambda *a, **k: "").__code__
    assert set(shared.put_back()) == {
        "the code of json.dumps was replaced",
        "the default values of flax.nnx.nn.linear.Linear.__init__ changed",
        f"jax._src.interpreters.mlir._lowerings[{primitive}] was replaced",
    }
    assert mlir._lowerings[primitive] is rule
    assert json.dumps.__code__ is code
    assert (nnx.Linear.__init__.__kwdefaults__ or {})["use_bias"] is bias
    assert shared.put_back() == []


def test_the_changes_of_an_import_are_named() -> None:
    containment = Containment(may_retire=False)
    for wrong in (False, True):
        with contextlib.suppress(ZeroDivisionError), containment.loading(ENTRY):
            os.environ["ACME"] = "1"
            sys.stdout.close()
            if wrong:
                raise ZeroDivisionError
        assert containment.side_effects[ENTRY.id] == ["os.environ['ACME'] became '1'"]
        assert "ACME" not in os.environ
        assert not sys.stdout.closed


def test_a_worker_that_has_loaded_code_from_elsewhere_checks_no_other_source() -> None:
    own = Entry("o", "o", "implementations.my_dense:MyDense", "dense-conformance")
    other = Entry("b", "b", "b/mine.py:Dense")
    containment = Containment(may_retire=True)
    with containment.loading(own):
        pass
    assert not any(containment.must_retire(each) for each in (own, ENTRY, other))
    with containment.loading(ENTRY):
        pass
    assert not containment.must_retire(ENTRY.variant("bf16"))
    assert containment.must_retire(own)
    assert containment.must_retire(other)


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, BaseException, pytest.skip.Exception])
def test_every_exception_of_a_layer_is_its_failure(kind: type[BaseException]) -> None:
    """A layer cannot skip a check; the suite can."""
    with pytest.raises(Violation, match="calling raised"), during("calling"):
        raise kind("no")
    with pytest.raises(NotApplicable), during("calling"):
        not_applicable("why")


@pytest.mark.parametrize("raised", ["NotApplicable", "Violation", "pytest.skip.Exception"])
def test_a_layer_cannot_speak_for_the_suite(raised: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import pytest\nfrom conformance.checks.require import NotApplicable, Violation\n"
        f"def call(): raise {raised}('not me')\n"
    )
    found: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), found)
    name = raised.replace("pytest.skip.Exception", "Skipped")
    with (
        pytest.raises(Violation, match=f"calling: mine.py.*raised {name}: not me"),
        during("calling"),
    ):
        found["call"]()


@pytest.mark.parametrize(("in_worker", "raised"), [(False, KeyboardInterrupt), (True, Violation)])
def test_an_interrupt_is_the_users_but_in_a_worker_the_layers(
    in_worker: bool, raised: type[BaseException]
) -> None:
    before = errors.contain_interrupts(in_worker)
    try:
        with pytest.raises(raised), during("calling"):
            raise KeyboardInterrupt
    finally:
        errors.contain_interrupts(before)


def test_every_text_can_be_written() -> None:
    class Silent:
        def __str__(self) -> str:
            raise KeyError

    assert safe_text("a\ud800b") == r"a\ud800b"
    assert safe_text(Silent()) == "<Silent whose text raises KeyError>"
    assert len(safe_text("x" * 10**6)) == 600


def test_a_fork_does_not_go_on_as_a_copy(tmp_path: Path) -> None:
    """It ends where it would leave the layer's code."""
    code = (
        "import os\nfrom conformance.isolation.leftovers import only_here\n"
        "with only_here():\n    child = os.fork()\n"
        "os.waitpid(child, 0)\nprint('once')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "once\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_orphans_are_ended_and_children_are_not(tmp_path: Path) -> None:
    """The code of a dead worker may have started processes in other sessions."""
    environment = {**os.environ, leftovers.ENVIRONMENT: str(tmp_path)}
    start = "p = s.Popen(['sleep', '600'], stdout=s.DEVNULL, start_new_session=True)"
    with subprocess.Popen(["sleep", "600"], env=environment) as child:
        code = f"import subprocess as s; {start}; print(p.pid); p.returncode = 0"
        orphan = subprocess.run(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True
        )
        leftovers.end_orphans(str(tmp_path))
        assert child.poll() is None
        child.kill()
    leftovers.end_orphans(str(tmp_path))
    status = Path(f"/proc/{int(orphan.stdout)}/stat")
    with contextlib.suppress(OSError):  # nobody may have taken its status yet
        assert status.read_text().rpartition(")")[2].split()[0] == "Z"


LASTING = """
import numpy as np
from implementations.my_dense import MyDense

class Dense(MyDense):
    def __init__(self, in_features, out_features, *, rngs):
        np.set_printoptions(precision=3)
        super().__init__(in_features, out_features, rngs=rngs)
"""


def test_what_the_inspection_of_a_layer_changes_is_not_taken_as_given(tmp_path: Path) -> None:
    """A change that every construction makes is found by the first check of a process."""
    (tmp_path / "mine.py").write_text(LASTING)
    for workers in ("-n0", "-n1"):
        arguments = ("run", "mine.py:Dense", workers, "--requirement=globals-untouched")
        done = command(tmp_path, *arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "found     numpy's print options changed" in done.stdout
        assert "importing" not in done.stdout


LEAVING = """
import os
from flax import nnx

class Dense(nnx.Linear):
    def __call__(self, x):
        os._exit(0)
"""


def test_a_layer_that_ends_the_only_process_has_not_passed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LEAVING)
    path = tmp_path / "results.json"
    rows = "--requirement=zero-input"
    done = command(tmp_path, "run", "mine.py:Dense", "-n0", rows, f"--results={path}")
    assert done.returncode == 3
    assert "the layer's code ended the process of the run by os._exit(0)" in done.stderr
    (cell,) = cells_in(path)
    assert cell["outcome"] == "not-run"
