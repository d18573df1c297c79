"""The forward pass: shapes, exact values, and values within rounding."""

from __future__ import annotations

import numpy as np

from conformance.checks import oracle, require
from conformance.checks.areas import (
    functions,
    input_dtypes,
    kinds,
    large_cases,
    output_shapes,
    settings,
)
from conformance.checks.areas.views import forms_of, require_views
from conformance.checks.cases import BATCH, LARGE, MANY_LEADS, NARROW, SMALL, TALL, WIDE, Case, over
from conformance.checks.diagnosis import shapes, telling, wrong_values
from conformance.checks.diagnosis.differences import require_no_activation, require_plain_operands
from conformance.checks.diagnosis.transformations import of_transformation
from conformance.checks.layer import Built, Layer
from conformance.checks.programs import FEW_SIZES
from conformance.checks.scan.edges import FUNCTIONS, VALUES, at_edges, scan
from conformance.contract.requirement import (
    ANY,
    FLOAT32_THROUGHOUT,
    MUST,
    PARAMETERS,
    SHOULD,
    idle_because,
    requirement,
    rests_on,
)
from conformance.errors import Cause, Violation
from conformance.jax_setup.lazy import jax
from conformance.layers.storage import BiasRow

# Larger than usual clipping limits, and far from overflow.
_LARGE_BIAS = 1000.0
# Integers of this many bits are exact; 24 in float32.
_EXACT_BITS = {"bfloat16": 8, "float16": 11}
BASE = [
    "construction/kernel-shape",
    "construction/bias-shape",
    "forward/output-shape",
    "dtypes/float32-out",
]


@requirement("forward/output-shape", MUST, ANY, declared=True, foundation=True, ground=True)
@rests_on(
    "construction/builds",
    "construction/bias-shape",
    "construction/kernel-shape",
    "state/call-changes-nothing",
)
@idle_because("every comparison fails on a wrong shape; this one names the fault.")
@over(leads=True, at_most=1)
def test_output_shape(layer: Layer, case: Case) -> None:
    """f(x).shape = x.shape[:-1] + (out,), for any rank and batches of 1 and in."""
    # Each shape compiles, so a single x is tried at some sizes only.
    single = case.kernel_shape in output_shapes.EAGER or PARAMETERS not in layer.provides
    leads = {(), case.lead} if single else {case.lead}
    for lead in leads - {BATCH}:
        if layer.accepts(lead):
            x = np.ones((*lead, case.in_features), np.float32)
            try:
                found = layer.forward(case.seed, x, case.out_features).shape
            except Violation as violation:
                raise output_shapes.explained(violation, layer, case, lead) from violation
            output_shapes.require_shape(layer, found, lead, case)
    if PARAMETERS in layer.provides:
        output_shapes.require_abstract_shapes(layer, case)
        if case.kernel_shape == FEW_SIZES[-1]:
            output_shapes.require_shapes_in_turn(layer, case)
    # A result of another shape is a fault; that some ranks are refused may be intended.
    refused = [rank for rank in layer.declared.ranks if rank not in layer.convention.ranks]
    if isinstance(layer.seen.storage, BiasRow):
        return  # construction/bias-shape reports a row that makes vectors rows
    if refused:
        output_shapes.fail_for_ranks(layer, case, refused)


@requirement("forward/empty-batch", MUST, ANY)
@rests_on("forward/output-shape", "dtypes/float32-out")
@over(sizes=FEW_SIZES, at_most=1)
def test_empty_batch(layer: Layer, case: Case) -> None:
    """A batch of no rows gives a result of no rows: f(x).shape = x.shape[:-1] + (out,).

    A filter or the last part of a data set may leave no rows. No other check has an empty batch, so
    that a layer that refuses it is judged on everything else.
    """
    leads = [lead for lead in ((0,), (2, 0), (3, 0, 2)) if layer.accepts(lead)]
    if not leads:
        require.not_applicable("the layer takes vectors only")
    for lead in leads:
        output_shapes.require_no_rows(layer, case, lead)


