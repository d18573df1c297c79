"""Inputs of other dtypes, and float32 under other promotion rules."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.checks import jaxprs, oracle, programs, require
from conformance.checks.areas import cast_models, functions, gradients, input_dtypes
from conformance.checks.arithmetic import is_exact
from conformance.checks.arrays import as_jax, require_array
from conformance.checks.cases import Case, over
from conformance.checks.diagnosis import conversions
from conformance.checks.diagnosis.wrong_gradients import Point
from conformance.checks.layer import Built, Layer
from conformance.checks.once import once_per_layer
from conformance.checks.scan.edges import COMPLEX, HALF, INTEGER, at_edges
from conformance.contract.requirement import (
    ANY,
    FLOAT32_THROUGHOUT,
    MAY,
    MUST,
    PARAMETERS,
    SHOULD,
    idle_because,
    requirement,
    rests_on,
)
from conformance.errors import Cause, Violation, id_of
from conformance.jax_setup.lazy import jax, jnp

VALUE = "forward/affine-value"
BASE = ["construction/abstract-init", "state/exact-state", "transforms/jit"]


@requirement("dtypes/float32-out", MUST, ANY, foundation=True)
@idle_because(
    "a result of another dtype also changes values or derivatives; this one names the fault."
)
@over(leads=True, also=[((3, 10), ())])
def test_float32_out(layer: Layer, case: Case) -> None:
    """A float32 x gives a float32 result that is not weakly typed.

    A weakly typed result takes the dtype of the next operand. A layer that declares another
    compute dtype must give that one.
    """
    lead = case.lead if layer.accepts(case.lead) else layer.fewest
    x = as_jax(case.normal("x", *lead, case.in_features))
    if layer.implementation.forward is not None:
        with require.on_the_way(f"f(seed, x of shape {x.shape}, features={case.out_features})"):
            y = require_array(layer.of_function(case.seed, x, case.out_features))
    else:
        y = layer.of(case)(x)
    dtype, seen = layer.declared.returned, layer.convention
    line = f'dtype = "{seen.compute_dtype}"' if seen.returned != dtype else ""
    if line and seen.compute_dtype == layer.declared.compute_dtype:
        line = f'result_dtype = "{seen.returned}"'
    cause = ""
    if str(y.dtype) != dtype:
        words = f"the result is computed in, or cast to, {y.dtype}"
        cause = _adds_a_wide_bias(layer) or input_dtypes.why_of_dtype(layer)
        cause = cause or Cause("result-dtype", words)
    found = f"{type(y).__module__.partition('.')[0]} array {jaxprs.described(y)}"
    require.that(
        isinstance(y, jax.Array) and str(y.dtype) == dtype and not y.aval.weak_type,
        f"a float32 x gives a {found}",
        accepted=f"a jax.Array of dtype {dtype}, not weakly typed",
        # A forgotten cast is not intended.
        declare="" if id_of(cause) in ("bias-not-cast", "dtype-of-x") else line,
        cause=cause,
    )


def _adds_a_wide_bias(layer: Layer) -> str:
    """Return whether a product in half precision is widened by a bias that is not cast."""
    its, case = layer.convention, Case(3, 10)
    if not its.use_bias or its.result_dtype != "float32" or its.accumulate != its.compute_dtype:
        return ""
    bias = layer.bias_for(case)
    found = layer.written(case).rows(np.zeros((1, 3), np.float32))[0]
    if not np.array_equal(found, bias) or is_exact(bias, its.compute_dtype):
        return ""
    words = f"the product is {its.compute_dtype}, and a bias of float32 is added to it"
    return Cause("bias-not-cast", f"{words}: cast the bias as well")


@requirement(
    "dtypes/half-input", SHOULD, ANY, wrong_numbers=MUST, presumes=[FLOAT32_THROUGHOUT], order=80
)
@rests_on(
    *("numerics/precision", VALUE, "dtypes/float32-out", "transforms/gradients"),
    "numerics/nan-confined",
)
@over(sizes=programs.FEW_SIZES)
@at_edges(HALF)
def test_half_input(layer: Layer, case: Case) -> None:
    """A float16 or bfloat16 x with float32 parameters gives float32, the value f32(x) @ K + b.

    The layer computes in the wider of the two dtypes; casting x to float32 loses nothing. The
    gradients of kernel and bias are float32 as well, with the values for f32(x). A layer that
    declares other dtypes must keep to the bounds of the dtype that it then computes in.
    """
    if functions.is_function(layer):
        functions.require_dtypes(layer, case, jnp.float16, jnp.bfloat16)
        return
    dense = layer.written(case)
    for dtype in (jnp.float16, jnp.bfloat16):
        x = case.normal("x", *case.x_shape)
        wide = dtype == jnp.bfloat16 and layer.computed_in(dtype) == "float32"
        if wide and input_dtypes.rounds_by_row(layer):
            x = input_dtypes.in_magnitudes(x)
        x = x.astype(dtype)
        _require_value(layer, case, dense, as_jax(x), x.astype(np.float32))
        if programs.is_plain(case):
            input_dtypes.require_not_finite(layer, dense, x)
            input_dtypes.require_as_given(layer, dense, x, x)
            input_dtypes.require_new_values(layer, case, dense, x)
        if programs.is_plain(case) or case.kernel_shape not in programs.FEW_SIZES:
            _require_trained(layer, case, dense, x)
        for other in _at_other_ranks(layer, case, str(x.dtype)):
            _require_trained(layer, other, dense, other.normal("x", *other.x_shape).astype(dtype))
    if programs.is_plain(case) and layer.accepts((6,)):
        # No other check uses this shape, so that no program is kept for it.
        x = case.normal("x of another shape", 6, case.in_features)
        dense(as_jax(x.astype(jnp.bfloat16)))
        reference = layer.value(x, case.kernel(), layer.bias_for(case))
        what = "after a call on bfloat16 of the same shape, f(x)"
        cause = Cause("kept-by-shape", "what is kept of a call depends on the shape of x alone")
        require.near(dense(x), reference, what, cause=cause)


_TRAINED = {
    "bfloat16": ((), (2, 3, 2)),
    "float16": ((2, 3),),
    "int8": ((),),
    "int32": ((2, 3),),
    "complex64": ((2, 3),),
}
"""The leading axes, besides a plain batch, at which an x of each dtype is differentiated."""


def _at_other_ranks(layer: Layer, case: Case, dtype: str) -> list[Case]:
    """Return the case with other leading axes, where the costly variants run."""
    leads = _TRAINED.get(dtype, ()) if programs.is_plain(case) else ()
    return [replace(case, lead=lead) for lead in leads if layer.accepts(lead)]


def _require_trained(layer: Layer, case: Case, dense: Built, x: np.ndarray) -> None:
    """Require the gradients for an x of another dtype; the gradient of x has the dtype of x."""
    wide, g = x.astype(np.float32), case.normal("cotangent", *case.lead, case.out_features)
    point = Point(f"x of dtype {x.dtype}", case.kernel(), case.bias(), wide, g)
    with require.during(f"jax.vjp of the layer for x of dtype {x.dtype}"):
        y, found = programs.pullback(layer)(dense.parameters, point.kernel, point.bias, x, g)
    arithmetic = layer.arithmetic(case.in_features, x.dtype)
    gradients.require_value(layer, np.asarray(y), point, "jax.vjp", arithmetic)
    gradients.require_gradients(layer, found, point, "jax.vjp", inputs=False, arithmetic=arithmetic)
    down = found[2]
    what = f"the gradient with respect to x by jax.vjp, {point.where},"
    require.that(
        down.dtype == x.dtype, f"{what} is of dtype {down.dtype}", accepted=f"{x.dtype}, as x is"
    )
    gradients.require_of_input(arithmetic, down, point, str(x.dtype), what)


@requirement("dtypes/cast-parameters", SHOULD, PARAMETERS, wrong_numbers=MUST)
@rests_on(
    *("dtypes/float32-out", "dtypes/half-input", "state/updates-used", VALUE),
    "transforms/gradients",
)
@over(sizes=programs.FEW_SIZES[-1:], at_most=1)
def test_cast_parameters(layer: Layer, case: Case) -> None:
    """With all parameters cast to bfloat16, the layer gives bfloat16 for a bfloat16 x, and float32
    for a float32 one; cast back to float32, it gives what it gave before. The same holds for
    float16.

    Models are cast like this for inference, and trained: gradients are checked if the layer has a
    rule of its own. The parameters are rounded to that dtype first, so that casting loses nothing.
    A layer that declares its compute dtype keeps to it.
    """
    for half in ("bfloat16", "float16"):
        cast_models.require_castable(layer, case, half)
    cast_models.require_promoted(layer, case)


@requirement(
    "dtypes/integer-input", SHOULD, ANY, wrong_numbers=MUST, presumes=[FLOAT32_THROUGHOUT], order=90
)
@rests_on(
    *("numerics/precision", VALUE, "dtypes/float32-out", "initialization/data-free-init"),
    *("transforms/jit", "transforms/gradients"),
)
@over(sizes=programs.FEW_SIZES)
@at_edges(INTEGER)
def test_integer_input(layer: Layer, case: Case) -> None:
    """An integer or boolean x gives float32, the value as if x were cast to float32.

    Values cover the whole range of each dtype, up to numbers that float32 rounds; a layer that
    computes in half precision gets integers that it represents. Kernel and bias get gradients,
    because images are uint8. If the layer declares that it does not take integers, they raise.
    """
    if functions.is_function(layer):
        functions.require_dtypes(layer, case, np.int8, np.int32, np.uint32)
        if case.kernel_shape == programs.FEW_SIZES[-1]:
            functions.require_dtypes(layer, case, np.uint8, np.int16, np.uint16)
        return
    dense = layer.written(case)
    generator = case.generator("integers")
    for name in ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32"):
        dtype = np.dtype(name)
        low, high = (0, 1) if name == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        x = generator.integers(low, high, case.x_shape, np.int64, endpoint=True).astype(dtype)
        if not input_dtypes.takes(layer, dtype):
            input_dtypes.require_refused(dense.raw, as_jax(x))
            continue
        input_dtypes.require_taken(layer, dense, x)
        x = input_dtypes.represented(x, layer.computed_in(dtype))
        _require_value(layer, case, dense, as_jax(x), x.astype(np.float32))
        if name == "int32":
            input_dtypes.require_as_given(layer, dense, x, x.astype(np.int64))
        elif programs.is_plain(case):
            input_dtypes.require_as_given(layer, dense, x, x)
        if name in ("uint8", "int32") and programs.is_plain(case):
            input_dtypes.require_new_values(layer, case, dense, x)
        if name == "uint8" and programs.is_plain(case):
            gradients.require_for_integers(layer, case, dense.parameters, x)
        for other in _at_other_ranks(layer, case, name):
            x_of = generator.integers(-9, 9, other.x_shape, np.int64, endpoint=True).astype(dtype)
            gradients.require_for_integers(layer, other, dense.parameters, x_of)
        if name == "int32" and programs.is_plain(case):
            with require.during("jax.jit of the layer for an x of int32"):
                y = programs.forward(layer)(dense.parameters, x)
            arithmetic = layer.arithmetic(case.in_features, dtype)
            wide = x.astype(np.float32)
            reference = arithmetic.affine(wide, case.kernel(), layer.bias_for(case))
            what = "f(x) under jax.jit for x of int32"
            require.near(y, reference, what)


@requirement("dtypes/complex-input", SHOULD, ANY, presumes=[FLOAT32_THROUGHOUT])
@rests_on(
    *("numerics/precision", "numerics/nan-confined", VALUE, "dtypes/float32-out"),
    "transforms/gradients",
)
@over(sizes=programs.FEW_SIZES)
@at_edges(COMPLEX)
def test_complex_input(layer: Layer, case: Case) -> None:
    """A complex x gives complex64: the real part Re(x) @ K + b, the imaginary part Im(x) @ K.

    Its gradients are g K^T, and the real parts of x^T g and of the sum of g. If the layer declares
    that it does not take complex numbers, it raises.
    """
    if layer.convention.casts_input and input_dtypes.takes(layer, np.complex64):
        require.not_applicable(
            f"it declares to compute in {layer.convention.compute_dtype} for every dtype of x, "
            "and that dtype has no complex numbers"
        )
    if functions.is_function(layer):
        functions.require_dtypes(layer, case, np.complex64)
        return
    x = _complex(case)
    dense = layer.written(case)
    if input_dtypes.takes(layer, x.dtype):
        if input_dtypes.casts(layer):
            require.not_applicable("it casts any x to float32: see dtypes/cast-parameters")
        if "complex" in input_dtypes.refused(layer) and "integer" in input_dtypes.refused(layer):
            require.not_applicable("it takes no integers either: see dtypes/integer-input")
        input_dtypes.require_taken(layer, dense, x)
        _require_value(layer, case, dense, as_jax(x), x)
        input_dtypes.require_not_finite(layer, dense, x)
        if programs.is_plain(case):
            for at in (case, *_at_other_ranks(layer, case, "complex64")):
                input_dtypes.require_complex_gradients(layer, at, dense, _complex(at))
            input_dtypes.require_new_values(layer, case, dense, x)
    else:
        input_dtypes.require_refused(dense.raw, as_jax(x))


def _complex(case: Case) -> np.ndarray:
    x = case.normal("real", *case.x_shape) + 1j * case.normal("imaginary", *case.x_shape)
    return x.astype(np.complex64)


@requirement(
    "dtypes/strict-promotion", SHOULD, PARAMETERS, wrong_numbers=MUST, presumes=[FLOAT32_THROUGHOUT]
)
@rests_on(*BASE, "dtypes/float32-out", "construction/parameter-dtype")
@over(leads=True, every_size=False)
def test_strict_promotion(layer: Layer, case: Case) -> None:
    """The layer works under ``jax_numpy_dtype_promotion="strict"`` with float32.

    This covers construction, the call and the gradients. x has the dtype of the parameters, so that
    no operation has to promote, unless the layer declares that it casts x.
    """
    setting = 'jax_numpy_dtype_promotion="strict"'
    cause = Cause(
        "dtypes-promoted",
        "an operation combines arrays of different dtypes and leaves it to JAX to promote them",
    )
    with jax.numpy_dtype_promotion("strict"):
        _require_runs_under(layer, case, setting, cause)


@requirement("dtypes/rank-promotion", MAY, PARAMETERS)
@rests_on(*BASE)
@over(leads=True, every_size=False)
def test_rank_promotion(layer: Layer, case: Case) -> None:
    """The layer works under ``jax_numpy_rank_promotion="raise"``.

    The formula ``x @ K + b`` itself does not: the bias has a lower rank than the batch.
    """
    setting = 'jax_numpy_rank_promotion="raise"'
    cause = Cause(
        "bias-not-broadcast",
        "arrays of different ranks are combined, as the bias and a batch, and JAX broadcasts them",
    )
    with jax.numpy_rank_promotion("raise"), require.about_rank_promotion():
        _require_runs_under(layer, case, setting, cause)


@requirement("dtypes/x64-stable", MAY, PARAMETERS, order=100, seconds=1.0)
@rests_on(VALUE, "initialization/data-free-init")
@over(sizes=[(3, 10)])
def test_x64_stable(layer: Layer, case: Case) -> None:
    """Under x64, parameters are float32 with the same values, and float32 or int32 in gives float32
    out.

    A draw without a dtype follows the default, and float64 numbers use other bits of the key, so
    that the same seed gives another layer. One size is checked, because changing the setting
    compiles everything again.
    """
    from conformance.jax_setup.compat import x64

    x = case.x()
    with x64(False):
        expected = layer.of(case).parameters
    with x64(True):
        wide = layer.of(case)
        parameters = wide.parameters
        for which, of in (("kernel", layer.kernel_of), ("bias", layer.bias_of)):
            if which == "bias" and not layer.convention.use_bias:
                continue
            found, before = of(parameters), of(expected)
            require.that(
                found.dtype == before.dtype,
                f"the {which} is {found.dtype} under x64",
                accepted=str(before.dtype),
                cause=Cause(
                    "parameter-without-dtype",
                    f"the {which} is drawn or made without a dtype: {found.dtype} under x64, "
                    "with other values",
                ),
            )
            require.equal(found, before, f"the {which} under x64")
        x = x if layer.accepts(case.lead) else x[0]
        y = wide.write(layer.kernel_for(case), layer.bias_for(case))(as_jax(x))
        require.that(
            str(y.dtype) == layer.convention.returned,
            f"a float32 x gives {y.dtype} under x64",
            accepted=layer.convention.returned,
            cause=Cause(
                "operand-without-dtype", f"an operand of the forward pass is {y.dtype} under x64"
            ),
        )
        require.near(y, layer.value_for(case, x), "f(x) under x64")
        # dtypes/integer-input reports a layer that raises for integers.
        if input_dtypes.works_with(layer, np.int32) and layer.convention.returned == "float32":
            _require_narrow(layer, wide, x)
        if layer.convention.compute_dtype == "float32" == layer.convention.parameter_dtype:
            _require_wide(layer, case, wide, x)


def _require_narrow(layer: Layer, dense: Built, x: np.ndarray) -> None:
    """Require integers to give the dtype of the parameters under x64 as well."""
    whole = jax.ShapeDtypeStruct(x.shape, np.int32)
    y = jax.eval_shape(lambda p, x: programs.call(layer, p, x), dense.parameters, whole)
    require.that(
        str(y.dtype) == "float32",
        f"an x of int32 gives {y.dtype} under x64",
        accepted="float32",
        cause=Cause("integers-to-default", "integers become numbers of JAX's default dtype"),
    )


def _require_wide(layer: Layer, case: Case, dense: Built, x: np.ndarray) -> None:
    """Require a float64 result, if there is one, to be within the bound of float64."""
    plain = case.generator("float64").standard_normal(x.shape)
    y = dense(as_jax(plain))
    if str(y.dtype) == "float64" and not layer.reparameterized:
        kernel, bias = layer.kernel_for(case), layer.bias_for(case)
        unit = oracle.unit_roundoff("float64")
        exact = oracle.products(plain, kernel, bias, unit=2 * unit)
        narrow = layer.value(plain.astype(np.float32), kernel, bias)
        of_x = Cause("float64-rounded", "a float64 x is rounded to float32")
        cause = of_x if narrow.admits(np.asarray(y)) else ""
        what = "f(x) for a float64 x under x64"
        require.near(y, exact, what, cause=cause)


def _require_value(layer: Layer, case: Case, dense: Built, x: Any, equivalent: np.ndarray) -> None:
    """Require f(x) to be the value for `equivalent`, the same numbers in float32 or complex64.

    A layer that computes in another dtype for such an x is compared within the bound of that one.
    """
    if not layer.accepts(case.lead):
        x, equivalent = x[0], equivalent[0]
    y = dense(x)
    wide = layer.returned_for(x.dtype)
    what = f"f(x) for x of dtype {x.dtype}"
    if str(y.dtype) != wide:
        words = f"the parameters, or the result, are cast to {y.dtype}"
        cause = input_dtypes.why_of_dtype(layer) or Cause("cast-to-narrower", words)
        if wide == "complex64":
            cause = Cause("imaginary-dropped", "the imaginary part of x is dropped")
        require.fail(f"{what} is {y.dtype}", accepted=wide, cause=cause)
    require.that(not y.aval.weak_type, f"{what} is weakly typed", accepted="not weakly typed")
    arithmetic = layer.arithmetic(case.in_features, x.dtype)
    kernel, bias = case.kernel(), layer.bias_for(case)
    reference, found, cause = arithmetic.affine(equivalent, kernel, bias), np.asarray(y), ""
    if arithmetic.is_float32 and not reference.admits(found):  # causes are known for it only
        cause = conversions.cause_of(found, np.asarray(x), equivalent, kernel, bias)
    if cause and x.ndim > 1:
        # What is kept of a call of this shape may have another dtype.
        more, alike = (np.concatenate([v, v[:1]]) for v in (np.asarray(x), equivalent))
        with contextlib.suppress(Violation):
            y = dense(as_jax(more))
            cause = "" if arithmetic.affine(alike, kernel, bias).admits(np.asarray(y)) else cause
    require.near(found, reference, what, cause=cause)


@once_per_layer(by=lambda case, setting, cause: (case.x_shape, setting))
def _require_runs_under(layer: Layer, case: Case, setting: str, cause: str) -> None:
    """Trace the layer under a setting, once for each shape, because no value matters."""
    its = layer.convention
    dtype = its.parameter_dtype if its.parameter_dtype in programs.HALF else "float32"
    x = jax.ShapeDtypeStruct(case.x_shape, "float32" if its.casts_input else jnp.dtype(dtype))
    g = np.ones((*case.lead, case.out_features), np.float32)
    with require.during(f"construction under {setting}"):
        parameters = jax.eval_shape(
            lambda: layer.init(case.seed, case.in_features, case.out_features)
        )
    with require.during(f"calling the layer on x of shape {case.x_shape} under {setting}", cause):
        jax.eval_shape(lambda p, x: programs.call(layer, p, x), parameters, x)
    with require.during(f"the layer's gradients for x of shape {case.x_shape} under {setting}"):
        kernel = jax.ShapeDtypeStruct(case.kernel_shape, np.float32)
        bias = jax.ShapeDtypeStruct((case.out_features,), np.float32)
        jax.eval_shape(programs.pullback(layer), parameters, kernel, bias, x, g)
