"""A layer that cannot be used gives one message, and is not checked."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import pytest
from flax import nnx

from conformance.checks.diagnosis import wrong_values
from conformance.layers.first_use import why_unusable
from conformance.layers.registry import Entry
from conformance.running import preflight
from conformance.selftest.processes import RIGHT, cells_in, command

CALL = "return x @ self.kernel + self.bias"
DRAW = "jax.random.normal(rngs.params(), (in_features, out_features))"
STREAM = "hint: rngs.params() draws a key"
# Each error: the replaced text, its replacement, the line and the marked part in the message, and
# parts of the message.
WRONG: dict[str, tuple[Any, ...]] = {
    "syntax": ("rngs):\n        kernel", "rngs)\n        kernel", 6, "",
               "SyntaxError: expected ':'"),
    "import": ("import jax\n", "import jaxx\n", 1, "import jaxx", "'jaxx' does not exist"),
    "base": ("(nnx.Module)", "(Module)", 5, "Module", "did you mean nnx.Module?"),
    "argument": ("out_features, *,", "out_features, activation, *,", 5, "MyDense",
                 "give `activation` a default", "functools.partial(MyDense, activation=...)"),
    "one size": ("in_features, out_features, *", "features, *", 5, "MyDense", "in_features: def"),
    "no rngs": (", *, rngs", "", 7, "rngs", "rngs: nnx.Rngs"),
    "name": (CALL, "return jnp.dot(x, self.kernel)", 12, "jnp", "import jax.numpy as jnp"),
    "no self": (CALL, "return x @ kernel", 12, "kernel", "did you mean self.kernel?"),
    "attribute": (CALL, "return x @ self.kernal", 12, "self.kernal", "did you mean kernel?"),
    "not kept": ("self.bias = nnx", "bias = nnx", 12, "self.bias",
                 "hint: __init__ does not keep bias: self.bias = ..."),
    "stream": ("rngs.params()", "rngs.params.key()", 7, "rngs.params.key()", STREAM),
    "no streams": ("rngs.params()", "(3).params()", 7, "(3).params",
                   "give rngs as nnx.Rngs(seed)", "this int has not"),
    "Linen's stream": ("rngs.params()", "rngs.make_rng('params')", 7, "rngs.make_rng('params')",
                       STREAM),
    "no such part": ("rngs.params()", "rngs.params.next()", 7, "rngs.params.next", STREAM),
    "function": (CALL, "return jax.numpy.dott(x)", 12, "jax.numpy.dott", "did you mean dot?"),
    "of another module": (CALL, "return jax.numpy.normal(x)", 12, "jax.numpy.normal",
                          "did you mean jax.random.normal?"),
    "library": ("from flax import nnx", "from flax import nxx", 2, "", "did you mean nnx?"),
    "self": ("(self, x)", "(x)", 11, "__call__",
             "its first argument is self: def __call__(self, x):"),
    "constructor": ("__init__", "_init_", 5, "MyDense", "takes no arguments",
                    "rename _init_ to __init__"),
    "misspelled call": ("__call__", "_call_", 5, "MyDense", "rename _call_ to __call__"),
    "axis": (CALL, "return jax.lax.psum(x, 'model')", 12, "jax.lax.psum(x, 'model')",
             "'model' exists under jax.pmap or shard_map only"),
    "within": ("    def __call__(self, x):\n        return",
               "        def __call__(self, x):\n            return", 5, "MyDense",
               "its __call__ is defined within __init__, so indent it less"),
    "initializer": (CALL, "return x @ nnx.Param(nnx.initializers.zeros)", 12,
                    "x @ nnx.Param(nnx.initializers.zeros)",
                    "an initializer is made, then called"),
    "shape in parts": (DRAW, "jax.random.normal(rngs.params(), 2, 3, 'f4')", 7,
                       "jax.random.normal(rngs.params(), 2, 3, 'f4')",
                       "its arguments are (key, shape, dtype"),
    "no shape": (DRAW, "nnx.initializers.lecun_normal(2)(rngs.params())", 7,
                 "nnx.initializers.lecun_normal(2)(rngs.params())", "is made, then called"),
    "linen base": ("(nnx.Module)", "(__import__('flax.linen').linen.Module)", 5, "MyDense",
                   "its base is linen.Module: a layer that takes rngs is an nnx.Module"),
    "call": (CALL, "return self.kernel(x, 1, y=2)", 12, "self.kernel(x, 1, y=2)", "not callable"),
}  # fmt: skip


def written(folder: Path, old: str = "", new: str = "") -> Entry:
    """Return the entry of a file that is correct except for one replacement."""
    path = folder / "mine.py"
    path.write_text(RIGHT.replace(old, new, 1) if old else RIGHT)
    return Entry(id="mine", name="mine.py:MyDense", spec=f"{path}:MyDense")


@pytest.mark.parametrize("name", WRONG)
def test_a_layer_that_cannot_be_used_is_shown_with_its_line(tmp_path: Path, name: str) -> None:
    old, new, line, marked, *texts = WRONG[name]
    assert old in RIGHT
    message = why_unusable(written(tmp_path, old, new))
    shown = message.splitlines()
    (place,) = (i for i, text in enumerate(shown) if text.endswith(f"mine.py, line {line}"))
    carets = shown[place + 2]
    begin, length = carets.index("^"), carets.count("^")
    if marked:
        assert shown[place + 1][begin : begin + length] == marked
    for text in texts:
        assert text.lower() in message.lower()
    assert len(shown) < 8


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        "return self.kernel @ x",
        "raise ValueError('no')",
        "return jax.numpy.reshape(x, (1, 1, 1, 1, 1))",
        "return 1 / 0",
    ],
)
def test_what_a_layer_computes_wrongly_is_left_to_the_checks(tmp_path: Path, call: str) -> None:
    assert why_unusable(written(tmp_path, CALL, call)) == ""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_nothing_is_checked_of_a_layer_that_cannot_be_used(tmp_path: Path, workers: str) -> None:
    written(tmp_path, CALL, "return jnp.dot(x, self.kernel)")
    ended = command(tmp_path, "run", "mine.py:MyDense", "-n", workers)
    assert ended.returncode == 2
    assert ended.stdout.strip() == ""
    assert ended.stderr.splitlines() == [
        "dense-conformance: mine.py:MyDense cannot be used: NameError: name 'jnp' is not defined",
        "  mine.py, line 12",
        "      return jnp.dot(x, self.kernel)",
        "             ^^^",
        "  hint: the file lacks: import jax.numpy as jnp",
    ]


def test_layers_that_can_be_used_are_checked_beside_one_that_cannot(tmp_path: Path) -> None:
    written(tmp_path)
    wrong = tmp_path / "wrong.py"
    wrong.write_text(RIGHT.replace("class MyDense(nnx.Module)", "class MyDense(Module)"))
    results = tmp_path / "results.json"
    rows = [f"--requirement=construction/{slug}" for slug in ("builds", "kernel-shape")]
    specs = ["wrong.py:MyDense", "mine.py:MyDense"]
    ended = command(tmp_path, "run", *specs, *rows, f"--results={results}", "-n", "2")
    assert ended.returncode == 2
    outcomes = [(c["implementation"], c["outcome"]) for c in cells_in(results)]
    assert outcomes.count(("mine.py:MyDense", "passed")) == len(rows)
    assert ended.stdout.count("NameError") == 1
    caret = next(i for i, line in enumerate(ended.stdout.splitlines()) if "^" in line)
    source, marks = ended.stdout.splitlines()[caret - 1 : caret + 1]
    assert source[marks.index("^") :].startswith("Module)")


@pytest.mark.parametrize(
    ("line", "says", "not_said"),
    [
        ("thing = nnx.Linear(3, 4, rngs=nnx.Rngs(0))", "Name the class itself", "(seed, x,"),
        ("thing = nnx", "Name a class or a function in it.", "line "),
        (
            "import abc\nclass thing(nnx.Module, abc.ABC):\n"
            "    def __init__(self, in_features, out_features, rngs): ...\n"
            "    @abc.abstractmethod\n"
            "    def __call__(self, x): ...",
            "leaves __call__ to its subclasses",
            "TypeError",
        ),
        (
            "class thing(nnx.Module):\n"
            "    def __init__(self, in_features, out_features, rngs): ...\n"
            "    def forward(self, x): ...",
            "rename forward to __call__",
            "TypeError",
        ),
        (
            "import dataclasses, jax\n"
            "@jax.tree_util.register_dataclass\n@dataclasses.dataclass\n"
            "class thing:\n    kernel: jax.Array\n    bias: jax.Array\n"
            "    def __init__(self, in_features, out_features, *, rngs):\n"
            "        self.kernel = jax.random.normal(rngs.params(), (in_features, out_features))\n"
            "        self.bias = jax.numpy.zeros(out_features)\n"
            "    def __call__(self, x): return x @ self.kernel + self.bias",
            "register_dataclass rebuilds the layer as thing(kernel=..., bias=...)",
            "did you mean",
        ),
        (
            "def thing(key, in_features, out_features): return {'w': key, 'b': 0}",
            "describe the layer by the functions that make and apply them",
            "TypeError",
        ),
        ("def thing(params, x): return x", "it takes parameters: describe", "is called as thing"),
        ("def thing(units): return units", "it makes functions, describe", "it takes parameters"),
        (
            "class thing(nnx.Module):\n"
            "    def __init__(self, shape, *, key): ...\n"
            "    def __call__(self, x): ...",
            "or name a function that makes the layer",
            "needs `rngs`",
        ),
    ],
)
def test_what_is_not_a_layer_is_one_message(
    tmp_path: Path, line: str, says: str, not_said: str
) -> None:
    path = tmp_path / "odd.py"
    path.write_text(f"from flax import nnx\n{line}\n", encoding="utf-8")
    why = why_unusable(Entry("i", "odd", f"{path}:thing"))
    assert says in why
    assert not_said not in why


@pytest.mark.parametrize("use", ["self.kernel", "self.kernel[...]"])
@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("he_uniform(3, 4)", "a function that he_uniform made"),
        ("lecun_normal()", "a function that lecun_normal made"),
        ("normal(0.1)", "a function that normal made"),
        ("zeros", "the function zeros: call it, as zeros(key, shape)"),
    ],
)
def test_an_initializer_in_the_place_of_an_array_is_named(
    tmp_path: Path, use: str, value: str, says: str
) -> None:
    """An activation beside it is a function, too."""
    path = tmp_path / "mine.py"
    text = RIGHT.replace("kernel / in_features**0.5", f"nnx.initializers.{value}")
    text = text.replace("x @ self.kernel", f"self.activation(x) @ {use}")
    text = text.replace(
        "        self.bias =", "        self.activation = nnx.relu\n        self.bias ="
    )
    path.write_text(text)
    why = why_unusable(Entry("mine", "mine", f"{path}:MyDense"))
    assert f"hint: self.kernel is {says}" in why


BESIDE = """\
import jax.numpy as jnp
from flax import nnx


