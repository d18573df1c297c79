"""Judges a submission a second time, because it could tamper with the first judgement.

A check runs in the process of the layer, whose code could change the check. For the second
judgement another process computes outputs, and this process, which never loads the submission,
verifies them.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conformance.checks import oracle
from conformance.jax_setup import child_process
from conformance.layers.registry import Entry

_MODULES = ("conformance", "pytest", "_pytest", "pluggy", "xdist", "execnet", "hypothesis")
_REACHES = ("gc", "inspect", "ctypes", "importlib", "atexit", "signal", "subprocess")
_ATTRIBUTES = ("modules", "_getframe", "settrace", "setprofile", "meta_path", "__code__")

_SIZES = ((3, 10), (5, 1), (64, 256))
_SEEDS = (0, 7)
_PATIENCE = 120.0
# Standard deviations of the mean of K^2; a correct layer exceeds them with probability 1e-11.
_DEVIATIONS = 7.0


def suspicious(file: str) -> list[str]:
    """Return the names in a submission that a layer does not need, with their lines.

    They are only a reason to read the file, because a correct solution may use them.
    """
    tree = ast.parse(Path(file).read_bytes(), file)
    found = dict.fromkeys(f"{name} (line {line})" for name, line in sorted(set(_names(tree))))
    return list(found)


def _names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            names = [module] if module else [alias.name for alias in node.names]
            for name in names:
                if name.partition(".")[0] in (*_MODULES, *_REACHES):
                    yield name, node.lineno
        elif isinstance(node, ast.Attribute) and node.attr in _ATTRIBUTES:
            yield ast.unparse(node), node.lineno


def wrong_outputs(file: str, name: str) -> list[str]:
    """Return why the outputs that another process computes are wrong; empty if they are right.

    For a few sizes and seeds, the kernel and the bias are read from the outputs for unit vectors
    and for 0. Outputs for random inputs must agree with them within the rounding-error bound, the
    kernel's variance must be 1/in_features, and another process must compute the same bits.
    """
    random = np.random.default_rng()
    cases = [(*size, seed) for size in _SIZES for seed in _SEEDS]
    inputs = [random.standard_normal((4, n)).astype(np.float32) for n, _, _ in cases]
    asked = [
        {"seed": seed, "features": out_features, "x": [[0.0] * n, *np.eye(n).tolist(), *x.tolist()]}
        for (n, out_features, seed), x in zip(cases, inputs, strict=True)
    ]
    first, second = _answers(file, name, asked), _answers(file, name, asked)
    if isinstance(first, str) or isinstance(second, str):
        return [f"{name}: {first if isinstance(first, str) else second}"]
    found: list[str] = []
    kernels: dict[int, set[bytes]] = {}
    for case, x, y, again in zip(cases, inputs, first, second, strict=True):
        in_features, out_features, seed = case
        where = f"{name}, in_features={in_features}, features={out_features}, seed={seed}"
        if y.tobytes() != again.tobytes():
            found.append(f"{where}: two processes compute different outputs")
        found += [f"{where}: {why}" for why in _faults(y, x, out_features)]
        kernels.setdefault(in_features, set()).add(y[1 : 1 + in_features].tobytes())
    return found + [
        f"{name}, in_features={n}: the seeds {_SEEDS} give the same kernel"
        for n, different in kernels.items()
        if len(different) < len(_SEEDS)
    ]


def _faults(y: np.ndarray, x: np.ndarray, features: int) -> Iterator[str]:
    in_features = x.shape[-1]
    if y.shape != (1 + in_features + len(x), features):
        yield f"the outputs have shape {y.shape[1:]}, expected ({features},)"
        return
    bias, kernel = y[0], y[1 : 1 + in_features] - y[0]
    expected = oracle.affine(x, kernel, bias)
    # Twice the bound, because the recovered kernel has a rounding error as well.
    if not expected.admits(y[1 + in_features :], times=2):
        yield "f(x) is not x @ K + b with the K and b of f(e_i) and f(0)"
    if bias.any():
        yield "f(0) is not 0: the bias does not start at 0"
    mean, weights = in_features * float(np.mean(np.square(kernel))), kernel.size
    # The variance of a square is at most 2 for the normal law, which has the largest.
    if abs(mean - 1) > _DEVIATIONS * math.sqrt(2 / weights) and weights > 10_000:
        yield f"in_features * mean(K**2) = {mean:.3g}, expected 1"


def _answers(file: str, name: str, asked: Sequence[Any]) -> list[np.ndarray] | str:
    """Return the outputs of another process, a row for each input, or why it has none."""
    try:
        call = ("-m", __name__, file, name)
        done = child_process.ended(*call, stdin=json.dumps(asked), timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return f"no outputs within {_PATIENCE:g} s"
    with contextlib.suppress(ValueError, TypeError):
        found = [np.asarray(outputs, np.float32) for outputs in json.loads(done.stdout)]
        if len(found) == len(asked):
            return found
    last = done.stderr.strip().rpartition("\n")[2]
    return f"no outputs: {last or f'the process ended with {done.returncode}'}"


def main(arguments: Sequence[str]) -> None:
    """Read inputs from standard input, and write the submission's outputs for them."""
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    asked = json.loads(sys.stdin.read())
    from conformance.layers.loading import attribute

    file, name = arguments
    layer = attribute(Entry("", "", f"{file}:{name}"))
    outputs = [_outputs(layer, **question) for question in asked]
    os.write(answers, json.dumps(outputs).encode())
    os._exit(0)


def _outputs(layer: Any, seed: int, features: int, x: Sequence[Sequence[float]]) -> Any:
    from flax import nnx

    rows = np.asarray(x, np.float32)
    if isinstance(layer, type):
        built = layer(rows.shape[-1], features, rngs=nnx.Rngs(seed))
        outputs = [built(row) for row in rows]
    else:
        outputs = [layer(seed, row, features) for row in rows]
    return np.asarray(outputs, np.float64).tolist()


if __name__ == "__main__":
    main(sys.argv[1:])
