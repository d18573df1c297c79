"""Inputs of other dtypes than float32: which ones a layer takes, and likely causes of faults."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.checks import jaxprs, oracle, programs, require
from conformance.checks.areas import gradients
from conformance.checks.arrays import as_jax
from conformance.checks.cases import Case
from conformance.checks.diagnosis.stale_values import require_latest
from conformance.checks.diagnosis.wrong_gradients import Point
from conformance.checks.layer import Built, Layer
from conformance.checks.once import once_per_layer
from conformance.errors import Cause, Violation
from conformance.jax_setup.lazy import jax, jnp
from conformance.layers import experiments
from conformance.layers.looking import SIZES


def in_magnitudes(x: np.ndarray) -> np.ndarray:
    """Return x with every other row multiplied by 2^40, which float16 does not hold.

    A layer may cast numbers of bfloat16 to float16, which has more digits.
    """
    if x.ndim == 1:
        return x
    factors = np.where(np.arange(len(x)) % 2, np.float32(2**40), np.float32(1))
    return x * factors.reshape(-1, *(1,) * (x.ndim - 1))


def rounds_by_row(layer: Layer) -> bool:
    """Return whether the error of a row of the result depends on that row of x alone.

    Operands that are quantized share a scale, and a kernel that is computed has errors of its own.
    """
    return not (layer.convention.product_error or layer.reparameterized)


@once_per_layer()
def takes_numpy(layer: Layer) -> bool:
    """Return whether the layer takes NumPy arrays; ``forward/array-likes`` reports if not."""
    n, m = SIZES[0]
    with contextlib.suppress(Violation):
        layer.forward(0, np.ones((*layer.fewest, n), np.float32), m, as_given=True)
        return True
    return False


def of_numpy(layer: Layer) -> str:
    """Return a cause if the layer, which takes an array of JAX, takes no NumPy array at all."""
    words = "the layer takes arrays of JAX alone: begin with x = jnp.asarray(x)"
    return "" if takes_numpy(layer) else Cause("jax-arrays-only", words)


def of_numpys_product(f: Callable[..., Any], x: np.ndarray) -> str:
    """Return a cause if NumPy computes the product of a NumPy array; else ""."""
    asked: set[str] = set()

    class Noting(np.ndarray):
        def dot(self, *given: Any, **options: Any) -> Any:
            asked.add("dot")
            return np.asarray(self).dot(*given, **options)

        def __array_function__(self, function: Any, *given: Any) -> Any:
            asked.add(function.__name__)
            return super().__array_function__(function, *given)

    with contextlib.suppress(Violation):  # it may take no subclass
        f(x.view(Noting), as_given=True)
    words = "NumPy computes the product if x is its array, as x.dot does: begin with jnp.asarray(x)"
    return Cause("numpy-product", words) if asked & _NUMPYS_PRODUCTS else ""


_NUMPYS_PRODUCTS = {"dot", "einsum", "inner", "tensordot", "vdot"}


def require_as_given(layer: Layer, dense: Built, x: np.ndarray, given: np.ndarray) -> None:
    """Require f of a NumPy array, which need not be of x's dtype, to be f of the same numbers."""
    if not takes_numpy(layer):
        return
    if not layer.accepts(x.shape[:-1]):
        x, given = x[0], given[0]
    cause = Cause("numpy-dtype", f"a NumPy array of {given.dtype} is taken for other numbers")
    found, expected = np.asarray(dense(given.copy(), as_given=True)), np.asarray(dense(as_jax(x)))
    if not np.array_equal(found, expected) and of_numpys_product(dense, given):
        reference = layer.value(x.astype(np.float32), dense.kernel, dense.bias)
        if reference.admits(found):
            return  # it is rounded otherwise, which forward/array-likes reports
    require.equal(found, expected, f"f of a NumPy array of {given.dtype}", cause=cause)


@once_per_layer()
def why_of_dtype(layer: Layer) -> str:
    """Return a cause if f(x) has the dtype of each x, also of integers; else ""."""
    n, m = SIZES[0]
    for dtype in ("float32", "bfloat16", "float16", "int32"):
        x = jax.ShapeDtypeStruct((*layer.fewest, n), dtype)
        try:
            y = jax.eval_shape(lambda x: layer.forward(0, x, m, as_given=True), x)
        except Exception:  # another requirement reports that it raises
            return ""
        if str(y.dtype) != dtype:
            return ""
    return Cause("dtype-of-x", "the parameters, or the result, are cast to the dtype of x")


def require_not_finite(layer: Layer, dense: Built, x: np.ndarray) -> None:
    """Require an entry of x that is not finite to show in each number of its row."""
    x = x if layer.accepts(x.shape[:-1]) else x[0]
    for value in (np.nan, np.inf):
        strange = x.copy()
        strange[..., 0] = value
        require_shown(dense, strange, value)


