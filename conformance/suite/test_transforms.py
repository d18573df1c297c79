"""The layer under JAX's transformations: compiled, differentiated, mapped, exported.

Every comparison of values writes a kernel and a bias first: with the zero bias of a new layer, a
transformation that loses the bias would not show.
"""

from __future__ import annotations

import numpy as np

from conformance.checks import jaxprs, programs, require
from conformance.checks.areas import (
    combinations,
    compilation,
    gradients,
    maps,
    output_shapes,
    partial_derivatives,
)
from conformance.checks.areas.mutation import require_donation, require_no_leaks
from conformance.checks.arrays import as_jax
from conformance.checks.cases import BATCH, Case, over
from conformance.checks.diagnosis import telling
from conformance.checks.layer import Layer
from conformance.checks.oracle import Bounded
from conformance.checks.scan.edges import COMPILED, DERIVATIVES, at_edges
from conformance.contract.requirement import (
    ANY,
    FLOAT32_THROUGHOUT,
    MAY,
    MUST,
    NNX,
    PARAMETERS,
    SHOULD,
    idle_because,
    requirement,
    rests_on,
)
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax

VALUE = "forward/affine-value"

# A hand-written rule of differentiation may be right for two axes only.
LEADS: tuple[tuple[int, ...], ...] = ((), (1,), (0,), (2, 3), (2, 1, 2, 2))


@requirement("transforms/jit", MUST, PARAMETERS)
@idle_because("derivatives and maps are compiled as well; this one names compilation.")
@rests_on(VALUE, "state/split-merge")
@over(leads=True, every_size=False)
@at_edges(COMPILED)
def test_jit(layer: Layer, case: Case) -> None:
    """Under jit, f(x) = x @ K + b within the rounding-error bound.

    This is checked for batches and a single x, by ``jax.jit`` over parameters and x and, for a
    module, by ``nnx.jit``; for a plain object, by ``jax.jit`` of two such objects. Bitwise equality
    with the eager result is not required: a compiled program may fuse the sum with the bias.
    """
    x = case.x()
    dense = layer.written(case)
    parameters, bias = dense.parameters, layer.bias_for(case)
    # Each row is of another kind, because a single one may be exact in any arithmetic.
    for value in (x, *x) if programs.is_plain(case) else (x,):
        with require.during(f"jax.jit of the layer for x of shape {value.shape}"):
            found = np.asarray(programs.forward(layer)(parameters, value))
        own = layer.kernel_for(case), bias
        telling.require_value(layer, found, value, *own, "f(x) under jax.jit")
    if dense.module is not None and programs.is_plain(case) and layer.accepts(BATCH):
        with require.during("nnx.jit of the module"):
            found = np.asarray(programs.module_forward(layer)(dense.module, x))
        own = layer.kernel_for(case), bias
        telling.require_value(layer, found, x, *own, "f(x) under nnx.jit")
    if dense.plain_object is not None and programs.is_plain(case):
        compilation.require_program_of_its_own(layer, case)


