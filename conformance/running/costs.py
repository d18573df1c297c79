"""Measures facts about a layer that the contract does not cover: its warnings and its costs.

Neither is ever a failure. The results file has both, so that a comparison of versions shows the
effect of an upgrade.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import numpy as np
import pytest

from conformance.checks.cases import Case
from conformance.checks.layer import Layer
from conformance.contract.requirement import PARAMETERS
from conformance.errors import safe_text
from conformance.jax_setup.lazy import jax

_OUT_FEATURES = 24
_ROWS = 8
# The shortest of so many timings counts; longer ones include noise from other processes.
_REPEATS = 20


@contextmanager
def _all_warnings() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        # By default each place warns once; here every warning counts.
        warnings.simplefilter("always")
        yield caught


def observe(layer: Layer) -> dict[str, Any]:
    """Return warnings and seconds of one construction and one call, as plain JSON values.

    ``warnings`` is a list of texts. ``cost`` has, in seconds: ``compile``, the processor time of
    the first construction and call at a size that no run has used; ``construct`` and ``call``, the
    shortest of later ones. A layer that cannot be built or called has no cost; requirements report
    it.
    """
    # Programs of a new size are neither in the compile cache nor in this process.
    case = Case(random.SystemRandom().randrange(200, 1000), _OUT_FEATURES, seed=1)
    lead = (_ROWS,) if layer.accepts((_ROWS,)) else layer.fewest
    x = np.ones((*lead, case.in_features), np.float32)
    found: dict[str, Any] = {}
    surroundings = layer.registered.surroundings()
    with surroundings, _no_writing_to_the_compile_cache(), _all_warnings() as caught:
        try:
            before = time.process_time()
            dense = layer.at(case)
            jax.block_until_ready(dense(x))
            compiling = time.process_time() - before
            found["warnings"] = list(dict.fromkeys(map(_text, caught)))
            found["cost"] = {"compile": compiling, **_warm(layer, case, dense, x)}
        except (Exception, pytest.skip.Exception):  # as of a result that is deleted meanwhile
            found["warnings"] = list(dict.fromkeys(map(_text, caught)))
    if "cost" in found:
        found["cost"] = {k: float(f"{seconds:.3g}") for k, seconds in found["cost"].items()}
    return found


def _warm(layer: Layer, case: Case, dense: Callable[[Any], Any], x: np.ndarray) -> dict[str, float]:
    call = {"call": _shortest(lambda: jax.block_until_ready(dense(x)))}
    if PARAMETERS not in layer.provides:
        return call  # a function constructs and calls in one step
    return {
        "construct": _shortest(lambda: jax.block_until_ready(layer.of(case).parameters)),
        **call,
    }


def _shortest(action: Callable[[], Any]) -> float:
    # Processor time does not depend on the load of the machine, but excludes an accelerator's time.
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    seconds = []
    for _ in range(_REPEATS):
        before = clock()
        action()
        seconds.append(clock() - before)
    return min(seconds)


@contextmanager
def _no_writing_to_the_compile_cache() -> Iterator[None]:
    """Keep programs of sizes that never come again out of the compile cache."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    jax.config.update(name, 1e9)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _text(warning: warnings.WarningMessage) -> str:
    """Return category, message and place of a warning, without the folders of this machine."""
    place = PurePath(warning.filename).parts
    if "site-packages" in place:
        place = place[len(place) - place[::-1].index("site-packages") :]
    else:
        place = place[-1:]
    message = safe_text(warning.message, 300)
    return f"{warning.category.__name__}: {message} ({'/'.join(place)})"