def require_new_values(layer: Layer, case: Case, dense: Built, x: np.ndarray) -> None:
    """Require f(x) for an x of another dtype to have the values written after such a call.

    A copy of the parameters that is cast to the dtype of x may be kept from the first call.
    """
    old, new = case, replace(case, values=case.values + 1)
    given = x if layer.accepts(case.lead) else x[0]
    equivalent = given if np.iscomplexobj(x) else given.astype(np.float32)
    arithmetic = layer.arithmetic(case.in_features, x.dtype)
    y = np.asarray(dense.write(new.kernel(), new.bias())(as_jax(given)))

    def of(kernel: np.ndarray, bias: np.ndarray) -> oracle.Bounded:
        return arithmetic.affine(equivalent, kernel, bias)

    values = (old.kernel(), layer.bias_for(old)), (new.kernel(), layer.bias_for(new))
    what = f"after new values are written, f(x) for x of dtype {x.dtype}"
    require_latest(of, values, y, f"in a call on an x of {x.dtype}", what)
    dense.write(old.kernel(), old.bias())


def require_shown(f: Callable[[Any], Any], x: np.ndarray, value: float) -> None:
    """Require f of an x with this value, NaN or infinity, in each row to have no finite number."""
    if jax.config.values["jax_debug_nans"]:
        return
    y = np.asarray(f(as_jax(x)))
    y = y.astype(y.dtype if np.iscomplexobj(y) else np.float32)
    shows = np.isnan(y) if np.isnan(value) else ~np.isfinite(y)
    require.that(
        shows.all(),
        f"with {value} in each row of an x of {x.dtype}, {int((~shows).sum())} numbers of f(x) "
        "hide it",
        accepted="no finite number computed from one that is not finite",
        cause=Cause("not-finite-replaced", f"{value} in an x of {x.dtype} is replaced"),
    )


def require_complex_gradients(layer: Layer, case: Case, dense: Built, x: np.ndarray) -> None:
    """Require dx = g K^T, dK = Re(x^T g) and db = Re(sum of g), where nothing is conjugated."""
    g = np.empty((*case.lead, case.out_features), np.complex64)
    g.real, g.imag = (case.normal(f"{part} cotangent", *g.shape) for part in ("real", "imaginary"))
    with require.during("jax.vjp of the layer for a complex x"):
        values = (dense.parameters, case.kernel(), case.bias(), x, g)
        y, found = jax.device_get(programs.pullback(layer)(*values))
    arithmetic = layer.arithmetic(case.in_features)
    point = Point("x of complex64", case.kernel(), layer.bias_for(case), x, g)
    in_its_dtype = layer.arithmetic(case.in_features, x.dtype)
    gradients.require_value(layer, y, point, "jax.vjp", in_its_dtype)
    references = {
        "kernel": arithmetic.kernel_gradient(x, g),
        "bias": arithmetic.bias_gradient(g),
        "input x": arithmetic.input_gradient(case.kernel(), g),
    }
    for (which, reference), gradient in zip(references.items(), found, strict=True):
        if which == "bias" and not layer.convention.use_bias:
            continue
        value = reference.value if which == "input x" else reference.value.real
        cause = _why_complex(which, gradient, reference, x, case.kernel(), g)
        what = f"the gradient with respect to the {which} for a complex x"
        require.within(gradient, value, reference.bound, what, cause=cause)


def _why_complex(
    which: str,
    gradient: np.ndarray,
    reference: oracle.Bounded,
    x: np.ndarray,
    kernel: np.ndarray,
    g: np.ndarray,
) -> str:
    """Return a cause if a wrong gradient is complex for a real parameter, or of conjugates."""

    def near(value: np.ndarray) -> bool:
        return bool(np.all(np.abs(gradient - value) <= reference.bound))

    if which == "input x":
        conjugate = g.conj() @ kernel.T
    elif np.iscomplexobj(gradient):
        words = (
            f"the rule for the {which}, which is real, gives a complex number: take its real part"
        )
        return Cause("gradient-complex", words) if near(reference.value) else ""
    elif which == "kernel":
        rows = g.reshape(-1, g.shape[-1])
        conjugate = (x.reshape(-1, x.shape[-1]).T.conj() @ rows).real
    else:
        return ""
    words = f"the gradient with respect to the {which} is taken of, or for, conjugates"
    return Cause("gradient-conjugated", words) if near(conjugate) else ""


def takes(layer: Layer, dtype: Any) -> bool:
    """Return whether the layer declares to take an x of this dtype."""
    return _kind(dtype) in layer.convention.inputs


def _kind(dtype: Any) -> str:
    kinds = {"b": "boolean", "i": "integer", "u": "integer", "c": "complex"}
    return kinds.get(np.dtype(dtype).kind, "floating")


