"""Checks the shapes of results, real and abstract, for leading dimensions of x."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import numpy as np

from conformance.checks import jaxprs, programs, require
from conformance.checks.areas.mapped_draws import describable
from conformance.checks.cases import BATCH, Case
from conformance.checks.diagnosis import shapes
from conformance.checks.layer import Layer
from conformance.checks.once import once_per_layer
from conformance.checks.scan.edges import scan
from conformance.contract.requirement import PARAMETERS
from conformance.errors import Violation
from conformance.jax_setup.lazy import jax
from conformance.layers.implementation import FLAX, existing

# The sizes of real calls; abstract evaluation covers every size.
EAGER = [(1, 1), (3, 10), (16, 16)]


def require_shape(layer: Layer, found: tuple[int, ...], lead: tuple[int, ...], case: Case) -> None:
    """Require the shape of a result for an x with these leading dimensions."""
    expected = (*lead, case.out_features)
    cause = ""
    if tuple(found) != expected:
        cause = shapes.of_flattening(layer, case) or shapes.of_lost_axes(layer, case)
        cause = cause or shapes.of_rank(layer, case, lead) or shapes.of_entries(layer, case)
        cause = cause or shapes.of_whole_parts(layer, case)
        cause = cause or shapes.of_result(*_at_distinct_sizes(layer, tuple(found), lead, case))
        if not cause and PARAMETERS not in layer.provides:
            cause = shapes.of_inputs_bias(layer, case)
    require.that(
        tuple(found) == expected,
        f"x of shape {(*lead, case.in_features)} gives a result of shape {tuple(found)}",
        accepted=f"shape {expected}",
        cause=cause,
    )


def _at_distinct_sizes(
    layer: Layer, found: tuple[int, ...], lead: tuple[int, ...], case: Case
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Return the shape of a result, the leading dimensions of x and the number of outputs.

    An axis of length 1 may belong to the inputs or to the outputs, so a layer of 3 and 10 replaces
    one with a size of 1, unless its result is right.
    """
    if 1 in case.kernel_shape:
        x = np.ones((*lead, 3), np.float32)
        try:
            there = tuple(layer.forward(case.seed, x, 10).shape)
        except Violation:  # a layer that raises here does not have a fault of axes of length 1
            return (), lead, 10
        if there != (*lead, 10):
            return there, lead, 10
    return found, lead, case.out_features


@once_per_layer(by=lambda case: case.kernel_shape)
def require_abstract_shapes(layer: Layer, case: Case) -> None:
    """Require the right shape at every rank, by abstract evaluation, which compiles nothing."""
    n = case.in_features
    leads = [(), (1,), (2,), (n,), (case.out_features,), (2, 3), (1, 1)]
    leads += [(2, 3, 4), (1, n, 1), (2, 1, 2, 3), (2, 1, 3, 1, 2), (1, 2, 1, 3, 1, 2)]
    parameters = layer.of(case).parameters
    for lead in leads:
        if layer.accepts(lead):
            x = jax.ShapeDtypeStruct((*lead, n), np.float32)
            found: Any = None
            with contextlib.suppress(Exception):  # transforms/jit checks whether it can be traced
                found = jax.eval_shape(layer.apply, parameters, x)
            if not hasattr(found, "shape"):
                try:
                    found = layer.of(case)(np.ones(x.shape, np.float32))
                except Violation as violation:
                    raise explained(violation, layer, case, lead) from violation
            require_shape(layer, found.shape, lead, case)


def require_shapes_in_turn(layer: Layer, case: Case) -> None:
    """Require the right shapes of one layer for batches of as many rows, in other axes.

    A layer may keep what it finds for an x of some rank and size.
    """
    dense = layer.of(case)
    for lead in filter(layer.accepts, ((2, 4), (4, 2))):
        found = dense(np.ones((*lead, case.in_features), np.float32)).shape
        require_shape(layer, found, lead, case)


def explained(
    violation: Violation, layer: Layer, case: Case, refused: tuple[int, ...]
) -> Violation:
    """Return the violation of a call that gave no array, with its cause if one is known."""
    of_result = violation.cause_id in ("no-return", "result-not-array")
    why = violation.cause if of_result else shapes.of_refusal(layer, case, refused)
    return violation.because(why)


def fail_for_ranks(layer: Layer, case: Case, refused: Sequence[int]) -> NoReturn:
    """Fail because the layer refuses an x of these ranks, with what it raises for one of them."""
    # What refuses three axes says more than what refuses a vector.
    rank = next((rank for rank in refused if rank > 2), refused[0])
    lead, case = (2, 3, 2, 4)[: rank - 1], replace(case, in_features=3, out_features=10)
    found = f"the layer raises for an x of rank {', '.join(map(str, refused))}"
    try:
        layer.forward(case.seed, np.ones((*lead, case.in_features), np.float32), case.out_features)
    except Violation as violation:
        found += f": {violation.found}"
    raise Violation(
        found,
        accepted="every rank",
        cause=shapes.of_refusal(layer, case, lead),
        declare=f"ranks = {list(layer.convention.ranks)}",
    )


