"""Binding of constructors by the names of their arguments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from conformance import NotAdaptable, adapt
from conformance.checks.layer import Layer
from conformance.layers.binding import bind, bind_forward


def _class(signature: str) -> type:
    """Return an nnx class with a constructor of these arguments, which keeps them."""
    names = [part.strip(" *").partition(":")[0].partition("=")[0] for part in signature.split(",")]
    body = f"def __init__(self, {signature}):\n"
    body += "".join(f"    self.{name} = {name}\n" for name in names if name not in ("", "/"))
    scope: dict[str, Any] = {"nnx": nnx, "jax": jax}
    exec(body, scope)
    return type("Own", (), {"__init__": scope["__init__"], "__call__": lambda self, x: x})


@pytest.mark.parametrize(
    ("signature", "first", "second"),
    [
        ("in_features, out_features, rngs", "in_features", "out_features"),
        ("din: int, dout: int, *, rngs: nnx.Rngs", "din", "dout"),
        ("units, in_units, rngs", "in_units", "units"),
        ("features, d_in, rngs", "d_in", "features"),
        ("dim, hidden_dim, rngs", "dim", "hidden_dim"),
        ("hidden_size, vocab_size, rngs", "hidden_size", "vocab_size"),
        ("num_classes, hidden_dim, rngs", "hidden_dim", "num_classes"),
        ("n, m, rngs", "n", "m"),
        ("name: str, n: int, m: int, rngs, ", "n", "m"),
        ("rngs, in_size, out_size", "in_size", "out_size"),
        ("n_in, n_out, use_bias=True, rngs=None", "n_in", "n_out"),
    ],
)
def test_sizes_are_bound_by_name(signature: str, first: str, second: str) -> None:
    arguments = {"name": "a"} if signature.startswith("name") else {}
    layer = _class(signature.strip(", "))
    found = bind(layer, arguments, is_nnx=True).construct(3, 10, nnx.Rngs(0))
    assert (getattr(found, first), getattr(found, second)) == (3, 10)
    assert isinstance(found.rngs, nnx.Rngs)


@pytest.mark.parametrize(
    ("signature", "kind"),
    [
        ("n_in, n_out, key", "key"),
        ("n_in, n_out, rng: jax.Array", "key"),
        ("n_in, n_out, seed", "seed"),
        ("n_in, n_out, rng: int", "seed"),
        ("n_in, n_out, rng: nnx.Rngs", "rngs"),
    ],
)
@pytest.mark.parametrize("is_nnx", [True, False])
def test_the_source_of_randomness(signature: str, kind: str, is_nnx: bool) -> None:
    """An Rngs, a key or a seed is recognized by annotation, else by name."""
    binding = bind(_class(signature), {}, is_nnx=is_nnx)
    found = binding.construct(3, 10, nnx.Rngs(0) if is_nnx else 0)
    given = vars(found)[signature.split(", ")[2].partition(":")[0]]
    assert isinstance(given, {"key": jax.Array, "seed": int, "rngs": nnx.Rngs}[kind])


def test_how_a_layer_was_bound_is_described() -> None:
    assert bind(_class("in_features, out_features, rngs"), {}, is_nnx=True).description == ""
    swapped = bind(_class("units, in_units, key"), {}, is_nnx=True).description
    assert swapped == "Own(units=out_features, in_units=in_features, key=jax.random.key(seed))"
    assert "not by name: n and m" in bind(_class("n, m, rngs"), {}, is_nnx=True).description
    one = bind(_class("hidden_dim, d_model, rngs"), {}, is_nnx=True).description
    assert "not by name: d_model" in one
    assert "it takes no seed" in bind(_class("n_in, n_out"), {}, is_nnx=True).description


def test_what_else_is_needed_is_asked_for_by_name() -> None:
    layer = _class("n_in, n_out, activation, rngs")
    with pytest.raises(NotAdaptable, match="also needs 'activation'") as caught:
        bind(layer, {}, is_nnx=True)
    assert "--declare arguments.activation=..." in str(caught.value)
    assert bind(layer, {"activation": None}, is_nnx=True)
    with pytest.raises(NotAdaptable, match="has no argument 'activatoin'"):
        bind(layer, {"activatoin": None}, is_nnx=True)

    class Called(nnx.Module):
        def __init__(self, n_in: int, n_out: int, rngs: nnx.Rngs) -> None:
            self.linear = nnx.Linear(n_in, n_out, rngs=rngs)

        def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
            return self.linear(x) if deterministic else 2 * self.linear(x)

    with pytest.raises(NotAdaptable, match="whose call also needs 'deterministic'"):
        adapt(Called)
    implementation: Any = adapt(Called, call={"deterministic": True})
    layer = implementation.module(3, 10, nnx.Rngs(0))
    assert np.array_equal(layer(jnp.ones(3)), layer.linear(jnp.ones(3)))


def test_fields_that_linen_adds_are_not_shown() -> None:
    class Configured(linen.Module):
        config: Any
        features: int

        def __call__(self, x: jax.Array) -> jax.Array:
            return x

    with pytest.raises(NotAdaptable, match="which also needs 'config'") as caught:
        adapt(Configured)
    assert "features" in str(caught.value)
    assert "parent" not in str(caught.value)


def test_functions_in_a_class_are_described() -> None:
    class Functions:
        @staticmethod
        def init(key: jax.Array, n_in: int, n_out: int) -> dict[str, jax.Array]:
            return {"w": jnp.ones((n_in, n_out))}

        @staticmethod
        def apply(parameters: dict[str, jax.Array], x: jax.Array) -> jax.Array:
            return x @ parameters["w"]

    with pytest.raises(NotAdaptable, match="has no __call__") as caught:
        adapt(Functions)
    assert "A description in Python" in caught.value.hint


def test_a_seed_is_a_number_under_a_trace_as_well() -> None:
    """A user gives a number there, and ``nnx.Rngs`` takes no traced one."""

    class Seeded(nnx.Module):
        def __init__(self, in_features: int, out_features: int, seed: int) -> None:
            assert type(seed) is int
            self.linear = nnx.Linear(in_features, out_features, rngs=nnx.Rngs(seed))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.linear(x)

    its: Any = adapt(Seeded)
    shapes = jax.eval_shape(lambda: its.init(7, 3, 10))
    assert sorted(leaf.shape for leaf in jax.tree_util.tree_leaves(shapes)) == [(3, 10), (10,)]
    (*_, kernel) = jax.tree_util.tree_leaves(its.init(7, 3, 10))
    assert np.array_equal(kernel, its.module(3, 10, nnx.Rngs(7)).linear.kernel[...])


class Sizes(linen.Module):
    """A Linen class with both sizes, under other names than Flax's."""

    d_in: int
    units: int

    def setup(self) -> None:
        self.w = self.param("w", linen.initializers.lecun_normal(), (self.d_in, self.units))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.w


