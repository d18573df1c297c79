"""What scripts check of construction and of values; one function for each requirement.

The source of a function is the body of the script: it uses the names of the neighbouring
modules, of jax, flax and numpy, and nothing else of the suite.
"""

# ruff: noqa: D103  # a check's text is the statement of its requirement

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from conformance.scripts.given import IN, LEAD, OUT, SEED
from conformance.scripts.numbers import (
    bias,
    equal,
    generator,
    integers,
    kernel,
    mixed,
    must_raise,
    normal,
    product,
    within,
)
from conformance.scripts.of_nnx import build, call, drawn, forward, parameters_of, pure, written
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


@shows("construction/finite")
def finite() -> None:
    for name, value in zip(("kernel", "bias"), parameters_of(build()), strict=True):
        wrong = int((~np.isfinite(np.asarray(value))).sum())
        assert not wrong, f"{wrong} of {value.size} entries of the {name} are not finite"


@shows("construction/abstract-init")
def abstract_init() -> None:
    found = jax.eval_shape(lambda: drawn(jax.random.key(SEED)))
    assert found.shape == (IN, OUT), f"the abstract kernel has shape {found.shape}"


@shows("construction/integral-sizes")
def integral_sizes() -> None:
    kinds: list[Any] = [np.int32, np.int64]
    for kind in kinds:
        shape = parameters_of(build(kind(IN), kind(OUT)))[0].shape
        assert shape == (IN, OUT), f"{kind.__name__} sizes give a kernel of shape {shape}"
    wrong: Any
    for wrong in (float(OUT), OUT + 0.5, -OUT):
        must_raise(lambda wrong=wrong: build(IN, wrong), f"construction with out_features={wrong}")


@shows("construction/zero-sizes")
def zero_sizes() -> None:
    found = call(build(), jnp.ones((2, IN)))
    equal(found, np.zeros((2, OUT)), "f(x)")


@shows("forward/output-shape", kinds=(), functions=True)
def output_shape() -> None:
    found = np.shape(forward(SEED, jnp.ones((IN,)), OUT))
    assert found == (OUT,), f"x of shape {(IN,)} gives a result of shape {found}, not {(OUT,)}"


