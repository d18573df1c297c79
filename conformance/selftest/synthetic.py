"""Synthetic results files for the tests of reports, with every outcome and kind of plot."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from typing import Any

from conformance.contract.requirement import MUST, Level, Requirement
from conformance.results.cell import Cell
from conformance.results.decision import decide
from conformance.results.file import FOOTER, FORMAT

ENVIRONMENT: dict[str, Any] = {
    "suite": "1.0.0",
    "python": "3.11.7",
    "jax": "0.10.2",
    "jaxlib": "0.10.2",
    "flax": "0.12.8",
    "numpy": "2.4.6",
    "hypothesis": "6.170.15",
    "platform": "Linux-x86_64",
    "backend": "cpu",
    "device": "cpu",
    "devices": 8,
    "matmul_precision": "default",
    "x64": False,
    "prng": "threefry2x32",
    "threefry_partitionable": True,
    "profile": "quick",
    "seed": None,
}

FACTS: dict[str, Any] = {
    "environment": ENVIRONMENT,
    "profile": "quick",
    "seconds": 1.0,
    "versions": {},
}
"""What a run knows besides its cells."""

# A synthetic contract, so that a new area of the real one changes nothing here.
AREAS = (
    *("construction", "initialization", "forward", "numerics", "dtypes", "seeding", "state"),
    *("transforms", "serialization", "sharding", "purity", "exercise"),
)

_NAMES = (
    *("nnx.MyDense", "nnx.Linear", "linen.MyDense", "linen.Dense", "dense_forward", "acme.Dense"),
    *("equinox.Linear", "haiku.Linear", "keras.Dense", "stax.Dense", "<b>bold</b> & 'quoted'"),
    "acme.layers.experimental:LowRankDense",
)

_SLUGS = ("zero-input", "affine-value", "kernel-variance", "wrong-width-raises", "bias-zero")

_OTHERS = (
    *("failed", "failed", "blocked", "not-applicable", "not-applicable", "expected-failure"),
    *("unexpected-pass", "error", "crashed", "timed-out", "not-run"),
)

_DETAILS: dict[str, dict[str, Any]] = {
    "failed": {
        "message": "in_features * mean(K**2) = 64.1 at (64, 256)",
        "accepted": "0.97 .. 1.03 (131 072 weights, false alarm 1e-15)",
        "cause": "the kernel is not scaled: its standard deviation is 1 at every size. "
        "Multiply by 1/sqrt(in_features).",
        "case": {"in_features": 4, "out_features": 2048, "seed": 0, "values": 0, "lead": [8]},
        "script": "import jax\n\nassert 1 < 0, '</script>'\n",
        "free": ["seed", "values"],
        "measured": {"ratio": 64.1, "error": 1e-3, "bound": "0.97 .. 1.03"},
    },
    "unexpected-pass": {"reason": "is expected to fail, and passes: remove this entry"},
    "blocked": {"reason": "blocked by x/y", "blocked_by": "x/y"},
    "not-applicable": {"reason": "the layer is no nnx module"},
    "expected-failure": {"reason": "zero sizes raise before jax 0.11.2"},
    "error": {"reason": "ImportError: No module named 'acme' </script><script>alert(1)"},
    "crashed": {"reason": "the worker died of signal 11"},
    "timed-out": {"reason": "took longer than 300 s"},
    "not-run": {"reason": "no result of it came back"},
}


def results(
    implementations: int = 3,
    requirements: int = 10,
    wrong: float = 0.2,
    seed: int = 0,
    plots: bool = False,
    **environment: Any,
) -> dict[str, Any]:
    """Return the document of a run.

    Parameters
    ----------
    implementations, requirements
        The size of the matrix.
    wrong
        The share of cells with another outcome than *passed*.
    seed
        The seed of these outcomes.
    plots
        Whether cells have plots.
    environment
        The differences from :data:`ENVIRONMENT`.
    """
    random_ = random.Random(seed)
    rows = [_row(i) for i in range(requirements)]
    entries = [_entry(i) for i in range(implementations)]
    cells = [
        _cell(entry["id"], row, random_.choice(_OTHERS) if random_.random() < wrong else "passed")
        for entry in entries
        for row in rows
    ]
    for i, cell in enumerate(cells):
        if cell["requirement"] == "initialization/kernel-variance":
            cell["plots"] = [_histogram(i), _variance(i)] if plots else []
            sample = " ".join(x.hex() for x in (0.5 + i, -0.25))
            cell["measured"] = {"fingerprint": f"{i:016x}", "sample": sample}
        if plots and cell["requirement"].endswith("affine-value"):
            cell["plots"] = [
                {
                    "kind": "error-over-bound",
                    "in_features": [1, 3, 16, 130],
                    "ratio": [
                        40.0 if cell["outcome"] == "failed" else 0.6,
                        0.4,
                        0.13 + i / 1e4,
                        0.0,
                    ],
                }
            ]
    # The keys are in the order of a run's file.
    cells = [Cell.from_dict(cell).as_dict() for cell in cells]
    return settled(
        {
            "format": FORMAT,
            "environment": {**ENVIRONMENT, **environment},
            "profile": "quick",
            "seconds": 12.5,
            "implementations": entries,
            "requirements": rows,
            "cells": cells,
            "complete": True,
            "exit_code": 0,
            "footer": FOOTER,
        }
    )


def requirement(
    id: str, level: Level = MUST, *rests_on: str, statement: str = "It holds."
) -> Requirement:
    """Return a requirement that rests on others."""
    return Requirement(id, level, (), statement, "", rests_on, "test")


def settled(document: dict[str, Any]) -> dict[str, Any]:
    """Give a document the exit code and the completeness that follow from its cells."""
    cells = [Cell.from_dict(record) for record in document["cells"]]
    document["exit_code"] = decide(
        cells, strict=document.get("strict", False), stopped=bool(document.get("stopped"))
    ).exit_code
    document["complete"] = not any(c.outcome.lost and c.level == "MUST" for c in cells)
    return document


def cell_at(document: dict[str, Any], implementation: int, requirement: int) -> dict[str, Any]:
    """Return a cell of the matrix."""
    found: dict[str, Any] = document["cells"][
        implementation * len(document["requirements"]) + requirement
    ]
    return found


def _row(i: int) -> dict[str, Any]:
    slug = _SLUGS[i // len(AREAS) % len(_SLUGS)]
    number = i // len(AREAS) // len(_SLUGS)
    return {
        "id": f"{AREAS[i % len(AREAS)]}/{slug}{f'-{number}' if number else ''}",
        "level": ("MUST", "MUST", "SHOULD", "MUST", "MAY")[i % 5],
        "needs": ["parameters"],
        "statement": "The kernel's variance is 1/fan_in at wide, tall and square sizes & <more>.",
        "rationale": "It keeps the scale of activations (LeCun et al., 1998).",
        "rests_on": [],
    }


def _entry(i: int) -> dict[str, Any]:
    name = _NAMES[i % len(_NAMES)]
    return {
        "id": f"acme:{name}",
        "spec": f"acme.layers:Dense{i}",
        "name": name,
        "library": "flax",
        "version": "0.12.8",
        "convention": "Flax",
        "kernel_law": "normal or truncated normal, variance 1/fan_in",
        "bias_law": "0",
    }


def _cell(implementation: str, row: dict[str, Any], outcome: str) -> dict[str, Any]:
    if row["level"] == "MAY" and outcome in ("failed", "blocked"):
        outcome = "not-offered"
    cell = {
        "implementation": implementation,
        "requirement": row["id"],
        "level": row["level"],
        "outcome": outcome,
        "examples": 10,
        "seconds": 0.25,
        **_DETAILS.get(outcome, {}),
    }
    if outcome not in ("passed", "not-applicable"):
        cell["reproduction"] = f"dense-conformance run {implementation} --requirement {row['id']}"
    return cell


def _histogram(i: int) -> dict[str, Any]:
    edges = [round(-4 + 0.2 * k, 1) for k in range(41)]
    expected = [
        1e5 * 0.2 * math.exp(-((edge + 0.1) ** 2) / 2) / math.sqrt(2 * math.pi)
        for edge in edges[:-1]
    ]
    counts = [round(n * (1 + 0.02 * math.sin(i + k))) for k, n in enumerate(expected)]
    return {
        "kind": "kernel-histogram",
        "law": "normal",
        "edges": edges,
        "counts": counts,
        "expected": [round(n, 3) for n in expected],
    }


def _variance(i: int) -> dict[str, Any]:
    sizes = [1, 2, 3, 16, 64, 256, 1024]
    return {
        "kind": "kernel-variance",
        "fan_in": sizes,
        "value": [1 + 0.01 * math.sin(i + n) for n in sizes],
        "low": [0.97] * len(sizes),
        "high": [1.03] * len(sizes),
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the path to each value in a document."""
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a copy of a document with another value at a path."""
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = put(value[path[0]], path[1:], new)
    return value
