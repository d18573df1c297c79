"""``dense_forward(seed, x, features)``, the function that a solution of the exercise submits."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from conformance.checks import oracle, profiles, recording, require
from conformance.checks.areas import functions, input_dtypes
from conformance.checks.areas.kernels import judge, recovered
from conformance.checks.arithmetic import is_exact
from conformance.checks.arrays import as_jax
from conformance.checks.cases import Case, over
from conformance.checks.layer import Layer
from conformance.checks.once import once_per_layer
from conformance.checks.require import during
from conformance.contract.requirement import (
    EXERCISE,
    MUST,
    SHOULD,
    idle_because,
    requirement,
    rests_on,
)
from conformance.errors import Cause, Violation, safe_text
from conformance.jax_setup.lazy import jax, jnp, nnx
from conformance.statistics import by_requirement, causes, strongest
from conformance.statistics.identify import declared_names
from conformance.statistics.laws import families_named


@requirement("exercise/float-arguments", MUST, EXERCISE, foundation=True, order=-189)
@rests_on("construction/builds")
@over()
def test_float_arguments(layer: Layer, case: Case) -> None:
    """float, NumPy number and 0-d array ``seed`` and ``features`` act as their integer value.

    A fraction is cut off, as ``int`` does, also of a negative seed, and no digit of a large seed is
    lost.
    """
    if layer.registered.bound:
        require.not_applicable(f"it is called as {layer.registered.bound}, unlike the exercise's")
    # Calls of one seed with another length of x are checked by exercise/any-length.
    own = (case.seed + 1000 * case.in_features) % 2**31
    seed, features = own % 2**20, case.out_features
    x = case.normal("x", case.in_features)
    plain = np.asarray(layer.forward(seed, x, features))
    _require_both_cast(layer, seed, x, features)
    plainly, otherwise = _whole(seed, features)
    for given in plainly:
        _require_as(layer, given, x, plain, _not_cast(given))
    # float32 cannot hold the first, an odd number of 31 bits; int32 cannot hold the second.
    large = own | 2**30 | 1
    words = "a float seed is rounded, as by float32; int() keeps all of its digits"
    for number, why in ((large, Cause("seed-float32", words)), (large + 2**31, "")):
        given = _Given(f"the seed {float(number)!r}", float(number), features)
        _require_as(layer, given, x, np.asarray(layer.forward(number, x, features)), why)
    for given in _fractions(seed, features):
        with during(f"with {given.what}, f"):
            found = np.asarray(layer.forward(given.seed, x, given.features))
        rounded = layer.forward(round(given.seed), x, round(given.features))
        words = f"{given.cast} is rounded, where int() cuts off its fraction"
        is_rounded = np.array_equal(found, rounded)
        why = Cause("argument-rounded", words) if is_rounded else _not_cast(given)
        require.equal(found, plain, f"with {given.what}, f", cause=why)
    for given in otherwise:  # round() takes no array of NumPy
        _require_as(layer, given, x, plain, _not_cast(given))
    _require_of_unusual_seeds(layer, x, features)


@once_per_layer()
def _require_of_unusual_seeds(layer: Layer, x: np.ndarray, features: int) -> None:
    """Require f to cut off the fraction of a negative seed, and to make no float of an int.

    A function may refuse such seeds.
    """

    def of(seed: float) -> np.ndarray | None:
        with contextlib.suppress(Violation):
            return np.asarray(layer.forward(seed, x, features))
        return None

    cut, found, below = of(-2), of(-2.3), of(-3)
    if cut is not None and found is not None:
        words = "seed is rounded down, where int() cuts off its fraction"
        is_floor = below is not None and np.array_equal(found, below)
        cause = Cause("argument-rounded", words) if is_floor else ""
        require.equal(found, cut, "with the seed -2.3, f", cause=cause)
    even, odd, following = (of(2**53 + i) for i in range(3))
    if even is None or odd is None or following is None or np.array_equal(even, following):
        return  # it refuses them, or has a largest seed
    require.that(
        not np.array_equal(even, odd),
        "f is the same with the seeds 2**53 and 2**53 + 1",
        accepted="another result, as these integers differ in the last of the 32 bits of a seed",
        cause=Cause("seed-float64", "a seed that is an int goes through a float, of 53 bits"),
    )


class _Given(NamedTuple):
    """The arguments of one call, and how a message describes them."""

    what: str
    seed: Any
    features: Any
    cast: str = "seed"
    kind: str = "float"


def _not_cast(given: _Given) -> Cause:
    return Cause("argument-not-cast", f"cast {given.cast} with int(): it may be a {given.kind}")


def _whole(seed: int, features: int) -> tuple[list[_Given], list[_Given]]:
    """Return these integers as floats, and in every other type in which they may arrive."""
    one, two = float(seed), float(features)
    return [
        _Given("seed as a float", one, features),
        _Given("features as a float", seed, two, "features"),
        _Given("both as floats", one, two, "them"),
    ], [
        _Given("both as np.float64", np.float64(seed), np.float64(features), "them"),
        _Given("both as 0-d arrays", np.asarray(one), np.asarray(two), "them"),
        _Given("both as 0-d JAX arrays", jnp.float32(seed), jnp.float32(features), "them"),
        _Given("both as np.float32", np.float32(seed), np.float32(features), "them"),
        _Given("both as np.int64", np.int64(seed), np.int64(features), "them", "NumPy integer"),
    ]


def _fractions(seed: int, features: int) -> list[_Given]:
    """Return numbers that ``int`` turns into these; rounding gives the next integers."""
    below = "with a fraction just below 1"
    return [
        _Given("a seed with a fraction", seed + 0.7, features),
        _Given("features with a fraction", seed, features + 0.7, "features"),
        _Given(f"a seed {below}", np.nextafter(seed + 1.0, 0.0), features),
        _Given(f"features {below}", seed, np.nextafter(features + 1.0, 0.0), "features"),
    ]


def _require_both_cast(layer: Layer, seed: int, x: np.ndarray, features: int) -> None:
    """Require that neither argument raises as a float; one message names all that do."""
    raised = {}
    given = {"seed": (float(seed), features), "features": (seed, float(features))}
    for name, (s, m) in given.items():
        try:
            layer.forward(s, x, m)
        except Violation as violation:
            raised[name] = violation.found
    if len(raised) == 2:
        words = "cast seed and features with int(): both arrive as floats"
        cause = Cause("argument-not-cast", words)
        require.fail("; and ".join(raised.values()), accepted="no exception", cause=cause)


def _require_as(layer: Layer, given: _Given, x: np.ndarray, plain: np.ndarray, cause: str) -> None:
    """Require that these arguments give what their integer values give."""
    with during(f"with {given.what}, f", cause=cause):
        found = np.asarray(layer.forward(given.seed, x, given.features))
    require.equal(found, plain, f"with {given.what}, f", cause=cause)


@requirement("exercise/vector-out", MUST, EXERCISE, order=-187)
@idle_because(
    "``forward/output-shape`` finds wrong shapes for every kind of layer. This one "
    "checks the exercise's own sentence, at other sizes."
)
@rests_on("exercise/float-arguments", "exercise/any-length", "forward/output-shape")
@over(up_to=40, every_size=False, at_most=6)
def test_vector_out(layer: Layer, case: Case) -> None:
    """The result is a vector of length features, for in and features from 1 up."""
    if case.in_features * case.out_features > 2000 and case.seed:
        return
    found = layer.forward(case.seed, case.normal("x", case.in_features), case.out_features)
    require.that(
        found.shape == (case.out_features,),
        f"the result has shape {found.shape} for features={case.out_features}",
        accepted=f"shape {(case.out_features,)}",
    )


@requirement("exercise/fixed-result", MUST, EXERCISE)
@rests_on("exercise/vector-out", "exercise/recovered-kernel", "seeding/same-seed-same-bits")
@over()
def test_fixed_result(layer: Layer, case: Case) -> None:
    """The result equals that of the layer built from ``nnx.Rngs(int(seed))`` on the same x.

    The layer is the ``MyDense`` in the same module, if there is one, or else the exercise's own
    formula. Only a function called ``dense_forward`` is compared; it takes its arguments in this
    order.
    """
    if not layer.convention.fixed_result:
        require.not_applicable(
            "only a function called dense_forward must give the exercise's numbers"
        )
    from implementations.my_dense import MyDense

    _require_order(layer.implementation.forward)
    beside = functions.layer_beside(layer.implementation.forward)
    x = case.normal("x", case.in_features)
    construct = functions.constructor(beside or MyDense)
    with during("construction of the MyDense in the function's module"):
        model = construct(*case.kernel_shape, nnx.Rngs(case.seed))
    found = np.asarray(layer.forward(case.seed, x, case.out_features))
    if beside is not None:
        with during("calling the MyDense in the function's module"):
            expected = np.asarray(model(as_jax(x)))
        kernel, bias = layer.affine(case)
        bound = 2 * oracle.affine(x, kernel, bias).bound
        right = oracle.Bounded(expected, bound).admits(found)
        cause = "" if right else _why_another_key(construct, found, bound, case)
        require.within(found, expected, bound, "f(x)", cause=cause, against="that of its MyDense")
        return
    kernel, bias = np.asarray(model.kernel[...]), np.asarray(model.bias[...])
    reference = oracle.affine(x, kernel, bias)
    if reference.admits(found, times=2):
        return
    require.fail(
        f"f(x) is {found[:3]} in its first entries, where the exercise's formula gives "
        f"{reference.value[:3].astype(np.float32)}",
        accepted="x @ kernel with kernel = jax.random.normal(nnx.Rngs(int(seed)).params(), "
        "(in_features, features)) / sqrt(in_features): the exercise fixes the numbers, not only "
        "their law",
        cause=_why_other_numbers(found, x, case),
    )


def _require_order(function: Any) -> None:
    """Require that the function takes its arguments in the exercise's order."""
    expected = ["seed", "x", "features"]
    try:
        found = list(inspect.signature(inspect.unwrap(function)).parameters)[:3]
    except (TypeError, ValueError):
        return
    require.that(
        found == expected or sorted(found) != sorted(expected),
        f"dense_forward takes ({', '.join(found)})",
        accepted="(seed, x, features), which are given in this order",
        cause=Cause("arguments-in-another-order", "the arguments of dense_forward are exchanged"),
    )


