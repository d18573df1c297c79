"""No mode of JAX makes a correct layer fail, nor the precision of an accelerator.

The accelerator is a CPU that pretends to be one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conformance.checks import precision, require
from conformance.contract.applicability import presumption
from conformance.contract.catalogue import chosen
from conformance.errors import Violation
from conformance.layers.loading import load
from conformance.layers.registry import resolve
from conformance.layers.x64 import widened
from conformance.results.file import read_all
from conformance.selftest.processes import command


@pytest.fixture(autouse=True)
def _configuration_as_it_was() -> Iterator[None]:
    """Restore JAX's configuration after a test."""
    names = ("jax_enable_x64", "jax_numpy_rank_promotion", "jax_default_matmul_precision")
    precision.restore()
    before = {name: jax.config.values[name] for name in names}
    yield
    precision.restore()
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize(
    ("name", "parameters", "results"),
    [
        ("nnx.MyDense", "float64", "float64"),
        ("linen.MyDense", "float64", "float64"),
        ("nnx.Linear", "float32", "float32"),
        ("nnx.Linear[bf16]", "float32", "bfloat16"),
        ("dense_forward", "float32", "float64"),
    ],
)
def test_under_64_bit_types_a_layer_is_checked_as_float64(
    name: str, parameters: str, results: str
) -> None:
    """A draw without a dtype is float64; other arrays keep their dtype."""
    jax.config.update("jax_enable_x64", True)
    (entry,) = resolve([name])
    found = widened(load(entry)).convention
    assert (found.parameter_dtype, found.compute_dtype) == (parameters, results)
    why = presumption(chosen(["forward/basis-input"])[0], found)
    assert ("float64 layer" in (why or "")) == (results == "float64")
    # Only this requirement checks that it is float64.
    assert presumption(chosen(["dtypes/x64-stable"])[0], found) is None or results == "bfloat16"


def test_without_64_bit_types_nothing_is_other() -> None:
    (entry,) = resolve(["nnx.MyDense"])
    implementation = load(entry)
    assert widened(implementation) is implementation


def _promotes_ranks() -> None:
    with require.during("adding the bias"):
        np.asarray(jnp.ones((3, 4)) + jnp.ones(4))


def test_a_layer_that_promotes_ranks_is_not_blamed_where_that_is_refused() -> None:
    jax.config.update("jax_numpy_rank_promotion", "raise")
    with pytest.raises(pytest.skip.Exception, match="dtypes/rank-promotion"):
        _promotes_ranks()
    with pytest.raises(Violation), require.about_rank_promotion():
        _promotes_ranks()
    with pytest.raises(Violation), require.during("failing otherwise"):
        raise ValueError("something else")


def test_an_error_that_only_speaks_of_the_setting_is_a_failure() -> None:
    """The setting explains an error only if it is active."""
    with pytest.raises(Violation), require.during("calling"):
        raise ValueError("jax_numpy_rank_promotion='raise'")


def test_a_run_in_two_modes_is_one_file_of_two_environments(tmp_path: Path) -> None:
    arguments = ["nnx.MyDense", "--requirement", "zero-input", "--results", "r.json", "-n", "0"]
    modes = ["--mode", "default", "--mode", "rank-promotion"]
    done = command(tmp_path, "run", *arguments, *modes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 environments conform" in done.stdout
    runs = read_all(tmp_path / "r.json")
    assert [run.environment["mode"] for run in runs] == ["default", "rank-promotion"]
    assert [cell.outcome for run in runs for cell in run.verdict.cells] == ["passed", "passed"]


@pytest.mark.parametrize(("backend", "name"), [("gpu", "TF32"), ("tpu", "bfloat16")])
def test_an_accelerator_is_asked_for_float32(
    monkeypatch: pytest.MonkeyPatch, backend: str, name: str
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    precision.force_float32()
    assert jax.config.values["jax_default_matmul_precision"] == "highest"
    with precision.by_default() as mode:
        assert mode is not None
        assert mode.name == name


@pytest.mark.parametrize(("asked", "given"), [("highest", False), ("tensorfloat32", True)])
def test_what_the_user_asked_for_is_tried_beside(
    monkeypatch: pytest.MonkeyPatch, asked: str, given: bool
) -> None:
    """It is used unless it is float32; forcing float32 twice changes nothing."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jax.config.update("jax_default_matmul_precision", asked)
    precision.force_float32()
    precision.force_float32()
    with precision.by_default() as mode:
        assert (mode is not None) == given
        config: Any = jax.config
        assert config.jax_default_matmul_precision == (asked if given else "highest")


def test_a_cpu_is_left_alone() -> None:
    """A CPU computes float32 products in float32."""
    before = jax.config.values["jax_default_matmul_precision"]
    precision.force_float32()
    assert jax.config.values["jax_default_matmul_precision"] == before
    with precision.by_default() as mode:
        assert mode is None
