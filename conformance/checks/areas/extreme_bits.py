"""Kernels for the rarest bits that a generator can give.

``log(u)`` and ``ndtri(u)`` are infinite at u = 0, which a uniform float32 takes once in 2^23 draws:
too rarely for an experiment, but almost surely in a large model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.checks import jaxprs, require
from conformance.checks.layer import Layer
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax, jnp

RARELY_DRAWN = Cause("rare-draw-not-finite", "a rare draw becomes infinite, as by log(0)")

_SIZE = (4, 16)
# All zeros, all ones, and the neighbours of both in the 23 bits that a float32 uses.
_WORDS = (0, 2**32 - 1, 2**9, 2**32 - 2**9 - 1, 2**31, 2**31 - 1, 2**8, 2**31 + 2**9)


def require_finite_for_extreme_bits(layer: Layer) -> None:
    """Require a finite kernel if the generator gives its extreme bits, in every combination.

    This covers constructions that draw by JAX outside of loops; a loop might never end.
    """
    try:
        traced = jax.make_jaxpr(lambda seed: layer.kernel_of(layer.init(seed, *_SIZE)))(
            jax.ShapeDtypeStruct((), jnp.uint32)
        )
    except Exception:
        return  # abstract-init reports a construction that cannot be traced
    names = {equation.primitive.name for equation in jaxprs.equations(traced)}
    if "random_bits" not in names or {"while", "pure_callback", "io_callback"} & names:
        return
    draws = [_Words(i) for i in range(3)]

    def kernels(seed: Any) -> Any:
        return [_evaluated(traced.jaxpr, traced.consts, [seed], words)[0] for words in draws]

    try:
        found = np.stack(jax.device_get(jax.jit(kernels)(np.uint32(0))))
    except Exception:
        return  # one of its equations cannot be evaluated separately
    wrong = int(np.count_nonzero(~np.isfinite(found.astype(np.float64))))
    require.that(
        not wrong,
        f"{wrong} of {found.size} weights are not finite where the generator gives its extreme "
        "bits: zeros, ones and their neighbours",
        accepted="finite weights for all bits that can be drawn",
        cause=RARELY_DRAWN,
    )


# These primitives run a part of the program more than once, or not at all.
_LOOPS = ("scan", "while", "cond")


class _Words:
    """The extreme bits, in an order that differs between draws."""

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.calls = 0

    def __call__(self, shape: tuple[int, ...], dtype: Any) -> Any:
        self.calls += 1
        words = np.array(_WORDS, np.uint64)
        places = np.arange(int(np.prod(shape)))
        # The first kind gives the same word to all draws, the others all pairs of words.
        step = (0, 1, len(_WORDS))[self.kind]
        turned = places // max(len(_WORDS) if step > 1 else 1, 1) + self.calls * step
        bits = np.dtype(dtype).itemsize * 8
        chosen = words[turned % len(_WORDS)] >> np.uint64(32 - bits if bits < 32 else 0)
        return jnp.asarray(chosen.astype(dtype).reshape(shape))


def _evaluated(
    jaxpr: Any, consts: Any, arguments: Any, bits: Callable[[tuple[int, ...], Any], Any]
) -> list[Any]:
    """Return the results of a jaxpr in which ``random_bits`` gives what ``bits`` gives."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

    def read(variable: Any) -> Any:
        return variable.val if hasattr(variable, "val") else known[variable]

    for equation in jaxpr.eqns:
        given, name = [read(variable) for variable in equation.invars], equation.primitive.name
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        if name == "random_bits":
            out = equation.outvars[0].aval
            result = [bits(out.shape, out.dtype)]
        elif name not in _LOOPS and hasattr(inner, "in_avals"):
            result = _evaluated(inner.jaxpr, inner.consts, given, bits)
        else:
            value = equation.primitive.bind(*given, **equation.params)
            result = value if equation.primitive.multiple_results else [value]
        known.update(zip(equation.outvars, result, strict=True))
    return [read(variable) for variable in jaxpr.outvars]