@once_per_layer()
def casts(layer: Layer) -> bool:
    """Return whether float32 is the dtype of f(x) for an x and parameters of any dtypes.

    Casting to float32 drops an imaginary part; ``dtypes/cast-parameters`` reports both at once.
    """
    if layer.convention.compute_dtype != "float32":
        return False
    x = np.ones((*layer.fewest, SIZES[0][0]), np.float32)
    try:
        dense = layer.build(*SIZES[0]).cast("bfloat16")
        return {str(dense(as_jax(x, d)).dtype) for d in ("bfloat16", "complex64")} == {"float32"}
    except Exception:  # other requirements report a dtype that raises
        return False


@once_per_layer()
def refused(layer: Layer) -> tuple[str, ...]:
    """Return the kinds of numbers that the layer declares to take, and that raise."""
    taken = experiments.kinds_taken(layer.implementation, SIZES[0])
    return tuple(kind for kind in layer.convention.inputs if kind not in taken)


def works_with(layer: Layer, dtype: Any) -> bool:
    """Return whether the layer declares to take an x of this dtype, and does not raise for it."""
    return takes(layer, dtype) and _kind(dtype) not in refused(layer)


def require_taken(layer: Layer, dense: Built, x: np.ndarray) -> None:
    """Require an x of a dtype that the layer declares to take not to raise."""
    x = x if layer.accepts(x.shape[:-1]) else x[0]
    try:
        dense(as_jax(x))
    except Violation as violation:
        left = [kind for kind in layer.convention.inputs if kind not in refused(layer)]
        if _kind(x.dtype) in left:
            raise
        raise Violation(
            violation.found,
            accepted="a result for every kind of numbers",
            cause=violation.cause,
            declare=f"inputs = {json.dumps(left)}",
        ) from violation


def require_refused(call: Callable[[Any], Any], x: Any) -> None:
    """Require the call to raise for an x of a dtype that the layer declares not to take."""
    cause = Cause("input-not-refused", f"the layer computes with an x of {x.dtype}")
    require.raises(lambda: call(x), f"an x of {x.dtype}, which it declares not to take,",
                   cause=lambda: cause)  # fmt: skip


def represented(x: np.ndarray, dtype: str) -> np.ndarray:
    """Return integers reduced to the leading bits that a half-precision dtype can represent."""
    bits = {"bfloat16": 8, "float16": 11}.get(dtype)
    if bits is None:
        return x
    significand, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.trunc(np.ldexp(significand, bits)), exponent - bits).astype(x.dtype)


def require_as_text(layer: Layer, case: Case, name: str) -> None:
    """Require a dtype given as text, as in a configuration file, to have its effect or to raise."""
    x = case.normal("x", *layer.fewest, case.in_features)
    found = []
    for value in (jax.numpy.dtype("bfloat16"), "bfloat16"):
        try:
            dense = layer.with_options(**{name: value}).of(case)
            found.append([str(dense(x).dtype), *(str(leaf.value.dtype) for leaf in dense.leaves)])
        except Violation:
            return
    require.that(
        found[1] == found[0],
        f'with {name}="bfloat16", f(x) and the parameters are {", ".join(found[1])}',
        accepted=f"{', '.join(found[0])}, as with {name}=jnp.bfloat16",
        cause=Cause("option-as-text", f"the option {name} has no effect if it is given as text"),
    )


def require_preferred(layer: Layer, case: Case) -> None:
    """Require ``preferred_element_type`` to be the dtype of the product, if a layer takes it.

    It sets in which dtype a product of halves is added; f(x) may be cast back.
    """
    if "preferred_element_type" not in layer.implementation.options - layer.implementation.chosen:
        return
    both = "dtype=bfloat16 and preferred_element_type=float32"
    with require.during(f"building and calling the layer with {both}"):
        given = layer.with_options(dtype=jnp.bfloat16, preferred_element_type=jnp.float32)
        dense, x = given.written(case), as_jax(case.normal("x", *layer.fewest, case.in_features))
        leads = [lead for lead in ((), (2,), (2, 4)) if layer.accepts(lead)]
        shapes = [jax.ShapeDtypeStruct((*lead, case.in_features), np.float32) for lead in leads]
        found = [jax.make_jaxpr(given.apply)(dense.parameters, shape) for shape in shapes]
    made = [{str(p.outvars[0].aval.dtype) for p in jaxprs.products(program)} for program in found]
    reached = [not dtypes or "float32" in dtypes for dtypes in made]
    cause = Cause("option-ignored", "preferred_element_type does not reach the product")
    if any(reached):
        words = "preferred_element_type does not reach the product for x of some ranks"
        cause = Cause("option-by-rank", words)
    require.that(
        all(reached),
        f"with {both}, the product is {' and '.join(sorted(set().union(*made)))}",
        accepted="a product of dtype float32 for x of every rank",
        cause=cause,
    )
    y, reference = dense(x), given.value(np.asarray(x), case.kernel(), given.bias_for(case))
    require.near(y.astype(np.float32), reference, f"f(x) with {both}")
