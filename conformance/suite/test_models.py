"""The layer within larger models, in ensembles and stacks, and under inspection."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.checks import require
from conformance.checks.areas import composition, input_dtypes
from conformance.checks.areas.kernels import judge
from conformance.checks.arrays import as_jax
from conformance.checks.cases import Case, over
from conformance.checks.layer import Built, Layer
from conformance.checks.oracle import Bounded
from conformance.checks.require import during
from conformance.contract.requirement import (
    LINEN,
    MUST,
    NNX,
    SHOULD,
    idle_because,
    requirement,
    rests_on,
)
from conformance.errors import Cause, Violation
from conformance.jax_setup.lazy import jax, nnx
from conformance.layers.implementation import existing
from conformance.statistics import Evidence
from conformance.statistics.correlation import linked_seeds
from conformance.statistics.moments import variance

VALUE = "forward/affine-value"
SQUARE = [(16, 16)]


@requirement("models/nnx-submodule", MUST, NNX)
@idle_because(
    "nnx gives a module no context, so a layer that is right alone is right within a "
    "model; this one checks how users combine layers."
)
@rests_on(
    *("state/exact-state", "state/instances-independent", "seeding/siblings-differ"),
    *("purity/input-kept", VALUE),
)
@over(sizes=SQUARE, at_most=1)
def test_nnx_submodule(layer: Layer, case: Case) -> None:
    """As an attribute of another module, in ``nnx.Sequential`` and in ``nnx.List``, the layer's
    paths start with its name there, and its values are those of a layer built alone from the same
    ``nnx.Rngs``.
    """
    n, m = case.kernel_shape
    rngs = nnx.Rngs(case.seed)
    with during("construction of two layers from one Rngs"):
        alone = [composition.nnx_layer(layer, n, m, rngs) for _ in range(2)]
    # Layers may share the streams that they keep, which appear once then.
    flat = [composition.without_streams(Built(layer, module=each).leaves) for each in alone]
    x = as_jax(layer.x_for(case))
    expected = np.asarray(alone[1](alone[0](x)))
    for how, (make, places) in composition.nnx_models(layer, n, m).items():
        with during(f"construction of a model with two layers in {how}"):
            model = make(nnx.Rngs(case.seed))
            leaves = composition.without_streams(composition.leaves(model))
            found = {leaf.path: leaf for leaf in leaves}
        wanted = {
            (*place, *leaf.path): leaf
            for place, own in zip(places, flat, strict=True)
            for leaf in own
        }
        require.that(
            found.keys() == wanted.keys(),
            f"in {how}, the paths are {_dotted(found)}",
            accepted=_dotted(wanted),
        )
        for path, leaf in wanted.items():
            what = f"in {how}, {'.'.join(path)}"
            require.equal(found[path].value, leaf.value, what)
        with during(f"calling a model with two layers in {how}"):
            y = np.asarray(model(x))
        require.equal(y, expected, f"the result of two layers in {how}")


def _dotted(paths: Any) -> str:
    return ", ".join(sorted(".".join(path) for path in paths))


@requirement("models/nnx-transforms", SHOULD, NNX, wrong_numbers=MUST)
@idle_because(
    "the transforms of nnx split and merge modules around those of JAX, which "
    "state/split-merge and the area transforms cover; this one combines them."
)
@rests_on(
    *("models/nnx-submodule", "seeding/vmapped-init", "transforms/scan-and-remat"),
    *("construction/finite", VALUE),
)
@over(sizes=SQUARE, at_most=1)
def test_nnx_transforms(layer: Layer, case: Case) -> None:
    """An ensemble that ``nnx.vmap`` builds over split ``Rngs`` has different members, each with its
    own result; ``nnx.scan`` over them equals the loop; ``nnx.remat`` and ``nnx.cond`` leave the
    result as it is.
    """
    arithmetic = layer.arithmetic(case.in_features)
    # What a scan carries keeps its dtype.
    x, dtype = layer.x_for(case), arithmetic.returned or arithmetic.results
    with during("nnx.vmap of the construction, with split Rngs"):
        models = composition.nnx_ensemble(layer, case, 3)
    if any(leaf.is_stream and not leaf.value.ndim for leaf in composition.leaves(models)):
        require.not_applicable("the members share the stream that they keep, which no axis maps")
    members = composition.members(layer, models, 3)
    kernels = [member.kernel for member in members]
    if not layer.convention.kernel.is_constant():
        require.that(
            len({kernel.tobytes() for kernel in kernels}) == 3,
            "two of three members that nnx.vmap builds have the same kernel",
            accepted="different kernels",
        )
    with during("nnx.vmap, nnx.scan, nnx.remat and nnx.cond of the layer"):
        found = composition.nnx_transformed(models, members[0].module, as_jax(x, dtype))
    each = [layer.value(x, member.kernel, member.bias) for member in members]
    for i, reference in enumerate(each):
        what = f"f(x) of member {i} of nnx.vmap"
        require.near(found["nnx.vmap"][i], reference, what)
    stack = Bounded(arithmetic.operand(x), np.zeros(x.shape))
    for member in members:
        stack = arithmetic.after(stack, member.kernel, member.bias)
    require.near(found["nnx.scan"], stack, "f(x) by nnx.scan over layers")
    for how in ("nnx.remat", "nnx.cond"):
        require.near(found[how], each[0], f"f(x) under {how}")


@requirement("models/linen-submodule", MUST, LINEN)
@rests_on("state/updates-used", "seeding/repeatable-call", VALUE)
@over(sizes=[(3, 10)], at_most=1)
def test_linen_submodule(layer: Layer, case: Case) -> None:
    """Used twice in a parent, in ``setup`` and in a compact call, the layers' paths start with the
    names that the parent gives them, their initial kernels differ for any names, and each computes
    with the parameters at its own path, also after other calls; under
    ``nn.share_scope`` the paths are those of the layer alone.
    """
    x = as_jax(layer.x_for(case))
    flat = layer.written(case)
    for how, (model, names) in composition.linen_models(layer, case).items():
        with during(f"initializing {how}"):
            variables = model.init(jax.random.key(case.seed), x)
        found = {leaf.path for leaf in composition.linen_leaves(variables)}
        wanted = {(*place, *leaf.path) for place in names for leaf in flat.leaves}
        require.that(
            found == wanted, f"in {how}, the paths are {_dotted(found)}", accepted=_dotted(wanted)
        )
        if len(names) == 2 and np.ptp(layer.of(case).kernel) > 0:
            first, second = (
                layer.kernel_of(composition.linen_part(flat, variables, place)) for place in names
            )
            require.that(
                not np.array_equal(first, second),
                f"in {how}, two layers start with the same kernel",
                accepted="different kernels",
                cause=Cause(
                    "key-of-model",
                    "the kernel's key is that of the whole model, and not the layer's own",
                ),
            )
            _require_unrelated(layer, flat, how, model, names, x)
        with during(f"applying {how}"):
            y = model.apply(composition.linen_whole(flat, names), x)
        for result in y if isinstance(y, tuple) else (y,):
            require.equal(result, np.asarray(flat(x)), f"f(x) in {how}")
        if how == composition.CALLS_TWICE and input_dtypes.works_with(layer, "bfloat16"):
            _require_of_own_dtype(flat, model, names, x)
    _require_different_in_blocks(layer, case, flat, x)
    _require_same_under_names(layer, replace(case, out_features=85))


def _require_of_own_dtype(flat: Built, model: Any, names: Any, x: Any) -> None:
    """Require a second call of one layer not to depend on the dtype of the first one's x.

    The layer of the parent is one object for both, and may keep its cast kernel between them.
    """
    for dtype, other in (("bfloat16", "float32"), ("float32", "bfloat16")):
        cast, own = flat.cast(dtype), x.astype(dtype)
        try:
            expected = cast(own)
        except Violation:  # dtypes/cast-parameters reports it
            continue
        with during("applying a parent that calls one layer for two dtypes"):
            y = model.apply(composition.linen_whole(cast, names), own, -x.astype(other))
        what = f"f(x) of {dtype} after a call with an x of {other} in the same apply"
        words = "within one apply, the layer keeps something of the dtype of the first x"
        cause = Cause("kept-of-first-dtype", words)
        accepted = str(expected.dtype)
        right = str(y.dtype) == accepted
        require.that(right, f"{what} is {y.dtype}", accepted=accepted, cause=cause)
        require.equal(y, np.asarray(expected), what, cause=cause)


def _require_different_in_blocks(layer: Layer, case: Case, flat: Built, x: Any) -> None:
    """Require two layers of one name, in two blocks, to start with different kernels.

    Each must compute what the layer alone does.
    """
    model, places = composition.linen_blocks(layer, case)
    with during("initializing a parent of two blocks"):
        variables = model.init(jax.random.key(case.seed), x)
    first, second = (
        np.asarray(layer.kernel_of(composition.linen_part(flat, variables, place)))
        for place in places
    )
    require.that(
        not np.array_equal(first, second) or not np.ptp(first) > 0,
        "in two blocks, the layers of one name start with the same kernel",
        accepted="different kernels",
        cause=Cause(
            "key-of-name", "the kernel's key depends on the layer's own name, not its path"
        ),
    )
    with during("applying a parent of two blocks"):
        results = model.apply(composition.linen_whole(flat, places), x)
    for result in results:
        require.equal(result, np.asarray(flat(x)), "f(x) in a parent of two blocks")


def _require_same_under_names(layer: Layer, case: Case) -> None:
    """Require kernels of the declared variance under the names that people give to layers."""
    seeds = range(case.seed, case.seed + _ALONE)
    alone = [layer.build(*case.kernel_shape, seed=seed) for seed in seeds]
    deviation = math.sqrt(layer.convention.kernel.variance(*case.kernel_shape)) or 1.0

    def of(*kernels: Any) -> Evidence:
        return variance(np.asarray(kernels, np.float64) / deviation)

    drawn = [each.kernel for each in alone]
    if not np.isfinite(drawn).all() or of(*drawn).rejected:
        return  # other requirements report a kernel that is not as declared without a name, too
    names = composition.names_of(layer)
    with during(f"initializing a parent with layers called {', '.join(names)}"):
        x = as_jax(np.zeros((*layer.fewest, case.in_features), np.float32))
        variables = composition.linen_named(layer, case).init(jax.random.key(case.seed), x)
    nested = []
    for name in names:
        kernel = layer.kernel_of(composition.linen_part(alone[0], variables, (name,)))
        if np.isfinite(kernel).all() and not layer.convention.kernel.is_constant():
            cause = Cause("depends-on-name", f"a layer called {name} starts in another way")
            judge([of(kernel)], cause)
            nested.append(kernel)
    # Each may be too small to show a scale of its depth, as in some models of language.
    if nested:
        judge([of(*nested)], Cause("depends-on-depth", "a layer in a parent starts in another way"))


_ALONE = 8
"""So many layers without a name show a law that a single one hides in the noise."""


def _require_unrelated(
    layer: Layer, flat: Built, how: str, model: Any, names: Sequence[tuple[str, ...]], x: Any
) -> None:
    """Require uncorrelated kernels of two layers in one parent, over several seeds."""
    kernels = []
    for seed in range(_PARENTS):
        variables = model.init(jax.random.key(seed), x)
        kernels += [
            layer.kernel_of(composition.linen_part(flat, variables, place)) for place in names
        ]
    drawn = np.stack([np.asarray(kernel, np.float64) for kernel in kernels])
    if np.isfinite(drawn).all():
        pairs = [(2 * i, 2 * i + 1) for i in range(_PARENTS)]
        cause = Cause("kernels-correlated", "kernels of one parent have numbers in common")
        judge([linked_seeds(drawn, pairs, f"the two layers in {how}")], cause)


_PARENTS = 8
"""240 pairs of weights: a correlation of two thirds is ten standard errors."""


@requirement("models/linen-transforms", SHOULD, LINEN, wrong_numbers=MUST)
@idle_because(
    "a layer that fails under one of these also fails in a parent, or under the transform of "
    "JAX that it lifts; this one combines them."
)
@rests_on("models/linen-submodule", "transforms/scan-and-remat")
@over(sizes=SQUARE, at_most=1)
def test_linen_transforms(layer: Layer, case: Case) -> None:
    """Under ``nn.vmap`` and ``nn.scan`` with params along axis 0 and their rngs split, members
    start with different kernels, and the results are those of the members one by one; ``nn.remat``
    leaves the result as it is.
    """
    arithmetic = layer.arithmetic(case.in_features)
    # What a scan carries keeps its dtype.
    x = as_jax(layer.x_for(case), arithmetic.returned or arithmetic.results)
    with during("nn.vmap, nn.scan and nn.remat of the layer"):
        found = composition.linen_transformed(layer, case, x)
    flat = layer.of(case)
    for how, (variables, y) in found.items():
        members = composition.linen_members(flat, variables, how)
        kernels = {member.kernel.tobytes() for member in members}
        require.that(
            len(kernels) == len(members) or layer.convention.kernel.is_constant(),
            f"{len(members)} members of {how} start with {len(kernels)} different kernels",
            accepted=str(len(members)),
            cause=Cause(
                "key-of-model",
                "the kernel's key is that of the whole model, and not the layer's own",
            ),
        )
        values = np.asarray(x, np.float32)
        references = [layer.value(values, each.kernel, each.bias) for each in members]
        if how == "nn.scan":
            stack = Bounded(values, np.zeros(x.shape))
            for each in members:
                stack = arithmetic.after(stack, each.kernel, each.bias)
            references = [stack]
        for reference, result in zip(references, y, strict=True):
            require.near(result, reference, f"f(x) under {how}")


_NO_HASH = Cause(
    "dataclass-eq",
    "@dataclass gives the layer an __eq__, and so no hash: write @dataclass(eq=False)",
)


@requirement("models/inspected", SHOULD, NNX, LINEN)
@rests_on("state/exact-state", "forward/output-shape", "construction/abstract-init")
@over(sizes=[(3, 10)], at_most=1)
def test_inspected(layer: Layer, case: Case) -> None:
    """``repr``, ``nnx.display`` and Linen's ``tabulate`` show the layer; it has a hash, which
    training does not change, and an nnx layer is equal only to itself.

    Attributes called ``in_features`` and ``out_features`` are its sizes. A layer that
    ``nnx.eval_shape`` makes, which has no values yet, is shown as well. Notebooks,
    debuggers and containers rely on this. ``nnx.tabulate`` is left out: in Flax 0.12 it replaces
    the static methods of a class and does not restore them.
    """
    x = as_jax(layer.x_for(case))
    dense = layer.of(case)
    subject = dense.module if dense.module is not None else dense.parameters.static
    hashless = type(subject).__hash__ is None and dataclasses.is_dataclass(subject)
    with during("repr and hash of the layer", _NO_HASH if hashless else ""), _quiet():
        repr(subject), str(subject), hash(subject)  # what they raise is what counts
    if dense.module is None:
        with during("tabulate of the Linen module"), _quiet():
            subject.tabulate(jax.random.key(case.seed), x)
        return
    with during("nnx.display of the layer"), _quiet():
        nnx.display(subject)
    _require_named_sizes(subject, case)
    other = layer.of(case).module
    with during("comparing two layers by =="):
        same, differs = bool(subject == subject), not bool(subject == other)  # meant
    require.that(
        same and differs,
        "two layers of one seed are equal, or a layer is not equal to itself",
        accepted="equality by identity",
        cause=Cause("eq-compares-contents", "__eq__ compares what layers hold"),
    )
    before = hash(subject)
    dense.write(case.kernel(), case.bias())
    require.that(
        hash(subject) == before and subject in {subject},
        "after new values are written, the hash of the layer is another one",
        accepted="a hash that does not depend on the parameters",
        cause=Cause("hash-of-values", "__hash__ is computed from the values of the parameters"),
    )
    construct = existing(layer.implementation.module)
    abstract = nnx.eval_shape(lambda: construct(*case.kernel_shape, nnx.Rngs(case.seed)))
    what = "repr and nnx.display of a layer that nnx.eval_shape makes"
    with during(what, _NEEDS_VALUES), _quiet():
        repr(abstract), str(abstract), nnx.display(abstract)


def _require_named_sizes(module: Any, case: Case) -> None:
    """Require attributes with the names of the sizes, if the module has them, to hold these."""
    for name, size in zip(("in_features", "out_features"), case.kernel_shape, strict=True):
        found = getattr(module, name, size)
        require.that(
            not isinstance(found, int | np.integer) or found == size,
            f"the attribute {name} of the layer is {found}",
            accepted=str(size),
            cause=Cause("sizes-misnamed", "an attribute with the name of a size is another number"),
        )


_NEEDS_VALUES = Cause("shown-by-values", "showing the layer needs the values of its parameters")


@contextlib.contextmanager
def _quiet() -> Any:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