@shows("forward/output-shape")
def output_shapes() -> None:
    for lead in (
        (),
        LEAD,
        (0,),
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


@shows("forward/zero-input")
def zero_input() -> None:
    found = call(written(kernel(), bias()), jnp.zeros((8, IN)))
    equal(found, np.broadcast_to(bias(), (8, OUT)), "f(0), which should be the bias,")


@shows("forward/basis-input")
def basis_input() -> None:
    found = call(written(kernel(), bias()), jnp.eye(IN))
    equal(found, kernel() + bias(), "f(e_i), which should be K[i] + b,")


@shows("forward/integer-exact")
def integer_exact() -> None:
    whole_kernel, whole_bias = integers("kernel", IN, OUT), integers("bias", OUT)
    x = integers("x", 8, IN, bound=100)
    found = call(written(whole_kernel, whole_bias), jnp.asarray(x))
    equal(found, x @ whole_kernel + whole_bias, "f(x) of integers, which is exact,")


@shows("forward/affine-value")
def affine_value() -> None:
    x = mixed(*LEAD)
    found = call(written(kernel(), bias()), jnp.asarray(x))
    within(found, product(x, kernel(), bias()), "f(x)")


@shows("forward/additive", functions=True)
def additive() -> None:
    layer = build()
    own_kernel, own_bias = (np.asarray(value) for value in parameters_of(layer))
    x, y, zero = integers("x", IN, bound=50), integers("y", IN, bound=50), np.zeros(IN, np.float32)
    f = {name: np.asarray(call(layer, jnp.asarray(v)), np.float64)
         for name, v in (("x", x), ("y", y), ("sum", x + y), ("0", zero))}  # fmt: skip
    bound = sum(product(v, own_kernel, own_bias)[1] for v in (x, y, x + y, zero))
    expected = (f["x"] - f["0"]) + (f["y"] - f["0"])
    within(f["sum"] - f["0"], (expected, bound), "f(x + y) - f(0)")


@shows("forward/homogeneous", functions=True)
def homogeneous() -> None:
    x = normal("x", IN)
    x = np.where(np.abs(x) < 2.0**-10, np.float32(1.0), x)
    plain = np.asarray(forward(SEED, jnp.asarray(x), OUT))
    equal(forward(SEED, jnp.asarray(-x), OUT), -plain, "f(-x), the new bias being 0,")
    for k in (-7, 1, 20):
        scale = np.float32(2.0**k)
        equal(forward(SEED, jnp.asarray(scale * x), OUT), scale * plain, f"f(2^{k} x)")


@shows("forward/batch-independent")
def batch_independent() -> None:
    layer, x = written(kernel(), bias()), normal("x", 8, IN)
    plain, changed = np.asarray(call(layer, jnp.asarray(x))), x.copy()
    row = int(generator("row").integers(8))
    changed[row] = 1000.0 * normal("other", IN)
    rest = np.arange(8) != row
    found = np.asarray(call(layer, jnp.asarray(changed)))
    equal(found[rest], plain[rest], f"after a change of row {row} alone, the rest of f(x)")
    order = generator("order").permutation(8)
    equal(call(layer, jnp.asarray(x[order])), plain[order], "f of permuted rows")
    _, bound = product(x, kernel(), bias())
    lead = ((2, 4), (2, 1, 4), (1, 2, 2, 2))[IN % 3]
    reference = (plain.reshape(*lead, OUT), 2 * bound.reshape(*lead, OUT))
    within(call(layer, jnp.asarray(x.reshape(*lead, IN))), reference, f"f(x) in batches {lead}")
    within(call(layer, jnp.asarray(x[row])), (plain[row], 2 * bound[row]), "f of one row")


@shows("forward/wrong-width-raises")
def wrong_width_raises() -> None:
    layer = build()
    for width in sorted({1, IN - 1, IN + 1, 2 * IN, OUT} - {IN, 0}):
        for lead in ((), (8,), (IN,)):
            x = jnp.ones((*lead, width))
            must_raise(lambda x=x: call(layer, x), f"x of shape {x.shape} with in_features={IN}")


@shows("forward/scalar-raises")
def scalar_raises() -> None:
    layer = build()
    must_raise(lambda: call(layer, np.float32(1.0).reshape(())), "a scalar x")


@shows("forward/array-likes", functions=True)
def array_likes() -> None:
    x = normal("x", 6, IN)[0]
    plain = np.asarray(forward(SEED, jnp.asarray(x), OUT))
    read_only = x.copy()
    read_only.flags.writeable = False
    forms = {"a NumPy array": x, "a read-only array": read_only,
             "a strided array": np.repeat(x, 2)[::2],
             "a float64 array": x.astype(np.float64)}  # fmt: skip
    for what, value in forms.items():
        equal(forward(SEED, value, OUT), plain, f"f of {what}")


@shows("forward/tall-batch")
def tall_batch() -> None:
    x = normal("x", 70_000, IN)
    found = call(written(kernel(), bias()), jnp.asarray(x))
    within(found, product(x, kernel(), bias()), "f(x)")


@shows("numerics/precision")
def precision() -> None:
    layer = written(kernel(), bias())
    columns = np.arange(8) % OUT
    for scale in (1e-6, 1.0, 1e6):
        # The signs are those of the kernel's columns, so that nothing cancels.
        x = np.sign(kernel()[:, columns]).T * np.abs(normal("x", 8, IN))
        x = (x * scale).astype(np.float32)
        found = call(layer, jnp.asarray(x))
        within(found, product(x, kernel(), bias()), f"f(x) at scale {scale:g}")


@shows("numerics/nan-confined", "numerics/inf-confined")
def confined() -> None:
    layer, x, place = written(kernel(), bias()), normal("x", 8, IN), generator("place")
    row, column = int(place.integers(8)), int(place.integers(IN))
    plain, rest = np.asarray(call(layer, jnp.asarray(x))), np.arange(8) != row
    for poison in (np.nan, np.inf, -np.inf):
        x[row, column] = poison
        found = np.asarray(call(layer, jnp.asarray(x)))
        hidden = int(np.isfinite(found[row]).sum())
        assert not hidden, f"{poison} in row {row} of x: {hidden} entries of that row are finite"
        equal(found[rest], plain[rest], f"with {poison} in row {row}, the rest of f(x)")


@shows("numerics/no-saturation")
def no_saturation() -> None:
    for scale, own in ((1e34, 1.0), (1e17, 1e15), (1.0, 1e30)):
        x = normal("x", 8, IN, scale=scale)
        found = call(written(kernel(own), bias(own)), jnp.asarray(x))
        what = f"f(x) for x of {scale:g} and parameters of {own:g}"
        within(found, product(x, kernel(own), bias(own)), what)


@shows("numerics/one-product")
def one_product() -> None:
    f = pure(build())
    program = jax.make_jaxpr(f)(jnp.asarray(kernel()), jnp.asarray(bias()), jnp.zeros((8, IN)))
    text = str(program)
    count = text.count(" dot_general[")
    assert count == 1, f"the program has {count} matrix products, not one:\n{text}"
    for half in ("bf16[", "f16[", "i8["):
        assert half not in text, f"the program computes in reduced precision:\n{text}"


@shows("dtypes/float32-out", functions=True)
def float32_out() -> None:
    y = forward(SEED, jnp.asarray(normal("x", IN)), OUT)
    assert isinstance(y, jax.Array), f"the result is a {type(y)}, not a jax.Array"
    assert y.dtype == jnp.float32, f"a float32 x gives {y.dtype}"
    assert not y.aval.weak_type, "the result is weakly typed"
