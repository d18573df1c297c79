"""Checks constructor options: what they reach, and that they are those of one layer."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.checks import jaxprs, oracle, programs, require
from conformance.checks.areas import gradients, input_dtypes, mutation
from conformance.checks.areas.compilation import kept_by_shape
from conformance.checks.arithmetic import is_exact, rounded
from conformance.checks.arrays import as_jax
from conformance.checks.cases import Case
from conformance.checks.diagnosis.wrong_gradients import Point
from conformance.checks.layer import Built, Layer
from conformance.checks.once import once_per_layer
from conformance.checks.require import during
from conformance.checks.scan.edges import scan
from conformance.checks.scan.literals import lengths_in_code
from conformance.checks.scan.points import base_of
from conformance.checks.scan.thresholds import counted
from conformance.contract.requirement import LINEN, NNX
from conformance.errors import Cause, Violation
from conformance.jax_setup.lazy import jax, jnp, nnx


def with_options(layer: Layer, **options: Any) -> Layer:
    """Return the layer with these options, unless its constructor lacks them or they are set."""
    missing = [name for name in options if name not in layer.implementation.options]
    if missing:
        in_flax = layer.provides & {NNX, LINEN} or missing[0] == "use_bias"
        lacks = f"its constructor takes no argument called {missing[0]}"
        other = f"{missing[0]} is checked where it has Flax's meaning, in a class of nnx or Linen"
        require.not_applicable(lacks if in_flax else other)
    chosen = [name for name in options if name in layer.implementation.chosen]
    if chosen:
        require.not_applicable(f"it is registered with a value for {chosen[0]}")
    return layer.with_options(**options)


def takes(layer: Layer, name: str) -> bool:
    """Return whether the constructor takes the option and leaves it open."""
    return name in layer.implementation.options - layer.implementation.chosen


def ignored(name: str, options: dict[str, Any] | None = None) -> Cause:
    """Return the cause of an option without effect, among others with which it was checked last.

    Without a bias, or with a dtype, an option is checked after it had its effect alone.
    """
    if options and "dtype" in options:
        return Cause("option-by-branch", f"the option {name} has no effect together with dtype")
    if options and options.get("use_bias") is False:
        return Cause("option-by-branch", f"the option {name} has an effect only with a bias")
    return Cause("option-ignored", f"the option {name} is accepted and ignored")


def with_and_without_bias(layer: Layer) -> list[dict[str, bool]]:
    """Return the options with which an option is checked: none, and ``use_bias=False``.

    A branch on the bias may hold the use of another option.
    """
    open_to_both = layer.convention.use_bias and takes(layer, "use_bias")
    return [{}, {"use_bias": False}] if open_to_both and _works_without_bias(layer) else [{}]


@once_per_layer()
def _works_without_bias(layer: Layer) -> bool:
    """Return whether it can be built and called without a bias: if not, see options/use-bias."""
    try:
        x = np.ones((*layer.fewest, 3), np.float32)
        layer.with_options(use_bias=False).of(Case(3, 10)).raw(x)
    except Exception:
        return False
    return True


def of_every_rank(layer: Layer, case: Case, dtype: str = "float32") -> list[tuple[str, Any]]:
    """Return the abstract results of the layer for x of rank 1 to 3, each with its x in words."""
    parameters, found = layer.of(case).parameters, []
    for lead in filter(layer.accepts, ((), (2,), (2, 4))):
        x = jax.ShapeDtypeStruct((*lead, case.in_features), dtype)
        y, what = jax.eval_shape(layer.apply, parameters, x), f"x of shape {x.shape}"
        what += f" and dtype {dtype}" if dtype != "float32" else ""
        right = (*lead, case.out_features)
        cause = Cause("option-by-rank", "with the option, the shape is wrong for x of some ranks")
        require.same_shape(y.shape, right, f"with the option, f({what})", cause=cause)
        found.append((what, y))
    return found


def others_of(layer: Layer) -> tuple[str, ...]:
    """Return dtypes of x, besides float32, that the layer takes and has to promote."""
    return tuple(d for d in ("bfloat16", "int32") if input_dtypes.works_with(layer, d))


def require_own_dtype(layer: Layer, dense: Built, options: str) -> None:
    """Require the parameters to be of the dtype that they have without the option ``dtype``."""
    cause = Cause("dtype-for-param-dtype", "dtype is taken for param_dtype")
    for leaf in dense.leaves:
        require.that(
            str(leaf.value.dtype) == layer.convention.parameter_dtype,
            f"with {options}, the layer has {leaf}",
            accepted=f"parameters of {layer.convention.parameter_dtype}",
            cause=cause if str(leaf.value.dtype) in options else "",
        )


def require_at_every_rank(
    layer: Layer, case: Case, dtype: str, options: str, cause: Cause, given: str = "float32"
) -> None:
    """Require this dtype of the results for x of rank 1 to 3, and of the dtype ``given``."""
    for what, y in of_every_rank(layer, case, given):
        found = f"with {options}, f({what}) is {y.dtype}"
        require.that(str(y.dtype) == dtype, found, accepted=dtype, cause=cause)


def require_gradients(layer: Layer, case: Case, dense: Built, x: np.ndarray, by: str) -> None:
    """Require the gradients of the layer with an option set."""
    g = case.normal("cotangent", *x.shape[:-1], case.out_features)
    point = Point(f"x of shape {x.shape}", case.kernel(), case.bias(), x, g)
    with during(by):
        values = (*point.values(), g)
        _, found = jax.device_get(programs.pullback(layer)(dense.parameters, *values))
    gradients.require_gradients(layer, found, point, by)


def require_result(
    layer: Layer, case: Case, y: Any, x: np.ndarray, option: str, plain: Layer | None = None
) -> None:
    """Require the dtype and the value of the result with an option that a plain layer lacks."""
    dtype, kernel, bias = layer.convention.returned, case.kernel(), layer.bias_for(case)
    cause = ""
    if str(y.dtype) == "float32" != dtype:
        found = np.asarray(y)
        wide, product = oracle.affine(x, kernel, bias), found - bias
        # Adding the bias to a product of that dtype rounds to float32, and so does the difference.
        near = 2.0**-22 * (np.abs(found) + np.abs(bias))
        x_alone = oracle.affine(rounded(x, dtype), kernel, bias)
        parameters_alone = oracle.affine(x, rounded(kernel, dtype), rounded(bias, dtype))
        if wide.admits(found):
            without = {"use_bias": False} if "use_bias=False" in option else None
            kept = kept_by_shape(layer, plain, case, dtype) if plain else ""
            cause = kept or ignored("dtype", without)
        elif x_alone.admits(found):
            cause = Cause("dtype-for-x-alone", "x is cast to dtype, and the kernel is not")
        elif parameters_alone.admits(found):
            cause = Cause("dtype-for-parameters-alone", "the kernel is cast to dtype, and x is not")
        elif is_exact(found, dtype):
            cause = Cause("result-cast-back", "the result is cast back to float32")
        elif np.all(np.abs(product - rounded(product, dtype)) <= near):
            words = f"the product is {dtype}, and a bias that is not cast is added to it"
            cause = Cause("bias-not-cast", words)
    if str(y.dtype) != dtype:
        cause = _of_preferred(layer, case, x, str(y.dtype)) or cause
    require.that(
        str(y.dtype) == dtype, f"with {option}, f(x) is {y.dtype}", accepted=dtype, cause=cause
    )
    kernel, bias = layer.kernel_for(case), layer.bias_for(case)
    reference = layer.value(x, kernel, bias)
    if not reference.admits(y):
        cause = _of_preferred(layer, case, x)
        if layer.value(x, kernel, bias * 0).admits(y):
            words = f"with {option.partition(' for x')[0]}, no bias is added"
            cause = Cause("bias-not-added", words)
    require.near(y, reference, f"f(x) with {option}", cause=cause)


def _of_preferred(layer: Layer, case: Case, x: np.ndarray, wrong: str = "") -> str:
    """Return whether the product is made in the `wrong` dtype, or a narrower one than its operands.

    A product that is added in a wider dtype may be cast back.
    """
    program = jax.make_jaxpr(layer.apply)(layer.of(case).parameters, as_jax(x))
    for product in jaxprs.products(program):
        given = {str(operand.aval.dtype) for operand in product.invars[:2]}
        made = str(product.outvars[0].aval.dtype)
        own = given.pop()
        narrower = jnp.promote_types(own, made) == jnp.dtype(own) != jnp.dtype(made)
        if not given and own != made and (made == wrong or narrower):
            words = f"the operands of the product are {own}, and its preferred_element_type"
            return Cause("preferred-element-type", f"{words} is {made}")
    return ""


def require_branches(layer: Layer, given: Layer, option: str, same: Layer | None = None) -> None:
    """Require f(x) of a layer ``given`` an option where it has other operations.

    They are compared with its own for a small size and batch, and at ranks 1 to 3 with those of the
    layer that must be the ``same`` function.
    """
    base = base_of(given).case()
    rows = [4099, *(n + 1 for n in lengths_in_code(layer))]
    others = [replace(base, in_features=n, out_features=m) for n, m in _SIZES]
    if len(base.lead) == 1 and not scan(layer).unrolls_rows:
        others += [replace(base, lead=(n,)) for n in rows if n < _MANY_ROWS]
    usual = _operations(given, base)
    found = [case for case in others if _operations(given, case) != usual]
    if same is not None:
        cases = [
            replace(base, lead=lead) for lead in ((), base.lead, (2, 4)) if given.accepts(lead)
        ]
        found = [c for c in cases if _operations(given, c) != _operations(same, c)] + found
    for case in found[:_MOST_BRANCHES]:
        x = case.normal("x", *case.x_shape)
        y, where = given.written(case)(x), f"{option} for x of shape {x.shape}"
        require_result(given, case, y, x, where)


@once_per_layer(by=lambda case: case)
def _operations(layer: Layer, case: Case) -> Any:
    """Return how often a layer's program has each operation, without its shapes."""
    parameters = layer.remember(
        ("abstract", case.kernel_shape),
        lambda: jax.eval_shape(lambda: layer.init(0, *case.kernel_shape)),
    )
    try:
        program = programs.traced(layer, case, parameters)
    except Violation as violation:  # transforms/abstract-forward reports it
        return violation.found
    return counted(program)


