"""What scripts check of transformations and dtypes; see ``check_values``."""

# ruff: noqa: D103  # a check's text is the statement of its requirement

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from conformance.scripts.given import IN, LEAD, OUT, SEED
from conformance.scripts.numbers import (
    bias,
    equal,
    generator,
    integers,
    kernel,
    mixed,
    normal,
    product,
    within,
)
from conformance.scripts.of_nnx import build, call, drawn, parameters_of, pure, written
from conformance.scripts.register import shows

NNX = ("nnx",)


@shows("transforms/jit")
def jit() -> None:
    f, layer = jax.jit(pure(build())), written(kernel(), bias())
    for x in (mixed(*LEAD), normal("x", IN)):
        reference = product(x, kernel(), bias())
        within(f(kernel(), bias(), x), reference, f"f(x) under jax.jit for x of shape {x.shape}")
        found = jax.jit(lambda x: call(layer, x))(x)
        within(found, reference, "f(x) under jax.jit, the layer itself captured,")


def three_gradients(x: np.ndarray, k: np.ndarray, g: np.ndarray) -> dict[str, Any]:
    """The right gradients of ``sum(f(x) * g)``, each with its bound."""
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


@shows("transforms/forward-mode")
def forward_mode() -> None:
    f, x = pure(build()), normal("x", 8, IN)
    values = [jnp.asarray(value) for value in (kernel(), bias(), x)]
    every = [normal("kernel tangent", IN, OUT), normal("bias tangent", OUT)]
    every.append(normal("x tangent", 8, IN))
    for i, along in enumerate(("kernel", "bias", "input x", "all three")):
        tk, tb, tx = (t if i in (3, j) else 0 * t for j, t in enumerate(every))
        left, right = np.concatenate([x, tx], -1), np.concatenate([tk, kernel()])
        reference = product(left, right, tb)
        tangents = [jnp.asarray(t) for t in (tk, tb, tx)]
        within(jax.jvp(f, values, tangents)[1], reference, f"jax.jvp along {along}")
        found = jax.linearize(f, *values)[1](*tangents)
        within(found, reference, f"jax.linearize along {along}")
    second = jax.hessian(lambda row: f(values[0], values[1], row).sum())(values[2][0])
    equal(second, np.zeros_like(second), "the Hessian in x")


@shows("transforms/vmap")
def vmap() -> None:
    f, x = pure(build()), normal("x", 8, IN)
    k, b = jnp.asarray(kernel()), jnp.asarray(bias())
    reference = product(x, kernel(), bias())
    within(jax.vmap(lambda row: f(k, b, row))(x), reference, "jax.vmap over x")
    found = jax.vmap(lambda row: f(k, b, row), 1, 1)(x.T)
    within(found.T, reference, "jax.vmap over the last axis of x")
    nested = jax.vmap(jax.vmap(lambda row: f(k, b, row)))(x.reshape(2, 4, IN))
    within(nested.reshape(8, OUT), reference, "nested jax.vmap over x")
    kernels, biases = normal("kernels", 3, IN, OUT), normal("biases", 3, OUT)
    found = jax.vmap(f, (0, 0, None))(kernels, biases, x)
    for i in range(3):
        expected = product(x, kernels[i], biases[i])
        within(found[i], expected, "jax.vmap over stacked parameters")


@shows("transforms/scan-and-remat")
def scan_and_remat() -> None:
    f, x = pure(build()), normal("x", 8, IN)
    g = normal("cotangent", 8, OUT)
    loss = jax.checkpoint(lambda *values: (f(*values) * g).sum())
    found = jax.grad(loss, (0, 1, 2))(*(jnp.asarray(v) for v in (kernel(), bias(), x)))
    rows = product(x.T, g), product(np.ones((1, 8)), g), product(g, kernel().T)
    for name, reference, value in zip(("kernel", "bias", "input x"), rows, found, strict=True):
        value = value.reshape(reference[0].shape)
        within(value, reference, f"the gradient in the {name} under jax.checkpoint")


@shows("transforms/abstract-forward")
def abstract_forward() -> None:
    f = pure(build())
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((IN, OUT), (OUT,), (*LEAD, IN))]
    y = jax.eval_shape(f, *shapes)
    assert y.shape == (*LEAD, OUT), f"eval_shape gives shape {y.shape}, not {(*LEAD, OUT)}"
    assert y.dtype == jnp.float32, f"eval_shape gives {y.dtype}, not float32"
    huge = jax.eval_shape(lambda: drawn(jax.random.key(SEED), 10**6, 10**6))
    assert huge.shape == (10**6, 10**6), f"a huge layer has a kernel of shape {huge.shape}"


@shows("transforms/one-trace", kinds=NNX)
def one_trace() -> None:
    traces = []

    @nnx.jit
    def f(layer: Any, x: Any) -> Any:
        traces.append(layer)
        return layer(x)

    x = jnp.asarray(normal("x", 8, IN))
    for seed in (SEED, (SEED + 1) % 2**32, SEED ^ 0xFFFFFFFF):
        layer = build(IN, OUT, seed)
        f(layer, x)
        f(layer, x)
        count = len(traces)
        assert count == 1, f"nnx.jit traced the layer {count} times, last for seed {seed}"
        layer(x)


