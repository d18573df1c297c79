"""Fifteen properties of a layer as one would write them without this suite, as the baseline.

They use plain Hypothesis, sizes up to 64, and call the layer as its users do. Each is a few lines
long and stands for a requirement: see ``SAME`` in ``conformance.bench.parts``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from implementations.my_dense import MyDense

EXAMPLES = int(os.environ.get("CONFORMANCE_NAIVE_EXAMPLES", "100"))
SIZE = st.integers(1, 64)
SEED = st.integers(0, 2**32 - 1)

Property = Callable[[int, int, int], None]


def over_sizes_and_seeds(test: Property) -> Callable[[], None]:
    """Let Hypothesis draw sizes and seeds, without a deadline, because compiling is slow."""
    drawn = given(in_features=SIZE, out_features=SIZE, seed=SEED)
    return settings(max_examples=EXAMPLES, deadline=None, database=None)(drawn(test))


def layer(in_features: int, out_features: int, seed: int) -> MyDense:
    """Return a new layer."""
    return MyDense(in_features, out_features, rngs=nnx.Rngs(seed))


def x_of(in_features: int, seed: int) -> Any:
    """Return a batch of 8."""
    return np.random.default_rng(seed).standard_normal((8, in_features)).astype(np.float32)


@over_sizes_and_seeds
def test_kernel_shape(in_features: int, out_features: int, seed: int) -> None:
    """The kernel has shape (in, out)."""
    assert layer(in_features, out_features, seed).kernel.shape == (in_features, out_features)


@over_sizes_and_seeds
def test_bias_shape(in_features: int, out_features: int, seed: int) -> None:
    """The bias has shape (out,)."""
    assert layer(in_features, out_features, seed).bias.shape == (out_features,)


@over_sizes_and_seeds
def test_parameter_dtype(in_features: int, out_features: int, seed: int) -> None:
    """Both parameters are float32."""
    dense = layer(in_features, out_features, seed)
    assert dense.kernel.dtype == dense.bias.dtype == jnp.float32


@over_sizes_and_seeds
def test_finite(in_features: int, out_features: int, seed: int) -> None:
    """A new kernel has neither NaN nor infinity."""
    assert np.isfinite(layer(in_features, out_features, seed).kernel[...]).all()


@over_sizes_and_seeds
def test_bias_is_zero(in_features: int, out_features: int, seed: int) -> None:
    """A new bias is 0."""
    assert not np.any(layer(in_features, out_features, seed).bias[...])


@over_sizes_and_seeds
def test_kernel_variance(in_features: int, out_features: int, seed: int) -> None:
    """The variance of the kernel is 1/in, within six standard errors."""
    z = np.asarray(layer(in_features, out_features, seed).kernel[...]) * np.sqrt(in_features)
    assert abs(np.mean(z**2) - 1) < 6 * np.sqrt(2 / z.size) + 30 / z.size


@over_sizes_and_seeds
def test_same_seed_same_bits(in_features: int, out_features: int, seed: int) -> None:
    """The same seed gives the same kernel twice."""
    one, other = (layer(in_features, out_features, seed) for _ in range(2))
    assert np.array_equal(one.kernel[...], other.kernel[...])


@over_sizes_and_seeds
def test_seeds_differ(in_features: int, out_features: int, seed: int) -> None:
    """The next seed gives another kernel."""
    one, other = (layer(in_features, out_features, s) for s in (seed, (seed + 1) % 2**32))
    assert not np.array_equal(one.kernel[...], other.kernel[...])


@over_sizes_and_seeds
def test_output_shape(in_features: int, out_features: int, seed: int) -> None:
    """The output has shape (..., out), for three ranks."""
    dense, x = layer(in_features, out_features, seed), x_of(in_features, seed)
    assert dense(x).shape == (8, out_features)
    assert dense(x[0]).shape == (out_features,)
    assert dense(x.reshape(2, 4, in_features)).shape == (2, 4, out_features)


@over_sizes_and_seeds
def test_zero_input(in_features: int, out_features: int, seed: int) -> None:
    """f(0) is the bias."""
    dense = layer(in_features, out_features, seed)
    assert np.array_equal(dense(jnp.zeros((8, in_features)))[0], dense.bias[...])


@over_sizes_and_seeds
def test_affine_value(in_features: int, out_features: int, seed: int) -> None:
    """The output is x @ kernel + bias, computed in float64."""
    dense, x = layer(in_features, out_features, seed), x_of(in_features, seed)
    dense.bias[...] = jnp.arange(out_features, dtype=jnp.float32)
    expected = x.astype(np.float64) @ np.asarray(dense.kernel[...], np.float64)
    error = np.abs(np.asarray(dense(x)) - (expected + np.arange(out_features)))
    assert error.max() < 1e-4


@over_sizes_and_seeds
def test_additive(in_features: int, out_features: int, seed: int) -> None:
    """f(x + y) = f(x) + f(y), for a bias of zero."""
    dense, x = layer(in_features, out_features, seed), x_of(in_features, seed)
    y = x_of(in_features, seed + 1)
    assert np.abs(np.asarray(dense(x + y)) - np.asarray(dense(x) + dense(y))).max() < 1e-4


@over_sizes_and_seeds
def test_batch_independent(in_features: int, out_features: int, seed: int) -> None:
    """A row of a batch gives the same result as the row alone."""
    dense, x = layer(in_features, out_features, seed), x_of(in_features, seed)
    assert np.abs(np.asarray(dense(x)[3]) - np.asarray(dense(x[3]))).max() < 1e-4


@over_sizes_and_seeds
def test_jit(in_features: int, out_features: int, seed: int) -> None:
    """nnx.jit changes nothing."""
    dense, x = layer(in_features, out_features, seed), x_of(in_features, seed)
    compiled = nnx.jit(lambda module, x: module(x))(dense, x)
    assert np.abs(np.asarray(compiled) - np.asarray(dense(x))).max() < 1e-4


@over_sizes_and_seeds
def test_gradients(in_features: int, out_features: int, seed: int) -> None:
    """The gradients of sum(f(x)) are the column sums of x, and the batch size for the bias."""
    dense, x = layer(in_features, out_features, seed), x_of(in_features, seed)
    gradient = nnx.grad(lambda module: jnp.sum(module(x)))(dense)
    assert np.abs(np.asarray(gradient["kernel"][...]) - x.sum(0)[:, None]).max() < 1e-4
    assert np.array_equal(np.asarray(gradient["bias"][...]), np.full(out_features, 8.0))
