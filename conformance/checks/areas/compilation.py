"""Checks how often a layer is traced and compiled, and the effects of a trace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from conformance.checks import jaxprs, programs, require
from conformance.checks.areas import gradients
from conformance.checks.areas.mutation import differing_attributes
from conformance.checks.arrays import as_jax
from conformance.checks.cases import BATCH, Case
from conformance.checks.diagnosis.telling import require_value
from conformance.checks.exceptions import TRACER_KEPT
from conformance.checks.layer import Built, Layer
from conformance.checks.require import on_the_way
from conformance.contract.requirement import PARAMETERS
from conformance.errors import Cause, Violation
from conformance.jax_setup.lazy import jax

UNUSED = (67, 69)
"""Neither another check nor the scan uses this size, or the sizes that are one larger."""


def require_one_trace(layer: Layer, case: Case) -> None:
    """Require one trace for all instances, seeds and calls of the case's shape."""
    by_jax, by_nnx = programs.counted(layer, case)
    x, first = as_jax(case.x()), layer.of(case)
    seeds = (case.seed, (case.seed + 1) % 2**32, case.seed ^ 0xFFFFFFFF)
    # A plain object may keep its seed, because programs do not take it as an argument.
    for seed in seeds[:1] if first.plain_object is not None else seeds:
        dense = layer.build(case.in_features, case.out_features, seed)
        for _ in range(2):
            ways = {"jax.jit": (by_jax, dense.parameters)}
            if dense.module is not None and layer.accepts(BATCH):
                ways["nnx.jit"] = (by_nnx, dense.module)
            for how, (counted, subject) in ways.items():
                # nnx.jit moves the arrays of some layers to a mesh. JAX then traces again.
                counted.places.add(_places(dense.parameters))
                with require.during(f"{how} of the layer"):
                    counted(subject, x)
                require.that(
                    counted.traces <= len(counted.places),
                    f"{how} traced the layer again for an instance of seed {seed}",
                    accepted="one trace for all instances, seeds and calls of a shape",
                    cause=differing_attributes(first, dense),
                )
            dense(x if layer.accepts(BATCH) else x[0])
        dense.write(case.kernel(), case.bias())


def _places(parameters: Any) -> tuple[Any, ...]:
    """Return where the arrays lie, by their shardings."""
    return tuple(getattr(leaf, "sharding", None) for leaf in jax.tree_util.tree_leaves(parameters))


def require_program_of_its_own(layer: Layer, case: Case) -> None:
    """Require ``jax.jit`` of each of two plain objects to call that one."""
    x = layer.x_for(case)
    kept: list[Built] = []  # a program is forgotten with its object
    former = np.empty(0)
    for which in ("an object", "another object of its size"):
        kernel, bias = case.kernel() * (-1) ** len(kept), layer.bias_for(case)
        kept.append(layer.build(*case.kernel_shape, case.seed).write(kernel, case.bias()))
        try:
            y = np.asarray(jax.jit(kept[-1].plain_object)(as_jax(x)))
        except Exception:
            return  # it has no hash, or is called in another way
        reference = layer.value(x, kernel, bias)
        words = "__eq__ and __hash__ leave the parameters out, by which JAX finds a program"
        cause = Cause("equal-with-other-values", words) if np.array_equal(y, former) else ""
        what = f"f(x) under jax.jit of {which}"
        require.near(y, reference, what, cause=cause)
        former = y


def require_compiled_once(layer: Layer, case: Case) -> None:
    """Require that a second call outside of jit, and another instance's, compile nothing."""
    leads: tuple[tuple[int, ...], ...] = (BATCH, (2, 4))
    cases = [replace(case, lead=lead) for lead in [*filter(layer.accepts, leads)] or [()]]
    cases = [each for each in cases if not jaxprs.loops(_program(layer, each))]
    if not cases:
        require.not_applicable("it has a loop, which JAX compiles in every call")
    for each in cases:
        _require_compiled_once(layer, each)


