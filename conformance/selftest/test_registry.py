"""Names of implementations: accepted ones, and messages for others."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from conformance import NotAdaptable, adapt
from conformance.contract.catalogue import catalogue
from conformance.errors import LoadError, UsageError
from conformance.layers.loading import load
from conformance.layers.registry import registered, resolve
from conformance.running.reproduction import command


def test_the_built_in_ones_are_registered() -> None:
    names = {entry.name for entry in registered()}
    assert {"nnx.MyDense", "nnx.Linear", "linen.MyDense", "linen.Dense", "dense_forward"} <= names


def test_an_id_says_who_registers_it() -> None:
    (entry,) = resolve(["nnx.MyDense"])
    assert entry.id == "dense-conformance:nnx.MyDense"
    assert resolve([entry.id]) == (entry,)


def test_one_that_is_named_twice_runs_once() -> None:
    assert len(resolve(["nnx.MyDense", "dense-conformance:nnx.MyDense"])) == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nnx.Linaer", "did you mean 'nnx.Linear'"),
        ("LINEN.DENSE", "did you mean 'linen.Dense'"),
        ("conformance.layers.Dense", "write 'conformance.layers:Dense'"),
        ("missing.py:MyDense", "there is no file 'missing.py'"),
        (f"{Path(__file__).parent}:MyDense", "names a folder; say which file in it: .*FILE.py"),
        ("mine.ipynb:MyDense", r"names a notebook: use conformance.check\(MyDense\)"),
        ("conformance", "names a module; say which layer in it: conformance:MyDense"),
        (f"{__file__}:", "names a file; say which layer in it: .*test_registry.py:MyDense"),
        ("no_such_module:Dense", "There is no module 'no_such_module' either"),
    ],
)
def test_what_does_not_exist(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve([spec])


def test_a_package_in_the_current_folder_is_no_mere_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme_layers").mkdir()
    (tmp_path / "acme_layers" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    (entry,) = resolve(["acme_layers:Dense"])
    assert entry.source == "acme_layers"


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise ImportError('boom')", "raised ImportError: boom"),
        ("def (", "raised SyntaxError"),
        ("import sys; sys.exit(3)", "raised SystemExit: 3"),
        ("MyDens = 1", "no attribute 'MyDense'; did you mean 'MyDens'"),
        ("MyDense = 3", "an object of type int, which cannot be called"),
        ("class MyDense: pass", r"Did you mean class MyDense\(nnx.Module\)"),
        (
            "def MyDense(x): return x",
            r"MyDense\(x\), which cannot be called as f\(seed, x, features",
        ),
        (
            "from flax import nnx\nclass MyDense(nnx.Module):\n    def __init__(self, rngs): pass\n"
            "    def __call__(self, x): return x",
            r"MyDense\(rngs\), which cannot be called as cls\(in_features, out_features, rngs=",
        ),
        (
            "from flax import linen\nclass MyDense(linen.Module):\n    size: str\n"
            "    def __call__(self, x): return x",
            r"cannot be called as cls\(features=out_features\)",
        ),
    ],
)
def test_what_cannot_be_loaded(tmp_path: Path, text: str, message: str) -> None:
    (entry,) = resolve([f"{_file(tmp_path, text)}:MyDense"])
    with pytest.raises(LoadError, match=message):
        load(entry)
    sys.modules.pop("mine", None)


def test_a_constructor_by_keyword_alone() -> None:
    import jax
    from flax import nnx

    class ByKeyword(nnx.Module):
        def __init__(self, *, din: int, dout: int, rngs: nnx.Rngs) -> None:
            self.linear = nnx.Linear(din, dout, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.linear(x)

    implementation: Any = adapt(ByKeyword)
    assert implementation.module(2, 3, nnx.Rngs(0)).linear.out_features == 3


def test_an_instance_is_not_a_class() -> None:
    from flax import linen

    with pytest.raises(NotAdaptable, match="Name the class itself"):
        adapt(linen.Dense(3))


def test_a_command_names_the_layer_of_a_table(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(
        "[tool.dense-conformance.layers.Wide]\n"
        'layer = "acme.layers:Dense"\nkernel = "glorot_uniform"\n'
    )
    row = catalogue()[0]
    (entry,) = resolve(["Wide"], project=project)
    assert command(entry, row).startswith("dense-conformance run Wide --requirement ")
    assert "--declare" not in command(entry, row)
    (entry,) = resolve(["Wide"], ["use_bias=false"], project=project)
    assert "--declare use_bias=false" in command(entry, row)
    assert "glorot" not in command(entry, row)
