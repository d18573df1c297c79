"""What a layer leaves alone: its input, the process's global state, the terminal."""

from __future__ import annotations

import contextlib
import io

import numpy as np

from conformance import isolation, require
from conformance.cases import Case, over
from conformance.layer import Layer
from conformance.lazy import jax
from conformance.requirement import ANY, MAY, MUST, requirement


def _construct_and_call(layer: Layer, case: Case, x: np.ndarray, *, as_given: bool = False) -> None:
    result = layer.forward(case.seed, x, case.out_features, as_given=as_given)
    jax.block_until_ready(result)


@requirement("purity/input-untouched", MUST, ANY, rests_on=["construction/builds"])
@over(every_size=False)
def test_input_untouched(layer: Layer, case: Case) -> None:
    """A NumPy x is not modified."""
    x = case.normal("x", case.in_features) * 1000
    before = x.copy()
    _construct_and_call(layer, case, x, as_given=True)
    require.equal(x, before, "after the call, x", cause="the layer writes into its input")
    if layer.accepts((4,)):
        x = case.normal("batch", 4, case.in_features) * 1000
        before = x.copy()
        _construct_and_call(layer, case, x, as_given=True)
        require.equal(x, before, "after the call, x", cause="the layer writes into its input")


@requirement("purity/globals-untouched", MUST, ANY, rests_on=["construction/builds"])
@over(every_size=False)
def test_globals_untouched(layer: Layer, case: Case) -> None:
    """``jax.config``, ``os.environ`` and the global random generators are as before.

    After the construction and the call alike.
    """
    before = isolation.take()
    try:
        _construct_and_call(layer, case, case.normal("x", case.in_features))
    finally:
        changes = before.changes()
        before.restore()
    require.that(
        not changes,
        "; ".join(changes[:5]),
        accepted="global state as it was",
        cause=f"constructing or calling the layer changes global state: {changes[0]}"
        if changes
        else "",
    )


@requirement("purity/silent", MAY, ANY, rests_on=["construction/builds"])
@over(sizes=[(3, 4)])
def test_silent(layer: Layer, case: Case) -> None:
    """Nothing is printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        _construct_and_call(layer, case, case.normal("x", case.in_features))
        jax.effects_barrier()
    text = (out.getvalue() + err.getvalue()).strip()
    require.that(not text, f"the layer prints {text[:100]!r}", accepted="no output")