@requirement("forward/zero-input", MUST, PARAMETERS, order=-90)
@rests_on(*BASE)
@idle_because("a wrong use of the bias makes every value wrong; this one names the fault.")
@over()
def test_zero_input(layer: Layer, case: Case) -> None:
    """f(0) = b, bitwise.

    A random bias is written first: with the zero bias of a new layer, ignoring it, adding it twice
    and subtracting it all give the same.
    """
    require_no_activation(layer)
    dense, bias = layer.written(case), layer.bias_for(case)
    x = np.zeros((8, case.in_features), np.float32)
    found = dense.rows(x)
    bias = telling.bias_in_result(layer, found, bias)
    expected = np.broadcast_to(bias, found.shape)
    if not np.array_equal(found, expected):
        cause = telling.of_zero_input(layer, case, found, bias)
        require.equal(found, expected, "f(0)", cause=cause)
    if case.kernel_shape == FEW_SIZES[-1] and layer.accepts((2, 4)):  # each shape compiles
        found, what = dense(x.reshape(2, 4, -1)), "f(0) for an x of rank 3"
        require.equal(found, np.broadcast_to(bias, (2, 4, case.out_features)), what)
    dtypes = {layer.convention.parameter_dtype, layer.convention.compute_dtype}
    if case.kernel_shape == FEW_SIZES[-1] and dtypes == {"float32"}:
        found = layer.written(case, _LARGE_BIAS).rows(x)
        expected = np.broadcast_to(layer.bias_for(case, _LARGE_BIAS), found.shape)
        require.equal(found, expected, f"with a bias of the scale {_LARGE_BIAS:g}, f(0)")
    nothing = np.zeros_like(bias)
    # Use another instance: state/updates-used checks values that are written later.
    found = layer.of(case).write(case.kernel(), nothing).rows(x)
    require.equal(found, np.zeros(found.shape), "with b = 0, f(0)")


@requirement(
    "forward/basis-input", MUST, PARAMETERS, presumes=[FLOAT32_THROUGHOUT], order=-20, seconds=0.8
)
@rests_on(
    "forward/zero-input",
    "state/updates-used",
    "seeding/repeatable-call",
    "forward/batch-independent",
)
@over(also=[(size, BATCH) for size in (SMALL, WIDE, TALL, LARGE)])
def test_basis_input(layer: Layer, case: Case) -> None:
    """f(e_i) = K[i] + b, bitwise.

    All other products are exact zeros, so that only the addition of the bias rounds. A layer that
    computes in half precision must be within the bound of that dtype.
    """
    require_plain_operands(layer)
    dense, kernel, bias = layer.written(case), layer.kernel_for(case), layer.bias_for(case)
    nothing = np.zeros_like(kernel)
    eye = np.eye(case.in_features, dtype=np.float32)
    if not layer.arithmetic(case.in_features).is_float32:
        # Rounding the product is right, and so is rounding only the sum.
        reference, found = layer.value(eye, kernel, bias), dense.rows(eye)
        cause = wrong_values.of_wide_result(found, eye, kernel, bias, layer.arithmetic(len(eye)))
        require.near(found, reference, "f(e_i)", cause=cause)
        reference, found = layer.value(eye, nothing, bias), dense.write(nothing, bias).rows(eye)
        require.near(found, reference, "with K = 0, f(e_i)")
        return
    found = dense.rows(eye)
    cause = wrong_values.of_basis(found, kernel, bias)
    if not np.array_equal(found, kernel + bias) and (found.size < 10 or not cause):
        cause = telling.of_basis(layer, case, cause)
    if layer.reparameterized:
        reference = layer.value(eye, kernel, bias)
        require.near(found, reference, "f(e_i)", cause=cause)
    else:
        require.equal(found, kernel + bias, "f(e_i)", cause=cause)
    found = dense.write(nothing, bias).rows(eye)
    require.equal(found, np.broadcast_to(bias, found.shape), "with K = 0, f(e_i)")
    found = dense.write(nothing, np.zeros_like(bias)).rows(eye)
    require.equal(found, nothing, "with K = 0 and b = 0, f(e_i)")


