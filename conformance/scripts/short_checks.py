"""The checks of scripts that run without the suite, one function for each requirement.

They cover the common requirements: the exercise's pitfalls, shapes, values, dtypes, seeds,
gradients and compilation. The source of a function is the body of the script, so it uses only jax,
flax, numpy and the names of the neighbouring modules.
"""

# ruff: noqa: D103  # a check's text is the statement of its requirement

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from conformance.scripts.given import FIRST, IN, LEAD, OUT, SECOND, SEED, Layer
from conformance.scripts.numbers import (
    bias,
    equal,
    integers,
    kernel,
    mixed,
    normal,
    product,
    within,
)
from conformance.scripts.of_nnx import (
    arrays,
    build,
    call,
    forward,
    parameters_of,
    pure,
    write,
    written,
)
from conformance.scripts.register import shows


@shows("construction/builds", functions=True)
def builds() -> None:
    build()


@shows("construction/kernel-shape")
def kernel_shape() -> None:
    shape = parameters_of(build())[0].shape
    assert shape == (IN, OUT), f"the kernel has shape {shape}, not (in, out) = {(IN, OUT)}"


@shows("construction/bias-shape")
def bias_shape() -> None:
    shape = parameters_of(build())[1].shape
    assert shape == (OUT,), f"the bias has shape {shape}, not (out,) = {(OUT,)}"


@shows("construction/parameter-dtype")
def parameter_dtype() -> None:
    for name, value in zip(("kernel", "bias"), parameters_of(build()), strict=True):
        assert isinstance(value, jax.Array), f"the {name} is a {type(value)}, not a jax.Array"
        assert value.dtype == jnp.float32, f"the {name} is {value.dtype}, not float32"
        assert not value.weak_type, f"the {name} is weakly typed"


@shows("forward/output-shape", kinds=(), functions=True)
def output_shape() -> None:
    found = np.shape(forward(SEED, jnp.ones((IN,)), OUT))
    assert found == (OUT,), f"x of shape {(IN,)} gives a result of shape {found}, not {(OUT,)}"


@shows("forward/output-shape")
def output_shapes() -> None:
    for lead in (
        (),
        LEAD,
        (1,),
        (2,),
        (IN,),
        (OUT,),
        (2, 3),
        (1, 1),
        (2, 3, 4),
        (2, 1, 2, 3),
    ):
        found = call(build(), jnp.ones((*lead, IN))).shape
        wanted = (*lead, OUT)
        assert found == wanted, f"x of shape {(*lead, IN)} gives {found}, not {wanted}"


@shows("forward/empty-batch")
def empty_batch() -> None:
    found = call(build(), jnp.ones((0, IN))).shape
    assert found == (0, OUT), f"x of shape {(0, IN)} gives {found}, not {(0, OUT)}"


@shows("forward/zero-input")
def zero_input() -> None:
    found = call(written(kernel(), bias()), jnp.zeros((8, IN)))
    equal(found, np.broadcast_to(bias(), (8, OUT)), "f(0), which should be the bias,")


@shows("forward/basis-input")
def basis_input() -> None:
    found = call(written(kernel(), bias()), jnp.eye(IN))
    equal(found, kernel() + bias(), "f(e_i), which should be K[i] + b,")


@shows("forward/affine-value")
def affine_value() -> None:
    x = mixed(*LEAD)
    found = call(written(kernel(), bias()), jnp.asarray(x))
    within(found, product(x, kernel(), bias()), "f(x)")


@shows("dtypes/float32-out", functions=True)
def float32_out() -> None:
    y = forward(SEED, jnp.asarray(normal("x", IN)), OUT)
    assert isinstance(y, jax.Array), f"the result is a {type(y)}, not a jax.Array"
    assert y.dtype == jnp.float32, f"a float32 x gives {y.dtype}"
    assert not y.aval.weak_type, "the result is weakly typed"


@shows("construction/only-two-parameters", "serialization/stable-names", kinds=("linen",))
def only_two_variables() -> None:
    found = sorted(arrays(build()))
    wanted = ["['params']['bias']", "['params']['kernel']"]
    assert found == wanted, f"the layer's variables are {found}, not {wanted}"


@shows("state/exact-state", "serialization/stable-names", kinds=("nnx",))
def exact_state() -> None:
    layer = build()
    raw = [name for name, value in vars(layer).items() if isinstance(value, jax.Array | np.ndarray)]
    assert not raw, f"{raw} is a raw array: wrap it in nnx.Param"
    everything, params = nnx.state(layer), nnx.state(layer, nnx.Param)
    names = sorted(str(name) for name in everything)
    assert names == ["bias", "kernel"], f"the state holds {names}, not kernel and bias"
    found = sorted(str(name) for name in params)
    assert found == names, f"nnx.state(layer, nnx.Param) holds {found}, not {names}"