_SIZES = ((130, 300), (1024, 1024))
_MANY_ROWS = 2**16
_MOST_BRANCHES = 6


def require_kernel_alone(dense: Built, options: str, cause: str) -> None:
    """Require a layer with these options to have no other array than its kernel."""
    leaves = dense.leaves
    found = f"with {options} the layer has {', '.join(map(str, leaves))}"
    require.that(len(leaves) == 1, found, accepted="the kernel alone", cause=cause)


def why_bias_kept(dense: Built, x: np.ndarray) -> str:
    """Return whether a bias in spite of ``use_bias=False`` is added as well, or only created."""
    if not any(np.ndim(leaf.value) == 1 for leaf in dense.leaves):
        return ""
    if np.asarray(dense.replaced(lambda value: value + 1)(0 * x)).any():
        return ignored("use_bias")
    return Cause("bias-kept", "with use_bias=False the bias is not added, but it is created")


Seen = Callable[[Built], np.ndarray | str]


def require_of_one_layer(
    chosen: Built, plain: Built, before: np.ndarray | str, what: str, seen: Seen
) -> None:
    """Require options to hold for ``chosen`` and its copies alone.

    ``before`` is what was ``seen`` of ``plain``, a layer of the class without options, before
    ``chosen`` was built.
    """
    first = _require_unshared(chosen, plain, before, what, seen)
    for how, found in copies_of(chosen).items():
        mutation.require_same_arrays(found, chosen, f"a layer with options that is {how}")
        cause = Cause("options-lost", "a copy has not the options of the layer")
        _require_same(seen(found), first, f"{what} of a layer with options that is {how}", cause)


