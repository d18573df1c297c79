"""The options of a run: one table for pytest and for the command, and messages for wrong ones."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from conformance.checks import profiles
from conformance.cli.main import main
from conformance.contract.catalogue import catalogue, chosen
from conformance.errors import UsageError
from conformance.results.cell import Cell
from conformance.results.outcome import Outcome
from conformance.running.last_run import failed_last, remember
from conformance.running.options import (
    AMOUNT,
    CHOICE,
    LIMITS,
    OPTIONS,
    add_to_command,
    as_arguments,
    size,
    values_of,
)
from conformance.selftest.processes import RIGHT, Checked, command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "'rnu' is not a subcommand; did you mean run?"),
        (["run", "--requirment", "x"], "'--requirment'; did you mean --requirement?"),
        (["run", "-n", "-3"], "a number of workers such as 2, or auto, found '-3'"),
        (["run", "-n", "x"], "a number of workers such as 2, or auto, found 'x'"),
        (["run", "--profile", "fast"], "'fast'"),
        (["list", "--level", "must"], "'must' (choose from"),
        (["list", "--levle", "MUST"], "'--levle'; did you mean --level?"),
        (["watch", "missing.py"], "there is no file 'missing.py'"),
        (["list", "--xyz"], "does not take '--xyz'; see: dense-conformance list --help"),
        (["run", "--exclude", "kernel-varience"], "did you mean"),
        (["run", "--requirement", "!*"], "the options exclude all requirements"),
        (["run", "--results", "{folder}"], "it is a folder; name a file in it"),
        (["run", "--results", "/dev/null/r.json"], "is not a folder"),
        (["run", "--results", "/proc/none/r.json"], "/proc/none/r.json: "),
        (["run", "nnx.Linaer"], "did you mean 'nnx.Linear'"),
        (["run", "--requirement", "forward/zero-inptu"], "did you mean forward/zero-input"),
        (["run", "--time-limit", "soon"], "a time such as 90, 90s or 10m, found 'soon'"),
        (["run", "--memory-limit", "-1"], "an amount of memory in GiB such as 4, found '-1'"),
        (["run", "--shard", "3/2"], "a shard such as 2/5, the second of five and of at most 9999"),
        (["run", "{folder}/mine.py"], "say which layer in it: "),
        (["run", "nnx.MyDense", "--requirement=drop-in"], "no requirement matches 'drop-in'"),
        (["run", "nnx.MyDense", "--like", "nnx.Linaer"], "did you mean 'nnx.Linear'"),
        (["explain", "nnx.Linear", "purity"], "'purity' names 5 requirements; choose one: purity/"),
        (["explain", "nnx.Linear", "zero-imput"], "did you mean zero-input"),
        (["help", "glosary"], "did you mean 'glossary'?"),
        (["bench", "cold"], "bench has no part 'cold'; the parts are import, one,"),
        (["bench", "--naive-examples", "0"], "a number from 1 to 10000, found '0'"),
        (["bench", "--naive-examples", "many"], "a number from 1 to 10000, found 'many'"),
        (["bench", "--results", "/dev/null/bench.json"], "cannot be written"),
        (["bench", "--results", "."], "cannot be written"),
        (["bench", "one", "--picture", "growth.svg"], "needs the parts growth and examples"),
    ],
)
def test_a_wrong_option_is_one_message(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(RIGHT)
    code = main([each.format(folder=tmp_path) for each in arguments])
    output, error = capsys.readouterr()
    assert code == 2
    assert output == ""
    assert error.startswith("dense-conformance: ")
    assert message in error
    assert len(error.splitlines()) == 1


def test_an_option_is_the_same_for_the_command_and_for_pytest() -> None:
    names = [*CHOICE, *AMOUNT, *LIMITS, "declare", "shard", "for", "strict"]
    given = [
        *("--requirement=forward", "--requirement=!zero-input", "--exclude=purity", "--level=MUST"),
        *("--size=3x5", "--profile=standard", "--seed=7", "--no-compile-cache"),
        *("--time-limit=2m", "--memory-limit=3", "--declare=use_bias=false", "--shard=2/5"),
        *("--for=90s", "--strict"),
    ]
    command = argparse.ArgumentParser()
    add_to_command(command, names)
    values = values_of(command.parse_args(given), names)
    pytests = argparse.ArgumentParser()
    for name in names:
        pytests.add_argument(f"--conformance-{name}", **OPTIONS[name].settings)
    made = as_arguments({key.replace("_", "-"): value for key, value in values.items()})
    again = vars(pytests.parse_args(made))
    assert {key.removeprefix("conformance_"): value for key, value in again.items()} == values
    assert as_arguments({name: OPTIONS[name].default for name in ("profile", "seed")}) == []


def test_requirements_are_chosen_and_excluded() -> None:
    purity = {row.id for row in catalogue() if row.area == "purity"}
    everything = {row.id for row in catalogue()}
    assert chosen([]) == catalogue()
    assert [row.id for row in chosen(["zero-input"])] == ["forward/zero-input"]
    two = ["construction/kernel-shape", "forward/zero-input"]
    assert [row.id for row in chosen(["*/kernel-shape", "forward/zero-input"])] == two
    assert {row.id for row in chosen(["purity"])} == purity
    assert {row.id for row in chosen([], ["purity"])} == everything - purity
    assert {row.id for row in chosen(["!purity/*"])} == everything - purity
    assert {row.id for row in chosen([], ["!purity/*"])} == everything - purity
    assert {row.id for row in chosen(["purity"], levels=["MUST"])} < purity | {""}
    assert {row.level for row in chosen([], levels=["SHOULD"])} == {"SHOULD"}
    with pytest.raises(UsageError, match="the options exclude all requirements"):
        chosen(["purity"], ["purity/*"])


def test_what_failed_last_is_kept_until_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert failed_last(["x"]) == frozenset()
    remember([Cell("x", "a/b", "MUST", Outcome.FAILED), Cell("x", "a/c", "MUST", Outcome.PASSED)])
    assert failed_last(["x", "y"]) == {("x", "a/b")}
    remember([Cell("x", "a/b", "MUST", Outcome.BLOCKED)])
    assert failed_last(["x"]) == {("x", "a/b")}
    remember([Cell("x", "a/b", "MUST", Outcome.PASSED)])
    assert failed_last(["x"]) == frozenset()


TWO_FAULTS = RIGHT.replace("kernel / in_features**0.5", "kernel").replace("zeros", "ones")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command on a file of a folder in which another pytest plugin is installed."""
    plugin = folder / "noisy-1.0.dist-info"
    plugin.mkdir(exist_ok=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: noisy\nVersion: 1.0\n")
    (plugin / "entry_points.txt").write_text("[pytest11]\nnoisy = noisy\n")
    (folder / "noisy.py").write_text("raise SystemExit('a plugin that nobody asked for')\n")
    (folder / "mine.py").write_text(TWO_FAULTS)
    rows = ["--requirement=bias-zero", "--requirement=kernel-variance", "--requirement=builds"]
    own = {"PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    return command(folder, "run", "mine.py:MyDense", *rows, *arguments, **own)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_run_stops_at_the_first_failure_and_begins_with_the_last(
    tmp_path: Path, workers: str
) -> None:
    first = run(tmp_path, "-x", "-n", workers)
    assert first.returncode == 1, first.stdout + first.stderr
    assert "-x stops after the first failure" in " ".join(first.stdout.split())
    assert len(first.stdout.splitlines()) <= 24
    whole = run(tmp_path, "-n", workers)
    assert "3 cells: 1 passed, 2 failed" in whole.stdout
    again = run(tmp_path, "--last-failed", "-n", workers)
    assert "2 cells: 0 passed, 2 failed" in again.stdout
    quiet = run(tmp_path, "-q", "--exclude=bias-zero", "--exclude=kernel-variance", "-n", workers)
    assert quiet.stdout == "conforms: MUST 1/1\n"


class WrongWhenWide(nnx.Module):
    """A layer that loses the last output when it is wider than the pool."""

    def __init__(self, in_features: int, out_features: int, rngs: nnx.Rngs) -> None:
        draw = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(draw(rngs.params(), (in_features, out_features), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(out_features))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...] + self.bias[...]
        return y if y.shape[-1] < 300 else y.at[..., -1].set(0.0)


def test_a_size_is_read() -> None:
    assert size("768x3072") == (768, 3072)
    for text in ("768", "768x", "0x3", "-1x3", "axb", "1x2x3"):
        with pytest.raises(argparse.ArgumentTypeError, match="such as 768x3072"):
            size(text)


def test_it_is_added_to_the_pool() -> None:
    try:
        found = profiles.activate("quick", own_sizes=[(768, 3072), (768, 3072), (1, 1)])
        assert found.sizes[-1] == (768, 3072)
        assert found.sizes.count((768, 3072)) == 1
        assert "--size 768x3072" in found.as_options()
    finally:
        profiles.activate("quick")


def test_a_fault_at_a_size_of_ones_own(checked: Checked) -> None:
    assert checked(WrongWhenWide, rows=["zero-input"])[0] == 0
    code, text = checked(WrongWhenWide, "--size=7x301", rows=["zero-input"])
    assert code == 1
    text = " ".join(text.split())
    assert "in_features=7, out_features=301" in text
    assert "--size 7x301" in text
