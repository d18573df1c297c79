"""Factories of defects: the hooks of :mod:`implementations.defects.hooks`, with a record.

Each takes the id of the defect, the requirement that it breaks, its subtlety, and the other
arguments of :func:`~implementations.defects.record.defect` by keyword. The result makes a defect of
a function, or of a lambda and a docstring::

    @wrong.forward("X501", "forward/affine-value", 4)
    def BiasDownTheRows(x: Array, kernel: Array, bias: Array) -> Array:
        \"\"\"A bias that fits both axes of the result is added along the first one.\"\"\"
        ...

    BiasSubtracted = wrong.forward("N089", "forward/zero-input", 4, cause_id="bias-subtracted")(
        lambda x, k, b: affine(x, k, -b), "The bias is subtracted."
    )
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from implementations.defects import hooks
from implementations.defects.base import CorrectDense
from implementations.defects.hooks import Function
from implementations.defects.record import defect


def factory(make: Function) -> Function:
    """Return what declares defects that ``make(function, doc, when, start)`` makes."""

    def declare(id: str, breaks: str, subtlety: int, start: Any = None, **record: Any) -> Function:
        def of(function: Function, doc: str = "", when: Any = None, **more: Any) -> Any:
            return defect(id, breaks, subtlety, **record, **more)(make(function, doc, when, start))

        return of

    return declare


def _casting(function: Function, doc: str, when: None, start: None) -> Function:
    def solve(seed: float, x: ArrayLike, features: float) -> Any:
        return function(int(seed), jnp.asarray(x), int(features))

    solve.__doc__, solve.__module__ = doc or function.__doc__, function.__module__
    solve.__name__, solve.__qualname__ = function.__name__, function.__qualname__
    return solve


def _described(function: Function, doc: str, when: None, start: None) -> Function:
    function.__doc__ = doc
    return function


forward, output = factory(hooks.forward), factory(hooks.output)
kernel, draws, bias = factory(hooks.kernel), factory(hooks.draws), factory(hooks.bias)
key, call, given, init = map(factory, (hooks.key, hooks.call, hooks.given, hooks.init))
built, holding = factory(hooks.built), factory(hooks.holding)
when_called, when_built = factory(hooks.when_called), factory(hooks.when_built)
linen_kernel, linen_bias = factory(hooks.linen_kernel), factory(hooks.linen_bias)
linen_forward, linen_call = factory(hooks.linen_forward), factory(hooks.linen_call)
solution = factory(_described)
"""A wrong solution of the exercise: a lambda of seed, x and features."""
casting = factory(_casting)
"""One that casts its arguments: a function of two integers, seed and m, and an array x."""


def methods(
    id: str, breaks: str, subtlety: int, base: type = CorrectDense, start: Any = None, **record: Any
) -> Function:
    """Return what makes a defect of a docstring and of methods in place of the base's."""

    def of(doc: str, **replaced: Function) -> Any:
        first = next(iter(replaced.values()))
        made = hooks.subclass(base, first, doc, replaced, start)
        return defect(id, breaks, subtlety, **record)(made)

    return of


def seed(id: str, subtlety: int, doc: str, reduce: Function, **record: Any) -> Any:
    """Return a defect that uses only ``reduce(seed)``, so different seeds collide."""
    return defect(id, "seeding/seeds-differ", subtlety, **record)(hooks.seed(reduce, doc))


def computes(arithmetic: Function, cause_id: str = "") -> Function:
    """Return a factory of layers that compute it from x, kernel and bias under a condition."""

    def branch(
        id: str,
        doc: str,
        when: Function,
        breaks: str = "forward/affine-value",
        cause_id: str = cause_id,
    ) -> Any:
        def computed(x: Any, k: Any, b: Any) -> Any:
            return arithmetic(x, k, b)

        # The layer is named and pickled by the place of its condition.
        computed.__module__, computed.__qualname__ = when.__module__, when.__qualname__
        made = forward(id, breaks, 5, cause_id=cause_id)
        return made(computed, doc, when=lambda x, k, b: when(x, k))

    return branch
