"""Compares the three gradients of a layer with their formulas."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.checks import oracle, programs, require
from conformance.checks.arithmetic import Arithmetic
from conformance.checks.arrays import as_jax
from conformance.checks.cases import Case
from conformance.checks.diagnosis.wrong_gradients import Point, holds, why_wrong
from conformance.checks.layer import Built, Layer
from conformance.checks.oracle import Bounded
from conformance.errors import Cause, Violation, id_of
from conformance.jax_setup.lazy import jax
from conformance.layers.adapters.parameters import Parameters


def points(case: Case, lead: tuple[int, ...]) -> Iterator[Point]:
    """Yield points at generic floats, x = 0, g of several kinds, and integers, for this lead."""
    x = replace(case, lead=lead).x()
    shape = (*lead, case.out_features)
    kernel, bias = case.kernel(), case.bias()
    of = f"x of shape {x.shape}"
    yield Point(of, kernel, bias, x, case.normal("cotangent", *shape))
    yield Point(
        f"x = 0 of shape {x.shape}", kernel, bias, np.zeros_like(x), case.normal("other", *shape)
    )
    for size, scale in (("large", 1e20), ("small", 1e-20)):
        # x has its usual size here, so only the size of g can make a layer clip or drop it.
        g = case.normal(f"{size} cotangent", *shape, scale=scale)
        yield Point(f"a {size} g and {of}", kernel, bias, case.normal("plain x", *x.shape), g)
    yield of_integers(case, lead)
    # A layer may have a branch for outputs of 0, for rows of one entry or for equal rows of g,
    # which occur in layers that start at zero, for tokens, and under a sum.
    if lead and 0 not in lead:
        # In a batch, only one output of one row may have an error.
        g = case.normal("g of one entry", *shape)
        g.reshape(-1)[1:] = 0
        yield Point(f"a g of one entry and {of}", kernel, bias, case.normal("plain x", *x.shape), g)
    where = f"K = 0, b = 0, g = 1 and rows of one entry in {of}"
    inputs = case.generator("one entry").integers(x.shape[-1], size=(*lead, 1))
    one = np.where(np.arange(x.shape[-1]) == inputs, case.normal("plain x", *x.shape), 0)
    yield Point(where, kernel * 0, bias * 0, one.astype(np.float32), np.ones(shape, np.float32))


def of_integers(case: Case, lead: tuple[int, ...]) -> Point:
    """Return a point of integers, whose sums over 70 000 rows are float32 numbers as well."""
    shape = (*lead, case.out_features)
    whole = case.integers("integer cotangent", *shape).reshape(-1, shape[-1])
    # The gradient of a cross-entropy adds to 0 in each row; here every second row does.
    whole[::2, -1] -= whole[::2].sum(axis=1) * (shape[-1] > 1)
    x = case.integers("integer x", *lead, case.in_features)
    return Point(
        f"integer-valued x of shape {x.shape}",
        case.integers("integer kernel", *case.kernel_shape),
        case.integers("integer bias", case.out_features),
        x,
        whole.reshape(shape),
        exact=True,
    )


def directions(layer: Layer, case: Case) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return tangents of kernel, bias and x: each one with zeros for the others, then all."""
    tk = case.normal("kernel tangent", *case.kernel_shape)
    tb = case.normal("bias tangent", case.out_features)
    tx = case.normal("x tangent", *case.x_shape)
    no_k, no_b, no_x = map(np.zeros_like, (tk, tb, tx))
    if not layer.convention.use_bias:
        return {"kernel": (tk, no_b, no_x), "input x": (no_k, no_b, tx), "both": (tk, no_b, tx)}
    return {
        "kernel": (tk, no_b, no_x),
        "bias": (no_k, tb, no_x),
        "input x": (no_k, no_b, tx),
        "kernel, bias and x at once": (tk, tb, tx),
    }