@requirement("transforms/gradients", MUST, PARAMETERS, presumes=[FLOAT32_THROUGHOUT], seconds=2.0)
@rests_on(
    VALUE,
    "construction/only-two-parameters",
    "forward/tall-batch",
    "forward/zero-input",
    "numerics/precision",
    "numerics/no-saturation",
    "state/exact-state",
    "transforms/jit",
)
@over(every_size=False)
@at_edges(DERIVATIVES)
def test_gradients(layer: Layer, case: Case) -> None:
    """dK = x^T g, db = the sum of g, dx = g K^T, within their bounds, in float32.

    The cotangents g are normal, large, small, of one entry or not finite, batched and single; the
    points are generic floats, x = 0 and integers, where the result is exact. The value that comes
    with the gradients is f(x).
    ``jax.grad`` and ``nnx.grad`` outside of jit give the same. The second derivatives follow
    their formulas, for x of rank 1 to 3: <dK, t> has the gradient g t^T in x and x t in g, <dx, s>
    has s^T g in the kernel and s K in g.
    """
    dense = layer.written(case)
    parameters = dense.parameters
    for lead in (BATCH, *LEADS) if programs.is_plain(case) else (case.lead,):
        if 0 in lead and output_shapes.is_wrong_without_rows(layer):
            continue
        for point in gradients.points(case, lead):
            with require.during(f"jax.vjp of the layer, {point.where},"):
                found = programs.pullback(layer)(parameters, *point.values(), point.cotangent)
                value, found = jax.device_get(found)
            gradients.require_value(layer, value, point, "jax.vjp")
            gradients.require_gradients(layer, found, point, "jax.vjp")
    if programs.is_plain(case):
        partial_derivatives.require_parts(layer, case, parameters)
        partial_derivatives.require_nan_passed(layer, case, parameters)
        # Nothing is compiled here, so use another batch, of more rows than several usual blocks. Of
        # integers, no row can be missing; in half precision only a sum of few terms has a bound.
        # The compiled programs have x of rank 1 to 3, and 5.
        tall = [gradients.of_integers(case, lead) for lead in ((70_001,), (2, 3, 2))]
        is_half = layer.arithmetic(case.in_features).is_half
        if is_half or layer.reparameterized:  # which would round integers
            generic, *_, of_one_entry, _ = gradients.points(case, (4099,))
            tall = [generic, of_one_entry] if is_half else [generic]
        for point in tall:
            with require.during("jax.grad of the layer, outside of jit,"):
                loss = programs.weighted(layer, parameters, point.cotangent)
                found = jax.grad(loss, (0, 1, 2))(*map(as_jax, point.values()))
            gradients.require_gradients(layer, found, point, "jax.grad outside of jit")
    if programs.is_plain(case) and gradients.has_states(dense) and layer.accepts(BATCH):
        point = tall[0]  # a batch, whose rank every module takes here
        with require.during("nnx.grad of the module"):
            states = programs.module_gradients(layer, dense, point.x, point.cotangent)
        for by, state in states.items():
            found = (*gradients.of_state(layer, state, by), point.x)
            gradients.require_gradients(layer, found, point, by, inputs=False)


@requirement("transforms/forward-mode", MUST, PARAMETERS, presumes=[FLOAT32_THROUGHOUT], order=60)
@idle_because("reverse mode transposes the same rules, so gradients are wrong too; this names jvp.")
@rests_on("transforms/gradients")
@over(sizes=programs.FEW_SIZES)
def test_forward_mode(layer: Layer, case: Case) -> None:
    """jvp and linearize agree with tx @ K + x @ tK + tb; the Hessian in x is 0.

    The tangents are along each of kernel, bias and x, and along all of them at once. The transpose
    of the linearized layer gives g K^T: forward and reverse mode are each other's adjoints.
    """
    if not programs.has_forward_mode(layer, case):
        require.not_applicable(
            "its rule is a custom_vjp, which JAX refuses to differentiate in forward mode: see "
            "transforms/forward-mode-offered"
        )
    dense = layer.written(case)
    x, kernel, bias = case.x(), case.kernel(), case.bias()
    cotangent = case.normal("cotangent", *case.lead, case.out_features)
    arithmetic = layer.arithmetic(case.in_features)
    for along, (tk, tb, tx) in gradients.directions(layer, case).items():
        with require.during("jax.jvp, jax.linearize and jax.hessian of the layer"):
            program = programs.forward_mode(layer)
            values, tangents = (kernel, bias, x), (tk, tb, tx)
            found = jax.device_get(program(dense.parameters, values, tangents, cotangent))
        reference = layer.value(x, kernel, bias if layer.convention.use_bias else bias * 0)
        require.near(found["value"], reference, "f(x) by jax.jvp")
        tangent = arithmetic.tangent(x, kernel, tk, tb, tx)
        for by in ("jax.jvp", "jax.linearize"):
            what = f"the derivative along the {along} by {by}"
            require.near(found[by], tangent, what)
        reference = arithmetic.input_gradient(kernel, cotangent)
        what = "the transpose of the linearized layer, applied to g,"
        require.near(found["transpose"], reference, what)
        require.equal(found["hessian"], np.zeros_like(found["hessian"]), "the Hessian in x")
    if programs.is_plain(case):
        with require.during("jax.jvp of the layer, outside of jit,"):
            f = programs.affine(layer)
            at, along_all = (tuple(map(as_jax, each)) for each in (values, tangents))
            _, found = jax.jvp(lambda *v: f(dense.parameters, *v), at, along_all)
        what = "the derivative by jax.jvp outside of jit"
        require.near(found, tangent, what)


