"""How exact the result is, and what happens at the limits of float32."""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from conformance.checks import jaxprs, oracle, require
from conformance.checks.areas import functions
from conformance.checks.areas.compilation import traced_gradients
from conformance.checks.arithmetic import Arithmetic
from conformance.checks.arrays import as_jax
from conformance.checks.cases import BATCH, Case, over
from conformance.checks.diagnosis import telling, wrong_values
from conformance.checks.layer import Built, Layer
from conformance.checks.once import once_per_layer
from conformance.checks.precision import by_default
from conformance.checks.programs import forward, is_plain, traced
from conformance.checks.require import on_the_way
from conformance.checks.scan.edges import NONFINITE, at_edges
from conformance.checks.scan.thresholds import operations
from conformance.contract.requirement import (
    ANY,
    MUST,
    PARAMETERS,
    SHOULD,
    idle_because,
    requirement,
    rests_on,
)
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax

# Operands rounded to eight bits with a common scale, the coarsest format that layers compute in.
ANY_PRECISION = oracle.Precision("any", operand=2.0**-5)

# Scales of x, of the parameters, and of the bias relative to them: a bias of 1 hides tiny products.
SCALES = (
    (1.0, 1.0, 1.0),
    (1e-6, 1.0, 1.0),
    (1e6, 1.0, 1.0),
    (1e-12, 1.0, 0.0),
    (1e-24, 1.0, 0.0),
    (1.0, 1e-10, 1.0),
)

# Up to this fan_in an error of bfloat16 or TF32 far exceeds the bound of float32.
WIDEST = 256


@requirement("numerics/precision", MUST, ANY)
@idle_because(
    "values with such an error have wrong derivatives, too; this one names the precision."
)
@rests_on(
    "forward/zero-input", "forward/basis-input", "forward/integer-exact", "numerics/no-saturation"
)
@over()
def test_precision(layer: Layer, case: Case) -> None:
    """f(x) keeps to the rounding-error bound of float32 at the scales 1e-6, 1 and 1e6.

    Products in bfloat16, TF32 or int8 break it while in <= 256; the rows of x have the signs of
    the kernel's columns, so that nothing cancels and the bound is sharp. On an accelerator whose
    default is another format, the check first asks for float32 and then uses the bound of the
    default. A layer that declares another dtype or error must keep to that.
    """
    if functions.is_function(layer):
        functions.require_scales(layer, case, 1.0, 1e-6, 1e6, 1e-24)
        return
    if case.in_features > WIDEST:
        return
    _precise(layer, case, oracle.HIGHEST)
    with by_default() as mode:
        if mode is not None:
            require.record(default_precision=mode.name)
            _precise(layer, case, mode)


def _precise(layer: Layer, case: Case, precision: oracle.Precision) -> None:
    columns, dense = np.arange(8) % case.out_features, layer.of(case)
    arithmetic = layer.arithmetic(case.in_features)
    own_error = precision.operand + arithmetic.precision.operand
    arithmetic = replace(arithmetic, precision=replace(precision, operand=own_error))
    for scale, own, of_bias in SCALES:
        kernel, bias = case.kernel(own), layer.bias_for(case, own) * np.float32(of_bias)
        kernel = dense.write(kernel, bias).held(kernel)
        x = np.sign(kernel[:, columns]).T * np.abs(case.normal("x", 8, case.in_features))
        x = (x * scale).astype(np.float32)
        found = dense.rows(x)
        reference = arithmetic.affine(x, kernel, bias)
        cause = wrong_values.of_scale(found, reference, scale)
        if scale == own == 1.0:  # the cause is looked for at this scale only
            cause = wrong_values.of_affine(found, x, kernel, bias)
            if not cause and not reference.admits(found):
                cause = telling.of_usual(layer, case)
        require.near(
            found,
            reference,
            f"f(x) for x of {scale:g}, a kernel of {own:g} and a bias of {own * of_bias:g}",
            cause=cause,
        )