class OneSize(linen.Module):
    """A Linen class with one size of an unusual name."""

    neurons: int

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Dense(self.neurons)(x)


class Plain:
    """A class without a framework, with arrays in attributes of attributes."""

    def __init__(self, in_size: int, out_size: int, key: jax.Array) -> None:
        self.inner = {"weight": jax.random.normal(key, (in_size, out_size))}
        self.bias = jnp.zeros(out_size)
        self.activation = jax.nn.relu

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.inner["weight"] + self.bias


def test_a_plain_class_is_read_and_written_by_path() -> None:
    """Arrays are found among attributes; one trace serves all instances."""
    its: Any = adapt(Plain)
    structure: Any = jax.tree_util.tree_structure
    parameters = its.init(0, 3, 10)
    assert [".".join(leaf.path) for leaf in its.leaves(parameters)] == ["bias", "inner.weight"]
    assert its.kernel(parameters).shape == (3, 10)
    written = its.with_parameters(parameters, jnp.ones((3, 10)), jnp.ones(10))
    assert np.array_equal(its.apply(written, jnp.ones(3)), np.full(10, 4.0))
    assert structure(parameters) == structure(written) == structure(its.init(1, 3, 10))
    stacked = jax.vmap(lambda seed: its.init(seed, 3, 10))(np.arange(4, dtype=np.uint32))
    assert its.kernel(jax.tree_util.tree_map(lambda a: a[0], stacked)).shape == (3, 10)


def made(n_in: int, n_out: int, seed: int) -> Plain:
    """Return a layer: a function of two sizes, without x."""
    return Plain(n_in, n_out, jax.random.key(seed))


@pytest.mark.parametrize("layer", [Sizes, OneSize, partial(linen.Dense, use_bias=False), made])
def test_sizes_of_any_names_are_given(layer: Any) -> None:
    """One size field of a Linen class suffices; two are recognized by their names."""
    its: Any = adapt(layer)
    assert its.kernel(its.init(0, 3, 10)).shape == (3, 10)


def in_a_closure(in_dim: int, out_dim: int, *, key: jax.Array) -> Any:
    """Return a function with its arrays in its closure, in which another name is still empty."""
    parameters = {"W": jax.random.normal(key, (in_dim, out_dim)), "b": jnp.zeros(out_dim)}
    later: Any = None
    layer = lambda x: later(x) if x is None else x @ parameters["W"] + parameters["b"]  # noqa: E731, F821  # empty
    del later
    return layer


class Pair(NamedTuple):
    """A kernel and a bias."""

    W: jax.Array
    b: jax.Array


class OfPair:
    """A class without a framework, with a named tuple of its arrays."""

    def __init__(self, in_dim: int, out_dim: int, *, key: jax.Array) -> None:
        self.parameters = Pair(jax.random.normal(key, (in_dim, out_dim)), jnp.zeros(out_dim))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.parameters.W + self.parameters.b


