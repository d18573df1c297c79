"""Layers with one difference that experiments find: it is one failure, and all else is checked."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import conformance
from conformance import adapt
from conformance.checks.areas.meshes import of_annotations
from conformance.checks.cases import Case
from conformance.checks.layer import Layer
from conformance.jax_setup.compat import inside_mesh
from conformance.layers.looking import look
from conformance.layers.storage import BiasRow, Blocks, Factored, Joined, Scaled, Storage
from conformance.selftest.processes import Checked, failing

IDENTITY = "jax.nn:identity" if hasattr(jax.nn, "identity") else "jax.numpy:asarray"
_LECUN = nnx.initializers.lecun_normal()


class Activated(nnx.Module):
    """A layer that applies relu unless it is given another function."""

    def __init__(self, din: int, dout: int, activation: Any = nnx.relu, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(_LECUN(rngs.params(), (din, dout), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(dout))
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """The activation of the output; it takes no None."""
        y: jax.Array = self.activation(x @ self.kernel[...] + self.bias[...])
        return y


class ActivatedByName(linen.Module):
    """A Linen layer whose activation is named."""

    units: int
    act: str | None = "gelu"

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = linen.Dense(self.units)(x)
        return y if self.act is None else getattr(jax.nn, self.act)(y)


class ActivatedPlain:
    """A class without a framework."""

    def __init__(
        self, n_in: int, n_out: int, key: jax.Array, nonlinearity: Any = jax.nn.tanh
    ) -> None:
        self.kernel = _LECUN(key, (n_in, n_out), jnp.float32)
        self.bias = jnp.zeros(n_out)
        self.nonlinearity = nonlinearity

    def __call__(self, x: jax.Array) -> jax.Array:
        y: jax.Array = x @ self.kernel + self.bias
        return self.nonlinearity(y) if self.nonlinearity else y


class AlwaysActivated(Activated):
    """A layer whose activation is no argument: a fault, and no difference to declare."""

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(din, dout, rngs=rngs)


class Factorised(nnx.Module):
    """Weight normalisation: a direction, and a length for each output."""

    axis = 0

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        v = _LECUN(rngs.params(), (din, dout), jnp.float32)
        self.v, self.g = nnx.Param(v), nnx.Param(jnp.linalg.norm(v, axis=self.axis))
        self.bias = nnx.Param(jnp.zeros(dout))

    def __call__(self, x: jax.Array) -> jax.Array:
        v = self.v[...]
        lengths = self.g[...] / jnp.linalg.norm(v, axis=self.axis)
        return x @ (v * jnp.expand_dims(lengths, self.axis)) + self.bias[...]


class LengthOfInputs(Factorised):
    """Weight normalisation with a length for each input: its norm is over the outputs."""

    axis = 1


class RandomFactors(linen.Module):
    """Random weight factorisation: the kernel is g v, with g drawn at random."""

    features: int

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        g = self.param("g", lambda key, n: jnp.exp(jax.random.normal(key, (n,))), self.features)
        v = self.param(
            "v",
            lambda key, shape: _LECUN(key, shape, jnp.float32) / g,
            (x.shape[-1], self.features),
        )
        bias = self.param("bias", linen.initializers.zeros, (self.features,))
        return x @ (g * v) + bias


class Plain(Activated):
    """A layer without a difference."""

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(din, dout, lambda y: y, rngs=rngs)


class WithScale(Plain):
    """A layer with a learned scale, which is 1 when new."""

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(din, dout, rngs=rngs)
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.scale[...] * (x @ self.kernel[...]) + self.bias[...]


class InOne(nnx.Module):
    """Kernel and bias in one array."""

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        kernel = _LECUN(rngs.params(), (din, dout), jnp.float32)
        self.w = nnx.Param(jnp.concatenate([kernel, jnp.zeros((1, dout))]))

    def __call__(self, x: jax.Array) -> jax.Array:
        w = self.w[...]
        return x @ w[:-1] + w[-1]


class ScaledAgain(Plain):
    """A usual kernel that is scaled again: a fault."""

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        return x @ (kernel / np.sqrt(len(kernel)).astype("float32")) + self.bias[...]


class Equalized(ScaledAgain):
    """A learning rate that is equal for all sizes: the forward pass scales a standard normal."""

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(din, dout, rngs=rngs)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (din, dout)))


class Dropping(nnx.Module):
    """A layer that drops outputs unless its rate is 0, and keeps its stream."""

    def __init__(self, din: int, dout: int, rate: float = 0.1, *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(din, dout, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.linear(x))


class Keeping(Dropping):
    """A layer that keeps a stream, and drops nothing unless it is asked."""

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(din, dout, 0.1, rngs=rngs)

    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.dropout(self.linear(x), deterministic=deterministic)


class Annotated(Plain):
    """A layer whose parameters are sharded by outputs: recent versions of Flax need a mesh."""

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(din, dout, rngs=rngs)
        self.kernel = nnx.Param(self.kernel[...], sharding=(None, "model"))
        self.bias = nnx.Param(self.bias[...], sharding=("model",))


def one_device() -> Any:
    """Return the context of a mesh of one device."""
    return inside_mesh(jax.sharding.Mesh(np.array(jax.devices()[:1]), ("model",)))


class Fused(nnx.Module):
    """Two projections of one x, as for queries and keys."""

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        self.q = nnx.Linear(din, dout, use_bias=False, rngs=rngs)
        self.k = nnx.Linear(din, dout, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.q(x), self.k(x)


class Row(Plain):
    """A layer whose bias is a row."""

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(din, dout, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros((1, dout)))


class InBlocks(nnx.Module):
    """A layer with the outputs of two kernels, in another order than their names."""

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        kernel, some = _LECUN(rngs.params(), (din, dout), jnp.float32), dout // 2
        self.b, self.a = nnx.Param(kernel[:, :some]), nnx.Param(kernel[:, some:])
        self.bias = nnx.Param(jnp.zeros(dout))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([x @ self.b[...], x @ self.a[...]], -1) + self.bias[...]


class EightBits(Plain):
    """A layer whose kernel is rounded to eight bits."""

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        step = jnp.maximum(jnp.abs(kernel).max(initial=0.0), 1e-30) / 127
        held = kernel + jax.lax.stop_gradient(jnp.round(kernel / step) * step - kernel)
        return x @ held + self.bias[...]


class Rounded(Plain):
    """A layer whose kernel is rounded to bfloat16: a fault, and no quantization."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...].astype(jnp.bfloat16).astype(jnp.float32) + self.bias[...]