@shows("transforms/one-trace", kinds=("linen",))
def one_trace_of_models() -> None:
    traces = []

    def f(model: Any, variables: Any, x: Any) -> Any:
        traces.append(model)
        return model.apply(variables, x)

    compiled = jax.jit(f, static_argnums=0)
    for seed in (SEED, (SEED + 1) % 2**32, SEED ^ 0xFFFFFFFF):
        compiled(*build(IN, OUT, seed), jnp.asarray(normal("x", 8, IN)))
        count = len(traces)
        assert count == 1, f"jax.jit traced the layer {count} times, last for seed {seed}"


@shows("transforms/no-leaks")
def no_leaks() -> None:
    layer, x = written(kernel(), bias()), normal("x", 8, IN)
    reference = product(x, kernel(), bias())
    with jax.disable_jit():
        within(call(layer, jnp.asarray(x)), reference, "f(x) under jax.disable_jit")
    with jax.checking_leaks():
        jax.eval_shape(lambda x: call(layer, x), jnp.asarray(x))
        f = pure(layer)
        jax.jit(f)(jnp.asarray(kernel()), jnp.asarray(bias()), jnp.asarray(x))


@shows("transforms/no-side-effects-in-jaxpr")
def no_side_effects_in_jaxpr() -> None:
    def equations(jaxpr: Any) -> Any:
        for equation in jaxpr.eqns:
            yield equation
            for value in jax.tree.leaves(list(equation.params.values())):
                if hasattr(value, "eqns"):
                    yield from equations(value)

    f = pure(build())
    values = [jnp.asarray(value) for value in (kernel(), bias(), mixed(*LEAD))]
    for what, of in (("layer", f), ("gradient", jax.grad(lambda *v: f(*v).sum(), (0, 1, 2)))):
        program = jax.make_jaxpr(of)(*values)
        names = {equation.primitive.name for equation in equations(program)}
        impure = [n for n in names if "callback" in n or "print" in n or n.startswith("random_")]
        impure += [n for n in names if n.startswith(("threefry", "rng_"))]
        assert not impure, f"the program of the {what} holds {impure}"
        assert not program.effects, f"the program of the {what} has effects: {program.effects}"
        large = [np.shape(c) for c in program.consts if np.size(c) in (IN * OUT, OUT) and OUT > 1]
        assert not large, f"the program of the {what} holds constants of shapes {large}"


@shows("dtypes/half-input")
def half_input() -> None:
    layer = written(kernel(), bias())
    for dtype in (jnp.float16, jnp.bfloat16):
        x = jnp.asarray(normal("x", *LEAD, IN)).astype(dtype)
        y = call(layer, x)
        assert y.dtype == jnp.float32, f"an x of {x.dtype} gives {y.dtype}, not float32"
        within(y, product(np.asarray(x, np.float32), kernel(), bias()), f"f(x) of {x.dtype}")


@shows("dtypes/integer-input")
def integer_input() -> None:
    layer, numbers = written(kernel(), bias()), generator("integers")
    for name in ("bool", "int8", "uint8", "int32", "uint32"):
        dtype = np.dtype(name)
        low, high = (0, 1) if name == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        x = numbers.integers(low, high, (*LEAD, IN), np.int64, endpoint=True).astype(dtype)
        y = call(layer, jnp.asarray(x))
        assert y.dtype == jnp.float32, f"an x of {name} gives {y.dtype}, not float32"
        within(y, product(x.astype(np.float32), kernel(), bias()), f"f(x) for x of {name}")


@shows("dtypes/complex-input")
def complex_input() -> None:
    x = (normal("real", *LEAD, IN) + 1j * normal("imaginary", *LEAD, IN)).astype(np.complex64)
    y = call(written(kernel(), bias()), jnp.asarray(x))
    assert y.dtype == jnp.complex64, f"a complex x gives {y.dtype}, not complex64"
    within(y, product(x, kernel(), bias()), "f(x) of complex x")


@shows("dtypes/x64-stable")
def x64_stable() -> None:
    plain = [np.asarray(value) for value in parameters_of(build())]
    jax.config.update("jax_enable_x64", True)
    try:
        layer = build()
        for name, old, new in zip(("kernel", "bias"), plain, parameters_of(layer), strict=True):
            assert new.dtype == old.dtype, f"under x64, the {name} is {new.dtype}"
            equal(new, old, f"under x64, the {name}")
        y = call(layer, jnp.asarray(normal("x", *LEAD, IN)))
        assert y.dtype == jnp.float32, f"under x64, a float32 x gives {y.dtype}"
    finally:
        jax.config.update("jax_enable_x64", False)


@shows("dtypes/strict-promotion")
def strict_promotion() -> None:
    with jax.numpy_dtype_promotion("strict"):
        call(build(), jnp.asarray(normal("x", *LEAD, IN)))


@shows("dtypes/rank-promotion")
def rank_promotion() -> None:
    with jax.numpy_rank_promotion("raise"):
        call(build(), jnp.asarray(normal("x", *LEAD, IN)))
