"""Twenty pairs of a correct and a wrong layer that share names, files, settings or patches.

Each has the cells of its own run, in any order and on any number of workers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from conformance.jax_setup import child_process
from conformance.selftest.processes import cells_in, ended

ROWS = ("forward/affine-value", "forward/zero-input")

MODULE = """\
from flax import nnx
{top}

class Dense(nnx.Linear):
    def __call__(self, x):
        {first}
        return super().__call__(x) * ({scale})
"""


@dataclass(frozen=True)
class Pair:
    """Two modules of one name, in different folders.

    Parameters
    ----------
    scale
        The factor of both outputs, if it is 1 in one layer and 2 in the other; else the factor of
        the right one while the wrong one has not changed it.
    top, first
        The code that both run at import, and at the start of every call.
    patch
        The code that the wrong one runs at import, which would make the right one wrong as well.
    files
        Files beside each layer, with its scale.
    """

    scale: str = "1"
    top: str = ""
    first: str = ""
    patch: str = ""
    files: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path, scale: int) -> None:
        own = self.scale if scale == 1 or self.files else str(scale)
        top = self.top + ("" if scale == 1 else f"\n{self.patch}")
        folder.mkdir(parents=True)
        module = MODULE.format(top=top, first=self.first or "pass", scale=own)
        (folder / "mine.py").write_text(module)
        for name, text in self.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text.format(scale=scale))


HELPER = {"helper.py": "SCALE = {scale}\n"}
FINDER = """
import importlib.machinery, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "helper":
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec): return None
    def exec_module(self, module): module.SCALE = 2
sys.meta_path.insert(0, Finder())
"""
THREAD = """
import threading, time
def again():
    while True:
        nnx.SCALE = 2
        time.sleep(0.01)
threading.Thread(target=again, daemon=True).start()
"""
LOWERING = """
import jax
from jax._src.interpreters import mlir
for rules in (mlir._lowerings, *mlir._platform_specific_lowerings.values()):
    for primitive in (jax.lax.add_p, jax.lax.dot_general_p):
        if primitive in rules:
            rules[primitive] = None
"""

PAIRS: dict[str, Pair] = {
    # Names and files.
    "helper": Pair("helper.SCALE", "import helper", files=HELPER),
    "helper-in-a-call": Pair("helper.SCALE", first="import helper", files=HELPER),
    "package": Pair(
        "scales.SCALE",
        "from parts import scales",
        files={"parts/__init__.py": "", "parts/scales.py": "SCALE = {scale}\n"},
    ),
    "library-folder": Pair(
        "inner.SCALE",
        "import os, sys\nsys.path.insert(0, os.path.join(os.path.dirname(__file__), 'lib'))\n"
        "import inner",
        files={"lib/inner.py": "SCALE = {scale}\n"},
    ),
    "name-of-a-library": Pair("keras.SCALE", "import keras", files={"keras.py": "SCALE = {scale}"}),
    "itself": Pair("mine.SCALE", "import mine\nSCALE = 1", patch="SCALE = 2"),
    "planted-module": Pair(
        "SCALE",
        "try: from planted import SCALE\nexcept ImportError: SCALE = 1",
        patch="import sys, types\nsys.modules['planted'] = types.SimpleNamespace(SCALE=2)",
    ),
    "finder": Pair(
        "SCALE", "try: from helper import SCALE\nexcept ImportError: SCALE = 1", patch=FINDER
    ),
    # Settings.
    "environment": Pair(
        "float(os.environ.get('SCALE', 1))", "import os", patch="os.environ['SCALE'] = '2'"
    ),
    "working-directory": Pair(
        "SCALE",
        "import pathlib\nSCALE = 2 if pathlib.Path('lib').is_dir() else 1",
        patch="import os\nos.chdir(os.path.dirname(__file__)); os.makedirs('lib', exist_ok=True)",
    ),
    "decimal-context": Pair(
        "float(decimal.Decimal('1.04') + 0) / 1.04",
        "import decimal",
        patch="decimal.getcontext().prec = decimal.DefaultContext.prec = 1",
    ),
    "warnings-are-errors": Pair(
        first="warnings.warn('slow')", top="import warnings", patch="warnings.simplefilter('error')"
    ),
    "x64": Pair(patch="import jax\njax.config.update('jax_enable_x64', True)"),
    "precision": Pair(
        patch="import jax\njax.config.update('jax_default_matmul_precision', 'bfloat16')"
    ),
    # Patches.
    "new-attribute": Pair("getattr(nnx, 'SCALE', 1)", patch="nnx.SCALE = 2"),
    "builtin": Pair("getattr(builtins, 'SCALE', 1)", "import builtins", patch="builtins.SCALE = 2"),
    "thread": Pair("getattr(nnx, 'SCALE', 1)", patch=THREAD),
    "defaults": Pair(patch="nnx.Linear.__init__.__kwdefaults__['use_bias'] = False"),
    "code": Pair(patch="nnx.Linear.__call__.__code__ = (lambda self, x: 2 * x).__code__"),
    "lowering": Pair(patch=LOWERING),
}
SPECS = [f"{side}/{name}/mine.py:Dense" for name in PAIRS for side in ("right", "wrong")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the files of all pairs."""
    path = tmp_path_factory.mktemp("pairs")
    for name, pair in PAIRS.items():
        pair.write(path / "right" / name, 1)
        pair.write(path / "wrong" / name, 2)
    return path


def cells(folder: Path, specs: Sequence[str], workers: int) -> dict[str, list[dict[str, Any]]]:
    """Return the cells of each layer in one run of all, without seconds."""
    path = folder / "results.json"
    path.unlink(missing_ok=True)
    command = child_process.python("-m", "conformance", "run", *specs, f"-n{workers}")
    command += [*(f"--requirement={row}" for row in ROWS), f"--results={path}"]
    done = ended(command, folder, child_process.environment())
    assert path.is_file(), done.stdout + done.stderr
    found: dict[str, list[dict[str, Any]]] = {spec: [] for spec in specs}
    for cell in cells_in(path):
        found[cell["implementation"]].append({k: v for k, v in cell.items() if k != "seconds"})
    return {
        spec: sorted(mine, key=lambda cell: cell["requirement"]) for spec, mine in found.items()
    }


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the cells of each layer in its own run, filled when they are asked for."""
    return {}


def require_as_alone(
    folder: Path, alone: dict[str, Any], specs: Sequence[str], workers: int
) -> None:
    """Require the cells of the layers' own runs; the right layers pass, the wrong ones fail."""
    found = cells(folder, specs, workers)
    for spec in specs:
        alone.setdefault(spec, cells(folder, [spec], 1)[spec])
        outcomes = {cell["outcome"] for cell in alone[spec]}
        assert (outcomes == {"passed"}) == spec.startswith("right"), (spec, alone[spec])
        assert found[spec] == alone[spec], spec


def test_a_pair_is_as_each_alone(folder: Path, alone: dict[str, Any]) -> None:
    pair = ["wrong/helper/mine.py:Dense", "right/helper/mine.py:Dense"]
    require_as_alone(folder, alone, pair, 0)


def test_there_are_twenty_pairs() -> None:
    assert len(PAIRS) == 20


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "step"), list(itertools.product((0, 1, 2), (1, -1))))
def test_all_pairs_are_as_each_alone(
    workers: int, step: int, folder: Path, alone: dict[str, Any]
) -> None:
    """This holds in both orders, on any number of workers."""
    require_as_alone(folder, alone, SPECS[::step], workers)