@pytest.mark.parametrize(
    ("make", "kernel"), [(in_a_closure, "parameters.W"), (OfPair, "parameters.0")]
)
def test_arrays_are_found_in_closures_and_named_tuples(make: Any, kernel: str) -> None:
    layer = Layer(adapt(make))
    assert layer.seen.kernel == kernel
    dense = layer.build(3, 10)
    dense.write(np.ones((3, 10), np.float32), np.full(10, 2.0, np.float32))
    assert np.array_equal(dense(np.ones(3, np.float32)), np.full(10, 5.0))
    assert layer.build(3, 10).parameters.static == dense.parameters.static


def test_named_axes_are_one_message() -> None:
    class Named:
        @staticmethod
        def init(In: dict[str, int], Out: dict[str, int], *, key: jax.Array) -> None: ...

    with pytest.raises(NotAdaptable, match="In and Out are named axes, not sizes"):
        adapt(Named.init)


def test_a_constructor_of_arrays_names_the_method_that_takes_sizes() -> None:
    class Structure:
        def __init__(self, weight: jax.Array, bias: jax.Array, n_in: int, n_out: int) -> None: ...

        @classmethod
        def init(cls, n_in: int, n_out: int, key: jax.Array) -> None: ...

        def __call__(self, x: jax.Array) -> None: ...

    with pytest.raises(NotAdaptable, match=r"takes its arrays: weight and bias") as caught:
        adapt(Structure)
    assert caught.value.hint == "Name the method that takes sizes: Structure.init"


def test_an_initializer_that_returns_arrays_is_no_argument_for_an_array() -> None:
    class Dense(nnx.Module):
        def __init__(
            self, n_in: int, n_out: int, init: Callable[..., jax.Array] = nnx.initializers.ones,
            *, rngs: nnx.Rngs,
        ) -> None: ...  # fmt: skip

        def draw(self, n_in: int, n_out: int) -> None: ...

        def __call__(self, x: jax.Array) -> None: ...

    adapt(Dense)


def test_words_beside_a_type_say_nothing_about_the_type() -> None:
    class Dense(nnx.Module):
        def __init__(
            self, n_in: Annotated[int, "the last axis"], n_out: int, *, rngs: nnx.Rngs
        ) -> None: ...

        def __call__(self, x: jax.Array) -> None: ...

    adapt(Dense)


def test_a_forward_function_in_another_order() -> None:
    def forward(x: Any, n_out: int, seed: int) -> tuple[Any, int, int]:
        return x, n_out, seed

    bound = bind_forward(forward)
    assert bound is not None
    assert bound[0](1, "x", 3) == ("x", 3, 1)
    assert bound[1] == "forward(x, n_out, seed)"
    assert bind_forward(lambda x: x) is None


class Made:
    """A class whose constructor takes arrays, and a method that takes sizes."""

    def __init__(self, kernel: jax.Array, bias: jax.Array) -> None:
        self.kernel, self.bias = kernel, bias

    @classmethod
    def create(cls, key: jax.Array, in_dim: int, out_dim: int) -> Made:
        return cls(jax.random.normal(key, (in_dim, out_dim)), jnp.zeros(out_dim))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel + self.bias


def test_the_method_that_takes_sizes_is_named() -> None:
    with pytest.raises(NotAdaptable, match=r"Name the method that takes sizes: Made\.create"):
        adapt(Made)
    assert adapt(Made.create).init is not None


def test_a_function_of_a_key_gets_one() -> None:
    def forward(key: jax.Array, x: Any, features: int) -> Any:
        return jax.random.normal(key, (features,))

    bound = bind_forward(forward)
    assert bound is not None
    assert np.array_equal(bound[0](1, "x", 3), forward(jax.random.key(1), "x", 3))
    assert bound[1] == "forward(key=jax.random.key(seed), x, features)"


@pytest.mark.parametrize("library", ["haiku", "keras", "tensorflow", "torch"])
def test_a_class_that_only_its_library_builds_is_one_message(library: str) -> None:
    base = type("Module", (), {"__module__": f"{library}.nn"})
    with pytest.raises(NotAdaptable, match=f"the class Dense of {library}, which only") as caught:
        adapt(type("Dense", (base,), {}))
    assert "Write a function (seed, x, features)" in caught.value.hint


class Equation(linen.Module):
    """A Linen class with a shape, whose call takes another argument before x."""

    shape: tuple[int, ...]

    @linen.compact
    def __call__(self, equation: str, x: jax.Array) -> jax.Array:
        w = self.param("w", linen.initializers.ones, self.shape)
        return jnp.einsum(equation, x, w)


def test_what_a_call_takes_before_x_is_asked_for_and_given() -> None:
    with pytest.raises(NotAdaptable, match="whose call also needs 'equation'") as caught:
        adapt(Equation)
    assert "call.equation" in caught.value.hint
    call = {"equation": "...i,io->...o"}
    with pytest.raises(NotAdaptable, match="no field is the size") as caught:
        adapt(Equation, call=call)
    assert "a function of in_features and out_features" in caught.value.hint

    def factory(in_features: int, out_features: int) -> linen.Module:
        return Equation((in_features, out_features))

    layer: Any = adapt(factory, call=call)
    assert layer.apply(layer.init(0, 3, 4), jnp.ones((2, 3))).shape == (2, 4)
