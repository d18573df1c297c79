"""Requirements on a drop-in replacement of another layer, checked only with ``--like``.

With equal parameters it gives the same results; it loads the other's checkpoints; it is built and
called like the other; and its kernels follow the same law.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from conformance.checks import require
from conformance.checks.arrays import as_jax
from conformance.checks.cases import Case, over
from conformance.checks.description import law_in_words
from conformance.checks.layer import Built, Layer
from conformance.checks.programs import FEW_SIZES, call
from conformance.contract.requirement import (
    ANY,
    MAY,
    MUST,
    PARAMETERS,
    SHOULD,
    requirement,
    rests_on,
)
from conformance.layers.adapters.parameters import Parameters


def _other(layer: Layer) -> Layer:
    """Return the layer named by ``--like``."""
    if layer.like is None:
        require.not_applicable("no layer is named by --like")
    return layer.like


@requirement("drop-in/same-results", MUST, PARAMETERS)
@over(sizes=FEW_SIZES)
def test_same_results(layer: Layer, case: Case) -> None:
    """With equal kernel and bias, the two layers' f(x) agree within the sum of their bounds."""
    other = _other(layer)
    x, kernel, bias = case.x(), case.kernel(), case.bias()
    if not (layer.convention.use_bias and other.convention.use_bias):
        bias = np.zeros_like(bias)
    found, expected = (
        np.asarray(call(each, each.of(case).write(kernel, bias).parameters, as_jax(x)), np.float64)
        for each in (layer, other)
    )
    bounds = [each.value(x, kernel, bias).bound for each in (layer, other)]
    its = f"the result of {other.name}"
    require.within(found, expected, bounds[0] + bounds[1], "f(x)", against=its)


@requirement("drop-in/same-state", MUST, PARAMETERS)
@over(sizes=FEW_SIZES[-1:], at_most=1)
def test_same_state(layer: Layer, case: Case) -> None:
    """The state has the other's names, kinds, shapes and dtypes, so that checkpoints fit both ways.

    With the other's arrays loaded, the layer computes what it does with their values written in.
    """
    other = _other(layer)
    own, its = layer.of(case), other.of(case)
    found, expected = ({str(leaf) for leaf in built.leaves} for built in (own, its))
    require.that(
        found == expected,
        f"the state is {', '.join(sorted(found))}",
        accepted=f"that of {other.name}: {', '.join(sorted(expected))}",
    )
    mine, theirs = own.parameters, its.parameters
    if isinstance(mine, Parameters) and isinstance(theirs, Parameters):
        with require.during(f"loading the state of {other.name}"):
            loaded = Parameters(mine.static, theirs.tree)
            y = call(layer, loaded, as_jax(case.x()))
        written = call(layer, own.write(its.kernel, its.bias).parameters, as_jax(case.x()))
        require.equal(y, written, f"f(x) with the state of {other.name}")


@requirement("drop-in/same-arguments", SHOULD, ANY)
@over(sizes=FEW_SIZES[-1:], at_most=1)
def test_same_arguments(layer: Layer, case: Case) -> None:
    """The constructor and the call take the other's required arguments, by position and by keyword.

    ``drop-in/same-options`` checks the arguments that have a default.
    """
    _require_arguments(layer, case, optional=False)


@requirement("drop-in/same-options", MAY, ANY)
@rests_on("drop-in/same-arguments")
@over(sizes=FEW_SIZES[-1:], at_most=1)
def test_same_options(layer: Layer, case: Case) -> None:
    """The constructor and the call take the other's options as well."""
    _require_arguments(layer, case, optional=True)


def _require_arguments(layer: Layer, case: Case, *, optional: bool) -> None:
    other = _other(layer)
    own, its = (_callables(each, case) for each in (layer, other))
    for what, function in its.items():
        missing = _missing(own.get(what), function, optional=optional)
        require.that(
            not missing,
            f"its {what} does not take {', '.join(missing)} as {other.name} does",
            accepted=f"the arguments of the {what} of {other.name}",
        )


def _callables(layer: Layer, case: Case) -> dict[str, Any]:
    """Return the constructor and the call of a class, or the function itself."""
    its = layer.registered
    if its.forward is not None:
        return {"call": its.forward}
    built: Built = layer.of(case)
    found = built.module
    if its.linen is not None:
        found = its.linen(*case.kernel_shape)
    if found is None:
        require.not_applicable("the layer is described by pure functions and has no constructor")
    kind: Any = type(found)
    return {"constructor": kind.__init__, "call": kind.__call__}


def _missing(own: Any, its: Any, *, optional: bool) -> list[str]:
    """Return the arguments of `its` that `own` does not take, or takes at another position."""
    if own is None:
        return ["any call"]
    mine, theirs = (list(inspect.signature(each).parameters.values())[1:] for each in (own, its))
    kinds = {p.kind for p in mine}
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds
    if takes_any and inspect.Parameter.VAR_POSITIONAL in kinds:
        return []
    keyword, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    # An argument that is passed by keyword only has no place.
    places = {p.name: None if p.kind is keyword else i for i, p in enumerate(mine)}
    # Callers pass x by position, so that its name does not matter.
    skipped = 1 if theirs[0].default is empty and its.__name__ == "__call__" else 0
    return [
        p.name
        for i, p in enumerate(theirs)
        if i >= skipped
        and p.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        and (p.default is not empty) == optional
        and not (takes_any and (optional or p.kind is keyword))
        and (p.name not in places or (p.kind is not keyword and places[p.name] != i))
    ]


@requirement("drop-in/same-law", SHOULD, PARAMETERS)
@over(sizes=FEW_SIZES[-1:], at_most=1)
def test_same_law(layer: Layer, case: Case) -> None:
    """New kernels follow the other's law: its family, and its variance as a function of the sizes.

    Both laws are identified from drawn kernels by likelihood. If either is not one that the suite
    knows, the requirement does not apply.
    """
    other = _other(layer)
    found, expected = law_in_words(layer), law_in_words(other)
    if not found[1] or not expected[1]:
        unknown = layer if not found[1] else other
        require.not_applicable(f"the law of {unknown.name} is not one that this suite knows")
    require.that(
        found[1] == expected[1],
        f"the kernel is {found[1]}",
        accepted=f"that of {other.name}: {expected[1]}",
    )


@requirement("drop-in/same-bits", MAY, PARAMETERS)
@over(sizes=FEW_SIZES, at_most=2)
def test_same_bits(layer: Layer, case: Case) -> None:
    """The same seed gives the other's kernel, bit for bit."""
    other = _other(layer)
    what = f"the new kernel of seed {case.seed} against that of {other.name}"
    require.equal(layer.of(case).kernel, other.of(case).kernel, what)
