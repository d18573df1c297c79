"""Bounds of derivatives in half precision: correct layers are within them, wrong ones are not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conformance.checks import oracle, require
from conformance.checks.arithmetic import Arithmetic
from conformance.checks.oracle import Bounded
from conformance.errors import Violation

DTYPES = [
    ("bfloat16", "bfloat16"),
    ("float16", "float16"),
    ("float32", "bfloat16"),
    ("float32", "float16"),
    ("bfloat16", "float32"),
    ("float16", "float32"),
]


def _numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def _layer(
    parameters: str, results: str, kernel: jax.Array, bias: jax.Array, x: jax.Array
) -> jax.Array:
    """Return a layer of these dtypes with a float32 result, so that nothing else is rounded."""
    kernel, bias = kernel.astype(parameters), bias.astype(parameters)
    if results != "float32":
        x, kernel, bias = (each.astype(results) for each in (x, kernel, bias))
    return (x @ kernel + bias).astype("float32")


@pytest.mark.parametrize(("parameters", "results"), DTYPES)
@pytest.mark.parametrize(("n", "m", "rows"), [(3, 10, 8), (33, 17, 100)])
def test_a_right_layer_keeps_to_its_bounds(
    parameters: str, results: str, n: int, m: int, rows: int
) -> None:
    arithmetic = Arithmetic(parameters, results)
    kernel, bias, x, g = _numbers(n, m), _numbers(m), _numbers(rows, n), _numbers(rows, m, seed=1)
    tk, tb, tx = _numbers(n, m, seed=2), _numbers(m, seed=2), _numbers(rows, n, seed=2)

    def f(*values: jax.Array) -> jax.Array:
        return _layer(parameters, results, *values)

    y, back = jax.vjp(f, *map(jnp.asarray, (kernel, bias, x)))
    found = [y, *back(jnp.asarray(g))]
    found.append(jax.jvp(f, tuple(map(jnp.asarray, (kernel, bias, x))), (tk, tb, tx))[1])
    expected = [
        arithmetic.affine(x, kernel, bias),
        arithmetic.kernel_gradient(x, g),
        arithmetic.bias_gradient(g),
        arithmetic.input_gradient(kernel, g),
        arithmetic.tangent(x, kernel, tk, tb, tx),
    ]
    for number, (value, reference) in enumerate(zip(found, expected, strict=True)):
        require.near(value, reference, "it")
        if number == 2 and rows == 100:
            continue  # a sum of so many terms in half precision has no useful bound
        with pytest.raises(Violation):
            require.near(np.asarray(value) * 1.1, reference, "it")


@pytest.mark.parametrize(
    ("found", "wrong"),
    [(np.ones((1, 3)), True), (np.full(3, 2.0), True), (np.full(3, 1.0001, np.float32), False)],
)
def test_a_wrong_shape_is_as_wrong_as_wrong_numbers(found: np.ndarray, wrong: bool) -> None:
    """More than rounding, that is; it raises the level of a failure."""
    for how in (
        lambda: require.equal(found, np.ones(3), "it"),
        lambda: require.within(found, np.ones(3), 1e-6, "it"),
    ):
        with pytest.raises(Violation) as caught:
            how()
        assert caught.value.wrong_numbers is wrong


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_layers_one_after_another(dtype: str) -> None:
    """The bound of the second layer includes the error of the first."""
    arithmetic = Arithmetic(dtype, dtype)
    kernels, biases, x = _numbers(3, 16, 16) / 4, _numbers(3, 16), _numbers(8, 16)
    y = jnp.asarray(x).astype(dtype)
    reference = Bounded(arithmetic.operand(x), np.zeros(x.shape))
    for kernel, bias in zip(kernels, biases, strict=True):
        y = y @ jnp.asarray(kernel).astype(dtype) + jnp.asarray(bias).astype(dtype)
        reference = arithmetic.after(reference, kernel, bias)
    require.near(y, reference, "it")
    assert np.all(reference.bound < 2)


def test_nothing_is_said_where_a_gradient_overflows() -> None:
    arithmetic = Arithmetic("float16", "float16")
    x, g = np.ones((2, 3), np.float32), np.array([[1e6, 1.0], [1e6, 1.0]], np.float32)
    found = arithmetic.kernel_gradient(x, g)
    assert np.isinf(found.bound[:, 0]).all()
    assert np.isfinite(found.bound[:, 1]).all()
    returned = Arithmetic("float16", "float32").kernel_gradient(x, g)
    assert np.isinf(returned.bound[:, 0]).all()


def test_partial_sums_over_several_axes_of_a_batch_may_be_rounded() -> None:
    """Over a single axis, XLA adds in float32."""
    arithmetic, half = Arithmetic("bfloat16", "bfloat16"), jnp.bfloat16
    x, g = _numbers(2, 30, 3).astype(half), _numbers(2, 30, 10).astype(half)
    rows, weights = x.reshape(60, 3), g.reshape(60, 10)
    total = np.zeros((3, 10), half)
    for row, weight in zip(rows, weights, strict=True):
        total = total + row[:, None] * weight
    x, g, rows, weights = (each.astype(np.float32) for each in (x, g, rows, weights))
    assert arithmetic.kernel_gradient(x, g).admits(total)
    assert not arithmetic.kernel_gradient(rows, weights).admits(total)


def test_float32_is_as_the_oracle_has_it() -> None:
    arithmetic, x, g = Arithmetic(), _numbers(8, 3), _numbers(8, 10)
    found, expected = arithmetic.kernel_gradient(x, g), oracle.kernel_gradient(x, g)
    assert np.array_equal(found.value, expected.value)
    assert np.array_equal(found.bound, expected.bound)
