"""Runs one check of the suite on one case, for scripts that need the suite."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from conformance.checks.cases import BATCH, Case
from conformance.checks.layer import Layer
from conformance.contract.catalogue import chosen
from conformance.jax_setup import compile_cache
from conformance.layers.loading import load
from conformance.layers.registry import resolve
from conformance.layers.x64 import widened


def recheck(
    spec: str,
    requirement: str,
    case: Mapping[str, Any] | None = None,
    declared: Mapping[str, Any] | None = None,
) -> None:
    """Check one requirement on one layer and case; print a line if it passes.

    Parameters
    ----------
    spec
        The layer, as ``dense-conformance run`` takes it.
    requirement
        The id of the requirement.
    case
        The case, as in a results file; None for a requirement that draws no cases.
    declared
        The declaration of the layer, as in ``pyproject.toml``.

    Raises
    ------
    Violation
        If the layer does not meet the requirement. It is an AssertionError.
    UsageError, LoadError
        If there is no such layer or requirement, or the layer cannot be loaded.
    """
    compile_cache.prepare(True)
    (entry,), (row,) = resolve([spec]), chosen([requirement])
    if declared:
        entry = replace(entry, declared=json.dumps(dict(declared)))
    check = getattr(importlib.import_module(f"conformance.suite.test_{row.area}"), row.test)
    layer = Layer(widened(load(entry)), entry)
    arguments: tuple[Any, ...] = (layer,)
    if hasattr(check, "__draws__"):
        lead = tuple((case or {}).get("lead", BATCH))
        drawn = {"in_features": 3, "out_features": 10, **(case or {}), "lead": lead}
        arguments = (layer, Case(**drawn))
    with layer.registered.surroundings():
        check(*arguments)
    print("no failure here")