def _require_unshared(
    chosen: Built, plain: Built, before: np.ndarray | str, what: str, seen: Seen
) -> np.ndarray | str:
    """Require what is ``seen`` of layers of one class to stay when another one is built.

    Return what is seen of ``chosen``.
    """
    first, after = seen(chosen), f"after another layer was built with other options, {what}"
    _require_same(seen(plain), before, after, SHARED)
    plain.layer.build(*plain.kernel.shape)
    _require_same(seen(chosen), first, after, SHARED)
    require.that(
        not _are_one_program(chosen, plain) or np.array_equal(first, before),
        f"a layer with the option is equal to one without in all that jax.jit compares, and {what} "
        "is another one",
        accepted="static parts that differ: jax.jit runs the program of an equal layer",
        cause=_EQUAL,
    )
    return first


def _are_one_program(one: Built, other: Built) -> bool:
    """Return whether JAX takes a program that was compiled for one layer for the other."""
    avals = [
        [(np.shape(v), getattr(v, "dtype", None)) for v in jax.tree_util.tree_leaves(it.parameters)]
        for it in (one, other)
    ]
    structures: list[Any] = [jax.tree_util.tree_structure(it.parameters) for it in (one, other)]
    return bool(avals[0] == avals[1] and structures[0] == structures[1])


def _require_same(found: Any, expected: np.ndarray | str, what: str, cause: Cause) -> None:
    if isinstance(expected, str):
        require.that(found == expected, f"{what} is {found}", accepted=expected, cause=cause)
    else:
        require.equal(found, expected, what, cause=cause)


def result(dense: Built, x: np.ndarray) -> np.ndarray:
    """Return f(x) of a layer."""
    return np.asarray(dense(x))


def precision_of(dense: Built, x: np.ndarray) -> str:
    """Return the precision of a layer's product in words."""
    with during("tracing the layer"):
        return in_words(jaxprs.precisions(jax.make_jaxpr(dense.raw)(as_jax(x))))