def require_value(
    layer: Layer, found: Any, point: Point, by: str, arithmetic: Arithmetic | None = None
) -> None:
    """Require the value returned with the gradients to be ``x @ K + b``."""
    bias = point.bias if layer.convention.use_bias else np.zeros_like(point.bias)
    its = arithmetic or layer.arithmetic(len(point.kernel))
    reference = its.affine(point.x, point.kernel, bias)
    what = f"f(x) returned with its gradients by {by}, {point.where},"
    cause: Cause | str = ""
    if not reference.admits(found) and (arithmetic or _is_right_compiled(layer, point, reference)):
        words = "a rule of differentiation returns another value than the layer itself"
        cause = Cause("rule-of-another-value", words)
    require.near(found, reference, what, cause=cause)


def _is_right_compiled(layer: Layer, point: Point, reference: Bounded) -> bool:
    """Return whether the compiled layer is right at the point, where nothing is differentiated."""
    with contextlib.suppress(Violation):
        parameters = layer.of(Case(*point.kernel.shape)).parameters
        values = map(as_jax, point.values())
        return reference.admits(jax.jit(programs.affine(layer))(parameters, *values))
    return False


def require_gradients(
    layer: Layer,
    found: tuple[Any, Any, Any],
    point: Point,
    by: str,
    *,
    inputs: bool = True,
    some: bool = False,
    arithmetic: Arithmetic | None = None,
) -> None:
    """Require dK, db and dx, in this order, to be the gradients of ``x @ K + b`` at the point.

    Parameters
    ----------
    layer
        The layer; it has no db if it declares no bias.
    found
        The gradients with respect to kernel, bias and x.
    point
        The point at which they were taken.
    by
        The function that took them, for the message.
    inputs
        False if dx was not asked for.
    some
        Whether gradients that are None were not asked for.
    arithmetic
        The roundings; by default those of the layer for a float32 x.
    """
    if layer.reparameterized and (point.exact or not point.kernel.any()):
        return  # integers would be rounded, and a column of zeros may have no direction
    arithmetic = arithmetic or layer.arithmetic(len(point.kernel))
    expected = {
        "kernel": arithmetic.kernel_gradient(point.x, point.cotangent),
        "bias": arithmetic.bias_gradient(point.cotangent),
        "input x": arithmetic.input_gradient(point.kernel, point.cotangent),
    }
    # nnx.grad gives gradients in the dtype of the parameters.
    accepted = ("float32", layer.convention.parameter_dtype)
    exact = point.exact and arithmetic.is_float32
    for (which, reference), value in zip(expected.items(), found, strict=True):
        if (which == "bias" and not layer.convention.use_bias) or (
            (which == "input x" and not inputs) or (some and value is None)
        ):
            continue
        what = f"the gradient with respect to the {which} by {by}, {point.where},"
        dtype = str(getattr(value, "dtype", type(value).__name__))
        shape = reference.value.shape
        require.same_shape(np.shape(value), shape, what)
        right = dtype in accepted
        require.that(right, f"{what} is of dtype {dtype}", accepted=" or ".join({*accepted}))
        value = np.asarray(value)
        cause = (
            "" if holds(value, reference) else why_wrong(value, reference, which, point, arithmetic)
        )
        if id_of(cause) == "gradient-masked" and not _holds_elsewhere(layer, which):
            cause = ""
        if exact:
            require.equal(value, reference.value, what, cause=cause)
        else:
            require.near(value, reference, what, cause=cause)


def require_of_input(
    arithmetic: Arithmetic, found: Any, point: Point, dtype: str, what: str
) -> None:
    """Require dx = g K^T for an x of this dtype, to which dx is rounded."""
    half = oracle.rounded_twice(arithmetic.input_gradient(point.kernel, point.cotangent), dtype)
    # A layer that uses x several times, once for each block of outputs, rounds each contribution.
    size = np.abs(point.cotangent) @ np.abs(point.kernel).T
    parts = point.kernel.shape[1] * oracle.unit_roundoff(dtype) * size
    require.within(np.asarray(found, np.float32), half.value, half.bound + parts, what)