@requirement("forward/integer-exact", MUST, PARAMETERS, order=-80)
@rests_on("forward/batch-independent", "forward/basis-input", "forward/zero-input")
@over()
def test_integer_exact(layer: Layer, case: Case) -> None:
    """Integer-valued x, K and b whose sums stay below 2^24 give the exact result.

    No order of summation and no fused operation can change a sum of integers that float32
    represents. The limit is 2^8 for bfloat16 and 2^11 for float16.
    """
    if layer.reparameterized:
        require.not_applicable("the kernel is computed from the parameters, which rounds integers")
    its = layer.convention
    bits = min(_EXACT_BITS.get(dtype, 24) for dtype in (its.parameter_dtype, its.compute_dtype))
    bound = (9, 1, 200, 1000)[case.values % 4] if bits == 24 else 1
    kernel = case.integers("kernel", *case.kernel_shape, bound=bound)
    bias = case.integers("bias", case.out_features)
    largest = min(100, (2**bits - 10) // (bound * case.in_features))
    x = case.integers("x", 8, case.in_features, bound=largest)
    dense = layer.of(case).write(kernel, bias)
    if not layer.convention.use_bias:
        bias = np.zeros_like(bias)
    found = dense.rows(x)
    exact = x.astype(np.float64) @ kernel + bias
    cause = wrong_values.of_affine(found, x, kernel, bias)
    if its.product_error:
        require.near(found, layer.value(x, kernel, bias), "f(x)", cause=cause)
        return
    if not cause and not np.array_equal(found, exact.astype(np.float32)):
        cause = of_transformation(layer, case)
    require.equal(found, exact.astype(np.float32), "f(x)", cause=cause)


@requirement("forward/affine-value", MUST, PARAMETERS, order=-70, seconds=1.5)
@rests_on(
    "numerics/no-saturation",
    "dtypes/float32-out",
    "forward/zero-input",
    "forward/basis-input",
    "forward/integer-exact",
    "forward/batch-independent",
    "numerics/precision",
)
@over(leads=True, also=[*((SMALL, lead) for lead in MANY_LEADS), *NARROW])
@at_edges(VALUES)
def test_affine_value(layer: Layer, case: Case) -> None:
    """f(x) = x @ K + b within the rounding-error bound, for arbitrary K and b.

    abs(f(x) - reference) <= (in + 1) u (abs(x) abs(K) + abs(b)). The rows of x and the kernels are
    large, tiny, of one sign, sorted, repeated or contain zeros; kernels are also sparse, symmetric
    or the identity, and biases equal, sparse or of one sign.
    """
    if not layer.accepts(case.lead):
        return
    x, kernel, bias = case.x(), layer.kernel_for(case), layer.bias_for(case)
    found = np.asarray(layer.written(case)(x))
    reference = layer.value(x, kernel, bias)
    cause = "" if reference.admits(found) else telling.of_value(layer, case, x, found)
    require.near(found, reference, "f(x)", cause=cause)
    if case.lead == BATCH:
        kinds.require_kinds(layer, case)
    if case.kernel_shape == FEW_SIZES[-1] and layer.accepts(BATCH):
        large_cases.require_constants(layer, case, scan(layer).constants)
        settings.require_values_under_settings(layer, case)


@requirement("forward/additive", MUST, ANY, order=-30)
@rests_on(
    "forward/zero-input",
    "forward/affine-value",
    "construction/finite",
    "forward/output-shape",
    "dtypes/float32-out",
    "construction/kernel-shape",
)
@idle_because(
    "a layer that is not additive is also not homogeneous or not differentiable. For a "
    "function, whose parameters cannot be written, this one comes first."
)
@over(every_size=False)
@at_edges(FUNCTIONS)
def test_additive(layer: Layer, case: Case) -> None:
    """f(x + y) - f(0) = (f(x) - f(0)) + (f(y) - f(0)), within the four rounding-error bounds.

    x and y are integer-valued, so that x + y is exact.
    """
    kernel, bias = layer.affine(case)
    functions.require_finite(layer, kernel, bias)
    shape = (*layer.fewest, case.in_features)
    x, y = (case.integers(name, *shape, bound=50) for name in "xy")
    zero = np.zeros_like(x)
    f = layer.at(case)
    of = {
        name: np.asarray(f(v), np.float64)
        for name, v in (("x", x), ("y", y), ("sum", x + y), ("zero", zero))
    }
    left = of["sum"] - of["zero"]
    right = (of["x"] - of["zero"]) + (of["y"] - of["zero"])
    kernel, bias = kernel.astype(np.float32), bias.astype(np.float32)
    bounds = (layer.value(v, kernel, bias).bound for v in (x, y, x + y, zero))
    bound = np.sum([*bounds], axis=0)
    functions.require_additive(layer, left, right, bound)
    generic = case.normal("generic", *shape)
    reference = layer.value(generic, kernel, bias)
    what = "f(x) against the sum of x_i (f(e_i) - f(0))"
    require.within(np.asarray(f(generic)), reference.value, 2 * reference.bound, what)
    functions.require_kinds(layer, case, scan(layer).constants)


@requirement("forward/homogeneous", MUST, ANY)
@rests_on("forward/affine-value", "forward/additive", "exercise/recovered-kernel")
@over(every_size=False)
def test_homogeneous(layer: Layer, case: Case) -> None:
    """With b = 0, f(2^k x) = 2^k f(x) and f(-x) = -f(x), bitwise away from under- and overflow."""
    x = case.normal("x", *layer.fewest, case.in_features)
    x = np.where(np.abs(x) < 2.0**-10, np.float32(1.0), x)
    f = layer.at(case)
    if isinstance(f, Built):
        f.write(case.kernel(), np.zeros(case.out_features, np.float32))
    plain = np.asarray(f(x), np.float32)
    if layer.convention.product_error:
        kernel = case.kernel() if isinstance(f, Built) else layer.affine(case)[0]
        reference = layer.value(-x, kernel, np.zeros(case.out_features, np.float32))
        require.near(np.asarray(f(-x)), reference, "f(-x)")
        return
    require.equal(f(-x), -plain, "f(-x)")
    # float16 has few exponents: scaled values may underflow or overflow.
    for k in () if layer.convention.compute_dtype == "float16" else (-7, 1, 20):
        scale = np.float32(2.0**k)
        require.equal(f(scale * x), scale * plain, f"f(2^{k} x)")


# No wrong order of the rows, as a reshape or a reversal gives, keeps either set of rows together.
_ROWS = ([0, 1, 3, 7], [2, 4, 5, 6])


@requirement("forward/batch-independent", MUST, PARAMETERS)
@rests_on("forward/output-shape", "seeding/repeatable-call")
@idle_because("mixing rows also makes values wrong; this one names the fault.")
@over()
def test_batch_independent(layer: Layer, case: Case) -> None:
    """Row i of the result depends on row i of x alone.

    Changing some rows leaves the bits of all others as they are, in a batch of any rank.
    Permuting the rows permutes the result, up to rounding: where the rows are divided into blocks,
    the last block may add in another order.
    """
    if not layer.accepts(BATCH):
        require.not_applicable("the layer declares to accept vectors only")
    dense, x = layer.written(case), case.normal("x", 8, case.in_features)
    changed = x.copy()
    rest, others = _ROWS if (case.values + case.in_features) % 2 else _ROWS[::-1]
    changed[others] = 1000.0 * case.normal("other", case.in_features)
    # Each shape compiles, so only a few sizes get another shape beside the plain batch.
    other = ((2, 4), (2, 1, 4), (1, 2, 2, 2))[case.in_features % 3]
    for lead in (BATCH, other) if case.kernel_shape in output_shapes.EAGER else (BATCH,):
        if not layer.accepts(lead):
            continue
        plain, found = (
            np.asarray(dense(v.reshape(*lead, -1))).reshape(8, -1) for v in (x, changed)
        )
        what = f"in a batch {lead} with other rows {others}, the rest"
        cause = ""
        if not np.array_equal(found[rest], plain[rest]):
            cause = shapes.of_rows(layer, case, plain, changed.reshape(*lead, -1), np.array(rest))
        require.equal(found[rest], plain[rest], what, cause=cause)
    large_cases.require_small_beside_large(layer, case)
    order = case.generator("order").permutation(8)
    plain, found = np.asarray(dense(x)), np.asarray(dense(x[order]))
    # Each of the two is within the bound of the exact value.
    bound = 2 * layer.value_for(case, x).bound[order]
    cause = shapes.REMEMBERED if np.array_equal(found, plain) else ""
    if not cause and not oracle.Bounded(plain[order], bound).admits(found):
        cause = shapes.of_rows(layer, case, plain, x[order], np.arange(8), order)
    against = "the result of the same row before"
    require.within(found, plain[order], bound, "f of permuted rows", cause=cause, against=against)


@requirement("forward/wrong-width-raises", MUST, PARAMETERS)
@rests_on("construction/kernel-shape", "forward/output-shape")
@over(at_most=1)
def test_wrong_width_raises(layer: Layer, case: Case) -> None:
    """An x whose last dimension is not in raises, where neither of the two is 1.

    Where one is 1, see ``forward/width-one-raises``.
    """
    n = case.in_features
    if n > 1:
        output_shapes.require_rejected(layer, case, {n - 1, n + 1, case.out_features} - {n, 1})


@requirement("forward/width-one-raises", SHOULD, PARAMETERS)
@rests_on("forward/wrong-width-raises")
@over(at_most=1)
def test_width_one_raises(layer: Layer, case: Case) -> None:
    """An x whose last dimension is not in raises, where one of the two is 1.

    Broadcasting stretches a dimension of 1 silently, in ``jnp.einsum`` for example.
    """
    n = case.in_features
    output_shapes.require_rejected(layer, case, {1} if n > 1 else {2, 3, case.out_features} - {1})


@requirement("forward/scalar-raises", SHOULD, PARAMETERS)
@rests_on("forward/wrong-width-raises")
@over(every_size=False)
def test_scalar_raises(layer: Layer, case: Case) -> None:
    """A 0-d x raises."""
    dense = layer.of(case)
    require.raises(lambda: dense.raw(np.float32(1.0).reshape(())), "a scalar x")


@requirement("forward/array-likes", SHOULD, ANY, wrong_numbers=MUST)
@rests_on("seeding/seeds-differ", "transforms/jit", "dtypes/float32-out")
@over(sizes=FEW_SIZES)
def test_array_likes(layer: Layer, case: Case) -> None:
    """NumPy arrays that are read-only, strided, in Fortran order or float64 give the same result.

    float64 is left out if 64-bit types are enabled: the layer then computes in it.
    """
    batched = layer.accepts(BATCH)
    x = case.normal("x", *(BATCH if batched else ()), case.in_features)
    f = layer.at(case)
    plain = np.asarray(f(x))
    forms = forms_of(x)
    if case.kernel_shape == FEW_SIZES[-1]:
        require_views(layer, f, x)
    if not jax.config.values["jax_enable_x64"]:
        forms["a float64 array"] = x.astype(np.float64)
    for what, value in forms.items():
        try:
            y = f(value, as_given=True)
        except Violation as violation:
            raise violation.because(input_dtypes.of_numpy(layer)) from violation
        kind = f"f of {what} is a {type(y).__module__.partition('.')[0]} array"
        own_type = Cause("array-of-input", "the result is an array of the kind of x")
        require.that(
            isinstance(y, jax.Array), kind, accepted="a jax.Array for any x", cause=own_type
        )
        found = np.asarray(y)
        cause = ""
        if not np.array_equal(found, plain):
            own = layer.affine(case)
            cause = (
                shapes.of_form(f, found, value)
                or telling.of_result(found, x, *own, layer.value)
                or input_dtypes.of_numpys_product(f, x)
            )
        require.equal(found, plain, f"f of {what}", cause=cause)


@requirement("forward/tall-batch", SHOULD, PARAMETERS, wrong_numbers=MUST)
@rests_on("forward/affine-value", "transforms/jit")
@idle_because("the scan finds most edges first; this one compiles fixed lengths")
@over(sizes=[SMALL, (3, 3)], at_most=2)
def test_tall_batch(layer: Layer, case: Case) -> None:
    """Every row of a batch of 70 000 is right, eagerly and compiled, at rank 2 and rank 3.

    The number of rows is 70 001, a prime, so that no block size divides it. A compiled batch of
    2^15 to 2^16 rows is checked as well, because XLA chooses loops by the length of the batch.
    """
    if not layer.accepts((70_001,)):
        require.not_applicable("the layer declares to accept vectors only")
    if scan(layer).unrolls_rows:
        require.not_applicable("its program has operations for each row, which takes too long here")
    large_cases.require_tall(layer, case)
