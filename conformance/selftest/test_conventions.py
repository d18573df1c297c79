"""Declared conventions, and how the suite adapts to them."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import conformance
from conformance import FLAX, Convention, Law, adapt, catalogue
from conformance.checks import oracle, require
from conformance.checks.arithmetic import rounded
from conformance.checks.layer import Layer
from conformance.contract.applicability import presumption
from conformance.errors import LoadError, UsageError, Violation
from conformance.layers.loading import load
from conformance.layers.registry import Entry, resolve, split_variant
from implementations.correct.sequences import LinenSequences, OptionsOfSequences
from implementations.nnx_linear import VARIANTS, Linear

HALF = ("float16", "bfloat16")


def test_flax_and_what_is_within_it_differ_in_nothing() -> None:
    """A layer that declares one of the two families that Flax's convention allows is a drop-in."""
    assert FLAX.differences() == ()
    law = Law(("normal",), lambda fan_in, fan_out: 1 / fan_in, "normal, variance 1/fan_in")
    assert Convention("own", kernel=law).differences() == ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kernel": Law((), lambda i, o: 1 / i, "any law")}, "kernel: any law"),
        ({"kernel": Law(("uniform",), lambda i, o: 1 / i, "uniform")}, "kernel: uniform"),
        ({"kernel": Law(("normal",), lambda i, o: 2 / (i + o), "G")}, "kernel: G"),
        ({"bias": Law(("normal",), lambda i, o: 1.0, "normal")}, "bias: normal"),
        ({"use_bias": False}, "no bias"),
        ({"layout": "out,in"}, "kernel stored as (out, in)"),
        ({"parameter_names": ("w", "b")}, "names w and b"),
        ({"ranks": (1,)}, "x of rank 1 only"),
        ({"parameter_dtype": "bfloat16"}, "parameters in bfloat16"),
        ({"compute_dtype": "float16"}, "computes in float16"),
        ({"product_error": 0.25}, "promises a product within 0.25 of its operands"),
        ({"inputs": ("floating", "complex")}, "takes floating and complex x only"),
        ({"streams": ("dropout",)}, "draws from dropout in its call"),
        ({"checks_width": False}, "does not check the width of x"),
    ],
)
def test_each_difference_is_named(changed: dict[str, object], said: str) -> None:
    assert replace(FLAX, **changed).differences() == (said,)  # type: ignore[arg-type]


def test_a_layer_without_a_bias_has_one_name() -> None:
    alone = replace(FLAX, parameter_names=("w", "bias"), use_bias=False)
    assert alone.differences() == ("no bias", "name w")


def test_flax_own_convention_is_asked_everything() -> None:
    assert not any(presumption(row, FLAX) for row in catalogue())


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_keeps_to_its_own_bound(dtype: str) -> None:
    layer = Layer(VARIANTS["f16" if dtype == "float16" else "bf16"])
    generator = np.random.default_rng(0)
    sizes = ((5, 33), (33, 17), (17,))
    x, kernel, bias = (generator.standard_normal(s).astype(np.float32) for s in sizes)
    reference = layer.value(x, kernel, bias)
    low = [jnp.asarray(values).astype(dtype) for values in (x, kernel, bias)]
    found = low[0] @ low[1] + low[2]
    assert require.near(found, reference, "f(x)") > 0.1
    wrong = oracle.affine(x, rounded(kernel, dtype) * np.float32(1.05), bias).value
    with pytest.raises(Violation):
        require.near(wrong, reference, "f(x)")


def test_a_promised_error_is_allowed_and_no_more() -> None:
    layer = Layer(adapt(nnx.Linear, product_error="2**-7"))
    generator = np.random.default_rng(0)
    x, kernel = generator.standard_normal((5, 33)), generator.standard_normal((33, 17))
    nothing = np.zeros(17, np.float32)
    reference = layer.value(x.astype(np.float32), kernel.astype(np.float32), nothing)

    def moved(e: float) -> np.ndarray:
        by_row = e * np.abs(x).max(-1, keepdims=True) * np.sign(x)
        return (x + by_row) @ (kernel + e * np.abs(kernel).max(0) * np.sign(kernel))

    assert require.near(moved(2.0**-7), reference, "f(x)") > 0.1
    zero = layer.value(np.zeros((1, 33), np.float32), kernel.astype(np.float32), nothing)
    assert not (zero.bound > 1e-30).any()
    with pytest.raises(Violation):
        require.near(moved(2.0**-4), reference, "f(x)")