@programs.compiled
def _for_integers(layer: Layer) -> Any:
    """Return ``(parameters, kernel, bias, x, cotangent) -> (dK, db)``."""

    def program(p: Any, kernel: Any, bias: Any, x: Any, cotangent: Any) -> Any:
        loss = programs.weighted(layer, p, cotangent)
        return jax.grad(lambda kernel, bias: loss(kernel, bias, x), (0, 1))(kernel, bias)

    return program


def require_for_integers(layer: Layer, case: Case, parameters: Any, x: np.ndarray) -> None:
    """Require dK and db to be right for an x of integers, which itself has no gradient."""
    g, wide = case.normal("cotangent", *case.lead, case.out_features), x.astype(np.float32)
    point = Point(f"x of dtype {x.dtype}", case.kernel(), case.bias(), wide, g)
    with require.during(f"jax.grad of the layer for x of dtype {x.dtype}"):
        found = _for_integers(layer)(parameters, point.kernel, point.bias, x, g)
    # Half-precision parameters and integers promote to half precision.
    arithmetic = layer.arithmetic(case.in_features, x.dtype)
    given = (*found, None)
    require_gradients(layer, given, point, "jax.grad", inputs=False, arithmetic=arithmetic)


def of_stack(found: np.ndarray, reference: Bounded, how: str) -> str:
    """Return a cause if every layer of a stack gives the result of the first one."""
    if "stacked" not in how or found.shape != reference.value.shape or holds(found, reference):
        return ""
    first = Bounded(reference.value[:1], reference.bound[:1])
    if how == "over stacked parameters" and holds(found, first):
        words = "every layer of the stack uses the parameters of the first one"
        return Cause("first-of-stack", words)
    return ""


def has_states(dense: Built) -> bool:
    """Return whether ``nnx.grad`` of the layer returns the gradients of its kernel and bias.

    The gradients of factors are none of the kernel, and frozen arrays have none.
    """
    layer = dense.layer
    return dense.module is not None and not layer.is_factored and not layer.seen.frozen


def of_state(layer: Layer, state: Any, by: str) -> tuple[Any, Any]:
    """Return dK and db from a state of gradients, as ``nnx.grad`` returns it.

    Raises
    ------
    Violation
        If no array of the state can be the gradient of the kernel, or of the bias.
    """
    from conformance.jax_setup.compat import state_leaves

    leaves = [np.shape(value) for _, _, value in state_leaves(state)]
    wanted = {"kernel": 2, "bias": 1} if layer.convention.use_bias else {"kernel": 2}
    # A bias that is stored as a row is read as a vector.
    wanted = wanted if layer.seen.storage is None else {"kernel": 2}
    for which, rank in wanted.items():
        require.that(
            rank in map(len, leaves),
            f"{by} gives no gradient with respect to the {which}: its arrays are of shapes "
            f"{leaves}",
            accepted=f"one array for the {which}",
            cause=Cause("not-a-param", f"the {which} is not an nnx.Param"),
        )
    gradients = Parameters(None, state)
    kernel = layer.kernel_of(gradients)
    return kernel, layer.bias_of(gradients) if layer.convention.use_bias else None


def _holds_elsewhere(layer: Layer, which: str) -> bool:
    """Return whether the gradient is right at generic floats of several inputs.

    With a single input it may be right by chance: there, the rounding follows the scale of x.
    """
    case = Case(3, 10)
    x, g = case.normal("plain x", *layer.batch, 3), case.normal("cotangent", *layer.batch, 10)
    kernel, arithmetic = case.kernel(), layer.arithmetic(case.in_features)
    reference = {
        "kernel": lambda: arithmetic.kernel_gradient(x, g),
        "bias": lambda: arithmetic.bias_gradient(g),
        "input x": lambda: arithmetic.input_gradient(kernel, g),
    }
    loss = programs.weighted(layer, layer.of(case).parameters, g)
    found = jax.grad(loss, [*reference].index(which))(kernel, case.bias(), x)
    return holds(np.asarray(found), reference[which]())