def _why_another_key(
    construct: Callable[..., Any], found: np.ndarray, bound: np.ndarray, case: Case
) -> str:
    """Return a cause if exactly one other key makes the layer beside it give this f(x)."""
    used, halves = nnx.Rngs(case.seed), jax.random.split(jax.random.key(case.seed))
    used.params()
    x, named = as_jax(case.normal("x", case.in_features)), []
    for words, rngs in (
        ("the first half of jax.random.split(key)", nnx.Rngs(halves[0])),
        ("the second half of jax.random.split(key)", nnx.Rngs(halves[1])),
        ("Rngs that another key was drawn from before", used),
    ):
        given = np.asarray(construct(*case.kernel_shape, rngs)(x))
        if oracle.Bounded(given, bound).admits(found):
            named.append(f"the layer is built from {words}: build it from nnx.Rngs(int(seed))")
    return Cause("another-key", named[0]) if len(named) == 1 else ""


def _why_other_numbers(found: np.ndarray, x: np.ndarray, case: Case) -> str:
    """Return the cause: the other key, or other law of the same key, that gives these numbers."""
    shape, scale = case.kernel_shape, case.in_features**-0.5
    rngs = nnx.Rngs(case.seed)
    own, second, root = rngs.params(), rngs.params(), jax.random.key(case.seed)
    lecun = nnx.initializers.lecun_normal()
    right = ": its law is right, but the exercise asks for other numbers"
    candidates = {
        Cause("key-of-seed", f"the key is jax.random.key(seed), not rngs.params(){right}"): (
            jax.random.normal(root, shape) * scale
        ),
        Cause("second-key", f"the kernel is drawn from the second key of rngs.params(){right}"): (
            jax.random.normal(second, shape) * scale
        ),
        Cause("law-lecun", f"the kernel is drawn by lecun_normal{right}"): lecun(own, shape),
        Cause(
            "law-lecun", f"the kernel is drawn by lecun_normal from jax.random.key(seed){right}"
        ): lecun(root, shape),
    }
    named = []
    for cause, kernel in candidates.items():
        reference = oracle.affine(x, np.asarray(kernel))
        if reference.admits(found, times=2):
            named.append(cause)
    return named[0] if len(named) == 1 else ""


