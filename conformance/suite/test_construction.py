"""The parameters of a new layer: shapes, dtypes, values and sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from conformance.checks import recording, require
from conformance.checks.areas import composition, meshes, output_shapes
from conformance.checks.areas.extreme_bits import RARELY_DRAWN, require_finite_for_extreme_bits
from conformance.checks.areas.kernels import case_of, samples
from conformance.checks.areas.mapped_draws import describable
from conformance.checks.arrays import as_jax
from conformance.checks.cases import BATCH, Case, over
from conformance.checks.diagnosis import shapes, telling, wrong_values
from conformance.checks.diagnosis.differences import (
    require_bias_shape,
    require_kernel_shape,
    require_one_kernel,
)
from conformance.checks.diagnosis.parameters import (
    LAZY,
    NO_ONE_KERNEL,
    NUMPY,
    all_are_used,
    declaring,
    declaring_beside,
    named,
    require_both,
    values_beside_arrays,
    why_no_arrays,
)
from conformance.checks.layer import Built, Layer
from conformance.checks.once import once_per_layer
from conformance.checks.require import during
from conformance.checks.scan.edges import NEW, at_edges
from conformance.contract.requirement import (
    ANY,
    MAY,
    MUST,
    NNX,
    PARAMETERS,
    SHOULD,
    idle_because,
    requirement,
    rests_on,
)
from conformance.errors import Cause, Violation, safe_text
from conformance.jax_setup.lazy import jax
from conformance.layers.adapters.parameters import Leaf
from conformance.layers.implementation import existing

_HUGE = (2048, 2048)
"""A size too large to build here; a construction that loops in Python is traced in seconds."""

_ROUNDED_SCALE = 2.0**-20
"""16 u: the scale may be computed in float64 for one kind of integer and in float32 for another,
where the square root, the quotient and the product each round by u = 2^-24 or less."""


@requirement("construction/builds", MUST, ANY, foundation=True, order=-190, seconds=3.0)
@idle_because("a layer that cannot be built fails every check; this one names the fault.")
@over(at_most=2)
def test_builds(layer: Layer, case: Case) -> None:
    """Construction succeeds for all sizes in, out >= 1."""
    try:
        if layer.implementation.forward is None:
            layer.of(case)
        else:
            # Calls of one seed with another x are checked by exercise/any-length.
            seed = (case.seed + 1000 * case.in_features) % 2**32
            layer.forward(seed, np.ones(case.in_features, np.float32), case.out_features)
    except Violation as violation:
        cause = (
            ("shard" in violation.found and meshes.of_annotations(layer, case))
            or wrong_values.of_building(violation.found)
            or shapes.of_first_axis(layer, case)
            or shapes.of_inputs_bias(layer, case)
            or shapes.of_fixed_width(layer, case)
        )
        violation.accepted += output_shapes.ranks_to_declare(layer, case)
        raise violation.because(cause) from violation


@requirement("construction/ready-when-built", MUST, NNX)
@idle_because("without parameters nothing can be read or written; this one names the fault.")
@rests_on("construction/builds")
@over(every_size=False)
def test_ready_when_built(layer: Layer, case: Case) -> None:
    """The parameters exist before the first call.

    An optimizer that is made before the first call does not see parameters created by that call.
    """
    dense = layer.of(case)
    before = _params(dense)
    with contextlib.suppress(Violation):  # other requirements check whether it can be called
        dense(np.ones((*layer.batch, case.in_features), np.float32))
    late = [name for name in _params(dense) if name not in before]
    require.that(
        not late,
        f"the first call creates {', '.join(late)}",
        accepted="all parameters exist after construction",
        cause=LAZY,
    )


def _params(dense: Built) -> list[str]:
    return [".".join(leaf.path) for leaf in dense.leaves if leaf.kind == "Param"]


@requirement("construction/only-two-parameters", MUST, PARAMETERS, foundation=True, order=-160)
@rests_on("construction/builds", "state/exact-state")
@over(every_size=False)
def test_only_two_parameters(layer: Layer, case: Case) -> None:
    """The parameters are exactly kernel and bias: in*out + out numbers.

    The check counts every Param of an nnx module, every variable of a Linen module and every array
    of a pure function. ``state/exact-state`` checks the leaves that are not Params. What the
    functions of a description write is what they read.
    """
    dense = layer.of(case)
    held = values_beside_arrays(dense.leaves)
    cause = why_no_arrays(held, case.kernel_shape)
    shown = {
        name: "a function" if callable(values[0]) else safe_text(values, 60)
        for name, values in held.items()
    }
    found = "; ".join(f"{name} holds {text}" for name, text in shown.items())
    require.that(not cause, found, accepted="arrays", cause=cause)
    try:
        require_both(dense)
    except Violation as violation:
        raise violation.because(NO_ONE_KERNEL if layer.has_no_one_kernel else "") from violation
    try:
        layer.written(case)
    except Violation as violation:
        if violation.cause_id == "not-written":
            raise violation.because(violation.cause) from violation
    require_one_kernel(layer)
    leaves = dense.leaves
    if dense.module is not None:
        leaves = [leaf for leaf in leaves if leaf.kind == "Param"]
    # A class without a framework may keep the key that it was given.
    leaves = [leaf for leaf in leaves if not leaf.is_stream]
    extra = (*layer.declared.extra_parameters, *layer.declared.extra_state)
    leaves = [leaf for leaf in leaves if not any(map(leaf.is_called, extra))]
    expected = 2 if layer.convention.use_bias else 1
    listed = ", ".join(map(str, leaves))
    if len(leaves) > expected and dense.module is None and all_are_used(layer):
        return  # the kernel is computed from more than one of them
    astray = [leaf for leaf in leaves if leaf.kind not in ("Param", "params", "Array")]
    require.that(
        not astray,
        f"the layer keeps {', '.join(map(str, astray))}",
        accepted="only the collection 'params'",
        cause=Cause("collection-other", "a variable is in another collection than 'params'"),
        declare=declaring(layer, astray) if astray and _are_data_free(layer, case, astray) else "",
    )
    expected -= len(layer.seen.frozen)
    others = [leaf for leaf in leaves if leaf.name not in (*layer.convention.parameter_names,)]
    whole = [leaf for leaf in others if np.asarray(leaf.value).dtype.kind in "iub"]
    require.that(
        not whole or layer.implementation.module is None,
        f"the layer has {len(leaves)} parameters: {listed}",
        accepted="kernel and bias alone; integers have no gradient",
        cause=Cause(
            "parameter-integer",
            f"{', '.join('.'.join(leaf.path) for leaf in whole)} holds integers, which cannot be "
            "trained: a plain attribute or another Variable than nnx.Param keeps them",
        ),
    )
    beside = ", ".join(".".join(leaf.path) for leaf in others)
    which = "a parameter" if len(others) == 1 else "parameters"
    require.that(
        len(leaves) <= expected,
        f"the layer has {len(leaves)} parameters: {listed}",
        accepted=f"{' and '.join(('kernel', 'bias')[:expected]) or 'no other'} alone",
        declare=declaring_beside(layer, others),
        cause=Cause("parameter-more", f"the layer has {which} beside kernel and bias: {beside}"),
    )


@requirement(
    "construction/kernel-shape", MUST, PARAMETERS, declared=True, foundation=True, order=-150
)
@idle_because("every check that writes a kernel fails on a wrong shape; this one names the fault.")
@rests_on("construction/only-two-parameters")
@over(at_most=2)
def test_kernel_shape(layer: Layer, case: Case) -> None:
    """The kernel has the shape (in, out)."""
    _require_kernel_shape_at_distinct_sizes(layer)
    require_kernel_shape(layer, recording.current().draw(case))


def _are_data_free(layer: Layer, case: Case, leaves: Sequence[Leaf]) -> bool:
    """Return whether these leaves of a Linen layer are the same for another example input."""
    construct = existing(layer.implementation.linen)
    example = np.full((*layer.fewest, case.in_features), 3, np.float32)
    with during("init with an example input of threes"):
        found = construct(*case.kernel_shape).init(jax.random.key(case.seed), as_jax(example))
    values = {leaf.path: leaf.value for leaf in composition.linen_leaves(found)}
    return all(
        leaf.path in values and np.array_equal(values[leaf.path], leaf.value) for leaf in leaves
    )


_TELLING = Case(3, 10)
"""Two different sizes, both larger than 1: equal sizes hide a transposed shape."""


@once_per_layer()
def _require_kernel_shape_at_distinct_sizes(layer: Layer) -> None:
    require_kernel_shape(layer, recording.current().draw(_TELLING))


@requirement(
    "construction/bias-shape", MUST, PARAMETERS, declared=True, foundation=True, order=-140
)
@idle_because(
    "every check that adds or writes the bias fails on a wrong shape; this one names the fault."
)
@rests_on("construction/only-two-parameters", "construction/kernel-shape")
@over(at_most=2)
def test_bias_shape(layer: Layer, case: Case) -> None:
    """The bias has the shape (out,)."""
    if not layer.declared.use_bias:
        require.not_applicable("the layer declares that it has no bias")
    _require_bias_shape_at_distinct_sizes(layer)
    require_bias_shape(layer, recording.current().draw(case))


@once_per_layer()
def _require_bias_shape_at_distinct_sizes(layer: Layer) -> None:
    try:
        require_bias_shape(layer, recording.current().draw(_TELLING))
    except Violation as violation:
        # A Linen layer that cannot be built there may be built at sizes that broadcast.
        if not violation.obstacle:
            raise


@requirement("construction/parameter-dtype", MUST, PARAMETERS, order=-130)
@rests_on("construction/only-two-parameters", "state/exact-state")
@over(every_size=False)
@at_edges(NEW)
def test_parameter_dtype(layer: Layer, case: Case) -> None:
    """The parameters are ``jax.Array``, float32, and not weakly typed.

    With 64-bit types enabled, an array that is made without a dtype is float64;
    ``dtypes/x64-stable`` reports that.
    """
    expected, seen = layer.declared.parameter_dtype, layer.convention.parameter_dtype
    accepted = ("float32", "float64") if expected == "float64" else (expected,)
    line = f'parameter_dtype = "{seen}"' if seen != expected else ""
    for name, value in named(layer, layer.of(case).parameters).items():
        kind = f"{type(value).__module__}.{type(value).__name__}"
        require.that(
            isinstance(value, jax.Array),
            f"the {name} is a {kind}",
            accepted="a jax.Array",
            cause=NUMPY if isinstance(value, np.ndarray) else "",
        )
        require.that(
            str(value.dtype) in accepted,
            f"the {name} is {value.dtype}",
            accepted=" or ".join(accepted),
            declare=line,
            cause=Cause("parameter-dtype", f"the {name} is created in {value.dtype}"),
        )
        require.that(
            not value.weak_type,
            f"the {name} is weakly typed",
            accepted="a strong type",
            cause=Cause("parameter-weak", f"the {name} is made of a Python number"),
        )
    _require_abstract_dtypes(layer, seen)


@once_per_layer()
def _require_abstract_dtypes(layer: Layer, expected: str) -> None:
    """Require the dtypes at a size that is too large to build, by ``jax.eval_shape``."""
    try:
        abstract = jax.eval_shape(lambda: layer.init(0, *_HUGE))
        found = jax.eval_shape(lambda parameters: named(layer, parameters), abstract)
    except Exception:
        return  # abstract-init reports a construction that cannot be described
    for name, value in found.items():
        require.that(
            str(value.dtype) == expected or expected == "float64",
            f"the {name} of a layer of {_HUGE[0]} by {_HUGE[1]} is {value.dtype}",
            accepted=expected,
            cause=Cause("dtype-by-size", f"the {name} is {value.dtype} beyond some size"),
        )


@requirement("construction/finite", MUST, PARAMETERS, order=-120, seconds=0.9)
@rests_on("construction/builds", "construction/kernel-shape")
@over()
@at_edges(NEW)
def test_finite(layer: Layer, case: Case) -> None:
    """Every parameter is finite, for every seed and size.

    The check also looks at the hundreds of thousands of entries drawn for the initialization
    requirements, where rare values occur, and at kernels drawn from the generator's extreme bits.
    """
    dense = layer.of(case)
    for name, value in (("kernel", dense.kernel), ("bias", dense.bias)):
        wrong = ~np.isfinite(value.astype(np.float64))
        require.that(
            not wrong.any(),
            f"{int(wrong.sum())} of {value.size} entries of the {name} are not finite "
            f"with in_features={case.in_features}",
            accepted="finite entries",
            cause=telling.of_not_finite(layer, case) if name == "kernel" and wrong.any() else "",
        )
    _require_finite_samples(layer)


_RARE = 1e-3
"""A value of a generator that occurs more often is not rare."""


@once_per_layer()
def _require_finite_samples(layer: Layer) -> None:
    drawn = samples(layer)
    wrong = {size: int((~np.isfinite(kernels)).sum()) for size, kernels in drawn.items()}
    first = next((size for size, count in wrong.items() if count), None)
    if first is not None:
        count, total = sum(wrong.values()), sum(kernels.size for kernels in drawn.values())
        recording.current().draw(case_of(first))
        require.fail(
            f"{count} of {total} entries of new kernels are not finite, first at {first}",
            accepted="finite entries",
            cause=RARELY_DRAWN
            if count < _RARE * total
            else telling.of_many_not_finite(drawn[first].ravel()),
        )
    if not layer.is_factored:  # equal bits may be a direction of zeros, which has no length
        require_finite_for_extreme_bits(layer)


@requirement("construction/abstract-init", MUST, PARAMETERS)
@idle_because(
    "a construction that cannot be traced cannot be compiled either, and its forward "
    "cannot be traced; this one names the fault."
)
@rests_on(
    "construction/kernel-shape",
    "construction/bias-shape",
    "construction/parameter-dtype",
    "state/exact-state",
    "seeding/global-rng-ignored",
)
@over(up_to=10**6, every_size=False, also=[((10**6, 10**6), BATCH)])
def test_abstract_init(layer: Layer, case: Case) -> None:
    """``jax.eval_shape`` of construction gives the real shapes, dtypes and paths.

    It does so up to 10^6 x 10^6 without allocating. Large models are laid out this way before
    their parameters exist.
    """
    if max(case.kernel_shape) > describable(layer):
        return
    with during("jax.eval_shape of the construction"):
        abstract = jax.eval_shape(lambda: layer.init(case.seed, *case.kernel_shape))
        # The suite sees a kernel stored as (out, in) transposed.
        kernel = jax.eval_shape(layer.kernel_of, abstract)
    require.that(
        kernel.shape == case.kernel_shape,
        f"the abstract kernel has shape {kernel.shape}",
        accepted=f"shape {case.kernel_shape}",
    )
    if max(case.kernel_shape) > 512:
        return
    _require_rebuilt(abstract)
    real = layer.init(case.seed, case.in_features, case.out_features)
    found, expected = _described(abstract), _described(real)
    require.that(
        found == expected,
        f"abstract construction gives {found}",
        accepted=f"what construction gives: {expected}",
    )


def _require_rebuilt(abstract: Any) -> None:
    """Require that JAX can put an object together that has shapes in the place of its arrays."""
    static = getattr(abstract, "static", None)
    if isinstance(getattr(static, "kind", None), jax.tree_util.PyTreeDef):
        words = "tree_unflatten computes with what it gets: it may be shapes, None or any object"
        with during("putting the layer together of shapes", Cause("unflatten-computes", words)):
            abstract.static.rebuild(abstract.tree)


def _described(tree: object) -> list[str]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [f"{jax.tree_util.keystr(p)} {v.dtype}{list(v.shape)}" for p, v in leaves]


@requirement("construction/integral-sizes", SHOULD, PARAMETERS)
@rests_on(
    "construction/builds",
    "construction/kernel-shape",
    "construction/finite",
    "construction/parameter-dtype",
    "seeding/same-seed-same-bits",
)
@over(sizes=[(3, 10)])
def test_integral_sizes(layer: Layer, case: Case) -> None:
    """NumPy integers work as sizes; float and negative sizes raise.

    Both int32 and int64 sizes are tried, because a layer may do arithmetic in their dtype.
    """
    n, m = case.kernel_shape
    same = layer.of(case).kernel
    for kind in (np.int32, np.int64):
        kernel = layer.build(kind(n), kind(m), case.seed).kernel
        require.within(
            kernel,
            same,
            _ROUNDED_SCALE * np.abs(same),
            f"the kernel for {kind.__name__} sizes",
            cause=wrong_values.of_numpy_sizes(kernel, same),
        )
    # No other check builds these sizes: a cache of compiled calls would take 10.0 for 10.
    wrong: list[tuple[object, object]] = [(n, float(m + 13)), (n, m + 0.5), (n, -m)]
    if layer.implementation.linen is None:
        # A Linen layer takes in_features from x, whose shape is always integral.
        wrong += [(float(n + 14), m), (n + 0.5, m), (-n, m)]
    for sizes in wrong:
        require.raises(
            lambda sizes=sizes: layer.init(case.seed, *sizes),  # type: ignore[misc]  # wrong on purpose
            f"construction with the sizes {sizes}",
        )


@requirement("construction/zero-sizes", MAY, PARAMETERS)
@rests_on("construction/builds")
@over(sizes=[(0, 4), (4, 0)])
def test_zero_sizes(layer: Layer, case: Case) -> None:
    """in = 0 or out = 0 works.

    For in = 0 the sum is empty and f(x) = b; for out = 0 the result is empty.
    """
    dense = layer.of(case)
    lead = (2,) if layer.accepts((2,)) else layer.fewest
    found = dense(np.ones((*lead, case.in_features), np.float32))
    require.equal(found, np.zeros((*lead, case.out_features), np.float32), "f(x)")
