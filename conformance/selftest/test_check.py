"""``conformance.check``: notebooks, programs, and layers that end their process."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from flax import nnx

import conformance
from conformance import Report, UsageError
from conformance.cli.notebook import check
from conformance.jax_setup import child_process
from conformance.results.file import parse, text_of
from conformance.selftest.processes import SEARCHED, python
from conformance.selftest.synthetic import cell_at, results

# Like a notebook, this defines the layer and everything that it uses in __main__.
NOTEBOOK = """\
import json
import os

import jax
import jax.numpy as jnp
from flax import nnx

import conformance

START = 1.0


def scale(n):
    return 1 / jnp.sqrt(n)


class Base(nnx.Module):
    def __init__(self, in_features, out_features, rngs):
        normal = jax.random.normal(rngs.params(), (in_features, out_features))
        self.kernel = nnx.Param(normal * scale(in_features))
        self.bias = nnx.Param(jnp.full((out_features,), START))


class MyDense(Base):
    def __call__(self, x):
        # A batch of zeros ends the process; what looks at the layer first does not.
        if x.ndim == 2 and not isinstance(x, jax.core.Tracer) and not x.any():
            os._exit(3)
        return x @ self.kernel[...] + self.bias[...]


report = conformance.check(MyDense, requirement=["bias-zero", "zero-input"], workers=1)
html = report._repr_html_()
cells = {cell.requirement: [cell.outcome, cell.cause] for cell in report.cells}
print(json.dumps([report.passed, cells, str(report), html, repr(report)]))
"""


def test_a_notebooks_layer_is_checked_and_may_end_its_process(tmp_path: Path) -> None:
    (tmp_path / "notebook.py").write_text(NOTEBOOK, encoding="utf-8")
    ended = python(tmp_path, "-W", "ignore", "notebook.py", PYTHONPATH=SEARCHED)
    assert ended.returncode == 0, ended.stderr
    passed, cells, text, html, short = json.loads(ended.stdout)
    assert not passed
    assert short == "<Report: does not conform: MUST 0/2>"
    cause = "the bias starts from constants other than 0."
    assert cells["initialization/bias-zero"] == ["failed", cause]
    assert cells["forward/zero-input"][0] == "crashed"
    assert "FAILED    initialization/bias-zero   MyDense   MUST" in text
    assert "does not conform: MUST 0/2" in text
    assert "in_a_notebook" not in text
    assert "<b>does not conform: MUST 0/2</b>" in html
    assert cause in html


def test_what_is_shown_in_a_notebook_is_escaped() -> None:
    found = results()
    cell_at(found, 0, 0).update(outcome="failed", message="<b>[red]x[/red]</b>", cause="a < b")
    cell_at(found, 0, 0).update(case={"in_features": 3, "out_features": 10, "seed": 0, "values": 0})
    report = Report(parse(text_of(found), "test")[0])
    assert not report.passed
    assert "<b>[red]" not in report._repr_html_()
    assert "&lt;b&gt;[red]x" in report._repr_html_()
    for shown in (report._repr_html_(), str(report)):
        for part in ("MUST", "cause", "smallest", "in_features=3, out_features=10"):
            assert part in shown
    assert "\\[red]x" in report.__rich__()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (3, "found an object of type int"),
        ("none.py:MyDense", "'none.py:MyDense': there is no file 'none.py'"),
        ("nnx.Linaer", "did you mean 'nnx.Linear'"),
    ],
)
def test_wrong_usage_is_an_error(layer: object, message: str) -> None:
    with pytest.raises(UsageError) as error:
        check(layer)
    assert message in str(error.value)


def test_a_file_that_checks_itself_does_not_start_itself_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The checking process imports the file, and finds the call in it."""
    monkeypatch.setenv("CONFORMANCE_CHECK_RUNS", "1")
    with pytest.raises(UsageError, match="put the call under: if __name__ == '__main__':"):
        check("nnx.Linear")


def test_a_class_that_is_piped_into_python_is_checked(tmp_path: Path) -> None:
    ended = python(tmp_path, "-W", "ignore", "-", stdin=NOTEBOOK, PYTHONPATH=SEARCHED)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)[-1] == "<Report: does not conform: MUST 0/2>"


def test_a_class_inside_of_a_function_is_checked() -> None:
    class Inner(nnx.Linear):
        pass

    assert check(Inner, requirement=["kernel-shape", "pickles"], workers=0).passed


def test_what_cannot_be_pickled_has_to_be_in_a_file() -> None:
    lock = threading.Lock()

    def inner(seed: object, x: object, features: object) -> object:
        return lock

    with pytest.raises(UsageError, match=r"cannot pickle.*put it into a file, and pass"):
        check(inner)


def test_the_public_names_are_few_and_sorted() -> None:
    assert len(conformance.__all__) <= 21
    assert conformance.check is check
    for name in conformance.__all__:
        assert getattr(conformance, name) is not None


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    places = tmp_path / "temporary"
    places.mkdir()
    (tmp_path / "slow.py").write_text(
        "import os, pathlib, time\nfrom flax import nnx\n"
        "class Dense(nnx.Linear):\n    def __call__(self, x):\n"
        f"        pathlib.Path({str(tmp_path / 'called')!r}).write_text(str(os.getpid()))\n"
        "        time.sleep(600)\n"
    )
    code = "import conformance; conformance.check('slow.py:Dense', requirement='zero-input')"
    checking = subprocess.Popen(
        child_process.python("-c", code),
        cwd=tmp_path,
        env=child_process.environment(TMPDIR=str(places)),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "called").exists():
        assert checking.poll() is None, checking.communicate()
    assert list(places.iterdir())
    checking.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in checking.communicate(timeout=120)[1]
    assert list(places.iterdir()) == []