class Convolution(nnx.Module):
    """A layer whose kernel has an axis of length 1, as a convolution has."""

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(din, dout, (1,), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the output of each row as a sequence of one step."""
        y = self.conv(x.reshape(-1, 1, x.shape[-1]))
        return y.reshape(*x.shape[:-1], -1)


class FloatsAlone(nnx.Linear):
    """A layer that refuses an x of integers."""

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(din, dout, rngs=rngs)

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        if not jnp.issubdtype(inputs.dtype, jnp.floating):
            raise TypeError(f"x is of dtype {inputs.dtype}")
        return super().__call__(inputs)


@pytest.mark.parametrize(
    ("layer", "arguments"),
    [
        (Activated, {"activation": IDENTITY}),
        (ActivatedByName, {"act": "none"}),
        (ActivatedPlain, {"nonlinearity": "none"}),
        (Dropping, {"rate": 0.0}),
        (AlwaysActivated, {}),
        (Keeping, {}),
        (nnx.Linear, {}),
    ],
)
def test_an_activation_is_found_by_leaving_it_out(layer: Any, arguments: dict[str, str]) -> None:
    seen = look(adapt(layer))
    assert seen.arguments == arguments
    assert conformance.describe(layer).declaration.get("arguments", {}) == arguments  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("layer", "storage"),
    [
        (Factorised, Factored("v", "g", is_normalized=True)),
        (RandomFactors, Factored("v", "g")),
        (InBlocks, Blocks(("b", "a"), bias="bias")),
        (Row, BiasRow("bias")),
        (InOne, Joined("w", -1)),
        (Equalized, Scaled("kernel")),
        (ScaledAgain, None),
        (Activated, None),
    ],
)
def test_kernel_and_bias_are_found_where_they_are(layer: Any, storage: Storage | None) -> None:
    assert look(adapt(layer)).storage == storage


@pytest.mark.parametrize("layer", [Factorised, RandomFactors, InBlocks, Row, InOne, Equalized])
def test_what_is_written_is_what_is_read(layer: Any) -> None:
    dense = Layer(adapt(layer)).build(5, 7)
    kernel = np.random.default_rng(0).standard_normal((5, 7), np.float32) * np.float32(1e30)
    kernel[:, 3] = 0.0
    bias = np.arange(7.0, dtype=np.float32)
    dense.write(kernel, bias)
    np.testing.assert_allclose(dense.kernel, kernel, rtol=1e-6, atol=0.0)
    assert np.array_equal(dense.bias, bias)
    assert np.array_equal(dense(np.zeros((2, 5), np.float32))[0], bias)


def test_two_kernels_are_not_factors_of_one() -> None:
    layer = Layer(adapt(Fused))
    assert layer.seen.trouble == "several arrays have the kernel's shape: k.kernel, q.kernel"
    assert not layer.has_no_one_kernel
    assert conformance.describe(Fused).trouble == layer.seen.trouble


def test_eight_bits_are_no_other_rounding() -> None:
    assert look(adapt(EightBits)).convention.product_error == 2.0**-7
    assert look(adapt(Rounded)).convention.product_error == 0.0


ROWS = ("exact-state", "only-two-parameters", "bias-shape", "kernel-shape", "stable-names",
        "output-shape", "zero-input", "basis-input", "affine-value", "integer-input",
        "complex-input", "updates-used", "gradients")  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "failed", "line"),
    [
        (Activated, "forward/zero-input", f'arguments = {{ activation = "{IDENTITY}" }}'),
        (Factorised, "construction/only-two-parameters", "A description in Python"),
        (LengthOfInputs, "construction/only-two-parameters", "A description in Python"),
        (InBlocks, "construction/only-two-parameters", "A description in Python"),
        (Row, "construction/bias-shape", "A description in Python"),
        (InOne, "construction/only-two-parameters", "kernel and bias are stored in one array"),
        (Equalized, "forward/basis-input", "times a number that depends on the sizes"),
        (Keeping, "state/exact-state", "extra_state = ["),
        (WithScale, "construction/only-two-parameters", 'extra_parameters = ["scale"]'),
        (EightBits, "forward/basis-input", 'product_error = "2**-7"'),
        (FloatsAlone, "dtypes/integer-input", 'inputs = ["floating"]'),
    ],
)
def test_one_difference_is_one_finding(
    layer: type, failed: str, line: str, checked: Checked
) -> None:
    _, text = checked(layer, rows=ROWS)
    assert failing(text) == {failed}
    assert line in " ".join(text.split())
    assert "blocked" not in text
    assert len(text.splitlines()) <= 24


def test_a_kernel_of_three_axes_is_described_by_functions(checked: Checked) -> None:
    _, text = checked(Convolution, rows=("kernel-shape", "finite", "affine-value"))
    assert failing(text) == {"construction/kernel-shape"}
    assert "A description in Python" in " ".join(text.split())


class DrawnBias(Plain):
    """The bias is drawn by the usual law of another library."""

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(din, dout, rngs=rngs)
        end = din**-0.5
        self.bias = nnx.Param(jax.random.uniform(rngs.params(), (dout,), minval=-end, maxval=end))


class MadeInTheCall(nnx.Module):
    """The constructor puts None where the first call puts the parameters."""

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        self.sizes, self.rngs = (din, dout), rngs
        self.kernel: nnx.Param[jax.Array] | None = None
        self.bias = nnx.Param(jnp.zeros(dout))

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.kernel is None:
            self.kernel = nnx.Param(_LECUN(self.rngs.params(), self.sizes, jnp.float32))
        return x @ self.kernel[...] + self.bias[...]


KEEPS_ITS_BIAS = conformance.Implementation.of_functions(
    "acme.Dense",
    init=lambda seed, n, m: {
        "kernel": jax.random.normal(jax.random.key(seed), (n, m)) / jnp.sqrt(n),
        "bias": jnp.zeros(m),
    },
    apply=lambda parameters, x: x @ parameters["kernel"] + parameters["bias"],
    kernel=lambda parameters: parameters["kernel"],
    bias=lambda parameters: parameters["bias"],
    write=lambda parameters, kernel, bias: {**parameters, "kernel": kernel},
    convention=conformance.Convention(name="Acme"),
)


@pytest.mark.parametrize(
    ("layer", "row", "words"),
    [
        ("DrawnBias", "initialization/bias-zero", 'declare bias = "uniform, 1 / (3 * fan_in)"'),
        ("MadeInTheCall", "", "the parameters are created lazily, in the first call"),
        ("KEEPS_ITS_BIAS", "construction/only-two-parameters", "`write` leaves the bias as it is"),
    ],
)
def test_the_first_failure_says_what_to_do(
    layer: str, row: str, words: str, checked: Checked
) -> None:
    rows = ("builds", "ready-when-built", "bias-zero", *ROWS)
    _, text = checked(f"{__name__}:{layer}", rows=rows)
    # The version of Flax decides whether such a call is refused.
    assert len(failing(text)) == 1
    assert not row or failing(text) == {row}
    assert words in " ".join(text.split())


class AnnotatedAsTheKernel(Annotated):
    """The same, whose bias has two names for its one axis."""

    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(din, dout, rngs=rngs)
        self.bias = nnx.Param(self.bias[...], sharding=(None, "model"))


def test_an_annotation_that_no_mesh_mends_is_named() -> None:
    """Recent versions of Flax ask for a mesh before they look at the annotation."""
    layer = Layer(adapt(AnnotatedAsTheKernel))
    assert "the bias, (None, 'model'), has 2 names for 1 axis" in of_annotations(layer, Case(3, 10))
    assert not of_annotations(Layer(adapt(Annotated)), Case(3, 10))


def test_a_layer_is_checked_within_its_mesh(checked: Checked) -> None:
    context = f"--declare=context={__name__}:one_device"
    code, text = checked(Annotated, context, rows=("builds", "affine-value", "sharding"))
    assert code == 0
    assert "do not hold" not in text


def test_a_scaled_kernel_is_not_that_of_a_file(checked: Checked) -> None:
    _, text = checked(Equalized, rows=("basis-input", "flax-checkpoint"))
    assert failing(text) == {"forward/basis-input"}