def ranks_to_declare(layer: Layer, case: Case) -> str:
    """Return what a Linen layer declares that can be initialized, but not with an x of rank 2."""
    its, found = layer.implementation, []
    if its.linen is None or its.under is None:
        return ""
    for rank in FLAX.ranks:
        declared = replace(its.convention, ranks=(rank,))
        with contextlib.suppress(Exception):
            existing(its.under(declared).init)(case.seed, *case.kernel_shape)
            found.append(rank)
    right = found and 2 not in found
    return f"; if it takes no other x, declare ranks = {found}" if right else ""


def require_no_rows(layer: Layer, case: Case, lead: tuple[int, ...]) -> None:
    """Require a result of no rows, of the dtype that a batch of some rows gives."""
    some, m = tuple(size or 1 for size in lead), case.out_features
    x = np.ones((*some, case.in_features), np.float32)
    of_some = jaxprs.described(layer.forward(case.seed, x, m))
    x = np.ones((*lead, case.in_features), np.float32)
    try:
        found = jaxprs.described(layer.forward(case.seed, x, m))
    except Violation as violation:
        raise violation.because(shapes.NO_ROWS_REFUSED) from violation
    expected = of_some.replace(str([*some, m]), str([*lead, m]))
    what = f"x of shape {x.shape} gives a {found}"
    require.that(found == expected, what, accepted=expected, cause=shapes.NO_ROWS)


def is_wrong_without_rows(layer: Layer) -> bool:
    """Return whether a batch of no rows has no result of its shape: see forward/empty-batch."""
    try:
        found = np.shape(layer.of(Case(3, 10)).raw(np.ones((0, 3), np.float32)))
    except Exception:
        found = ()
    return layer.accepts(BATCH) and found != (0, 10)


def require_abstract_at_any_size(layer: Layer, case: Case) -> None:
    """Require ``jax.eval_shape`` to describe the result of a layer that fits in no memory."""
    huge = int(min(describable(layer), scan(layer).longest))
    with require.during(f"jax.eval_shape of a layer of {huge} by {huge}"):
        new = jax.eval_shape(lambda: layer.init(case.seed, huge, huge))
        x = jax.ShapeDtypeStruct((*case.lead, huge), np.float32)
        abstract = jax.eval_shape(lambda p, x: programs.call(layer, p, x), new, x)
    described = jaxprs.described(abstract)
    expected = f"{layer.convention.returned}{[*case.lead, huge]}, weak_type=False"
    require.that(described == expected, f"eval_shape gives {described}", accepted=expected)


def require_rejected(layer: Layer, case: Case, widths: set[int]) -> None:
    """Require that an x of one of these widths raises, both traced and called."""
    if not layer.convention.checks_width:
        require.not_applicable("the layer declares that it does not check the width of x")
    n, dense = case.in_features, layer.of(case)
    parameters = dense.parameters
    leads = [lead for lead in ((), (n,)) if layer.accepts(lead)]
    given: list[tuple[int, tuple[int, ...]]] = [*itertools.product(sorted(widths), leads)]
    if 1 not in widths and n % 2 == 0 and n > 2 and layer.accepts((2,)):
        given.append((n // 2, (2,)))  # as many numbers as one row has
        given += [(n // 2, (3, 2))] if layer.accepts((3, 2)) else []  # three such images
    if 1 not in widths and n > 1:
        given += [(2 * n, lead) for lead in leads]  # as many as two rows have
        given += [(n + 1, (2, n))] if layer.accepts((2, n)) else []  # channels before the length
    # A branch on the dtype may have another product.
    plain = [(width, lead, "float32") for width, lead in given]
    dtypes = ("bfloat16", "int32") if case.kernel_shape == programs.FEW_SIZES[-1] else ()
    for width, lead, dtype in [*plain, *((*each, d) for d in dtypes for each in given)]:
        x = jax.ShapeDtypeStruct((*lead, width), dtype)
        what = f"x of shape {x.shape}{_of(dtype)} with in_features={n}"
        cause = partial(shapes.of_acceptance, layer, case, lead, width)
        call = partial(jax.eval_shape, layer.apply, parameters, x)
        require.raises(call, what, cause=cause)
        if case.kernel_shape in EAGER and dtype == "float32":
            ones = np.ones(x.shape, np.float32)
            require.raises(partial(dense.raw, ones), what, cause=cause)


def _of(dtype: str) -> str:
    return f" and dtype {dtype}" if dtype != "float32" else ""