def _program(layer: Layer, case: Case) -> Any:
    """Return the jaxpr of a call; a function also constructs its kernel in it."""
    if layer.implementation.forward is None:
        return programs.traced(layer, case)
    x = jax.ShapeDtypeStruct(case.x_shape, np.float32)
    try:
        return jax.make_jaxpr(lambda x: layer.of_function(case.seed, x, case.out_features))(x)
    except Exception:
        require.not_applicable("it cannot be traced: see exercise/differentiable-in-x")


def require_built_once(layer: Layer, case: Case) -> None:
    """Require that the construction of another layer of a size compiles nothing."""
    try:
        construction = jax.make_jaxpr(lambda seed: layer.init(seed, *case.kernel_shape))(
            np.uint32(0)
        )
    except Exception:
        return  # construction/abstract-init reports a layer that cannot be traced
    if jaxprs.loops(construction):
        return
    for seed in (1, 2):
        before = programs.compilations()
        layer.build(*case.kernel_shape, seed=seed)
        found = programs.compilations() - before
    words = "a function is compiled in every construction: jax.jit is applied inside of it"
    require.that(
        found == 0,
        f"the construction of another layer of a size compiles {found} program(s)",
        accepted="none",
        cause="" if jaxprs.conditions(construction) else Cause("compiled-in-construction", words),
    )


def _require_compiled_once(layer: Layer, case: Case) -> None:
    x = as_jax(case.normal("x", *case.x_shape))
    called: list[tuple[str, Any]] = [("the second call", layer.at(case))]
    if PARAMETERS in layer.provides:
        called.append(("a call of another instance", layer.written(case)))
    jax.block_until_ready(called[0][1](x))
    for which, dense in called:
        before = programs.compilations()
        jax.block_until_ready(dense(x))
        found = programs.compilations() - before
        require.that(
            found == 0,
            f"{which} on x of shape {x.shape} compiles {found} program{'s' if found > 1 else ''}",
            accepted="none",
            cause=Cause("compiled-in-call", _why_compiled(_program(layer, case))),
        )


def _why_compiled(program: Any) -> str:
    """Return why a call compiles again what an earlier call has compiled."""
    if jaxprs.conditions(program):
        return "a branch of jax.lax.cond is made in every call, and compiled again"
    if any(each.primitive.name == "pallas_call" for each in jaxprs.equations(program)):
        return "pallas_call makes a new function in every call: call it in a function under jax.jit"
    return "a function is compiled in every call: jax.jit is applied inside of it"


def require_usable_after_a_trace(layer: Layer, case: Case) -> None:
    """Require that a layer that was first traced works outside of traces afterwards."""
    from flax.errors import TraceContextError

    x = layer.x_for(case)
    try:
        programs.traced(layer, case)
    except Violation as violation:
        if violation.cause_id == TRACER_KEPT.id:
            raise
        return  # transforms/jit reports a layer that cannot be traced at all
    dense = layer.of(case)
    cause = Cause(
        "trace-kept",
        "something that was made under a trace is kept, and used after the trace has ended",
    )
    kept = [leaf.name for leaf in dense.leaves if isinstance(leaf.value, jax.core.Tracer)]
    require.that(
        not kept,
        f"a layer that is built after one of its size was traced has an array of that trace as its "
        f"{' and '.join(kept)}",
        accepted="arrays of its own",
        cause=cause,
    )
    dense.write(case.kernel(), case.bias())
    with require.during("jax.make_jaxpr of the first call"):
        try:
            jax.make_jaxpr(dense.raw)(as_jax(x))
        except TraceContextError:
            # Flax lets no outer trace change a variable, as a counter and nnx.jit of a call do. The
            # layer that raised may be incomplete.
            dense = layer.written(case)
            jax.make_jaxpr(layer.apply)(dense.parameters, as_jax(x))
    own = layer.kernel_for(case), layer.bias_for(case)
    try:
        with require.during("calling a layer that was traced before", cause):
            y = np.asarray(dense.raw(x))
        require_value(layer, y, x, *own, "f(x) after a trace")
    except Violation:
        if _is_right_without_a_trace(layer, case):
            raise