@requirement(
    "transforms/forward-mode-offered",
    SHOULD,
    PARAMETERS,
    presumes=[FLOAT32_THROUGHOUT],
    seconds=0.1,
)
@rests_on("transforms/gradients")
@over(sizes=programs.FEW_SIZES[:1], at_most=1)
def test_forward_mode_offered(layer: Layer, case: Case) -> None:
    """The layer can be differentiated in forward mode.

    With only a ``custom_vjp``, ``jax.jvp``, ``jax.linearize`` and ``jax.hessian`` raise.
    """
    if not layer.declared.forward_mode:
        require.not_applicable("the layer declares derivatives in reverse mode only")
    require.that(
        programs.has_forward_mode(layer, case),
        "jax.jvp of the layer raises: it has a custom_vjp and no rule for the forward mode",
        accepted="a derivative in forward mode",
        declare='derivatives = "reverse"',
        cause=Cause("custom-vjp", "the layer has a custom_vjp: write it as a custom_jvp"),
    )


@requirement("transforms/vmap", MUST, PARAMETERS, order=50)
@rests_on("state/exact-state", VALUE, "transforms/gradients")
@over(sizes=programs.FEW_SIZES)
def test_vmap(layer: Layer, case: Case) -> None:
    """vmap over x equals the batched call; over stacked parameters it equals the loop.

    The maps are over the first and the last axis, nested, over parameters alone and together with
    x, along named axes, and around a gradient. Each is compared with the float64 reference.
    """
    x = case.x()
    dense = layer.written(case)
    kernels = case.normal("kernels", 3, *case.kernel_shape)
    biases = case.normal("biases", 3, case.out_features) * layer.convention.use_bias
    cotangent = case.normal("cotangent", *case.lead, case.out_features)
    parameters = dense.parameters
    with require.during("stacking the parameters of three layers"):
        stacked = programs.stacked(layer, parameters, kernels, biases)
    expected = programs.expected_of_maps(layer, case, kernels, biases, cotangent)
    one = expected["over x"]
    with require.during("jax.vmap of the layer"):
        found = programs.mapped(layer)(parameters, stacked, x, cotangent)
    for how, reference in expected.items():
        cause = gradients.of_stack(np.asarray(found[how]), reference, how)
        require.near(found[how], reference, f"jax.vmap {how}", cause=cause)
    if programs.is_plain(case):
        with require.during("jax.vmap of the layer, outside of jit,"):
            # Pass it as an argument: Flax's transforms inside cannot use a closed-over array.
            mapped = jax.vmap(lambda p, row: programs.call(layer, p, row), (None, 0))
            by_rows = mapped(parameters, as_jax(x))
        require.near(by_rows, one, "jax.vmap over x, outside of jit,")
        maps.require_maps_of_parts(layer, case, parameters)
        maps.require_along_names(layer, case, parameters, x, one)


@requirement("transforms/combined", SHOULD, PARAMETERS, wrong_numbers=MUST)
@rests_on(
    *(VALUE, "forward/tall-batch", "transforms/gradients", "transforms/forward-mode"),
    *("transforms/vmap", "dtypes/half-input", "dtypes/integer-input", "dtypes/cast-parameters"),
    *("options/use-bias", "options/dtype", "options/param-dtype", "sharding/eager"),
)
@over(sizes=programs.FEW_SIZES[-1:], at_most=1)
def test_combined(layer: Layer, case: Case) -> None:
    """Value and derivatives are right in every pair of circumstances.

    They are how the layer is made (with ``use_bias``, ``dtype`` or ``param_dtype``, or cast to
    bfloat16), whether it is a copy, the dtype and the leading axes of x, the size, and how it is
    called: under jit by ``jax.vjp``, ``jax.jvp`` and ``jax.vmap`` over x or over layers; outside of
    it on a NumPy array, or on an x that is sharded. Programs with the same operations are computed
    once.
    """
    combinations.require_pairs(layer, case)


