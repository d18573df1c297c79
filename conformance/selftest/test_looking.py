"""Looking at layers as people write them: each difference is one failure."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import conformance
from conformance import FLAX, Convention, adapt
from conformance.checks.description import law_in_words, law_line
from conformance.checks.diagnosis.parameters import why_absent
from conformance.checks.layer import Layer
from conformance.cli.main import main
from conformance.layers.looking import look
from conformance.selftest.processes import Checked, failing


class OutputsFirst(nnx.Module):
    """A layer with sizes in the other order, a key, and another framework's names."""

    def __init__(self, units: int, in_units: int, *, key: jax.Array) -> None:
        self.weight = nnx.Param(jax.random.normal(key, (units, in_units)) / in_units**0.5)
        self.bias = nnx.Param(jnp.zeros(units))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.weight[...].T + self.bias[...]


class NoBias(nnx.Module):
    """A layer without a bias."""

    def __init__(self, n_in: int, n_out: int, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (n_in, n_out)) / n_in**0.5)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...]


class Logits(NoBias):
    """A layer of bfloat16 by its word, whose result is float32."""

    def __init__(self, n_in: int, n_out: int, dtype: Any = jnp.bfloat16, *, rngs: nnx.Rngs) -> None:
        super().__init__(n_in, n_out, rngs)
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        operands = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        return jnp.matmul(*operands, preferred_element_type=jnp.float32)


class VectorsWithoutBias(NoBias):
    """A layer without a bias that takes vectors only."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.dot(self.kernel[...].T, x)


class Stepping(NoBias):
    """A layer with a parameter that no output depends on."""

    def __init__(self, n_in: int, n_out: int, rngs: nnx.Rngs) -> None:
        super().__init__(n_in, n_out, rngs)
        self.bias = nnx.Param(jnp.zeros(n_out))
        self.step = nnx.Param(jnp.zeros(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...] + self.bias[...]


class HiddenBias(NoBias):
    """A layer with a constant as a hidden bias, unlike a layer without one."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...] + 1.0


class Half(nnx.Module):
    """A layer in bfloat16, although its signature does not say so."""

    def __init__(self, n_in: int, n_out: int, rngs: nnx.Rngs) -> None:
        kernel = jax.random.normal(rngs.params(), (n_in, n_out)) / n_in**0.5
        self.kernel = nnx.Param(kernel.astype(jnp.bfloat16))
        self.bias = nnx.Param(jnp.zeros(n_out, jnp.bfloat16))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.astype(jnp.bfloat16) @ self.kernel[...] + self.bias[...]


class VectorsAlone:
    """A plain class that takes only a vector."""

    def __init__(self, in_size: int, out_size: int, key: jax.Array) -> None:
        self.w = jax.random.normal(key, (out_size, in_size)) / in_size**0.5
        self.b = jnp.zeros(out_size)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.w @ x + self.b


class WeightNorm(linen.Module):
    """A layer with weight normalization: a direction, and a length for each output."""

    units: int

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        v = self.param("v", linen.initializers.lecun_normal(), (x.shape[-1], self.units))
        g = self.param("g", lambda key, shape: jnp.linalg.norm(v, axis=0), (self.units,))
        b = self.param("b", linen.initializers.zeros, (self.units,))
        return x @ (v / jnp.linalg.norm(v, axis=0) * g) + b