def _is_right_without_a_trace(layer: Layer, case: Case) -> bool:
    """Return whether the layer computes x K + b at neighbouring sizes that were not traced."""
    n, m = case.kernel_shape
    control = replace(case, in_features=n + 1, out_features=m + 1)
    x = layer.x_for(control)
    try:
        y = np.asarray(layer.written(control).raw(x))
        require.near(y, layer.value_for(control, x), "f(x)")
    except Exception:  # which other requirements report
        return False
    return True


def traced_gradients(layer: Layer, case: Case) -> Any:
    """Return the jaxpr of the layer and its three gradients; nothing is computed."""
    with on_the_way("tracing the gradients of the layer"):
        parameters = jax.eval_shape(lambda: layer.init(case.seed, *case.kernel_shape))
        values = (case.kernel(), case.bias(), case.x())
        g = np.ones((*case.lead, case.out_features), np.float32)
        return jax.make_jaxpr(programs.pullback(layer))(parameters, *values, g)


def require_pure_programs(layer: Layer, case: Case) -> None:
    """Require jaxprs of the layer and its gradients without callbacks, draws or effects."""
    x = as_jax(case.x())
    parameters = layer.of(case).parameters
    point = next(gradients.points(case, case.lead))
    with require.during("jax.make_jaxpr of the layer"):
        value = jax.make_jaxpr(lambda p, x: programs.call(layer, p, x))(parameters, x)
    with require.during("jax.make_jaxpr of the layer's gradients"):
        backward = jax.make_jaxpr(programs.pullback(layer))(
            parameters, *point.values(), point.cotangent
        )
    for of, jaxpr in (("the layer", value), ("its gradients", backward)):
        found = jaxprs.impurities(jaxpr, case.kernel_shape)
        if layer.convention.streams:  # it declares that it draws in its call
            found = {what: cause for what, cause in found.items() if cause.id != "draws-in-call"}
        cause = next(iter(found.values()), "")
        require.that(
            not found,
            f"the jaxpr of {of} has {', '.join(found)}",
            accepted="no callback, random primitive, effect or constant",
            cause=cause,
        )


def require_traced_with_symbols(layer: Layer, case: Case, parameters: Any) -> None:
    """Require the shape (b, c, out) for an x of shape (b, c, in), where b and c are symbols."""
    # The submodule becomes an attribute of jax when it is imported.
    from jax import export

    lead = export.symbolic_shape("b, c")
    x = jax.ShapeDtypeStruct((*lead, case.in_features), np.float32)
    with require.during("tracing the layer with a symbolic batch of rank 3"):
        y = jax.eval_shape(lambda p, x: programs.call(layer, p, x), parameters, x)
    require.that(
        y.shape == (*lead, case.out_features),
        f"for an x of shape {x.shape} with symbols, the result has shape {y.shape}",
        accepted=f"({lead[0]}, {lead[1]}, {case.out_features})",
    )


def kept_by_shape(layer: Layer, plain: Layer, case: Case, dtype: str) -> str:
    """Return whether a call of a plain layer decides what a layer of a dtype gives for that shape.

    No check calls a layer with batches of these numbers of rows.
    """
    if not layer.accepts((1187,)):
        return ""
    new, known = (as_jax(np.ones((rows, case.in_features), np.float32)) for rows in (1187, 1193))
    dense, before = layer.written(case), plain.written(case)(known)
    if (str(dense(new).dtype), dense(known).dtype) != (dtype, before.dtype):
        return ""
    words = "a function that was compiled for one layer is kept, and used for other options, too"
    return Cause("program-of-another", f"{words}: add the options to the key by which it is kept")
