"""What scripts check of ``dense_forward(seed, x, features)``; see ``check_values``."""

# ruff: noqa: D103  # a check's text is the statement of its requirement

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from conformance.scripts.given import IN, OUT, SEED, Layer
from conformance.scripts.numbers import equal, must_raise, normal, product, within
from conformance.scripts.of_function import build, parameters_of
from conformance.scripts.register import shows

FUNCTION = ("function",)


@shows("exercise/float-arguments", kinds=FUNCTION)
def float_arguments() -> None:
    seed, x = SEED % 2**20, jnp.asarray(normal("x", IN))
    plain = np.asarray(Layer(seed, x, OUT))
    forms = {
        "seed as a float": (float(seed), OUT),
        "features as a float": (seed, float(OUT)),
        "both as np.float64": (np.float64(seed), np.float64(OUT)),
        "both as 0-d arrays": (np.asarray(float(seed)), np.asarray(float(OUT))),
        "both as 0-d JAX arrays": (jnp.float32(seed), jnp.float32(OUT)),
        "a seed with a fraction": (seed + 0.7, OUT),
        "features with a fraction": (seed, OUT + 0.7),
    }
    for what, (s, m) in forms.items():
        try:
            found = Layer(s, x, m)
        except Exception as error:
            raise AssertionError(
                f"with {what}, f raised {type(error).__name__}: {error}"
            ) from error
        equal(found, plain, f"with {what}, f(x)")


@shows("exercise/vector-out", kinds=FUNCTION)
def vector_out() -> None:
    sizes = [(n, m) for n in (1, 2, 3, 7) for m in (1, 2, 5, 40)]
    for n, m in [(IN, OUT), *sizes, (IN, OUT)]:
        y = Layer(SEED, jnp.asarray(normal("x", n)), m)
        assert isinstance(y, jax.Array), f"the result is a {type(y)}, not a jax.Array"
        assert y.shape == (m,), f"features={m} gives a result of shape {y.shape}"


@shows("exercise/fixed-result", kinds=FUNCTION)
def fixed_result() -> None:
    x = normal("x", IN)
    key = nnx.Rngs(int(SEED)).params()
    k = np.asarray(jax.random.normal(key, (IN, OUT)) * (1 / jnp.sqrt(IN)))
    value, bound = product(x, k)
    within(Layer(SEED, jnp.asarray(x), OUT), (value, 2 * bound), "f(x)")


@shows("exercise/any-length", kinds=FUNCTION)
def any_length() -> None:
    for n in (IN, IN + 2, 1, IN):
        shape = Layer(SEED, jnp.asarray(normal("x", n)), OUT).shape
        assert shape == (OUT,), f"an x of length {n}, after others, gives shape {shape}"


@shows("exercise/differentiable-in-x", kinds=FUNCTION)
def differentiable_in_x() -> None:
    k, b = parameters_of(build())
    x, g = normal("x", 4, IN), normal("g", OUT)
    value, bound = product(x, k, b)
    found = jax.jit(lambda row: Layer(SEED, row, OUT))(x[0])
    within(found, (value[0], 2 * bound[0]), "f(x) under jit")
    within(jax.vmap(lambda row: Layer(SEED, row, OUT))(x), (value, 2 * bound), "f(x) under vmap")
    slope = jax.grad(lambda row: jnp.vdot(Layer(SEED, row, OUT), g))(jnp.asarray(x[0]))
    value, bound = product(g, k.T)
    within(slope, (value, 2 * bound), "the gradient in x")


@shows("exercise/bad-arguments-raise", kinds=FUNCTION)
def bad_arguments_raise() -> None:
    x = jnp.asarray(normal("x", IN))
    for wrong in (float("nan"), float("inf"), -float("inf")):
        must_raise(lambda wrong=wrong: Layer(wrong, x, 4), f"seed={wrong}")
        must_raise(lambda wrong=wrong: Layer(1, x, wrong), f"features={wrong}")


@shows("exercise/recovered-kernel", kinds=FUNCTION, sampled=True)
def recovered_kernel() -> None:
    equal(Layer(0, jnp.zeros(4), 512), np.zeros(512), "f(0), which is the new bias,")
    for n, m in ((1, 4096), (4, 2048), (16, 1024)):
        rows = [Layer(seed, row, m) for seed in range(4) for row in jnp.eye(n)]
        k = np.asarray(jnp.stack(rows), np.float64)
        found, slack = n * float((k**2).mean()), 8 * math.sqrt(2 / k.size)
        assert abs(found - 1) <= slack, f"in * E[K^2] = {found:.4g} at ({n}, {m}), not 1"
        z = np.sort(k.ravel()) * math.sqrt(n)
        law = 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))
        far = float(np.abs(law - np.arange(1, len(z) + 1) / len(z)).max())
        # A normal truncated at two deviations, which is accepted too, is 0.023 away.
        assert far <= 0.03 + math.sqrt(math.log(2e12) / (2 * len(z))), f"the law is {far:.3g} away"