@requirement("exercise/any-length", MUST, EXERCISE, order=-188)
@rests_on("exercise/float-arguments")
@over(sizes=[(3, 4), (5, 2)], at_most=2)
def test_any_length(layer: Layer, case: Case) -> None:
    """Changing len(x) between calls with one (seed, features) works, and changes no result."""
    cached = Cause("kernel-cached", "the kernel is cached, for another length of x")
    results: dict[int, np.ndarray] = {}
    n = case.in_features
    lengths = (n, n + 2, 1, n, n + 5, n + 2, n)
    # 307 is longer than all before it, because a growing cache may be drawn again for it.
    for length in (*lengths, 307, n) if n == 3 else lengths:
        x = case.normal("x", length)
        what = f"f(x) with len(x) = {length} after other lengths"
        with during(f"a call with len(x) = {length} after others"):
            try:
                found = np.asarray(layer.forward(case.seed, x, 4))
            except Exception as error:
                # A fresh seed has no cached kernel: if that call raises, the length is the reason.
                layer.forward(case.seed ^ 1, x, 4)
                raise Violation(f"{what} raised {safe_text(error)}", cause=cached) from error
        require.equal(found, results.setdefault(length, found), what, cause=cached)
    _require_any_order(layer, case)


# Calls in a random order, and the numbers of features and dtypes among which they choose.
_CALLS, _FEATURES, _DTYPES = 32, (4, 7, 5), ("float32", "bfloat16", "int32")


