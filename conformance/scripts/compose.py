"""Composes a script of the sources of a check and of everything that it uses."""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from keyword import iskeyword
from pathlib import Path

_IMPORTS = {
    "importlib": "import importlib.util",
    "math": "import math",
    "sys": "import sys",
    "Any": "from typing import Any",
    "jax": "import jax",
    "jnp": "import jax.numpy as jnp",
    "np": "import numpy as np",
    "nnx": "from flax import nnx",
}

_END = """\
try:
    check()
except AssertionError:
    raise
except Exception as error:
    raise AssertionError(f"the layer raised {type(error).__name__}: {error}") from error
print("no failure here")
"""


def layer_import(spec: str) -> str:
    """Return the lines that import ``module:attribute`` or ``file.py:attribute`` as Layer."""
    place, _, path = spec.rpartition(":")
    first, _, rest = path.partition(".")
    file = Path(place)
    if place.endswith(".py") and not _importable(file.stem):
        return (
            f"sys.path.insert(0, {_quoted(file.parent)})\n"
            f"path = {_quoted(file)}\n"
            f"spec = importlib.util.spec_from_file_location({_quoted(file.stem)}, path)\n"
            "module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)\n"
            "spec.loader.exec_module(module)\n"
            f"Layer = module.{path}\n"
        )
    lines = []
    if place.endswith(".py"):
        lines.append(f"sys.path.insert(0, {_quoted(file.parent)})")
        place = file.stem
    lines.append(f"from {place} import {first if rest else f'{first} as Layer'}")
    lines += ["", f"Layer = {path}"] if rest else []
    return "\n".join(lines) + "\n"


def _quoted(path: object) -> str:
    return json.dumps(str(path), ensure_ascii=False)


def _importable(stem: str) -> bool:
    """Return whether ``import stem`` finds the user's file, not another module of that name."""
    return (
        stem.isidentifier() and not iskeyword(stem) and stem not in sys.stdlib_module_names
    ) and stem not in ("flax", "jax", "numpy", "optax")


def script(
    title: str,
    layer: str,
    constants: Mapping[str, object],
    check: Callable[[], None],
    helpers: Mapping[str, Callable[..., object]],
) -> str:
    """Return the text of a script.

    ``title`` is its docstring, ``layer`` the lines that define ``Layer``, and ``check`` what it
    calls. Of the ``constants``, which stand at its top, and of the ``helpers`` of the check it has
    those that are used.
    """
    body = _without_decorators(check).replace(f"def {check.__name__}(", "def check(", 1)
    used, sources = _closure(body, helpers)
    used |= _names(layer)
    values = [f"{name} = {value!r}" for name, value in constants.items() if name in used]
    title = title.replace("\\", "\\\\").replace('"""', "'''")
    top = [f'"""{title}\n"""', _imports(used), layer.strip(), "\n".join(values)]
    parts = ["\n\n".join(part for part in top if part), *sources, body, _END]
    return "\n\n\n".join(part.strip("\n") for part in parts) + "\n"


def _imports(used: set[str]) -> str:
    found = [line for name, line in _IMPORTS.items() if name in used]
    standard = [line for line in found if not _third_party(line)]
    others = sorted(filter(_third_party, found), key=lambda line: (line[:4] == "from", line))
    return "\n\n".join("\n".join(group) for group in (standard, others) if group)


def _third_party(line: str) -> bool:
    return line.split()[1].partition(".")[0] in ("jax", "numpy", "flax")


def _without_decorators(function: Callable[..., object]) -> str:
    source = textwrap.dedent(inspect.getsource(function))
    return source[source.index("def ") :]


def _names(source: str) -> set[str]:
    """Return the global names that the source uses."""
    tree = list(ast.walk(ast.parse(source)))
    own = {node.arg for node in tree if isinstance(node, ast.arg)}
    names = [node for node in tree if isinstance(node, ast.Name)]
    own |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
    return {node.id for node in names} - own


def _closure(
    body: str, helpers: Mapping[str, Callable[..., object]]
) -> tuple[set[str], Sequence[str]]:
    """Return every name that the body and its helpers use, and the sources of those helpers."""
    used, sources = _names(body), dict[str, str]()
    while wanted := [name for name in helpers if name in used and name not in sources]:
        for name in wanted:
            sources[name] = _without_decorators(helpers[name])
            used |= _names(sources[name])
    # In the order of their definitions, not of their first use.
    return used, [sources[name] for name in helpers if name in sources]
