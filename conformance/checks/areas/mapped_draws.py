"""Draws kernels of many seeds in one program, within a limit of memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from conformance.checks import jaxprs
from conformance.checks.layer import Layer
from conformance.checks.once import once_per_layer
from conformance.checks.programs import HALF, compiled_to_run_once
from conformance.jax_setup.lazy import jax, jnp
from conformance.statistics.by_requirement import Shape

_SAME = 2.0**-20
"""The relative difference between traced and eager construction that roundings explain."""


def _compiled(layer: Layer, draws: Sequence[tuple[Shape, str]], seeds: Sequence[Any]) -> Any:
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


_PROBE: tuple[Shape, Sequence[int]] = ((6, 129), (0, 2**32 - 1))
"""The size, in every profile's pool, at which traced and eager construction are compared."""


class _Tracing:
    """Records whether a layer's construction can be traced, once that was tried."""

    tried = False
    right = True

    def __init__(self) -> None:
        self.programs: dict[Any, Any] = {}


def drawn_at_once(
    layer: Layer,
    wanted: Sequence[tuple[Shape, Sequence[int]]],
    which: str = "kernel",
    *,
    again: bool = False,
) -> list[np.ndarray] | None:
    """Return kernels or biases by size and seed from one program: cheaper than one for each size.

    Return None if the layer cannot be traced, or if vmapped construction gives other numbers than
    eager construction, which the first program shows by additional kernels.
    """
    tracing = layer.remember("traced construction", _Tracing)
    if not tracing.right:
        return None
    draws = [(size, which) for size, _ in wanted]
    seeds = [jax.device_put(np.asarray(s, np.uint32)) for _, s in wanted]
    if not tracing.tried:
        draws.append((_PROBE[0], "kernel"))
        seeds.append(jax.device_put(np.asarray(_PROBE[1], np.uint32)))
    try:
        key = (*draws, *map(len, seeds))
        program = tracing.programs.get(key) or _compiled(layer, draws, seeds)
        drawn = [np.asarray(numbers) for numbers in program(*seeds)]
    except Exception:
        # Other requirements report a layer that cannot be traced.
        tracing.right = False
        return None
    if again:
        tracing.programs[key] = program
    if not tracing.tried:
        eager = np.stack([built(layer, *_PROBE[0], seed, "kernel") for seed in _PROBE[1]])
        probed = drawn.pop()
        tracing.tried, tracing.right = True, probed.shape == eager.shape and _agree(probed, eager)
    return drawn if tracing.right else None


def built(layer: Layer, in_features: int, out_features: int, seed: int, which: str) -> np.ndarray:
    """Return the kernel (in, out) or the bias (1, out) of a layer that is constructed eagerly."""
    dense = layer.build(in_features, out_features, seed)
    return dense.kernel if which == "kernel" else dense.bias.reshape(1, -1)


def _agree(traced: np.ndarray, built: np.ndarray) -> bool:
    wide, other = traced.astype(np.float64), built.astype(np.float64)
    same = np.isfinite(wide) == np.isfinite(other)
    error = np.where(np.isfinite(wide - other), np.abs(wide - other), 0.0)
    # In half precision such a rounding moves a number to its neighbour.
    is_half = str(built.dtype) in HALF
    relative = float(jnp.finfo(built.dtype).eps) if is_half else _SAME
    return bool(same.all() and error.max(initial=0.0) <= relative * np.abs(wide).max(initial=0.0))


@once_per_layer()
def describable(layer: Layer) -> int:
    """Return the largest size at which ``jax.eval_shape`` of construction takes little time.

    Tracing a construction with a Python loop over its inputs takes time in proportion: hours for a
    million inputs.
    """

    def seconds(size: int) -> float:
        started = time.thread_time()  # other processes do not count
        with contextlib.suppress(Exception):  # which requirements report
            jax.eval_shape(lambda: layer.init(0, size, size))
        return time.thread_time() - started

    few, more = (min(seconds(size) for _ in range(2)) for size in (_FEW, _FEW * _GROWTH))
    return _MILLION if more < few * _GROWTH / 3 else _FEW * _GROWTH


# A size, and the factor to a larger one, by which the time of a loop grows.
_FEW, _GROWTH, _MILLION = 20, 50, 10**6
