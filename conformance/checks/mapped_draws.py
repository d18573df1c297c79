"""Programs that draw the kernels of many seeds at once, within a limit of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from conformance.checks import jaxprs
from conformance.checks.layer import Layer
from conformance.checks.programs import compiled_to_run_once
from conformance.jax_setup.lazy import jax
from conformance.statistics.by_requirement import Shape

__all__ = ["compiled_draws", "cost_of_a_draw"]


def compiled_draws(layer: Layer, draws: Sequence[tuple[Shape, str]], seeds: Sequence[Any]) -> Any:
    """Return one compiled program of all these draws, each mapped over its seeds."""

    functions = [_draw(layer, *each) for each in draws]

    def at_once(*seeds: Any) -> list[Any]:
        return [jax.vmap(draw)(s) for draw, s in zip(functions, seeds, strict=True)]

    def in_turn(*seeds: Any) -> list[Any]:
        return [_mapped(draw, s) for draw, s in zip(functions, seeds, strict=True)]

    traced = jax.jit(at_once).trace(*seeds)
    if jaxprs.largest_array(traced.jaxpr) > _ROOM:
        traced = jax.jit(in_turn).trace(*seeds)
    return compiled_to_run_once(traced)


_ROOM = 2**27
"""The largest array of a program of draws, in bytes; several such arrays exist at once."""


def _draw(layer: Layer, size: Shape, which: str) -> Callable[[Any], Any]:
    """Return the function from a seed to the kernel (in, out), or to the bias as (1, out)."""

    def draw(seed: Any) -> Any:
        parameters = layer.init(seed, *size)
        if which == "bias":
            return layer.bias_of(parameters).reshape(1, -1)
        return layer.kernel_of(parameters)

    return draw


def cost_of_a_draw(layer: Layer, size: Shape) -> int:
    """Return the bytes of the largest array in drawing one kernel; 0 if it cannot be traced."""
    try:
        return jaxprs.largest_array(jax.make_jaxpr(_draw(layer, size, "kernel"))(np.uint32(0)))
    except Exception:
        return 0


def _mapped(draw: Callable[[Any], Any], seeds: Any) -> Any:
    """Return the draws of all seeds, mapped over as many at a time as the limit allows."""
    of_one = jaxprs.largest_array(jax.make_jaxpr(draw)(seeds[0]))
    return jax.lax.map(draw, seeds, batch_size=max(1, min(len(seeds), _ROOM // max(of_one, 1))))