class Dense(nnx.Module):
    def __init__(self, n_in, n_out, *, rngs):
        self.inner = nnx.Linear(n_in, n_out, rngs=rngs)
        self.other = {made}

    def __call__(self, x):
        return {called}
"""
SCALE = "nnx.Param(jnp.full((n_out,), {new}))"
NORM = "self.inner.kernel[...] / jnp.sqrt((self.inner.kernel[...]**2).sum())"


@pytest.mark.parametrize(
    ("made", "called", "says"),
    [
        ("nnx.LayerNorm(n_in, rngs=rngs)", "self.inner(self.other(x))", "normalizes x"),
        ("nnx.RMSNorm(n_in, rngs=rngs)", "self.inner(self.other(x))", "normalizes x"),
        (SCALE.format(new=1.0), f"x @ ({NORM}) * self.other[...]", "normalizes the kernel"),
        (SCALE.format(new=1e-5), "self.other[...] * self.inner(x)", "multiplies its output by"),
        ("nnx.Dropout(0.5, rngs=rngs)", "self.other(self.inner(x))", "drops numbers at random"),
        ("nnx.Dropout(0.2, rngs=rngs)", "self.inner(self.other(x))", "drops numbers at random"),
        (SCALE.format(new=1.0), "self.other[...] * self.inner(x)", ""),
        # A kernel that is not used changes nothing either, and is left to the checks.
        (SCALE.format(new=1.0), "x.sum(-1, keepdims=True) * self.other[...]", ""),
        ("nnx.Param(jnp.zeros(3))", "self.inner(x) ** 2", ""),
    ],
)
def test_what_is_more_than_a_dense_is_one_message(
    tmp_path: Path, made: str, called: str, says: str
) -> None:
    path = tmp_path / "beside.py"
    path.write_text(BESIDE.format(made=made, called=called), encoding="utf-8")
    why = why_unusable(Entry("i", "beside", f"{path}:Dense"))
    assert f"found a layer that {says}" in why if says else not why
    assert not says or "the layer inner for example" in why
    assert ("by its other" in why) == ("Dropout" in made)


def test_a_list_of_params_is_named_as_the_cause() -> None:
    """Since 0.12, Flax refuses it by a long message, whose end is cut off."""

    class Listed(nnx.Module):
        def __init__(self) -> None:
            self.layers = [nnx.Param(jnp.zeros(3))]

    try:
        Listed()
    except ValueError as error:
        message = str(error)
    else:
        pytest.skip("this version of Flax takes it")
    assert "layers is a plain list" in wrong_values.of_building(message)
    message = message.replace("'list'", "'tuple'")
    assert "layers is a plain tuple" in wrong_values.of_building(message)
    found = f"a.py, line 1, `self.layers = nnx.Param(1),` raised ValueError: {message}"
    assert "because of the comma" in wrong_values.of_building(found)


def _begun(entry: Entry, folder: Path, gigabytes: float) -> preflight.Preflight:
    """Return the first use of a layer, in a process that may take so much memory."""
    options = SimpleNamespace(getoption=lambda name: gigabytes)
    run: Any = SimpleNamespace(
        directory=folder, entries=[entry], breaker=SimpleNamespace(time_limit=300.0), config=options
    )
    return preflight.Preflight(run)


def test_a_layer_that_takes_too_much_memory_is_left_to_the_workers(tmp_path: Path) -> None:
    endless = "held = [bytearray(b'1' * 2**24) for _ in iter(int, 1)]"
    waiting = _begun(written(tmp_path, CALL, endless), tmp_path, 1.0)
    assert waiting._unusable() == []
    process = waiting._process
    assert process is not None
    assert process.poll() == 70
    waiting.pytest_unconfigure()


def test_a_layer_that_does_not_come_back_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = written(tmp_path, CALL, "while True: pass")
    # The place is written each second, at first that of an import.
    monkeypatch.setattr(preflight, "_PATIENCE", preflight._BEFORE + 1.0)
    waiting = _begun(entry, tmp_path, 8.0)
    place = tmp_path / "preflight-0"
    while not place.exists() or "line 12 in __call__" not in place.read_text():
        time.sleep(0.05)
    assert waiting._unusable() == []
    waiting.pytest_unconfigure()
    text = "mine.py:MyDense has not come back from its first use, in mine.py, line 12, in __call__;"
    assert text in capsys.readouterr().err