def _require_any_order(layer: Layer, case: Case) -> None:
    """Require equal calls to give equal results when other calls come between them.

    The calls use two seeds, two lengths of x, three numbers of features and three dtypes.
    """
    generator = case.generator("order")
    cause = Cause("call-history", "a result depends on the calls before it")
    results: dict[tuple[int, int, int, str], np.ndarray] = {}
    for _ in range(_CALLS):
        seed, n = (start + int(generator.integers(2)) for start in (7, case.in_features))
        m = _FEATURES[generator.integers(3)]
        dtype = _DTYPES[generator.integers(3)]
        if not input_dtypes.takes(layer, dtype):
            continue
        with during("calls of other seeds, lengths, features and dtypes in turn"):
            y = layer.forward(seed, as_jax(np.arange(n, dtype=np.float32) - 1, dtype), m)
        found = np.asarray(y, np.float32)
        what = f"f(seed={seed}, x of shape ({n},) and {dtype}, features={m}) after other calls"
        first = results.setdefault((seed, n, m, dtype), found)
        require.equal(found, first, what, cause=cause)
    # Of two seeds, only one is called on half precision before its kernel is probed.
    plain, later = (replace(case, seed=seed) for seed in (9, 10))
    if is_exact(layer.affine(plain)[0], "bfloat16"):
        return
    layer.forward(later.seed, as_jax(case.normal("x", case.in_features), "bfloat16"), 4)
    require.that(
        not is_exact(layer.affine(later)[0], "bfloat16"),
        "after a call on bfloat16, every weight of that seed is a bfloat16 number",
        accepted="the weights of a first call on float32",
        cause=Cause("kernel-of-first-dtype", "the kernel is kept in the dtype of the first x"),
    )