def _confined(
    dense: Built, case: Case, poison: float, is_poisoned: Any, what: str, by: Any = None
) -> None:
    """Require a poisoned row of x to poison its own row of the result, and no other.

    ``dense`` has the case's kernel and bias, because a zero weight times an infinity is NaN.
    ``by`` computes the rows of the result from those of x, like ``dense.rows``.
    """
    by = by or dense.rows
    if jax.config.values["jax_debug_nans"]:
        require.not_applicable("jax_debug_nans is on, and raises where a NaN arises")
    rows = 8 if dense.layer.accepts(BATCH) else 1
    rows = rows if case.lead == BATCH else int(np.prod(case.lead))
    x = case.normal("x", rows, case.in_features)
    generator = case.generator("place")
    row, column = int(generator.integers(rows)), int(generator.integers(case.in_features))
    plain = by(x)
    rest = np.arange(rows) != row
    for columns, where in ((column, f"x[{row}, {column}]"), (slice(None), f"all of x[{row}]")):
        x[row, columns] = poison
        found = by(x)
        require.that(
            is_poisoned(found[row]).all(),
            f"with {what} in {where}, row {row} of the result hides it in "
            f"{int((~is_poisoned(found[row])).sum())} of {found[row].size} entries",
            accepted="no finite number computed from one that is not finite",
            cause=Cause(
                "not-finite-replaced",
                f"{what} is replaced by a number: nan_to_num, clipping or a comparison",
            ),
        )
        require.equal(
            found[rest],
            plain[rest],
            f"with {what} in {where}, the rest",
            cause=Cause("rows-mixed", "rows of a batch are mixed"),
        )


@requirement("numerics/nan-confined", MUST, ANY)
@rests_on(
    "forward/zero-input",
    "forward/basis-input",
    "forward/batch-independent",
    "state/updates-used",
    "forward/affine-value",
    "transforms/jit",
)
@over()
@at_edges(NONFINITE)
def test_nan_confined(layer: Layer, case: Case) -> None:
    """A NaN in row i of x makes row i of the result NaN, and no other, also under jit.

    Likewise, a NaN in column j of the kernel, or in entry j of the bias, makes column j NaN. The
    program does not hide one while ``jax_debug_nans`` is on.
    """
    if functions.is_function(layer):
        functions.require_not_finite(layer, case, np.nan)
        return
    _require_confined(layer, case, np.nan, np.isnan, "a NaN")
    if case.lead == BATCH:
        _require_nan_times_zero(layer, case)
        _require_found_by_debugging(layer, case)


def _require_confined(layer: Layer, case: Case, poison: float, is_poisoned: Any, what: str) -> None:
    """Require a poisoned entry to poison its row, or its column of the kernel or bias, alone."""
    dense = layer.written(case)
    if case.lead != BATCH:
        if np.prod(case.lead) and layer.accepts(case.lead):
            _confined(dense, case, poison, is_poisoned, what, partial(_at_lead, dense, case))
        return
    _confined(dense, case, poison, is_poisoned, what)
    if is_plain(case) and layer.accepts(BATCH):
        by = partial(_as_numpy, partial(forward(layer), dense.parameters))
        _confined(dense, case, poison, is_poisoned, f"under jax.jit, {what}", by)
    _confined_to_column(dense, case, poison, is_poisoned, what)


@once_per_layer()
def _require_nan_times_zero(layer: Layer, case: Case) -> None:
    """A kernel of zeros hides no NaN, although its product with any number is 0."""
    if layer.reparameterized:
        return  # a column of zeros may have no direction
    dense = layer.of(case).write(np.zeros(case.kernel_shape, np.float32), case.bias())
    found = dense.rows(np.full((1, case.in_features), np.nan, np.float32))
    require.that(
        np.isnan(found).all(),
        f"with K = 0, f(NaN) has {int((~np.isnan(found)).sum())} entries that are not NaN",
        accepted="NaN, because NaN times 0 is NaN",
        cause=Cause("zero-kernel-skipped", "the product is left out where the kernel is 0"),
    )


@once_per_layer()
def _require_found_by_debugging(layer: Layer, case: Case) -> None:
    """With ``jax_debug_nans``, f(NaN) raises or is NaN: its user looks for where a NaN arises.

    The same holds for infinities. JAX looks at the results of compiled programs, so the layer is
    called only if its program depends on the setting.
    """
    dense = layer.written(case)

    def program() -> list[Any]:
        return [name for _, name in operations(traced(layer, case, dense.parameters))]

    usual = program()
    for setting, value in (("debug_nans", np.nan), ("debug_infs", np.inf)):
        x = as_jax(np.full(case.x_shape, value, np.float32))
        # JAX prints that it looks for the operation.
        with contextlib.redirect_stdout(io.StringIO()), getattr(jax, setting)(True):
            try:
                if program() == usual:
                    continue
                found = np.asarray(jax.jit(lambda p, x: layer.apply(p, x))(dense.parameters, x))
            except Exception:
                continue
        hidden = int(np.isfinite(found).sum())
        require.that(
            not hidden,
            f"under jax.{setting}, f({value}) has {hidden} entries that are finite",
            accepted=f"an error, or none, as without jax.{setting}",
            cause=Cause("hidden-from-debugging", f"the layer's program depends on jax_{setting}"),
        )


def _at_lead(dense: Built, case: Case, x: np.ndarray) -> np.ndarray:
    """Return the rows of the result for an x of the case's leading dimensions."""
    return np.asarray(dense(x.reshape(case.x_shape))).reshape(len(x), -1)


