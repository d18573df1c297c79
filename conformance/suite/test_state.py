"""The state of an nnx layer: what it holds, what reads it, and what may change it."""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
from dataclasses import replace

import numpy as np

from conformance.checks import profiles, recording, require
from conformance.checks.areas.another_process import PICKLED, require_unpickled
from conformance.checks.areas.mutation import (
    differing_attributes,
    require_copied,
    require_forgotten,
    require_same_arrays,
    require_unchanged,
    require_unchanged_variables,
    unhashable_attributes,
    unpicklable_attributes,
)
from conformance.checks.areas.sequences import require_in_any_order
from conformance.checks.arrays import as_jax
from conformance.checks.cases import BATCH, SMALL, Case, over
from conformance.checks.diagnosis.parameters import (
    LAZY,
    are_refused_in_a_call,
    declaring,
    raw_array,
    why_absent,
    why_not_param,
)
from conformance.checks.diagnosis.stale_values import (
    require_fresh,
    require_fresh_of_whole,
    require_read_again,
    require_written,
    values_before,
)
from conformance.checks.layer import Built, Layer
from conformance.checks.programs import FEW_SIZES
from conformance.checks.require import during
from conformance.contract.requirement import (
    MAY,
    MUST,
    NNX,
    PARAMETERS,
    SHOULD,
    idle_because,
    requirement,
    rests_on,
)
from conformance.errors import Cause, Violation, id_of
from conformance.jax_setup.lazy import jax, jnp, nnx
from conformance.layers.storage import Joined


@requirement("state/exact-state", MUST, NNX, declared=True, foundation=True, order=-170)
@idle_because(
    "a wrong state also shows in training, in transformations or after a call; this one "
    "names the fault."
)
@rests_on("construction/ready-when-built")
@over(every_size=False)
def test_exact_state(layer: Layer, case: Case) -> None:
    """``nnx.state(layer)`` holds kernel and bias, each an ``nnx.Param``, and nothing else.

    On recent versions of Flax a raw array is a leaf of the state as well. The check therefore uses
    the filter ``nnx.Param``, which is how the optimizer and ``nnx.grad`` find parameters.
    """
    dense = layer.of(case)
    raw = [name for name, value in vars(dense.module).items() if isinstance(value, jax.Array)]
    with during("nnx.split of the layer", cause=raw_array(raw) if raw else ""):
        nnx.split(dense.module)
    leaves = dense.leaves
    listed = ", ".join(map(str, leaves)) or "nothing"
    extra = layer.declared.extra_state
    wrong = [
        leaf for leaf in leaves if leaf.kind != "Param" and not any(map(leaf.is_called, extra))
    ]
    cause = why_not_param(wrong, leaves, layer.convention.use_bias) if wrong else ""
    if not leaves or id_of(cause) == "parameter-hidden":
        cause = LAZY if are_refused_in_a_call(dense, layer.x_for(case)) else cause
    require.that(
        not wrong,
        f"the state is {listed}",
        accepted="kernel and bias, each an nnx.Param",
        cause=cause,
        declare=declaring(layer, wrong),
    )
    joined = isinstance(layer.seen.storage, Joined)
    wanted = 2 if layer.convention.use_bias and not joined else 1
    require.that(
        len(leaves) >= wanted,
        f"the state is {listed}",
        accepted="kernel and bias, each an nnx.Param",
        cause=cause or why_absent([np.shape(leaf.value) for leaf in leaves], case.kernel_shape),
    )


