"""The scan finds all edges of layers that branch, and none of layers that do not.

Every run draws new thresholds; a failure shows them.
"""

import functools
import random
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx
from jax import Array

from conformance.checks.cases import Case
from conformance.checks.layer import Layer
from conformance.checks.scan.edges import HALF, VALUES, scan
from conformance.checks.scan.literals import counts_in_code, numbers_in_code
from conformance.checks.scan.nearest import edge_before
from conformance.checks.scan.thresholds import thresholds
from conformance.contract.catalogue import chosen
from conformance.layers.adapters import adapt
from implementations.defects.base import CorrectDense, affine, is_traced
from implementations.my_dense import MyDense

Condition = Callable[[Array, Array], bool]


def branching(when: Condition) -> Layer:
    """Return a layer that doubles the bias where a condition on x and kernel holds."""

    class Branching(CorrectDense):
        def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
            return affine(x, kernel, bias * 2 if when(x, kernel) else bias)

    return Layer(adapt(Branching))


@pytest.mark.parametrize("subject", [MyDense, nnx.Linear, linen.Dense], ids=str)
def test_no_edge_of_what_does_not_branch(subject: type) -> None:
    found = scan(Layer(adapt(subject)))
    assert found.traced
    assert not found.edges
    assert not found.constants


@pytest.mark.parametrize(("size", "least", "most"), [(1, 130, 130), (16, 1e3, 4e3), (64, 4e3, 2e4)])
def test_programs_of_many_blocks_are_traced_as_far_as_they_are_short(
    size: int, least: float, most: float
) -> None:
    """Tracing a sum of as many products as there are blocks takes time in proportion."""

    class Blocks(CorrectDense):
        def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
            for i in range(0, kernel.shape[0], size):
                bias = bias + x[..., i : i + size] @ kernel[i : i + size]
            return bias

    assert least <= scan(Layer(adapt(Blocks))).longest <= most


@pytest.mark.parametrize("axis", ["in_features", "out_features", "rows"])
def test_drawn_thresholds(axis: str) -> None:
    threshold = random.SystemRandom().randint(40, 2000)

    def when(x: Array, kernel: Array) -> bool:
        lengths = {
            "in_features": kernel.shape[0],
            "out_features": kernel.shape[1],
            "rows": x.shape[0] if x.ndim == 2 else 0,
        }
        return lengths[axis] >= threshold

    found = scan(branching(when))
    assert f"from {axis} = {threshold} on" in [edge.where for edge in found.edges]
    axes = [dict(zip(("in_features", "out_features", "rows"),
                     (*case.kernel_shape, *case.lead), strict=False))[axis]
            for _, case in found.places(VALUES)]  # fmt: skip
    assert {threshold - 1, threshold} <= set(axes)


_LIMIT = 2311


def _helper(rows: int, limit: int = 2312) -> bool:
    return rows in (2313, 2314) or rows > max(limit, _LIMIT)


def test_numbers_in_code() -> None:
    held = 2315

    class Written(CorrectDense):
        limit = 2316

        def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
            return affine(x, kernel, bias * (1 + (_helper(len(x)) or len(x) in (held, 2317))))

        @jax.jit
        def compiled(self, x: Array) -> Array:
            return x * 2318

    class Hostile(type):
        def __getattribute__(cls, name: str) -> Any:
            if name in ("__module__", "__mro__"):
                raise RuntimeError(name)
            return super().__getattribute__(name)

    Written.hostile = Hostile("Hostile", (), {})  # type: ignore[attr-defined]  # as users may

    found = numbers_in_code(Layer(adapt(functools.partial(Written))))
    assert set(range(2311, 2319)) <= set(found)
    assert numbers_in_code(Layer(adapt(nnx.Linear))) == ()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_number_that_no_trace_sees(axis: int) -> None:
    """A branch on one length, outside of traces only, becomes a case."""

    def when(x: Array, kernel: Array) -> bool:
        return not is_traced(x, kernel) and (*kernel.shape, x.shape[0])[axis] == 577

    cases = [case for _, case in scan(branching(when)).places(VALUES)]
    assert 577 in [(*case.kernel_shape, *case.lead)[axis] for case in cases]


@pytest.mark.parametrize(("code", "counts"), [("layer.calls += 1", [300]), ("layer.calls", [])])
def test_counts_in_code(code: str, counts: list[int]) -> None:
    """Only code that stores something may count its calls."""
    space: dict[str, Any] = {}
    exec(f"def when(layer, x):\n    {code}\n    return layer.calls == 300", space)
    called = space["when"]

    class Counting(CorrectDense):
        def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
            return affine(x, kernel, bias * (1 + called(self, x)))

    assert counts_in_code(Layer(adapt(Counting))) == counts


def test_the_edge_before_a_failing_case() -> None:
    threshold = random.SystemRandom().randint(8, 16)
    layer, (row,) = branching(lambda x, k: k.shape[0] >= threshold), chosen(["zero-input"])
    assert edge_before(layer, row, Case(16, 16)) == f"from in_features = {threshold} on"
    assert edge_before(layer, row, Case(5, 16)) == ""


def test_a_python_loop_has_no_edge() -> None:
    """Each size has a program of its own, so none of them is the other program."""

    class OneDrawForAllRows(CorrectDense):
        def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
            return jnp.stack([jax.random.normal(key, (out_features,)) for _ in range(in_features)])

    (row,) = chosen(["kernel-independence"])
    assert edge_before(Layer(adapt(OneDrawForAllRows)), row, Case(2, 1024)) == ""


def test_beyond_an_edge_is_the_other_program() -> None:
    """Words about the other program go with cases that run it."""
    found = scan(branching(lambda x, k: k.shape[1] < 5))
    edges = {edge.where for edge in found.edges}
    sides = {(w in edges, c.out_features < 5) for w, c in found.places(VALUES) if w in {"", *edges}}
    assert sides == {(True, True), (False, False)}


def test_drawn_divisors() -> None:
    divisor = random.SystemRandom().choice((32, 48, 64, 100, 128))
    found = scan(branching(lambda x, k: k.shape[0] % divisor == 0))
    where = [edge.where for edge in found.edges]
    assert any(str(divisor) in words for words in where), (divisor, where)


def test_other_arithmetic_at_a_rank() -> None:
    found = scan(branching(lambda x, k: x.ndim == 3 and x.dtype == jnp.bfloat16))
    assert any(len(case.lead) == 2 for _, case in found.places(HALF))
    assert not any(len(case.lead) == 2 for _, case in found.places(VALUES))


def test_drawn_constants() -> None:
    draw = random.SystemRandom()
    value, index = round(draw.uniform(2, 1000), 3), draw.randint(3, 10**5)

    def f(x: Array) -> Array:
        kept = jnp.arange(x.shape[-1]) < index
        return jax.jit(jnp.clip)(jnp.where(kept, x, -x), -value, value)

    values, indices = thresholds(jax.make_jaxpr(f)(jax.ShapeDtypeStruct((4, 7), jnp.float32)))
    assert [round(each, 3) for each in values] == [value]
    assert index in indices


def test_untraced() -> None:
    class Concrete(CorrectDense):
        def forward(self, x: Array, kernel: Array, bias: Array) -> Array:
            return affine(x, kernel, bias) + 0 * float(x.sum())

    found = scan(Layer(adapt(Concrete)))
    assert not found.traced
    assert found.places(VALUES)
