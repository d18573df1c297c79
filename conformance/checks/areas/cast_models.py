"""Checks a layer whose parameters are cast to half precision, as models are for inference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from conformance.checks import oracle, programs, require
from conformance.checks.areas import gradients, input_dtypes, partial_derivatives
from conformance.checks.arithmetic import rounded
from conformance.checks.arrays import as_jax
from conformance.checks.cases import BATCH, Case
from conformance.checks.layer import Built, Layer
from conformance.checks.scan.points import larger
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax, jnp

# The sum with the bias, and the result; and the roundings of a kernel that is computed from other
# parameters.
_OWN_ROUNDINGS, _FEW_ROUNDINGS = 2, 8

# The last one has more rows than other checks give, so that no call with it went before.
_LEADS: tuple[tuple[int, ...], ...] = ((), (2,), (2, 4), (37,))


def require_castable(layer: Layer, case: Case, half: str) -> None:
    """Require f and its gradients in a half precision, and f as before if cast back to float32.

    f is checked at ranks 2 and 3, and at a larger size.
    """
    x = rounded(case.normal("x", *case.x_shape), half)
    x = x if layer.accepts(case.lead) else x[0]
    dense = layer.written(case).cast(half).cast("float32")
    kernel, bias = dense.kernel, dense.bias
    before = np.asarray(dense(x))
    y = dense.cast(half)(as_jax(x.astype(jnp.dtype(half))))
    what = f"f(x) of parameters and x cast to {half}"
    its = layer.convention
    computed = its.compute_dtype if its.casts_input else half
    result = its.returned if its.casts_input else half
    # A layer declares to cast x; parameters of another half precision may promote the result.
    accepted = {result: None, str(jnp.promote_types(result, half)): None}
    returned = {x.shape[:-1]: str(y.dtype)}
    for lead in filter(layer.accepts, _LEADS):
        abstract = jax.ShapeDtypeStruct((*lead, x.shape[-1]), half)
        returned[lead] = str(jax.eval_shape(layer.apply, dense.parameters, abstract).dtype)
    wrong = {lead: dtype for lead, dtype in returned.items() if dtype not in accepted}
    first = next(iter(wrong), x.shape[:-1])
    cause: Cause | str = ""
    if len({*returned.values()}) == 1:
        words = f"the layer casts to {y.dtype} for any dtypes of x and of its parameters"
        cause = Cause("layer-casts", words)
    elif not {*map(len, wrong)} & {len(lead) for lead in returned if lead not in wrong}:
        words = "the result is cast to another dtype for x of some ranks"
        cause = Cause("layer-casts-by-rank", words)
    require.that(
        not wrong,
        f"{what} of shape {(*first, x.shape[-1])} is {returned[first]}",
        accepted=" or ".join(accepted),
        cause=cause,
        declare='dtype = "float32"' if input_dtypes.casts(layer) else "",
    )
    _require_values(layer, dense, x, half, what)
    if x.ndim == 2 and layer.accepts((2, 4)):
        _require_values(layer, dense, x.reshape(2, 4, -1), half, f"{what} of rank 3")
    for large in larger(layer):
        other = layer.written(large).cast(half)
        values = rounded(large.normal("x", *large.x_shape), half)
        _require_values(layer, other, values, half, f"at a larger size, {what}")
    if half == "float16" == computed:
        # Another layer, because writing rounds a kernel that is computed from the parameters.
        other = layer.of(case).write(np.full_like(kernel, 4.0), bias * 0).cast(half)
        large = other(jnp.full(x.shape, 2.0**15, half))
        require.that(
            not np.isfinite(np.asarray(large)).any(),
            f"{what}, for products beyond its range, is a finite number",
            accepted="infinity",
            cause=Cause("overflow-hidden", "a result that overflows is made finite"),
        )
    _require_gradients(layer, case, half)
    after = dense.cast("float32")(x)
    cause = Cause("former-dtype-kept", "the layer keeps something of the parameters' former dtype")
    require.equal(after, before, f"f(x) after casting to {half} and back", cause=cause)


def require_promoted(layer: Layer, case: Case) -> None:
    """Require a float32 x to give float32 after the parameters were cast to half precision."""
    its = layer.convention
    dtypes = {its.parameter_dtype, its.compute_dtype, its.returned}
    if its.casts_input or dtypes != {"float32"}:
        return
    x = jax.ShapeDtypeStruct((*layer.fewest, case.in_features), np.float32)
    try:
        y = jax.eval_shape(layer.apply, layer.of(case).cast("bfloat16").parameters, x)
    except Exception:  # it may refuse to promote: see dtypes/half-input
        return
    require.that(
        str(y.dtype) == "float32",
        f"with parameters cast to bfloat16, f(x) for an x of float32 is {y.dtype}",
        accepted="float32",
        cause=Cause("input-cast-to-parameters", "x is cast to the dtype of the parameters"),
    )


def _require_values(layer: Layer, dense: Built, x: np.ndarray, half: str, what: str) -> None:
    """Require f(x) in half precision, for normal rows and for rows of one entry."""
    its, n = layer.convention, x.shape[-1]
    computed = its.compute_dtype if its.casts_input else half
    kernel, bias = (np.asarray(each, np.float32) for each in (dense.kernel, dense.bias))
    unit = max(oracle.unit_roundoff(half), oracle.unit_roundoff(computed))
    more = _FEW_ROUNDINGS if layer.reparameterized else _OWN_ROUNDINGS
    # Of one entry that is not 0 there is one product, which no coarser dtype holds.
    flat = x.reshape(-1, n)
    alone = np.where(np.arange(n) == np.arange(len(flat))[:, None] % n, flat, 0).reshape(x.shape)
    if half == "bfloat16" and computed != "float16" and input_dtypes.rounds_by_row(layer):
        alone = input_dtypes.in_magnitudes(alone)
    for rows, which in ((x, what), (alone, f"{what}, for rows of one entry")):
        reference = oracle.each_rounded(rows, kernel, bias, unit, more)
        bound = reference.bound + layer.arithmetic(n).promised(rows, kernel)
        y = dense(as_jax(rows.astype(jnp.dtype(half))))
        require.within(np.asarray(y, np.float32), reference.value, bound, which)


def in_half(layer: Layer, half: str) -> Layer | None:
    """Return the layer as one of half precision, as which it is judged once it is cast to it.

    None if the layer declares a dtype, casts to one, or declares another kernel than its parameter.
    Its own rule of differentiation may add in half precision, too.
    """
    its = layer.convention
    dtypes = {its.parameter_dtype, its.compute_dtype, its.returned}
    plain = dtypes == {"float32"} and not its.casts_input
    if not plain or its.product_error or layer.reparameterized or input_dtypes.casts(layer):
        return None
    changed = replace(its, parameter_dtype=half, compute_dtype=half, accumulate=half)
    view = Layer(layer.implementation.with_convention(changed), layer.entry)
    view.seen = replace(layer.seen, convention=changed)
    return view


def _require_gradients(layer: Layer, case: Case, half: str) -> None:
    """Require the gradients of parameters and x in half precision, if the layer has a rule."""
    view = in_half(layer, half)
    if view is None or not layer.accepts(BATCH):
        return
    parameters = layer.written(case).cast(half).parameters
    point = next(gradients.points(case, BATCH))
    x, g = (case.normal(name, *shape) for name, shape in
            (("x", case.x_shape), ("g", point.cotangent.shape)))  # fmt: skip
    x, g = rounded(x, half), rounded(g, half)
    values = tuple(as_jax(each, half) for each in (x, g))
    if not programs.has_own_derivatives(layer, parameters, values[0]):
        return
    point = replace(point, where=f"all in {half} and x of shape {x.shape}", x=x, cotangent=g)
    with require.during(f"jax.vjp of the layer with parameters and x in {half}"):
        program = programs.pullback(view)
        _, found = program(parameters, point.kernel, point.bias, *values)
    wide: Any = [np.asarray(each, np.float32) for each in jax.device_get(found)]
    gradients.require_gradients(view, tuple(wide), point, "jax.vjp")
    if jax.config.values["jax_debug_nans"]:
        return
    # The scale of a loss is lowered when a gradient of half precision overflows.
    g[..., 0] = np.inf
    _, found = program(parameters, point.kernel, point.bias, values[0], as_jax(g, half))
    down, dkernel = np.asarray(found[2], np.float32), np.asarray(found[0], np.float32)[:, 0]
    for which, value in (("kernel", dkernel), ("input x", down)):
        require.that(
            not np.isfinite(value).any(),
            f"with an infinity in g of {half}, the gradient with respect to the {which} hides it",
            accepted="no finite number where it is a factor",
            cause=partial_derivatives.HIDDEN,
        )