@requirement("transforms/scan-and-remat", SHOULD, PARAMETERS, wrong_numbers=MUST)
@rests_on("transforms/vmap", "transforms/gradients")
@over(sizes=[(1, 1), (16, 16)])
def test_scan_and_remat(layer: Layer, case: Case) -> None:
    """scan over stacked square layers equals the loop; remat leaves value and gradients alone.

    The reference composes the layers in float64, and its bound carries the error of each layer
    through the next.
    """
    depth = 3
    scale = case.in_features**-0.5
    kernels = case.normal("kernels", depth, *case.kernel_shape, scale=scale)
    biases = case.normal("biases", depth, case.out_features) * layer.convention.use_bias
    parameters = layer.of(case).parameters
    with require.during("jax.lax.scan over stacked layers"):
        stacked = programs.stacked(layer, parameters, kernels, biases)
        found = programs.scanned(layer)(stacked, case.x())
    arithmetic = layer.arithmetic(case.in_features)
    reference = Bounded(arithmetic.operand(case.x()), np.zeros(case.x_shape))
    for kernel, bias in zip(kernels, biases, strict=True):
        reference = arithmetic.after(reference, kernel, bias)
    require.near(found, reference, f"jax.lax.scan over {depth} layers")
    for point in gradients.points(case, case.lead):
        with require.during(f"the gradient of jax.checkpoint of the layer, {point.where},"):
            found = programs.rematerialized(layer)(parameters, *point.values(), point.cotangent)
        gradients.require_gradients(layer, found, point, "jax.grad of jax.checkpoint")


@requirement("transforms/abstract-forward", MUST, PARAMETERS)
@rests_on("construction/abstract-init", "transforms/jit", "transforms/no-side-effects-in-jaxpr")
@over(leads=True)
def test_abstract_forward(layer: Layer, case: Case) -> None:
    """eval_shape(f) gives the real shape, dtype and weak type, at any size.

    This includes a layer of 10^6 by 10^6, which fits in no memory: finding the shapes must not
    allocate the parameters or the output.
    """
    x = as_jax(case.x())
    dense = layer.of(case)
    parameters = dense.parameters
    with require.during("jax.eval_shape of the layer"):
        abstract = jax.eval_shape(lambda p, x: programs.call(layer, p, x), parameters, x)
    real = dense(x) if layer.accepts(case.lead) else programs.forward(layer)(parameters, x)
    shape = (*case.lead, case.out_features)
    for what, found in (("eval_shape", abstract), ("the call", real)):
        described = jaxprs.described(found)
        expected = f"{layer.convention.returned}{list(shape)}, weak_type=False"
        require.that(described == expected, f"{what} gives {described}", accepted=expected)
    if programs.is_plain(case):
        output_shapes.require_abstract_at_any_size(layer, case)


@requirement("transforms/one-trace", MUST, PARAMETERS)
@rests_on(
    "purity/globals-untouched",
    "transforms/jit",
    "state/call-changes-nothing",
    "state/graphdef-stable",
)
@over(sizes=programs.FEW_SIZES)
def test_one_trace(layer: Layer, case: Case) -> None:
    """One trace serves all instances, seeds and calls of a shape.

    A side effect inside the traced function counts traces, over instances of several seeds, some
    called and written to before. A second trace means that instances differ in more than their
    arrays, and that each of them is compiled again.
    """
    compilation.require_one_trace(layer, case)