def copies_of(dense: Built) -> dict[str, Built]:
    """Return copies of a module with options, by how they are made; none of other layers."""
    module = dense.module
    if module is None and dense.layer.implementation.linen is None:
        return {}
    model: Any = dense.parameters.static if module is None else module
    with during("copying a layer with options"):
        copies = {"copied": copy.deepcopy(model)}
        if module is None:
            copies["cloned"] = model.clone()
        else:
            copies["merged after a split"] = nnx.merge(*nnx.split(module))
            copies["cloned"] = nnx.clone(module)
    with contextlib.suppress(Exception):  # state/pickles reports a layer that is not pickled
        copies["pickled and loaded"] = pickle.loads(pickle.dumps(model))
    if module is not None:
        return {how: Built(dense.layer, module=new) for how, new in copies.items()}
    return {
        how: Built(dense.layer, parameters=replace(dense.parameters, static=new))
        for how, new in copies.items()
    }


def require_as_zero_bias(layer: Layer, dense: Built, case: Case, x: np.ndarray) -> None:
    """Require a layer without a bias to give what the layer with a bias of zeros gives.

    x is of other dtypes and ranks, where a branch on the bias may hold a cast, too.
    """
    kernel = case.kernel()
    zero = layer.of(case).write(kernel, np.zeros(case.out_features, np.float32))
    dense.write(kernel, case.bias())
    for dtype in ("bfloat16", "int32"):
        if not input_dtypes.takes(layer, dtype):
            continue
        for rows in (x, x[0]) if x.ndim > 1 and layer.accepts(()) else (x,):
            given = np.round(10 * rows) if dtype == "int32" else rounded(rows, dtype)
            found, expected = (each(as_jax(given, dtype)) for each in (dense, zero))
            what = f"f(x) with use_bias=False for x of shape {given.shape} and dtype {dtype}"
            require.that(
                found.dtype == expected.dtype,
                f"{what} is {found.dtype}",
                accepted=f"{expected.dtype}, as with a bias of zeros",
                cause=Cause("cast-with-bias", "the branch with a bias casts, the other does not"),
            )
            bound = layer.arithmetic(case.in_features, dtype).affine(given, kernel, zero.bias).bound
            found, expected = (np.asarray(each, np.float32) for each in (found, expected))
            require.within(found, expected, 2 * bound, what)


SHARED = Cause("options-shared", "layers of one class share their options")
_EQUAL = Cause(
    "options-not-compared",
    "an option does not count in ==, as a field of a dataclass with compare=False, so that jax.jit "
    "runs the program of a layer with another one",
)


def require_negated_products(dense: Built, case: Case, x: np.ndarray) -> None:
    """Require a ``dot_general`` that negates the product to compute it for x of other dtypes."""
    layer, whole = dense.layer, np.round(9 * x)  # numbers of every dtype
    for dtype in others_of(layer):
        y = np.asarray(dense(as_jax(whole, dtype)), np.float32)
        arithmetic, bias = layer.arithmetic(case.in_features, dtype), layer.bias_for(case)
        reference, usual = (
            arithmetic.affine(whole, sign * layer.kernel_for(case), bias) for sign in (-1, 1)
        )
        words = f"dot_general does not compute the product for x of {dtype}"
        cause = Cause("option-by-dtype", words) if usual.admits(y) else ""
        what = f"f(x) of {dtype} with a dot_general that negates the product"
        require.near(y, reference, what, cause=cause)


def require_negated_gradients(dense: Built, case: Case) -> None:
    """Require the gradients of a layer whose ``dot_general`` negates the product.

    At -K and -x, such a layer has the gradients that ``x @ K + b`` has at K and x.
    """
    layer, lead = dense.layer, case.lead if dense.layer.accepts(case.lead) else ()
    x, g = case.normal("x", *lead, case.in_features), case.normal("g", *lead, case.out_features)
    by = "jax.vjp with a dot_general that negates the product"
    point = Point(f"x of shape {x.shape}", case.kernel(), case.bias(), x, g)
    with during(by):
        values = -point.kernel, point.bias, -x, g
        _, found = jax.device_get(programs.pullback(layer)(dense.parameters, *values))
    try:
        gradients.require_gradients(layer, found, point, by)
    except Violation as violation:
        with contextlib.suppress(Violation):
            usual = -found[0], found[1], -found[2]
            gradients.require_gradients(layer, usual, point, by)
            violation.because(Cause("option-of-call-only", "dot_general does not reach gradients"))
        raise


def beside(layer: Layer) -> list[dict[str, Any]]:
    """Return the options beside which another one is checked, as two branches may use it."""
    half = [{"dtype": jnp.dtype("bfloat16")}] if takes(layer, "dtype") else []
    return [*with_and_without_bias(layer), *half]


def in_words(found: set[Any]) -> str:
    """Return the values in words."""
    return " and ".join(sorted(map(str, found))) or "none"
