"""Declarations without Python: in a table, as options, as arguments."""

from __future__ import annotations

import contextlib
import math
import re
import textwrap
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

import jax
import pytest
from flax import linen, nnx

import conformance
from conformance import FLAX, Law, UsageError, adapt
from conformance.layers.adapters.words import in_flax_words, law_of_initializer
from conformance.layers.declaration import (
    Declaration,
    as_json,
    as_options,
    from_options,
    from_project,
)
from conformance.layers.formulas import law_of
from conformance.layers.loading import load
from conformance.layers.registry import resolve
from conformance.selftest.processes import Checked

EVERYTHING = {
    "use_bias": False,
    "layout": "out, in",
    "names": {"kernel": "inner.layers.0.weight"},
    "kernel": "uniform, 2 / (fan_in + fan_out)",
    "parameter_dtype": "bfloat16",
    "dtype": "bfloat16",
    "result_dtype": "float32",
    "accumulate": "bfloat16",
    "product_error": "2**-7",
    "inputs": ["floating"],
    "ranks": [1, 2],
    "checks_width": False,
    "extra_parameters": ["lora_a", "lora_b"],
    "extra_state": ["calls"],
    "derivatives": "reverse",
}


def test_everything_is_declared_by_name() -> None:
    found = Declaration.of(EVERYTHING).convention()
    assert not found.use_bias
    assert found.layout == "out,in"
    assert found.parameter_names == ("inner.layers.0.weight", "bias")
    assert found.kernel.families == ("uniform",)
    assert found.kernel.variance(3, 10) == 2 / 13
    assert (found.parameter_dtype, found.compute_dtype) == ("bfloat16", "bfloat16")
    assert found.casts_input
    assert (found.returned, found.accumulate) == ("float32", "bfloat16")
    assert found.product_error == 2.0**-7
    assert found.inputs == ("floating",)
    assert found.ranks == (1, 2)
    assert found.extra_parameters == ("lora_a", "lora_b")
    assert found.extra_state == ("calls",)
    assert not found.forward_mode
    assert len(found.differences()) == len(EVERYTHING)
    assert Declaration.of({}).convention() is FLAX


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"use_bais": False}, "the key 'use_bais' is unknown; did you mean 'use_bias'?"),
        ({"use_bias": "no"}, "use_bias is true or false, found 'no'"),
        ({"use_bias": False, "bias": "zeros"}, "but its law is declared as well"),
        ({"use_bias": False, "names": {"bias": "b"}}, "but its name is declared as well"),
        ({"layout": "in"}, 'layout is "in, out" or "out, in", found \'in\''),
        ({"dtype": "half"}, "dtype is one of float32, bfloat16, float16, float64"),
        ({"parameter_dtype": "complex64"}, "parameter_dtype is one of float32, bfloat16, float16"),
        ({"ranks": [0]}, "ranks is a list of ranks from 1 to 5"),
        ({"inputs": "floating"}, "inputs is a list of kinds of numbers"),
        ({"inputs": ["floats"]}, "unknown kind 'floats'; did you mean 'floating'?"),
        ({"inputs": ["integer"]}, "inputs lacks floating"),
        ({"product_error": "fan_in"}, "'fan_in' is not part of it"),
        ({"product_error": "2**"}, "'2**' cannot be computed"),
        ({"product_error": 7}, "product_error is a relative error from 0 to 1, found 7"),
        ({"accumulate": "float64"}, "accumulate is one of float32, bfloat16, float16"),
        ({"accumulate": "float16", "dtype": "bfloat16"}, "accumulate is float32 or the dtype"),
        ({"result_dtype": "float64"}, "result_dtype is one of float32, bfloat16, float16"),
        ({"result_dtype": "float16", "dtype": "bfloat16"}, "result_dtype is float32 or the dtype"),
        ({"context": "mesh"}, 'context is a text "module:attribute"'),
        ({"call": {"rngs": "dropout"}}, "of rngs a list of streams"),
        ({"names": {"weight": "w"}}, "names is a table such as"),
        ({"kernel": "gaussian"}, "expected zeros, a name such as glorot_uniform"),
        ({"kernel": "normal, 1 / fan"}, "'fan' is not part of it: it is made of fan_in, fan_out"),
        ({"kernel": "normal, 1 / (fan_in - 1)"}, "cannot be computed"),
        ({"kernel": "normal, -1"}, "is not a positive number"),
        ({"kernel": "constant, 1"}, "only a bias starts at a constant"),
        ({"bias": "constant, x"}, "'x' is not part of it"),
        ({"kernel": "normal, __import__('os')"}, "is not part of it"),
    ],
)
def test_what_cannot_be_declared(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        Declaration.of(values)


@pytest.mark.parametrize(
    ("text", "family", "variance"),
    [
        ("zeros", None, 0.0),
        ("lecun_normal", "truncated-normal", 1 / 3),
        ("he_uniform", "uniform", 2 / 3),
        ("glorot_normal", "truncated-normal", 2 / 13),
        ("Truncated Normal, 1 / fan_in", "truncated-normal", 1 / 3),
        ("uniform, 1 / (3 * fan_in)", "uniform", 1 / 9),
        ("normal, 0.02 ** 2", "normal", 0.02**2),
        ("any, sqrt(fan_in) / fan_out", None, 3**0.5 / 10),
    ],
)
def test_laws(text: str, family: str | None, variance: float) -> None:
    found = law_of(text)
    assert found.families == (() if family is None else (family,))
    assert found.variance(3, 10) == pytest.approx(variance)


def test_options() -> None:
    given = ["use_bias=false", "names.kernel=weight", "ranks=[1, 2]", 'layout="out, in"']
    found = from_options(given)
    assert found == {
        "use_bias": False,
        "names": {"kernel": "weight"},
        "ranks": [1, 2],
        "layout": "out, in",
    }
    assert from_options(as_options(as_json(found))) == found
    with pytest.raises(UsageError, match="takes key=value"):
        from_options(["use_bias"])
    with pytest.raises(UsageError, match="gives use_bias twice"):
        from_options(["use_bias=true", "use_bias=false"])
    with pytest.raises(UsageError, match="must be plain values"):
        as_json({"arguments": {"activation": object()}})


def _project(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pyproject.toml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def test_a_table_of_the_project(tmp_path: Path) -> None:
    project = _project(
        tmp_path,
        """
        [tool.dense-conformance.layers."acme.Dense"]
        layer = "flax.nnx:Linear"
        arguments = { use_bias = false }
        use_bias = false

        [tool.dense-conformance.layers."nnx.MyDense"]
        kernel = "normal, 1 / fan_in"
        """,
    )
    (entry,) = resolve(["acme.Dense"], project=project)
    assert (entry.name, entry.spec) == ("acme.Dense", "flax.nnx:Linear")
    loaded: Any = load(entry)
    assert not loaded.convention.use_bias
    assert len(loaded.leaves(loaded.init(0, 3, 10))) == 1
    (own,) = resolve(["nnx.MyDense"], ["kernel=lecun_normal"], project)
    assert load(own).convention.kernel.families == ("truncated-normal",)
    assert "acme.Dense" in [each.name for each in resolve([], project=project)]
    with pytest.raises(UsageError, match="needs a layer"):
        resolve([], ["use_bias=false"], project)


def test_a_wrong_table_is_named(tmp_path: Path) -> None:
    project = _project(
        tmp_path, '[tool.dense-conformance.layers."acme.Dense"]\nlayer = "a:b"\nrank = [1]\n'
    )
    with pytest.raises(UsageError, match=r"acme.Dense.*'rank' is unknown; did you mean 'ranks'"):
        from_project(project)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tool = 3", "tool is a table, found 3"),
        ("tool = [[[{}]]]", "tool is a table, found [[[{}]]]"),
        ("[tool]\ndense-conformance = 'yes'", "tool.dense-conformance is a table, found 'yes'"),
        ("[[tool.dense-conformance]]", "tool.dense-conformance is a table, found [{}]"),
        ("[tool.dense-conformance]\nstrikt = true", "unknown key 'strikt'; did you mean 'strict'"),
        ("[tool.dense-conformance]\nlayers = 3", 'write [tool.dense-conformance.layers."name"]'),
        ("[tool.dense-conformance.layers]\na = 3", "a table for each layer"),
        ("[tool.dense-conformance.layers.a]\nlayer = 3", 'layer is a text "module:attribute"'),
        (
            "[tool.dense-conformance.layers.a]\nlayer = 'acme.layers.Dense'",
            "found 'acme.layers.Dense': write 'acme.layers:Dense'",
        ),
        ("[tool.dense-conformance", "is not valid TOML: Expected"),
        (f"a = {'[' * 5000}", "nested too deeply"),
    ],
)
def test_a_project_of_wrong_types_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as refusal:
        from_project(_project(tmp_path, text))
    assert str(refusal.value).startswith(str(tmp_path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("key", [field.name for field in fields(Declaration)])
def test_no_value_of_a_key_is_a_fault_of_the_suite(key: str) -> None:
    """Whatever TOML can hold is accepted or refused in one line."""
    nested: list[Any] = []
    for _ in range(50):
        nested = [nested]
    wrong: list[Any] = [3, -1, 1.5, math.nan, True, date(2000, 1, 1), [], [[]], [{}], [3, "a"]]
    wrong += ["", "x:", "3", "\n", "9" * 9999, "-" * 9999 + "1", nested]
    wrong += [{}, {"": 3}, {"kernel": []}, {"rngs": 3}]
    for value in wrong:
        with contextlib.suppress(UsageError):
            as_json({key: Declaration.of({key: value}).convention() and value})


def test_an_argument_of_adapt() -> None:
    found = adapt(nnx.Linear, layout="out, in", names={"kernel": "weight"})
    assert found.convention.layout == "out,in"
    with pytest.raises(UsageError, match="did you mean 'layout'"):
        adapt(nnx.Linear, layuot="out, in")


def test_flax_words_are_a_declaration() -> None:
    half = in_flax_words(nnx.Linear, {"dtype": jax.numpy.bfloat16, "use_bias": False}, FLAX)
    assert (half.compute_dtype, half.casts_input, half.use_bias) == ("bfloat16", True, False)
    assert in_flax_words(nnx.Linear, {}, FLAX) is FLAX
    assert in_flax_words(linen.Dense, {}, FLAX) is FLAX

    class Own(linen.Module):
        features: int
        use_bias: bool = False
        kernel_init: Any = linen.initializers.glorot_uniform()

    own = in_flax_words(Own, {}, FLAX)
    assert not own.use_bias
    assert own.kernel.families == ("uniform",)
    assert own.kernel.variance(3, 10) == pytest.approx(2 / 13)


@pytest.mark.parametrize(
    ("initializer", "family", "variance"),
    [
        (jax.nn.initializers.lecun_normal(), "truncated-normal", 1 / 3),
        (jax.nn.initializers.he_uniform(), "uniform", 2 / 3),
        (jax.nn.initializers.variance_scaling(3.0, "fan_out", "normal"), "normal", 3 / 10),
        (jax.nn.initializers.normal(0.02), "normal", 0.02**2),
    ],
)
def test_laws_of_initializers(initializer: Any, family: str, variance: float) -> None:
    law = law_of_initializer(initializer)
    assert law is not None
    assert law.families == (family,)
    assert law.variance(3, 10) == pytest.approx(variance)
    assert law_of_initializer(lambda key, shape, dtype: None) is None


def test_a_bias_may_start_at_a_constant() -> None:
    """Flax's words say so as well; a kernel does not."""
    initializers = jax.nn.initializers
    assert law_of("constant, -2**-3") == Law.of_constant(-0.125)
    assert law_of("constant, 0").within(FLAX.bias)
    assert not law_of("constant, 1").within(FLAX.bias)
    assert law_of_initializer(initializers.constant(0.5)) == Law.of_constant(0.5)
    said = {"bias_init": initializers.ones, "kernel_init": initializers.ones}
    found = in_flax_words(nnx.Linear, said, FLAX)
    assert (found.bias.constant, found.kernel) == (1.0, FLAX.kernel)


class FromAPrior(nnx.Linear):
    """A head whose outputs start at a probability of 1 in 100."""

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        start = jax.nn.initializers.constant(-math.log(99))
        super().__init__(din, dout, bias_init=start, rngs=rngs)


def test_the_constant_of_a_bias_is_proposed_and_checked(checked: Checked) -> None:
    line = 'bias = "constant, -4.59511995"'
    found = conformance.describe(FromAPrior)
    assert found.declaration == {"bias": line[8:-1]}
    assert found.differences == ("bias: -4.59511995",)
    _, text = checked(FromAPrior, rows=["bias-zero"])
    assert line in " ".join(text.split())
    code, text = checked(FromAPrior, f"--declare={line}", rows=["initialization"])
    assert code == 0, text
    code, text = checked(FromAPrior, "--declare=bias=constant, -4.5", rows=["bias-zero"])
    assert code == 1
    assert "not -4.5" in " ".join(text.split())