@requirement("transforms/no-leaks", SHOULD, PARAMETERS, wrong_numbers=MUST)
@rests_on("forward/zero-input", "state/split-merge", "transforms/jit", "state/call-changes-nothing")
@over(sizes=programs.FEW_SIZES[-1:])
def test_no_leaks(layer: Layer, case: Case) -> None:
    """The layer leaks no tracer (``jax.checking_leaks``) and runs under ``disable_jit``.

    A layer that stores a value of the forward pass keeps a tracer after its trace has ended; using
    it later fails, far from the cause.
    """
    require_no_leaks(layer, case)


@requirement("transforms/compiled-once", SHOULD, ANY)
@rests_on("transforms/one-trace", "seeding/repeatable-call", "state/updates-used")
@over(sizes=programs.FEW_SIZES[-1:], at_most=1)
def test_compiled_once(layer: Layer, case: Case) -> None:
    """Outside of jit, a second call with a shape compiles nothing, and neither do the construction
    and the first call of another instance. A function is called twice with one seed.

    Compiling a function in every call makes the call a hundred times slower. A loop written with
    ``jax.lax.map`` or ``scan`` is compiled in every call outside of jit, and is not counted.
    """
    if PARAMETERS in layer.provides:
        compilation.require_built_once(layer, case)
    compilation.require_compiled_once(layer, case)


@requirement("transforms/traced-first", MUST, PARAMETERS, foundation=True)
@rests_on("construction/builds")
@over(sizes=[compilation.UNUSED], at_most=1)
def test_traced_first(layer: Layer, case: Case) -> None:
    """A layer works outside of traces after its first construction of a size, or its first call of
    an instance, was traced.

    A cache that is filled under a trace holds tracers, which are invalid once the trace has ended.
    """
    compilation.require_usable_after_a_trace(layer, case)


@requirement("transforms/no-side-effects-in-jaxpr", SHOULD, PARAMETERS)
@rests_on("transforms/jit")
@over(leads=True)
def test_no_side_effects_in_jaxpr(layer: Layer, case: Case) -> None:
    """The jaxpr holds no callback, random primitive, effect or parameter-sized constant.

    Neither does the jaxpr of the gradients. A callback prevents export and may not work on
    accelerators; a constant of a parameter's size is a parameter that training and loading do not
    reach.
    """
    compilation.require_pure_programs(layer, case)


@requirement("transforms/donation", MAY, NNX)
@rests_on(
    "transforms/jit",
    "state/instances-independent",
    "construction/kernel-shape",
    "construction/parameter-dtype",
)
@over(sizes=programs.FEW_SIZES)
def test_donation(layer: Layer, case: Case) -> None:
    """Donating the state works, and deletes no array of other instances.

    A step that returns the doubled state may reuse the buffers of its argument; an array that two
    instances share is deleted with the first.
    """
    require_donation(layer, case)


@requirement("transforms/symbolic-batch", MAY, PARAMETERS)
@rests_on("transforms/jit")
@over(sizes=programs.FEW_SIZES)
def test_symbolic_batch(layer: Layer, case: Case) -> None:
    """``jax.export`` with a symbolic batch gives (b, out).

    The exported program is then called with two batches, one of a single row. A batch of two
    symbolic axes can be traced as well.
    """
    parameters = layer.written(case).parameters
    with require.during("jax.export of the layer with a symbolic batch"):
        exported = programs.exported(layer, case, parameters)
    shape = exported.out_avals[0].shape
    expected = f"(b, {case.out_features})"
    found = "(" + ", ".join(map(str, shape)) + ")"
    require.that(found == expected, f"the exported output has shape {found}", accepted=expected)
    if not programs.is_plain(case):
        return
    if layer.accepts((2, 3)):
        compilation.require_traced_with_symbols(layer, case, parameters)
    for x in (case.x(), case.x()[:1]):
        with require.during(f"the exported layer for x of shape {x.shape}"):
            y = exported.call(*jax.tree_util.tree_leaves(parameters), x)
        own = layer.kernel_for(case), layer.bias_for(case)
        telling.require_value(layer, y, x, *own, "f(x) of the exported layer")
