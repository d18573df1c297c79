"""Whether the layer can take the place of another one: asked only with ``--like``.

For equal parameters it gives the same results; the other's checkpoint fits; it is built and called
as the other is; and its kernels follow the same law.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from conformance.checks import require
from conformance.checks.cases import Case, over
from conformance.checks.description import law_in_words
from conformance.checks.layer import Built, Layer, as_jax
from conformance.checks.programs import FEW_SIZES, call
from conformance.contract.requirement import ANY, MAY, MUST, PARAMETERS, SHOULD, requirement
from conformance.layers.adapters.parameters import Parameters


def _other(layer: Layer) -> Layer:
    """The layer whose place this one takes."""
    if layer.like is None:
        require.not_applicable("no layer is named by --like")
    return layer.like


@requirement("drop-in/same-results", MUST, PARAMETERS)
@over(sizes=FEW_SIZES)
def test_same_results(layer: Layer, case: Case) -> None:
    """With equal kernel and bias, f(x) is the other's within the bounds of both."""
    other = _other(layer)
    x, kernel, bias = case.x(), case.kernel(), case.bias()
    if not (layer.convention.use_bias and other.convention.use_bias):
        bias = np.zeros_like(bias)
    found, expected = (
        np.asarray(call(each, each.of(case).write(kernel, bias).parameters, as_jax(x)), np.float64)
        for each in (layer, other)
    )
    bounds = [each.value(x, kernel, bias).bound for each in (layer, other)]
    what = f"f(x) against that of {other.name}"
    require.within(found, expected, bounds[0] + bounds[1], what)


@requirement("drop-in/same-state", MUST, PARAMETERS)
@over(sizes=FEW_SIZES[-1:], at_most=1)
def test_same_state(layer: Layer, case: Case) -> None:
    """The state has the other's names, kinds, shapes and dtypes, so that checkpoints fit both ways.

    With the arrays of the other in place of its own, the layer computes what the other does.
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
        with require.during(f"taking over the state of {other.name}"):
            loaded = Parameters(mine.static, theirs.tree)
            y = call(layer, loaded, as_jax(case.x()))
        expected_y = call(other, theirs, as_jax(case.x()))
        kernel, bias = its.kernel.astype(np.float32), its.bias.astype(np.float32)
        bounds = [each.value(case.x(), kernel, bias).bound for each in (layer, other)]
        what = f"f(x) with the state of {other.name}"
        require.within(
            np.asarray(y, np.float64), np.asarray(expected_y, np.float64), sum(bounds), what
        )


@requirement("drop-in/same-arguments", SHOULD, ANY)
@over(sizes=FEW_SIZES[-1:], at_most=1)
def test_same_arguments(layer: Layer, case: Case) -> None:
    """The constructor takes what the other's needs, by position and by keyword; so does the call.

    What the other takes beyond that, with a default, is drop-in/same-options.
    """
    _require_arguments(layer, case, optional=False)


@requirement("drop-in/same-options", MAY, ANY, rests_on=["drop-in/same-arguments"])
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
    """The constructor and the call of what people build; the function itself of a function."""
    its = layer.registered
    if its.forward is not None:
        return {"call": its.forward}
    built: Built = layer.of(case)
    found = built.module
    if its.linen is not None:
        found = its.linen(*case.kernel_shape)
    if found is None:
        require.not_applicable("the layer is described by pure functions, which nobody constructs")
    kind: Any = type(found)
    return {"constructor": kind.__init__, "call": kind.__call__}


def _missing(own: Any, its: Any, *, optional: bool) -> list[str]:
    """The arguments that its call takes and the own does not, or takes in another place."""
    if own is None:
        return ["any call"]
    mine, theirs = (list(inspect.signature(each).parameters.values())[1:] for each in (own, its))
    kinds = {p.kind for p in mine}
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds
    if takes_any and inspect.Parameter.VAR_POSITIONAL in kinds:
        return []
    places = {p.name: i for i, p in enumerate(mine)}
    keyword, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    # Nobody gives x by keyword.
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

    Both are drawn and identified by likelihood; where either law is not known, nothing is said.
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