def test_a_sum_in_half_precision_is_allowed_where_it_is_declared() -> None:
    """Adding one product at a time in bfloat16 breaks the bound of a sum in float32."""
    half = VARIANTS["bf16"].convention
    summed = Layer(VARIANTS["bf16"].with_convention(replace(half, accumulate="bfloat16")))
    x, kernel = np.ones((1, 300), np.float32), np.ones((300, 1), np.float32)
    nothing, found = np.zeros(1, np.float32), jnp.zeros((1, 1), jnp.bfloat16)
    for _ in range(300):
        found = found + jnp.ones((1, 1), jnp.bfloat16)
    reference = summed.value(x, kernel, nothing)
    require.near(found, reference, "f(x)")
    reference = Layer(VARIANTS["bf16"]).value(x, kernel, nothing)
    with pytest.raises(Violation):
        require.near(found, reference, "f(x)")


def test_nothing_is_said_where_half_precision_overflows() -> None:
    layer = Layer(VARIANTS["f16"])
    x = np.array([[1.0, 2.0], [1e9, 1.0]], np.float32)
    reference = layer.value(x, np.ones((2, 3), np.float32), np.zeros(3, np.float32))
    assert np.isfinite(reference.bound[0]).all()
    assert np.isinf(reference.bound[1]).all()


def test_variants_are_named_in_brackets() -> None:
    assert split_variant("nnx.Linear[bf16]") == ("nnx.Linear", "bf16")
    assert split_variant("folder[1]/a.py:Dense") == ("folder[1]/a.py:Dense", "")
    (entry,) = resolve(["implementations.nnx_linear:Linear[no-bias]"])
    assert entry.name == "implementations.nnx_linear:Linear[no-bias]"
    assert not load(entry).convention.use_bias
    every = resolve(["implementations.nnx_linear:Linear[*]"])
    assert len(every) == 1 + len(VARIANTS) == 1 + len(Linear.variants)


def test_an_unknown_variant_is_named() -> None:
    with pytest.raises(LoadError, match=r"has no variant 'bf17'; it has no-bias, f32, bf16"):
        load(Entry("x", "x", "implementations.nnx_linear:Linear[bf17]"))


def test_a_missing_extra_is_said_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from conformance.layers import registry

    entry = Entry("acme:acme.Dense", "acme.Dense", "acme:Dense", "acme", missing="fast")
    here = Entry("acme:acme.Other", "acme.Other", "acme:Other", "acme")
    monkeypatch.setattr(registry, "registered", lambda: (entry, here))
    assert resolve([]) == (here,)
    with pytest.raises(UsageError, match=r"needs the extra 'fast': pip install 'acme\[fast\]'"):
        resolve(["acme.Dense"])


@pytest.mark.parametrize(
    ("layer", "requirement"), [(OptionsOfSequences, "output-shape"), (LinenSequences, "builds")]
)
def test_a_layer_of_sequences_is_told_what_to_declare(layer: type, requirement: str) -> None:
    """The layers of implementations.correct.sequences that declare it meet all requirements."""
    report = conformance.check(layer, requirement=requirement, workers=0)
    (cell,) = (cell for cell in report.cells if cell.outcome.violated)
    assert cell.requirement.endswith(requirement)
    assert cell.accepted.endswith("declare ranks = [3]")


@pytest.mark.parametrize("library", ["equinox", "haiku", "haliax", "keras", "stax"])
def test_an_adapter_writes_what_its_layer_uses(library: str) -> None:
    pytest.importorskip(library if library != "stax" else "jax", exc_type=ImportError)
    names = {"keras": "keras_dense:Dense", "stax": "stax_dense:Dense"}
    place = names.get(library, f"{library}_linear:Linear")
    layer: Any = load(Entry(library, library, f"implementations.{place}"))
    for its in (layer, *layer.variants.values()):
        kernel, bias = np.arange(12.0, dtype=np.float32).reshape(3, 4), np.ones(4, np.float32)
        new = its.init(0, 3, 4)
        assert its.kernel(new).shape == (3, 4)
        given = bias if its.convention.use_bias else None
        written = its.with_parameters(new, jnp.asarray(kernel), given)
        expected = kernel[0] + (bias if its.convention.use_bias else 0)
        lead = its.convention.fewest
        x = jnp.zeros((*lead, 3)).at[..., 0].set(1)
        assert np.array_equal(np.ravel(its.apply(written, x)), expected)
