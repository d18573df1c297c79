"""Factories of defects: a correct layer in which one wrong function takes the place of a hook.

Every factory is called with what :func:`~implementations.defects.record.defect` takes: the id, the
requirement that the defect breaks, its subtlety, and the rest by keyword. What comes back declares
a function, in one of two ways::

    @wrong.forward("X501", "forward/affine-value", 4)
    def BiasDownTheRows(x: Array, kernel: Array, bias: Array) -> Array:
        \"\"\"A bias that fits both axes of the result is added along the first one.\"\"\"
        ...

    BiasSubtracted = wrong.forward("N089", "forward/zero-input", 4, cause="subtracted")(
        lambda x, k, b: affine(x, k, -b), "The bias is subtracted."
    )

Either gives a class. A function is named as the class that it becomes; a file with lambdas ends
with :func:`~implementations.defects.record.name_layers`. A function whose first argument is
``self`` is a method of the layer. Shapes: x (..., n), kernel (n, m), bias (m,), for n inputs and m
outputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from implementations.defects.base import CorrectDense, CorrectLinenDense, affine, scaled_normal
from implementations.defects.record import defect

__all__ = [
    "bias",
    "built",
    "call",
    "draws",
    "forward",
    "init",
    "kernel",
    "key",
    "linen_bias",
    "linen_call",
    "linen_forward",
    "linen_kernel",
    "output",
    "seed",
    "solution",
    "when_built",
    "when_called",
]

Function = Callable[..., Any]


def _is_method(function: Function) -> bool:
    return next(iter(inspect.signature(function).parameters), "") == "self"


def _as_written(function: Function) -> Any:
    """Return the function as a member of a class, static unless it asks for ``self``."""
    return function if _is_method(function) else staticmethod(function)


def _with_features(function: Function) -> Function:
    """Return the method of a Linen layer that calls ``function(key, x, features)``."""
    if _is_method(function):
        return function
    return lambda self, key, x: function(key, x, self.features)


def _after_construction(function: Function) -> Function:
    """Return a constructor that hands the finished layer to ``function(layer, rngs)``."""

    def construct(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        CorrectDense.__init__(self, in_features, out_features, rngs=rngs)
        function(self, rngs)

    return construct


def _of_reduced_seed(function: Function) -> Function:
    """Return the key of ``function(seed)``, a uint32; the count goes in as it should."""

    def reduced(rngs: nnx.Rngs) -> jax.Array:
        stream = rngs.params
        root, count = jax.random.key_data(stream.key[...]), stream.count[...]
        # The stream counts on, so that the next layer of these rngs gets another key.
        stream()
        words = jnp.stack([root[0], function(root[1])])
        return jax.random.fold_in(jax.random.wrap_key_data(words), count)

    return staticmethod(reduced)


def _before(function: Function, right: Function) -> Function:
    """Return the right function with a side effect, ``function`` of the same arguments."""

    def both(*arguments: Any) -> Any:
        function(*arguments)
        return right(*arguments)

    return staticmethod(both)


def _zeros(rngs: nnx.Rngs, in_features: int, out_features: int) -> jax.Array:
    return jnp.zeros((out_features,), jnp.float32)


@dataclass(frozen=True)
class Hook:
    """A factory of defects that differ from a correct layer in one hook.

    Attributes
    ----------
    base
        The correct layer.
    name
        The method that is replaced.
    method
        Makes this method of the function that is declared.
    right
        What takes the function's place where its ``when`` does not hold.
    """

    base: type
    name: str
    method: Callable[[Function], Any] = _as_written
    right: Function | None = None

    def __call__(self, id: str, breaks: str, subtlety: int, **details: Any) -> Function:
        """Return what declares a function as the defect of this id."""

        def declare(function: Function, doc: str = "", when: Any = None, **more: Any) -> Any:
            chosen, right = function, self.right
            if when is not None and right is not None:
                chosen = lambda *values: (function if when(*values) else right)(*values)  # noqa: E731
            members = {
                self.name: self.method(chosen),
                "__doc__": doc or function.__doc__,
                "__module__": function.__module__,
                "__qualname__": function.__qualname__,
            }
            layer = type(self.base)(function.__name__, (self.base,), members)
            return defect(id, breaks, subtlety, **details, **more)(layer)

        return declare


forward = Hook(CorrectDense, "forward", right=affine)
"""The output, by a function of x, kernel and bias."""

output = Hook(
    CorrectDense,
    "forward",
    lambda function: staticmethod(lambda x, k, b: function(affine(x, k, b), x)),
    right=lambda y, x: y,
)
"""The output, by a function of the right output and x."""

kernel = Hook(CorrectDense, "draw_kernel", right=scaled_normal)
"""The initial kernel, by a function of key, n and m."""

draws = Hook(
    CorrectDense,
    "draw_kernel",
    lambda function: staticmethod(lambda key, n, m: function(scaled_normal(key, n, m))),
)
"""The initial kernel, by a function of the right one."""

bias = Hook(CorrectDense, "draw_bias")
"""The initial bias, by a function of rngs, n and m."""

key = Hook(CorrectDense, "kernel_key")
"""The key of the kernel, by a function of rngs."""

call = Hook(CorrectDense, "__call__")
"""The whole call: a function of self and x, as it was given."""

init = Hook(CorrectDense, "__init__")
"""The constructor: a function of self, n, m and rngs."""

built = Hook(CorrectDense, "__init__", _after_construction)
"""The constructor: a right one, then a function of the layer and rngs."""

when_called = Hook(CorrectDense, "forward", lambda function: _before(function, affine))
"""A right output, with a side effect of x, kernel and bias."""

when_built = Hook(CorrectDense, "draw_bias", lambda function: _before(function, _zeros))
"""A right bias, with a side effect of rngs, n and m."""

linen_kernel = Hook(CorrectLinenDense, "draw_kernel", _with_features)
"""The initial kernel of a Linen layer, by a function of key, x and m."""

linen_bias = Hook(CorrectLinenDense, "draw_bias", _with_features)
"""The initial bias of a Linen layer, by a function of key, x and m."""

linen_forward = Hook(CorrectLinenDense, "forward")
"""The output of a Linen layer, by a function of self, x, kernel and bias."""

linen_call = Hook(CorrectLinenDense, "__call__", nn.compact)
"""The whole call of a Linen layer: a compact method of self and x."""


def seed(id: str, subtlety: int, doc: str, reduce: Function) -> Any:
    """Return a layer whose key is made of ``reduce(seed)``, where the seed is a uint32."""
    hook = Hook(CorrectDense, "kernel_key", _of_reduced_seed)
    return hook(id, "seeding/seeds-differ", subtlety)(reduce, doc)


def solution(id: str, breaks: str, subtlety: int, **details: Any) -> Function:
    """Return what declares a lambda ``(seed, x, features)`` as a wrong solution of the exercise."""

    def declare(function: Function, doc: str, **more: Any) -> Any:
        function.__doc__ = doc
        return defect(id, breaks, subtlety, **details, **more)(function)

    return declare