class LowRank(nnx.Module):
    """A kernel that is the product of two parameters."""

    def __init__(self, n_in: int, n_out: int, rngs: nnx.Rngs) -> None:
        draw = jax.nn.initializers.lecun_normal()
        inner = min(n_in, n_out)
        self.u = nnx.Param(draw(rngs.params(), (n_in, inner), jnp.float32))
        self.v = nnx.Param(draw(rngs.params(), (inner, n_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(n_out))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.u[...] @ self.v[...] + self.bias[...]


class FlatVectors(nnx.Linear):
    """A layer that flattens its input, so that it takes only vectors."""

    def __init__(self, in_features: int, out_features: int, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        return super().__call__(inputs.reshape(-1))


class OneBatchAxis(FlatVectors):
    """A layer whose subscripts name one axis of the batch."""

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        assert self.bias is not None
        return jnp.einsum("bi,io->bo", inputs, self.kernel[...]) + self.bias[...]


def half_without_bias(din: int, dout: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Return a layer of Flax."""
    half = jnp.bfloat16
    return nnx.Linear(din, dout, use_bias=False, dtype=half, param_dtype=half, rngs=rngs)


class Calls(nnx.Variable):  # type: ignore[type-arg]  # as users write it
    """A count of calls."""


class Counting(nnx.Linear):
    """A layer with a counter in its state."""

    def __init__(self, n_in: int, n_out: int, rngs: nnx.Rngs) -> None:
        super().__init__(n_in, n_out, rngs=rngs)
        self.calls = Calls(jnp.zeros((), jnp.int32))

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        self.calls[...] = self.calls[...] + 1
        return super().__call__(inputs)


class Adapted(nnx.Module):
    """A layer with two matrices of the kernel's shape, one of them unused."""

    def __init__(self, n_in: int, n_out: int, rngs: nnx.Rngs) -> None:
        draw = jax.nn.initializers.lecun_normal()
        self.first = nnx.Param(draw(rngs.params(), (n_in, n_out), jnp.float32))
        self.second = nnx.Param(draw(rngs.params(), (n_in, n_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(n_out))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.second[...] + self.bias[...]


@pytest.mark.parametrize(
    ("layer", "found"),
    [
        (nnx.Linear, {}),
        (linen.Dense, {}),
        (partial(nnx.Linear, use_bias=False), {"use_bias": False}),
        (OutputsFirst, {"layout": "out,in", "parameter_names": ("weight", "bias")}),
        (NoBias, {"use_bias": False}),
        (HiddenBias, {}),
        (Half, {"parameter_dtype": "bfloat16", "compute_dtype": "bfloat16", "casts_input": True}),
        (VectorsAlone, {"layout": "out,in", "parameter_names": ("w", "b"), "ranks": (1,)}),
        (VectorsWithoutBias, {"use_bias": False, "ranks": (1,)}),
        (OneBatchAxis, {"ranks": (2,)}),
        (
            Logits,
            {
                "use_bias": False,
                "compute_dtype": "bfloat16",
                "casts_input": True,
                "result_dtype": "float32",
            },
        ),
        (WeightNorm, {"parameter_names": ("v", "b")}),
        (Counting, {}),
        (Adapted, {"parameter_names": ("second", "bias")}),
    ],
)
def test_what_is_found(layer: Any, found: dict[str, Any]) -> None:
    seen = look(adapt(layer)).convention
    defaults = {name: getattr(FLAX, name) for name in Convention.__dataclass_fields__}
    own = {name: getattr(seen, name) for name in defaults if name != "name"}
    assert {name: value for name, value in own.items() if value != defaults[name]} == found


def test_what_is_kept_beside_both() -> None:
    assert look(adapt(WeightNorm)).extra_parameters == ("g",)
    assert look(adapt(Counting)).extra_state == ("calls",)


def test_what_cannot_be_looked_at_stays_as_it_is_declared() -> None:
    """Requirements report a layer that raises."""

    class Raises(nnx.Module):
        def __init__(self, n_in: int, n_out: int, rngs: nnx.Rngs) -> None:
            raise RuntimeError("not today")

        def __call__(self, x: jax.Array) -> jax.Array:
            return x

    seen = look(adapt(Raises))
    assert seen.convention is FLAX
    assert "RuntimeError: not today" in seen.trouble


def test_a_layer_is_read_as_it_was_found() -> None:
    layer = Layer(adapt(OutputsFirst))
    assert layer.build(3, 10).kernel.shape == (3, 10)
    assert layer.declared is FLAX


ROWS = (
    *("kernel-shape", "bias-shape", "parameter-dtype", "only-two-parameters", "exact-state"),
    *("stable-names", "float32-out", "output-shape", "zero-input", "affine-value"),
    *("call-changes-nothing", "traced-first", "optimizer-sees-both"),
)


@pytest.mark.parametrize(
    ("layer", "failed", "line"),
    [
        (NoBias, {"construction/bias-shape"}, "use_bias = false"),
        (
            OutputsFirst,
            {"construction/kernel-shape", "serialization/stable-names"},
            'layout = "out, in"',
        ),
        (
            Half,
            {"construction/parameter-dtype", "dtypes/float32-out"},
            'parameter_dtype = "bfloat16"',
        ),
        (Counting, {"state/exact-state"}, 'extra_state = ["calls"]'),
        (Stepping, {"construction/only-two-parameters"}, 'extra_parameters = ["step"]'),
        (FlatVectors, {"forward/output-shape"}, "ranks = [1]"),
        (OneBatchAxis, {"forward/output-shape"}, "ranks = [2]"),
    ],
)
def test_one_difference_is_one_finding(
    layer: type, failed: set[str], line: str, checked: Checked
) -> None:
    code, text = checked(layer, rows=ROWS)
    assert code == 1
    assert failing(text) == failed
    assert line in " ".join(text.split())
    assert "blocked" not in text.lower()
    assert "\narea " not in text  # a table would push the failure off the screen
    assert "could not be checked" not in text


def test_what_is_declared_is_right(checked: Checked) -> None:
    declared = ["--declare", "layout=out, in", "--declare", "names.kernel=weight"]
    code, text = checked(OutputsFirst, *declared, rows=ROWS)
    assert code == 0
    assert "kernel stored as (out, in)" in " ".join(text.split())


def test_a_layer_of_vectors_takes_every_dtype(checked: Checked) -> None:
    """It raises for a batch, so no check may give it one."""
    dtypes = ("half-input", "integer-input", "complex-input", "cast-parameters", "float32-out")
    code, text = checked("implementations.correct.functional:vectors_only", "--strict", rows=dtypes)
    assert code == 0
    assert "5 passed" in text


def test_a_function_that_makes_a_module_is_its_class() -> None:
    found = adapt(half_without_bias)
    assert found.module is not None
    its = found.convention
    assert (its.use_bias, its.parameter_dtype, its.compute_dtype) == (False, *["bfloat16"] * 2)


def test_extra_parameters_need_no_step_of_least_squares(checked: Checked) -> None:
    """The loss of LoRA is not quadratic in all four parameters."""
    rows = ("optimizer-sees-both", "only-two-parameters")
    assert checked("implementations.nnx_others:LoRALinear", rows=rows)[0] == 0


class OfNumpy(NoBias):
    """A layer with a kernel that is a NumPy array."""

    def __init__(self, n_in: int, n_out: int, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(np.ones((n_in, n_out), np.float32))


def test_an_array_of_numpy_is_named(checked: Checked) -> None:
    _, text = checked(OfNumpy, rows=["parameter-dtype"])
    assert "cause     a parameter is an array of NumPy: make it with jax" in text


def test_factors_of_a_kernel_are_one_finding(checked: Checked) -> None:
    """The number of parameters is wrong, not their names."""
    _, text = checked(LowRank, rows=ROWS)
    assert failing(text) == {"construction/only-two-parameters"}
    assert "no parameter has the kernel's shape at every size" in text


class SumsInHalf(Half):
    """A layer that adds one product after the other in bfloat16."""

    def __call__(self, x: jax.Array) -> jax.Array:
        def step(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            return total + pair[0][..., None] * pair[1], None

        rows = jnp.moveaxis(x.astype(jnp.bfloat16), -1, 0)
        start = jnp.zeros((*x.shape[:-1], *self.bias[...].shape), jnp.bfloat16)
        return jax.lax.scan(step, start, (rows, self.kernel[...]))[0] + self.bias[...]


def test_describe_proposes_how_products_are_added() -> None:
    found = conformance.describe(SumsInHalf).declaration
    assert found is not None
    assert found["accumulate"] == "bfloat16"
    assert "accumulate" not in (conformance.describe(Half).declaration or {})


def test_calibrate_enters_the_context() -> None:
    """The layer cannot be built outside of it."""
    spec = "implementations.correct.declared:in_surroundings"
    assert main(["calibrate", spec, "--runs", "2"]) == 0


def test_describe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", f"{__name__}:OutputsFirst"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 24
    assert "built as  OutputsFirst(units=out_features, in_units=in_features" in text
    assert 'layout = "out, in"' in text
    assert 'names = { kernel = "weight" }' in text
    assert f'layer = "{__name__}:OutputsFirst"' in text


def test_describe_proposes_no_table_that_does_not_suffice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A kernel that is computed from two arrays needs functions, as a run says as well."""
    assert main(["describe", f"{__name__}:WeightNorm"]) == 0
    text = capsys.readouterr().out
    assert "x is multiplied by g * v / |v|" in text
    assert "describe it by functions" in text
    assert "tool.dense-conformance" not in text


class Meshless(NoBias):
    """A layer that needs a mesh."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        raise ValueError("a mesh is required")


def test_describe_says_why_a_layer_cannot_be_built(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", f"{__name__}:Meshless"]) == 2
    assert "trouble   ValueError: a mesh is required" in capsys.readouterr().out


def test_describe_gives_data() -> None:
    found = conformance.describe(VectorsAlone)
    assert (found.kernel, found.bias, found.layout) == ("w", "b", "out, in")
    assert found.ranks == (1,)
    assert found.declaration == {
        "layout": "out, in",
        "names": {"kernel": "w", "bias": "b"},
        "ranks": [1],
    }
    assert conformance.describe("nnx.MyDense").declaration == {}
    glorot = conformance.describe(
        partial(nnx.Linear, kernel_init=nnx.initializers.glorot_uniform())
    )
    assert glorot.declaration == {"kernel": "uniform, 2 / (fan_in + fan_out)"}


@pytest.mark.parametrize(
    ("name", "proposed"),
    [
        ("quantized", {"product_error": "2**-7"}),
        ("floating_alone", {"inputs": ["floating"]}),
        ("wider_result", {"dtype": "bfloat16", "result_dtype": "float32"}),
        ("cast_result", {"result_dtype": "float32", "accumulate": "bfloat16"}),
        ("summed_in_parts", {"parameter_dtype": "bfloat16", "dtype": "bfloat16"}),
    ],
)
def test_what_is_seen_of_products_and_inputs_is_proposed(
    name: str, proposed: dict[str, Any]
) -> None:
    from implementations.correct import declared

    layer = getattr(declared, name)
    found = conformance.describe(type(layer.module(3, 10, nnx.Rngs(0))))
    assert found.declaration is not None
    assert proposed.items() <= found.declaration.items()


def _laplace(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
    return jax.random.laplace(key, shape, dtype) / (2 * shape[0]) ** 0.5


def test_a_law_is_declared_only_where_it_differs() -> None:
    layer = Layer(adapt(nnx.Linear))
    assert law_in_words(layer)[1] == "truncated normal, 1 / fan_in"
    assert not law_line(layer)
    laplace = Layer(adapt(partial(nnx.Linear, kernel_init=_laplace)))
    assert law_line(laplace) == 'kernel = "any, 1 / fan_in"'
    uniform = Layer(adapt(nnx.Linear, kernel="glorot_uniform"))
    assert law_line(uniform) == 'kernel = "truncated normal, 1 / fan_in"'


def test_numbers_of_both_in_one_vector_are_no_hidden_kernel() -> None:
    assert "in one array" in why_absent([(3 * 10 + 10,)], (3, 10))
    for shapes, kernel in (([(10,)], (3, 10)), ([(10,)], (0, 10)), ([], (3, 10))):
        assert "the layer has none" in why_absent(shapes, kernel)
