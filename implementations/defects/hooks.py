"""Layers that differ from a correct one in one hook, each made of one function.

``forward(function)`` is the layer whose output is ``function(x, kernel, bias)``; the function's
name and docstring become the layer's. A lambda needs a docstring beside it, and at the end of its
file :func:`~implementations.defects.record.name_layers`. A function whose first argument is
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

from implementations.defects.base import (
    CorrectDense,
    CorrectLinenDense,
    affine,
    counted_on,
    scaled_normal,
)

Function = Callable[..., Any]


def _is_method(function: Function) -> bool:
    return next(iter(inspect.signature(function).parameters), "") == "self"


def _as_written(function: Function) -> Any:
    return function if _is_method(function) else staticmethod(function)


def _of_the_output(function: Function) -> Any:
    return staticmethod(lambda x, k, b: function(affine(x, k, b), x))


def _of_the_draws(function: Function) -> Any:
    return staticmethod(lambda key, n, m: function(scaled_normal(key, n, m)))


def _with_features(function: Function) -> Any:
    if _is_method(function):
        return function
    return lambda self, key, x: function(key, x, self.features)


def _after_construction(function: Function) -> Any:
    def construct(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        CorrectDense.__init__(self, in_features, out_features, rngs=rngs)
        function(self, rngs)

    return construct


def _setting(start: Function) -> Function:
    def set_all(layer: Any, _: nnx.Rngs) -> None:
        for name, value in (start(layer) or {}).items():
            setattr(layer, name, value)

    return set_all


def _of_the_input(function: Function) -> Any:
    return lambda self, x: CorrectDense.__call__(self, function(x))


def _before_the_output(function: Function) -> Any:
    return staticmethod(lambda x, k, b: (function(x, k, b), affine(x, k, b))[1])


def _before_the_bias(function: Function) -> Any:
    return staticmethod(lambda rngs, n, m: (function(rngs, n, m), jnp.zeros((m,), jnp.float32))[1])


def _of_the_seed(function: Function) -> Any:
    def reduced(rngs: nnx.Rngs) -> jax.Array:
        key, count = counted_on(rngs)
        root = jax.random.key_data(key)
        words = jnp.stack([root[0], function(root[1])])
        return jax.random.fold_in(jax.random.wrap_key_data(words), count)

    return staticmethod(reduced)


def subclass(
    base: type, function: Function, doc: str, methods: dict[str, Any], start: Function | None = None
) -> Any:
    """Return the base with other methods, named and described as the function is."""
    members = {
        **methods,
        "__doc__": doc or function.__doc__,
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
    }
    if start is not None:
        members["__init__"] = _after_construction(_setting(start))
    return type(base)(function.__name__, (base,), members)


@dataclass(frozen=True)
class Hook:
    """A hook of a correct layer; called with a function, it makes a layer.

    Attributes
    ----------
    base
        The correct layer.
    name
        The method that is replaced.
    method
        Returns the new method, for the function.
    right
        What takes the function's place where ``when``, of the same arguments, does not hold; for a
        function of ``self``, the base's method does.
    """

    base: type
    name: str
    method: Callable[[Function], Any] = _as_written
    right: Function | None = None

    def __call__(
        self,
        function: Function,
        doc: str = "",
        when: Function | None = None,
        start: Function | None = None,
    ) -> Any:
        """Return the layer with this function in the hook's place.

        A new layer has the attributes that ``start(layer)``, a dictionary or None, names.
        """
        chosen = function
        if when is not None and _is_method(function):
            right = getattr(self.base, self.name)
            chosen = lambda self, *values: (function if when(self, *values) else right)(  # noqa: E731
                self, *values
            )
        elif when is not None and (right := self.right) is not None:
            chosen = lambda *values: (function if when(*values) else right)(*values)  # noqa: E731
        return subclass(self.base, function, doc, {self.name: self.method(chosen)}, start)


forward = Hook(CorrectDense, "forward", right=affine)
"""The output: a function of x, kernel and bias."""
output = Hook(CorrectDense, "forward", _of_the_output, right=lambda y, x: y)
"""The output: a function of the right output and x."""
kernel = Hook(CorrectDense, "draw_kernel", right=scaled_normal)
"""The initial kernel: a function of key, n and m."""
draws = Hook(CorrectDense, "draw_kernel", _of_the_draws)
"""The initial kernel: a function of the right one."""
bias = Hook(CorrectDense, "draw_bias")
"""The initial bias: a function of rngs, n and m."""
key = Hook(CorrectDense, "kernel_key")
"""The key of the kernel: a function of rngs."""
seed = Hook(CorrectDense, "kernel_key", _of_the_seed)
"""What is left of the seed in the key of the kernel: a function of the seed, a uint32."""
call = Hook(CorrectDense, "__call__")
"""The whole call: a function of self and x, as x was given."""
given = Hook(CorrectDense, "__call__", _of_the_input, right=lambda x: x)
"""What a right call gets: a function of x, as x was given."""
init = Hook(CorrectDense, "__init__")
"""The constructor: a function of self, n, m and rngs."""
built = Hook(CorrectDense, "__init__", _after_construction)
"""What follows a right construction: a function of the layer and rngs."""
holding = Hook(CorrectDense, "__init__", lambda function: _after_construction(_setting(function)))
"""What a new layer holds besides or instead of its Params: attributes, from the right layer."""
when_called = Hook(CorrectDense, "forward", _before_the_output)
"""A side effect of the call: a function of x, kernel and bias."""
when_built = Hook(CorrectDense, "draw_bias", _before_the_bias)
"""A side effect of the construction: a function of rngs, n and m."""
linen_kernel = Hook(CorrectLinenDense, "draw_kernel", _with_features)
"""The initial kernel of a Linen layer: a function of key, x and m."""
linen_bias = Hook(CorrectLinenDense, "draw_bias", _with_features)
"""The initial bias of a Linen layer: a function of key, x and m."""
linen_forward = Hook(CorrectLinenDense, "forward")
"""The output of a Linen layer: a function of self, x, kernel and bias."""
linen_call = Hook(CorrectLinenDense, "__call__", nn.compact)
"""The whole call of a Linen layer: a compact method of self and x."""