_LARGE_SEED = 0x9E3779B1


@requirement("exercise/differentiable-in-x", MUST, EXERCISE)
@rests_on("exercise/vector-out", "forward/additive", "dtypes/float32-out")
@over(sizes=[(3, 4), (130, 4)], at_most=2)
def test_differentiable_in_x(layer: Layer, case: Case) -> None:
    """jit, grad and vmap over x work, with a concrete seed and features."""
    # An odd seed of 32 bits, which float32 cannot hold: a rule may keep the seed for later.
    case = recording.current().draw(replace(case, seed=case.seed ^ _LARGE_SEED))
    kernel, bias = layer.affine(case)
    x = case.normal("x", 4, case.in_features)
    g = case.normal("g", case.out_features)

    def f(value: ArrayLike) -> jax.Array:
        return layer.of_function(case.seed, value, case.out_features)

    reference = oracle.affine(x, kernel, bias)
    with during("jax.jit over x"):
        found = np.asarray(jax.jit(f)(x[0]))
    require.within(found, reference.value[0], 2 * reference.bound[0], "under jit, f(x)")
    with during("jax.vmap over x"):
        found = np.asarray(jax.vmap(f)(x))
    require.within(found, reference.value, 2 * reference.bound, "under vmap, f(x)")
    functions.require_input_gradients(f, x[0], kernel, g)
    functions.require_usable_after_a_trace(layer, case)


@requirement("exercise/bad-arguments-raise", SHOULD, EXERCISE)
@rests_on("exercise/float-arguments", "seeding/seeds-differ")
@over(sizes=[(3, 4)])
def test_bad_arguments_raise(layer: Layer, case: Case) -> None:
    """A seed or features that is NaN or infinite raises."""
    x = case.normal("x", case.in_features)
    f = layer.of_function
    for wrong in (float("nan"), float("inf"), -float("inf")):
        require.raises(lambda w=wrong: f(w, x, 4), f"seed={wrong}")  # type: ignore[misc]  # bound early
        require.raises(lambda w=wrong: f(1, x, w), f"features={wrong}")  # type: ignore[misc]  # bound early


@requirement("exercise/recovered-kernel", MUST, EXERCISE, order=-100, seconds=1.5)
@rests_on("exercise/vector-out", "exercise/any-length", "seeding/seeds-differ", "forward/additive")
def test_recovered_kernel(layer: Layer) -> None:
    """The kernel recovered from basis vectors meets every requirement on initialization.

    f(e_i) is row i of the kernel, because a new bias is 0. The statistical bounds are those of the
    area ``initialization``, checked in the order in which one fault explains another.
    """
    for seed, (n, m) in enumerate([(4, 512), *profiles.active().sizes]):
        f_of_zero = layer.forward(seed, np.zeros(n, np.float32), m)
        why = Cause("bias-not-zero", "the bias of a new layer is not 0")
        require.equal(f_of_zero, np.zeros(m), f"f(0) with features={m}", cause=why)
    drawn = recovered(layer)
    law = layer.convention.kernel
    families = families_named(law.families)
    names = declared_names(families, law.variance)
    rescaled = by_requirement.rescaled(drawn, law.variance)

    def cause() -> str:
        return causes.law(drawn, names, law.variance)

    evidence = by_requirement.independence_row(by_requirement.centred(rescaled))
    judge(evidence, lambda: causes.independence(drawn, strongest(evidence)))
    judge(by_requirement.resolution_row(drawn), lambda: causes.resolution(drawn))
    judge(by_requirement.mean_row(rescaled), lambda: causes.mean(drawn))
    judge(by_requirement.homogeneity_row(by_requirement.centred(rescaled), False))
    judge(by_requirement.variance_row(drawn, law.variance), cause)
    judge(by_requirement.law_row(rescaled, families), cause)
    judge(
        by_requirement.dispersion_row(by_requirement.centred(rescaled)),
        lambda: causes.dispersion(drawn),
    )
    functions.require_scale_of_long(layer)