def _as_numpy(function: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(function(x))


def _confined_to_column(
    dense: Built, case: Case, poison: float, is_poisoned: Any, what: str
) -> None:
    """Require a poisoned entry of the kernel or the bias to poison its own column only."""
    x = case.normal("x", 8, case.in_features)
    generator = case.generator("place")
    i, j = int(generator.integers(case.in_features)), int(generator.integers(case.out_features))
    rest = np.arange(case.out_features) != j
    # Through a norm over the outputs, an entry of the kernel moves other columns.
    by_column = 1 not in dense.layer.precision(case.in_features).over
    error = dense.layer.convention.product_error
    names = ("kernel",) * by_column + ("bias",) * dense.layer.convention.use_bias
    for name in names:
        kernel, bias = case.kernel(), case.bias()
        if name == "kernel":
            kernel[i, j] = poison
        else:
            bias[j] = poison
        # A zero in x times an infinity is NaN.
        x[:, i] = 0.0
        found = is_poisoned(dense.write(kernel, bias).rows(x))
        # The steps of a quantized kernel may depend on all of its entries.
        spreads = found[:, rest].any() and not (name == "kernel" and error)
        require.that(
            found[:, j].all() and not spreads,
            f"{what} in entry {j} of the {name}'s outputs does not show in exactly that column",
            accepted="no finite number in that column, and nothing else in any other",
            cause=Cause(
                "not-finite-replaced", f"{what} in the {name} is replaced by a number, or spreads"
            ),
        )


@requirement("numerics/inf-confined", MUST, ANY)
@rests_on(
    *("state/updates-used", "forward/zero-input", "forward/batch-independent", "transforms/jit"),
    *("numerics/nan-confined", "numerics/no-saturation"),
)
@over()
@at_edges(NONFINITE)
def test_inf_confined(layer: Layer, case: Case) -> None:
    """An infinity in row i of x makes row i of the result non-finite, and no other, also under jit.

    Likewise, an infinity in column j of the kernel, or in entry j of the bias.
    """
    poison = np.inf if case.values % 2 == 0 else -np.inf
    if functions.is_function(layer):
        functions.require_not_finite(layer, case, poison)
        return
    for each in (poison,) if case.lead == BATCH else (poison, -poison):
        _require_confined(layer, case, each, lambda row: ~np.isfinite(row), "an infinity")


@requirement("numerics/no-saturation", MUST, ANY)
@rests_on(
    "forward/zero-input", "forward/basis-input", "forward/integer-exact", "dtypes/float32-out"
)
@over()
def test_no_saturation(layer: Layer, case: Case) -> None:
    """f keeps to its bound for values of 1e34, for parameters of 1e30, and for integers whose sums
    exceed int32.

    The bound allows a product in any of the usual formats; ``numerics/precision`` checks smaller
    errors.
    """
    if functions.is_function(layer):
        functions.require_scales(layer, case, 1e34, 1e8)
        return
    dense = layer.of(case)
    arithmetic = replace(layer.arithmetic(case.in_features), precision=ANY_PRECISION)
    for scale, own in ((1e34, 1.0), (1e8, 1.0), (1e17, 1e15), (1.0, 1e30)):
        kernel, bias = case.kernel(own), layer.bias_for(case, own)
        x = case.normal("x", 8, case.in_features, scale=scale)
        found = dense.write(kernel, bias).rows(x)
        reference = arithmetic.affine(x, kernel, bias)
        cause = ""
        if not reference.admits(found):
            usual, *of = telling.at_usual(layer, case)
            if not arithmetic.affine(*of).admits(usual):
                return  # the scale is not the reason: numerics/precision reports it
            cause = telling.of_saturation(layer, case, found, reference.value, scale, own)
        what = f"f(x) for x of {scale:g} and parameters of {own:g}"
        require.near(found, reference, what, cause=cause)
    if arithmetic.is_float32 and not layer.reparameterized:
        _require_of_whole(dense, case, arithmetic)


def _require_of_whole(dense: Built, case: Case, arithmetic: Arithmetic) -> None:
    """Require f of integers near 2^15, whose products exceed no int32, to be right.

    A layer may multiply whole numbers as integers, and their sums do exceed it.
    """
    x, kernel = (
        _WHOLE - np.abs(case.integers(name, *shape))
        for name, shape in (("x", (8, case.in_features)), ("kernel", case.kernel_shape))
    )
    bias = dense.layer.bias_for(case)
    found, reference = dense.write(kernel, bias).rows(x), arithmetic.affine(x, kernel, bias)
    wrapped = (x.astype(np.int64) @ kernel.astype(np.int64)).astype(np.int32) + bias
    words = "whole numbers are multiplied as int32, and their sums exceed it"
    # It differs from the right result by a multiple of 2^32, or not at all.
    is_wrapped = oracle.Bounded(wrapped, reference.bound).admits(found)
    require.near(
        found,
        reference,
        "f(x) for an x and a kernel of integers near 2^15",
        cause=Cause("sums-in-int32", words) if is_wrapped else "",
    )


_WHOLE = np.float32(2**15 - 1)


@requirement("numerics/one-product", SHOULD, PARAMETERS)
@rests_on("transforms/jit", "forward/affine-value", "construction/parameter-dtype")
@over(every_size=False)
def test_one_product(layer: Layer, case: Case) -> None:
    """The program's products take in * out multiplications for each row, and cast no operand down.

    One matrix product takes as many, and so do a convolution of width 1 and a sum over blocks of
    inputs.
    """
    found, ratio = _products(layer, case)
    require.that(found, "the program has no matrix product", accepted="one")
    its = layer.convention
    wide, own = {its.compute_dtype, "float32"}, its.parameter_dtype
    operands = [{str(operand.aval.dtype) for operand in each.invars} for each in found]
    dtypes = set().union(*operands)
    require.that(
        # A layer that declares quantization has operands of its own dtype; a product of two dtypes
        # widens the kernel's, and rounding the result is not a demotion.
        all(each <= wide or (each & wide and each <= {*wide, own}) for each in operands)
        or its.product_error > 0,
        f"the operands of the product are {', '.join(sorted(dtypes))}",
        accepted=its.compute_dtype,
        cause=Cause("reduced-precision", "the product is computed in reduced precision")
        if dtypes & {"bfloat16", "float16"}
        else "",
    )
    if ratio >= _TWICE:
        # Padding to whole blocks costs more, but little at a size of many blocks.
        ratio = min(ratio, _products(layer, replace(case, in_features=1024, out_features=1024))[1])
    require.that(
        ratio < _TWICE,
        f"the products of the program take {ratio:.3g} times in * out multiplications a row",
        accepted=f"less than {_TWICE} times",
        cause=Cause("product-repeated", "the product is computed more than once"),
    )


_TWICE = 2


def _products(layer: Layer, case: Case) -> tuple[list[Any], float]:
    """Return the program's products, and their cost in units of one ``x @ K``."""
    wide = layer.convention.compute_dtype == "float64"
    x = jax.ShapeDtypeStruct((*layer.batch, case.in_features), np.float64 if wide else np.float32)
    with on_the_way("tracing the layer"):
        parameters = jax.eval_shape(lambda: layer.init(case.seed, *case.kernel_shape))
        program = jax.make_jaxpr(layer.apply)(parameters, x)
    once = math.prod(layer.batch) * math.prod(case.kernel_shape)
    return jaxprs.products(program), jaxprs.multiply_adds(program) / once


@requirement("numerics/precision-followed", SHOULD, PARAMETERS)
@rests_on("numerics/one-product", "transforms/gradients", "transforms/jit")
@over(sizes=[(3, 10)], at_most=1)
def test_precision_followed(layer: Layer, case: Case) -> None:
    """Under ``jax.default_matmul_precision(p)`` the product has the precision p or a higher one.

    So have those of the gradients. The user of a layer chooses how exact products are on an
    accelerator. The check reads the program, because a CPU computes the same in all precisions. It
    does not apply to a layer that is registered with a precision, because that was its user's
    choice.
    """
    if "precision" in layer.implementation.chosen:
        require.not_applicable("it is registered with a precision of its own")
    highest = jax.lax.Precision.HIGHEST
    # A model is often built before the setting is made.
    parameters = layer.of(case).parameters
    for name, precision in (("tensorfloat32", jax.lax.Precision.HIGH), ("highest", highest)):
        with jax.default_matmul_precision(name):
            found = jaxprs.precisions(traced(layer, case, parameters))
            backward = jaxprs.precisions(traced_gradients(layer, case))
        shown = " and ".join(sorted(map(str, found))) or "none"
        require.that(
            found <= {(precision, precision), (highest, highest)},
            f"under jax.default_matmul_precision({name!r}), the product has {shown}",
            accepted=f"{precision} or a higher one",
            cause=Cause("precision-pinned", "the layer pins the precision of its product"),
        )
        require.that(
            backward <= {(precision, precision), (highest, highest)},
            f"under jax.default_matmul_precision({name!r}), a product of the gradients has "
            f"{' and '.join(sorted(map(str, backward - found)))}",
            accepted=f"{precision} or a higher one",
            cause=Cause("precision-of-gradients", "a rule of differentiation pins the precision"),
        )
        if found and found != {(precision, precision)}:
            require.note(f"the layer pins the precision {shown} of its product")
