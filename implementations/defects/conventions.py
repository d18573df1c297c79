"""Known-wrong layers that declare another convention: without bias, as (out, in), in bfloat16.

``conventions:X501_transposed`` is the defect X501 with a kernel that is stored, and declared, as
(out, in). Only defects of one hook of the correct layer have such versions: the fault is the same,
and the arrays and the declaration around it differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from conformance.layers.adapters import adapt
from implementations.defects import KnownDefect, all_defects
from implementations.defects.base import CorrectDense

__all__ = ["DECLARATIONS", "sample"]

DECLARATIONS: dict[str, dict[str, Any]] = {
    "unbiased": {"use_bias": False},
    "transposed": {"layout": "out, in", "names": {"kernel": "weight"}},
    "halved": {"dtype": "bfloat16", "parameter_dtype": "bfloat16"},
}


def _unbiased(base: Any) -> dict[str, Any]:
    def construct(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        base.__init__(self, in_features, out_features, rngs=rngs)
        del self.bias

    def call(self: Any, x: ArrayLike) -> Array:
        kernel = self.kernel[...]
        y: Array = self.forward(jnp.asarray(x), kernel, jnp.zeros(kernel.shape[1], jnp.float32))
        return y

    return {"__init__": construct, "__call__": call}


def _transposed(base: Any) -> dict[str, Any]:
    def construct(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        base.__init__(self, in_features, out_features, rngs=rngs)
        self.weight = nnx.Param(self.kernel[...].T)
        del self.kernel

    def call(self: Any, x: ArrayLike) -> Array:
        y: Array = self.forward(jnp.asarray(x), self.weight[...].T, self.bias[...])
        return y

    return {"__init__": construct, "__call__": call}


def _halved(base: Any) -> dict[str, Any]:
    def construct(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        base.__init__(self, in_features, out_features, rngs=rngs)
        for name in ("kernel", "bias"):
            setattr(self, name, nnx.Param(getattr(self, name)[...].astype(jnp.bfloat16)))

    def call(self: Any, x: ArrayLike) -> Array:
        half = jnp.bfloat16
        values = (jnp.asarray(x), self.kernel[...], self.bias[...])
        y: Array = self.forward(*(value.astype(half) for value in values))
        return y.astype(half)

    return {"__init__": construct, "__call__": call}


_BODIES = {"unbiased": _unbiased, "transposed": _transposed, "halved": _halved}


def _of_one_hook(known: KnownDefect) -> Any:
    """Return the class of a defect that constructs and calls as the correct layer; else None."""
    module, _, name = known.spec.rpartition(":")
    found = getattr(__import__(module, fromlist=[name]), name)
    own = CorrectDense.__init__, CorrectDense.__call__
    is_class = isinstance(found, type) and issubclass(found, CorrectDense)
    return found if is_class and (found.__init__, found.__call__) == own else None


def sample(breaks: Sequence[str]) -> list[KnownDefect]:
    """Return the first defect of one hook that breaks each of these requirements."""
    found: dict[str, KnownDefect] = {}
    for known in all_defects():
        wanted = known.defect.breaks
        if wanted in breaks and wanted not in found and _of_one_hook(known) is not None:
            found[wanted] = known
    return list(found.values())


def __getattr__(name: str) -> Any:
    id, _, how = name.partition("_")
    known = next((each for each in all_defects() if each.defect.id == id), None)
    base = _of_one_hook(known) if known is not None else None
    if base is None or how not in _BODIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    body = {"__module__": __name__, "__qualname__": name, "__doc__": base.__doc__}
    # Under its name, by which it is pickled.
    globals()[f"{name}_layer"] = layer = type(f"{name}_layer", (base,), body | _BODIES[how](base))
    layer.__qualname__ = f"{name}_layer"
    globals()[name] = adapt(layer, **DECLARATIONS[how])
    return globals()[name]
