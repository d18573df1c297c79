"""The suite without one of the measures that make it fast: what each gives, measured by itself.

Loaded by ``pytest -p conformance.bench.without``, with the name of the measure in the environment
variable ``CONFORMANCE_BENCH_WITHOUT``. Verdicts are the same without any of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["MEASURES", "VARIABLE"]

VARIABLE = "CONFORMANCE_BENCH_WITHOUT"


def _pool() -> None:
    from conformance.checks import cases, profiles

    over = cases.over
    largest = max(max(size) for size in profiles.PROFILES[profiles.DEFAULT].sizes)

    def over_any_size(**how: Any) -> Any:
        free = {} if how.get("sizes") or how.get("up_to") else {"up_to": largest}
        return over(**{**how, **free})

    cases.over = over_any_size
    # It is decorated when it is imported.
    profiles._forget_the_suite()


def _shared_programs() -> None:
    from conformance.checks import programs
    from conformance.jax_setup.lazy import jax

    programs.remembered = lambda layer, name, make: jax.jit(make())


def _draws_together() -> None:
    from conformance.checks import kernels, seeds

    together = kernels.drawn_at_once

    def one_by_one(layer: Any, wanted: Sequence[Any], *how: Any, **named: Any) -> Any:
        drawn: list[Any] = []
        for one in wanted:
            found = together(layer, [one], *how, **named)
            if found is None:
                return None
            drawn += found
        return drawn

    kernels.drawn_at_once = seeds.drawn_at_once = one_by_one


def _hardly_optimized_draws() -> None:
    from conformance.checks import programs

    programs._HARDLY.clear()
    programs._OLD_EMITTERS.clear()


def _shared_contexts() -> None:
    from conformance.jax_setup import mlir_context

    mlir_context.share_contexts = lambda: None


def _frozen_garbage() -> None:
    import gc

    gc.freeze = lambda: None


MEASURES: dict[str, tuple[str, Callable[[], None]]] = {
    "pool": ("a pool of sizes", _pool),
    "programs": ("programs shared by rows and examples", _shared_programs),
    "draws": ("all draws in one program", _draws_together),
    "levels": ("draws compiled in haste", _hardly_optimized_draws),
    "contexts": ("MLIR contexts shared by programs", _shared_contexts),
    "garbage": ("imports left out of garbage collection", _frozen_garbage),
}
"""Each measure, and how it is undone."""


_NAME = os.environ.get(VARIABLE)
if _NAME:
    # As soon as pytest loads this, in each worker: the suite is imported afterwards.
    MEASURES[_NAME][1]()