@requirement("state/optimizer-sees-both", MUST, NNX, order=70)
@idle_because(
    "``state/exact-state`` checks that the optimizer finds both, and "
    "``transforms/gradients`` checks what moves them; this one combines them as users "
    "do."
)
@rests_on(
    "construction/only-two-parameters",
    "construction/finite",
    "construction/parameter-dtype",
    "state/exact-state",
    "state/instances-independent",
    "state/updates-used",
    "forward/affine-value",
    "transforms/gradients",
)
@over(sizes=[SMALL], at_most=1)
def test_optimizer_sees_both(layer: Layer, case: Case) -> None:
    """A step of an ``nnx.Optimizer`` over ``nnx.Param`` moves kernel and bias, and training halves
    the loss.

    In least squares with condition number c, gradient descent with the step 1/L multiplies the
    error by 1 - 1/c: c steps leave less than exp(-2) of a loss whose minimum is 0.
    """
    if layer.seen.frozen:
        require.not_applicable(f"it does not train {' and '.join(layer.seen.frozen)}")
    import optax

    from conformance.jax_setup.compat import gradient_step, optimizer

    inputs, dense = case.normal("x", 16, case.in_features), layer.of(case)
    x, y = as_jax(inputs), as_jax(inputs @ case.kernel() + layer.bias_for(case))
    design = np.hstack([inputs, np.ones((16, 1))]) if layer.convention.use_bias else inputs
    curvature = np.linalg.eigvalsh(2 * design.T @ design / y.size)
    steps = int(np.ceil(curvature[-1] / curvature[0]))

    def loss(module: nnx.Module) -> jax.Array:
        # A layer that takes vectors only is mapped over the batch.
        found = layer.through(module, x) if layer.accepts(BATCH) else jax.vmap(module)(x)
        return jnp.mean((found - y) ** 2)

    kernel, bias = dense.kernel, dense.bias
    with during("training the layer with nnx.Optimizer"):
        training = optimizer(dense.module, optax.sgd(1 / curvature[-1]))
        first = float(loss(dense.module))
        value_and_grad = nnx.jit(nnx.value_and_grad(loss))
        for step in range(min(steps, 30)):
            _, gradients = value_and_grad(dense.module)
            gradient_step(training, dense.module, gradients)
            if step == 0:
                moved = {
                    "kernel": bool(np.any(dense.kernel != kernel)),
                    "bias": bool(np.any(dense.bias != bias)) or not layer.convention.use_bias,
                }
        last = float(loss(dense.module))
    for name, has_moved in moved.items():
        require.that(
            has_moved,
            f"a step of the optimizer leaves the {name} as it was",
            accepted=f"another {name}",
            cause=Cause("not-trained", f"the {name} gets no gradient, or is not in the optimizer"),
        )
    # In a product of parameters, as in LoRA, the loss is not quadratic, so 1/L is not its step.
    require.that(
        steps > 30 or layer.seen.extra_parameters or last <= 0.5 * first,
        f"training takes the loss from {first:.4g} to {last:.4g}",
        accepted=f"<= {0.5 * first:.4g}",
    )


@requirement("state/split-merge", MUST, NNX)
@idle_because(
    "the functional view and copies are made by splitting and merging; this one names the fault."
)
@rests_on("state/exact-state", "seeding/repeatable-call", "state/call-changes-nothing")
@over(every_size=False)
def test_split_merge(layer: Layer, case: Case) -> None:
    """``nnx.merge(*nnx.split(layer))`` computes the same, before and after parameters change."""
    dense, x = layer.written(case), layer.x_for(case)
    plain = np.asarray(dense(x))
    with during("nnx.merge of nnx.split"):
        merged = nnx.merge(*nnx.split(dense.module))
    require.equal(Built(layer, module=merged)(x), plain, "f(x) after split and merge")


@requirement("state/updates-used", MUST, PARAMETERS, order=-40)
@idle_because("every check that writes values needs them used; this one names the fault.")
@rests_on("forward/zero-input", "state/exact-state", "state/split-merge")
@over()
def test_updates_used(layer: Layer, case: Case) -> None:
    """Values written into the parameters are what the forward uses, kernel and bias alike.

    Values are written by ``nnx.update`` and one by one into the Params of a layer that was called
    before, and into the functional view. A fault shows as the result of the values from
    construction.
    """
    dense, x = layer.of(case), layer.x_for(case)
    kernel, bias = layer.kernel_for(case), layer.bias_for(case)
    constructed = dense.kernel, dense.bias
    # One array, as for a validation set: a layer may keep the result of each.
    same = as_jax(x)
    dense(same)
    for values in values_before(kernel, bias):
        dense.write(*values)
        dense(same)
    found = np.asarray(dense.write(kernel, bias)(same))
    require_read_again(layer, case, dense, x, found)
    require_fresh(layer, case, x, found, "after nnx.update", constructed)
    require_fresh_of_whole(layer, case, dense, x)
    with during("applying written parameters"):
        written = layer.write(layer.of(case).parameters, as_jax(kernel), as_jax(bias))
        found = layer.apply(written, as_jax(x))
    require_fresh(layer, case, x, np.asarray(found), "with replaced parameters", constructed)
    if dense.module is not None and case.kernel_shape == FEW_SIZES[-1]:
        _require_held(layer, case)


# A kernel and a bias of this scale are beyond the usual limits of weights.
_LARGE = 1e4


def _require_held(layer: Layer, case: Case) -> None:
    """Require the Params to hold the values that they are set to, one by one."""
    from conformance.jax_setup.compat import set_value

    dense, donor = layer.of(case), layer.written(case, _LARGE)
    found = [
        (leaf, functools.reduce(lambda at, step: getattr(at, step, None), leaf.path, dense.module))
        for leaf in donor.leaves
    ]
    if not all(isinstance(variable, nnx.Variable) for _, variable in found):
        return  # one of them is in a container, not an attribute
    for leaf, variable in found:
        if isinstance(variable, nnx.Param) or ".".join(leaf.path) in layer.seen.frozen:
            with during(f"setting the value of the Param {'.'.join(leaf.path)}"):
                set_value(variable, leaf.value)
    cause = Cause("value-changed-when-set", "a Param changes the values that it is set to")
    what = "of a Param that was set to a large value"
    require.equal(dense.kernel, donor.kernel, f"the kernel {what}", cause=cause)
    require.equal(dense.bias, donor.bias, f"the bias {what}", cause=cause)


