"""Checks layers with an option set in uses that layers without one are checked in as well."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from conformance.checks import require
from conformance.checks.areas.compilation import traced_gradients
from conformance.checks.areas.options import require_gradients, require_result
from conformance.checks.arrays import as_jax
from conformance.checks.cases import Case
from conformance.checks.diagnosis.stale_values import of_earlier
from conformance.checks.layer import Built, Layer
from conformance.checks.programs import HALF
from conformance.checks.require import during
from conformance.checks.scan.thresholds import counted
from conformance.errors import Cause, Violation
from conformance.jax_setup.lazy import jax


def require_updates_used(given: Layer, case: Case, dense: Built, option: str) -> None:
    """Require values that are written after a call to be used, for x of rank 2 and of rank 3.

    ``dense`` has the case's kernel and bias and was called. A layer may cast its parameters, or
    copy them, where an option is set, and keep what it made.
    """
    new = replace(case, values=case.values + 1)
    dense.write(new.kernel(), new.bias())
    for lead in filter(given.accepts, (given.batch, (2, 4))):
        x = new.normal("x", *lead, case.in_features)
        y, what = dense(as_jax(x)), f"{option} after new values are written, for x of {x.shape}"
        try:
            require_result(given, new, y, x, what)
        except Violation as violation:
            values = tuple((given.kernel_for(each), given.bias_for(each)) for each in (case, new))
            stale = of_earlier(
                partial(given.value, x), (values[0], values[1]), y, "in a call, with the option"
            )
            raise violation.because(violation.cause or stale) from violation


def require_same_gradients(given: Layer, same: Layer, case: Case, option: str) -> None:
    """Require the gradients with an option, unless they have the operations of another layer.

    ``same`` differs in an option, and its gradients are checked. Tracing costs a tenth of compiling
    them.
    """
    if _operations(given, case) != _operations(same, case):
        x = case.normal("x", *case.x_shape)
        require_gradients(given, case, given.of(case), x, f"jax.vjp with {option}")


def _operations(layer: Layer, case: Case) -> Counter[tuple[str, ...]]:
    """Return the operations of the gradients, in which one half precision is as the other."""
    found: Counter[tuple[str, ...]] = Counter()
    for (name, *dtypes), count in counted(traced_gradients(layer, case)).items():
        found[name, *("half" if dtype in HALF else dtype for dtype in dtypes)] += count
    return found


def require_at_every_size(given: Layer, dtype: str) -> None:
    """Require the kernel of a layer with ``param_dtype`` to be of this dtype at larger sizes."""
    for size in ((16, 16), (130, 300), (1024, 1024)):
        with during(f"construction with param_dtype={dtype}"):
            new = jax.eval_shape(lambda size=size: given.init(0, *size))
            kernel = jax.eval_shape(given.kernel_of, new)
        require.that(
            str(kernel.dtype) == dtype,
            f"with param_dtype={dtype}, the kernel of a layer of {size} is {kernel.dtype}",
            accepted=dtype,
            cause=Cause("option-by-size", "the option param_dtype has an effect at some sizes"),
        )


def require_false_of_any_type(layer: Layer, case: Case) -> None:
    """Require ``use_bias=0`` and NumPy's False to have the effect of False, or to raise."""
    arrays = []
    for no in (False, 0, np.bool_(False)):
        given = layer.with_options(use_bias=no)
        try:
            made = jax.eval_shape(lambda given=given: given.init(0, *case.kernel_shape))
        except Exception:
            continue  # it may refuse what is not a bool
        arrays.append(len(jax.tree_util.tree_leaves(made)))
        require.that(
            arrays[-1] == arrays[0],
            f"with use_bias={no!r} the layer has {arrays[-1]} arrays",
            accepted=f"{arrays[0]}, as with use_bias=False",
            cause=Cause("false-by-identity", "use_bias is compared by `is`, or by its type"),
        )


def require_x_first(called: tuple[Any, ...], x: np.ndarray, kernel: np.ndarray) -> None:
    """Require the arguments with which ``dot_general`` was called to be x and the kernel.

    A dot_general that quantizes takes the first for activations, and the second for weights.
    """
    sizes = tuple(np.size(each) for each in called[:2])
    require.that(
        sizes != (kernel.size, x.size) or kernel.size == x.size,
        f"dot_general is called with arrays of the shapes {np.shape(called[0])} and "
        f"{np.shape(called[1])}",
        accepted=f"x, here of the shape {x.shape}, and then the kernel, as in Flax",
        cause=Cause("operands-exchanged", "dot_general gets the kernel first, and then x"),
    )