@shows("state/updates-used")
def updates_used() -> None:
    x = normal("x", 8, IN)
    reference = product(x, kernel(), bias())
    layer = build()
    call(layer, jnp.asarray(x))
    layer = write(layer, kernel(), bias())
    within(call(layer, jnp.asarray(x)), reference, "f(x) of values written in after a call")
    replaced = pure(build())(jnp.asarray(kernel()), jnp.asarray(bias()), jnp.asarray(x))
    within(replaced, reference, "f(x) of replaced values")


@shows("transforms/jit")
def jit() -> None:
    f, layer = jax.jit(pure(build())), written(kernel(), bias())
    for x in (mixed(*LEAD), normal("x", IN)):
        reference = product(x, kernel(), bias())
        within(f(kernel(), bias(), x), reference, f"f(x) under jax.jit for x of shape {x.shape}")
        found = jax.jit(lambda x: call(layer, x))(x)
        within(found, reference, "f(x) under jax.jit, the layer itself captured,")


def three_gradients(x: np.ndarray, k: np.ndarray, g: np.ndarray) -> dict[str, Any]:
    """Return the right gradients of ``sum(f(x) * g)``, each with its bound."""
    rows, cotangents = x.reshape(-1, IN), g.reshape(-1, OUT)
    summed, bound = product(np.ones((1, len(rows))), cotangents)
    return {"kernel": product(rows.T, cotangents), "bias": (summed[0], bound[0]),
            "input x": product(g, k.T)}  # fmt: skip


@shows("transforms/gradients")
def gradients() -> None:
    f = pure(build())
    for lead in (LEAD, (), (1,), (2, 3)):
        x, g = mixed(*lead), normal("cotangent", *lead, OUT)
        whole = [integers("integer kernel", IN, OUT), integers("integer bias", OUT)]
        whole += [integers("integer x", *lead, IN), integers("integer cotangent", *lead, OUT)]
        for k, b, at, weights in ((kernel(), bias(), x, g), (kernel(), bias(), x * 0, g), whole):
            grad = jax.grad(lambda *values, g=weights: (f(*values) * g).sum(), (0, 1, 2))
            expected = three_gradients(at, k, weights)
            for by, of in (("jax.grad", grad), ("jax.grad under jit", jax.jit(grad))):
                found = of(*(jnp.asarray(value) for value in (k, b, at)))
                for (name, reference), value in zip(expected.items(), found, strict=True):
                    what = f"the gradient in the {name} by {by}, x of shape {at.shape},"
                    within(value, reference, what)


@shows("seeding/same-seed-same-bits", functions=True)
def same_seed_same_bits() -> None:
    x = jnp.asarray(normal("x", IN))
    for what in ("kernel", "bias"):
        first, second = (parameters_of(build())[what == "bias"] for _ in range(2))
        equal(second, np.asarray(first), f"the {what} of a second layer")
    equal(forward(SEED, x, OUT), np.asarray(forward(SEED, x, OUT)), "f(x) of a second layer")


@shows("seeding/seeds-differ")
def seeds_differ() -> None:
    first, second = (np.asarray(parameters_of(build(6, 129, s))[0]) for s in (FIRST, SECOND))
    rows = {np.abs(row).tobytes() for row in first}
    shared = sum(np.abs(row).tobytes() in rows for row in second)
    assert not shared, f"seeds {FIRST} and {SECOND} share {shared} of 6 rows (up to the sign)"


@shows("seeding/seeds-differ", kinds=(), functions=True)
def seeds_give_other_outputs() -> None:
    x = jnp.asarray([0.5, -1.25, 2.0, 0.75, -0.25, 1.5])
    first, second = (np.asarray(forward(s, x, 129)) for s in (FIRST, SECOND))
    assert not np.array_equal(first, second), f"seeds {FIRST} and {SECOND} give the same f(x)"


def kernels(n: int, m: int, count: int = 2**17) -> np.ndarray:
    """Kernels (seeds, n, m) of as many seeds as give that many entries, 512 at most."""
    seeds = [(SEED + i) % 2**32 for i in range(min(512, max(4, count // (n * m))))]
    return np.stack([np.asarray(parameters_of(build(n, m, s))[0], np.float64) for s in seeds])


@shows("initialization/bias-zero")
def bias_zero() -> None:
    new = np.asarray(parameters_of(build())[1])
    assert not new.any(), f"{int((new != 0).sum())} of {new.size} entries of a new bias are not 0"


@shows("initialization/kernel-variance")
def kernel_variance() -> None:
    for n, m in ((IN, OUT), (1, 2048), (2, 2048), (4, 2048), (64, 256), (256, 64), (128, 128)):
        drawn = kernels(n, m)
        found = n * float((drawn**2).mean())
        # The mean of so many squared normals has the variance 2 / size; this allows 8 deviations.
        slack = 8 * math.sqrt(2 / drawn.size)
        assert abs(found - 1) <= slack, (
            f"in_features * mean(K**2) = {found:.4g} at ({n}, {m}), not within {slack:.2g} of "
            f"1: the variance of the kernel is not 1/in"
        )


@shows("exercise/float-arguments", kinds=("function",))
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