@requirement("state/any-order", MUST, PARAMETERS, order=110)
@idle_because("others check each use alone; this one finds what a use leaves for a later one.")
@rests_on(
    *("state/updates-used", "state/call-changes-nothing", "state/split-merge", "state/exact-state"),
    "state/instances-independent",
    *("forward/affine-value", "forward/array-likes", "seeding/repeatable-call"),
    *("dtypes/half-input", "dtypes/integer-input", "dtypes/cast-parameters"),
    *("transforms/jit", "transforms/gradients", "transforms/no-leaks", "transforms/vmap"),
    *("construction/abstract-init", "numerics/precision-followed", "purity/globals-untouched"),
)
def test_any_order(layer: Layer) -> None:
    """In any order of ordinary uses, f(x) follows from the layer's present kernel and bias.

    Random sequences change three layers, of two sizes, between calls of every kind: new values for
    both parameters or one of them, steps of training, ``train()`` and ``eval()``, copies, casts,
    calls that raise, models made under a trace. Calls are eager and traced, with and without
    gradients, for x of rank 1 to 4 and several dtypes. A sequence that fails is shortened.
    """
    profile = profiles.active()
    case = recording.current().draw(Case(3, 10, 0, profile.seed or 0))
    require_in_any_order(layer, case, times=max(1, min(profile.examples, 100) // 10))


@requirement("state/instances-independent", MUST, NNX)
@rests_on("state/exact-state", "seeding/same-seed-same-bits")
@over(sizes=FEW_SIZES)
def test_instances_independent(layer: Layer, case: Case) -> None:
    """Two instances share nothing; changing a clone or a deep copy leaves the original."""
    first, second = layer.of(case), layer.of(case)
    with during("nnx.clone and copy.deepcopy"):
        others = {
            "another instance": second,
            "its clone": Built(layer, module=nnx.clone(first.module)),
            "its deep copy": Built(layer, module=copy.deepcopy(first.module)),
        }
    kernel, bias, x = first.kernel.copy(), first.bias.copy(), layer.x_for(case)
    plain = np.asarray(first(x))
    for what, other in others.items():
        other.write(case.kernel() + 1, case.bias() + 1)
        other(x)
        cause = Cause("parameters-shared", f"the parameters are shared with {what}")
        require.equal(first.kernel, kernel, f"after writing into {what}, the kernel", cause=cause)
        require.equal(first.bias, bias, f"after writing into {what}, the bias", cause=cause)
        require.equal(first(x), plain, f"after writing into {what}, f(x)", cause=cause)


@requirement("state/graphdef-stable", MUST, NNX, order=-65)
@idle_because(
    "``transforms/one-trace`` counts compilations; this one names the graphdefs as the reason."
)
@rests_on("state/exact-state", "state/call-changes-nothing")
@over(sizes=FEW_SIZES)
def test_graphdef_stable(layer: Layer, case: Case) -> None:
    """The graphdefs of layers of one size are equal, and hash equal, for all seeds.

    ``nnx.jit`` compiles again for every new graphdef.
    """
    seeds = (case.seed, (case.seed + 1) % 2**32, 7)
    instances = [layer.build(*case.kernel_shape, seed=seed) for seed in seeds]
    try:
        with during("nnx.split and the hash of the graphdef"):
            graphdefs = [nnx.split(instance.module)[0] for instance in instances]
            hashes = {hash(graphdef) for graphdef in graphdefs}
            same = all(graphdef == graphdefs[0] for graphdef in graphdefs)
    except Violation as violation:
        if "unhashable type" in str(violation):
            violation.because(unhashable_attributes(instances[0]))
        raise
    require.that(
        same and len(hashes) == 1,
        "layers of one size and different seeds have different graphdefs",
        accepted="equal graphdefs",
        cause=differing_attributes(*instances[:2]),
    )


@requirement("state/replaceable", MAY, NNX)
@rests_on("state/updates-used")
@over(sizes=[(3, 10)], at_most=1)
def test_replaceable(layer: Layer, case: Case) -> None:
    """The forward uses a Param that is replaced, as in ``layer.kernel = other.kernel``.

    Adapters and quantizers replace Params; a second reference would keep the old one in use.
    """
    dense, other, x = layer.of(case), layer.written(case), layer.x_for(case)
    dense(x)
    for leaf in other.leaves:
        owner, donor = dense.module, other.module
        for step in leaf.path[:-1]:
            owner, donor = getattr(owner, step, None), getattr(donor, step, None)
        name = leaf.path[-1]
        if not hasattr(donor, name):
            require.not_applicable(f"{'.'.join(leaf.path)} is in a container, not an attribute")
        with during(f"assigning the {name} of another layer"):
            setattr(owner, name, getattr(donor, name))
    reference = layer.value_for(case, x)
    cause = Cause(
        "name-other-than-used", "the forward uses another array than the Param of that name"
    )
    what = "f(x) with the Params of another layer assigned"
    require.near(dense(x), reference, what, cause=cause)


@requirement("state/call-changes-nothing", MUST, PARAMETERS, foundation=True, ground=True)
@rests_on("state/exact-state")
@over(every_size=False)
def test_call_changes_nothing(layer: Layer, case: Case) -> None:
    """A call leaves the bytes of every leaf and all static values as they were."""
    dense, x = layer.of(case), layer.x_for(case)
    if layer.implementation.linen is not None:
        require_unchanged_variables(layer.written(case), x)
        return
    # A layer may repair its parameters when values are large or not finite.
    strange = x.copy()
    strange[..., 0] = np.nan
    strange[..., -1] = np.inf
    require_unchanged(dense, [x, x, x, strange], "a call")
    dense.write(case.kernel(1e6), case.bias(1e6))
    require_unchanged(dense, [x, strange], "a call with large parameters")
    if case.kernel_shape == (3, 10):
        wider = np.ones(case.in_features + 1, np.float32)
        before, again = np.asarray(dense(x)), np.asarray(dense(x))
        require_unchanged(dense, [wider], "a call that raises", raising=True)
        if before.tobytes() == again.tobytes():
            after, words = np.asarray(dense(x)), "a call that raises leaves something behind"
            is_left = after.tobytes() != before.tobytes() and _recurs(layer, case, x, after)
            cause = Cause("left-by-a-raise", words) if is_left else ""
            require.equal(after, before, "f(x) after a call that raises", cause=cause)
        others = [x.astype(jnp.bfloat16), x.astype(np.int32)]
        require_unchanged(dense, others, "a call on another dtype", raising=True)
        require_forgotten(dense, x)


def _recurs(layer: Layer, case: Case, x: np.ndarray, wrong: np.ndarray) -> bool:
    """Return whether a new layer is wrong in this way after a call that raises, and right after as
    many calls that do not.
    """
    found = []
    for width in (case.in_features, case.in_features + 1):
        dense = layer.of(case).write(case.kernel(1e6), case.bias(1e6))
        for _ in range(4):
            dense(x)
        with contextlib.suppress(Violation):
            dense(np.ones(width, np.float32))
        found.append(np.array_equal(dense(x), wrong, equal_nan=True))
    return found == [False, True]


@requirement("state/pickles", SHOULD, PARAMETERS, wrong_numbers=MUST, order=20)
@rests_on(
    *("state/exact-state", "state/split-merge", "state/updates-used"),
    "seeding/repeatable-call",
    "state/call-changes-nothing",
    "state/graphdef-stable",
    "seeding/same-across-processes",
)
@over(sizes=FEW_SIZES)
def test_pickles(layer: Layer, case: Case) -> None:
    """The layer computes the same after a round trip through pickle, or a deep or shallow copy, its
    parameters are still parameters, and new values of these are used.

    The same holds if another process unpickles an nnx layer: it shares only the bytes with this
    one. A Linen module is pickled without its parameters. An object without a framework may refuse.
    """
    from conformance.jax_setup.compat import kept_closure

    dense, x = layer.written(case), layer.x_for(case)
    if dense.module is None and layer.implementation.linen is None:
        require_copied(dense, x)
        return
    subject = dense.module if dense.module is not None else dense.parameters.static
    closure = kept_closure(subject)
    if closure:
        require.not_applicable(f"{closure} is a closure in this version of JAX and cannot pickle")
    plain = np.asarray(dense(x))
    try:
        with during("pickling the layer"):
            copies = {
                "pickling": pickle.loads(pickle.dumps(subject)),
                "a deep copy": copy.deepcopy(subject),
                "a shallow copy": copy.copy(subject),
            }
    except Violation as violation:
        raise violation.because(unpicklable_attributes(dense)) from violation
    for what, copied in copies.items():
        if dense.module is not None:
            new = Built(layer, module=copied)
        else:
            new = Built(layer, parameters=replace(dense.parameters, static=copied))
        require.equal(new(x), plain, f"f(x) after {what}")
        require_same_arrays(new, dense, f"after {what}, the layer")
        if dense.module is not None:
            require_written(new, case, x, what)
    if dense.module is not None and case.kernel_shape == PICKLED.kernel_shape:
        require_unpickled(layer)
