"""Finds why a layer has, takes or returns a wrong shape, by trying explanations.

Every function returns a cause, or "" unless exactly one explanation fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from conformance.checks.cases import BATCH, Case
from conformance.checks.exceptions import NOT_CALLED
from conformance.checks.layer import Built, Layer
from conformance.contract.requirement import PARAMETERS
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax

REMEMBERED = Cause(
    "output-remembered", "the output depends on earlier calls: results are remembered"
)
NO_ROWS_REFUSED = Cause("empty-batch", "a batch of no rows is refused")
NO_ROWS = Cause(
    "no-rows", "a batch of no rows is a special case: other batches have their shape and dtype"
)
ROWS_MIXED = Cause(
    "rows-mixed", "rows of a batch are mixed: a statistic over the batch, or its axes"
)
VECTORS_ONLY = Cause("vectors-only", "the layer takes vectors only: a batch of rows is refused")
FLATTENED = Cause(
    "input-flattened", "all axes of x are flattened into one vector: a batch of rows does not fit"
)
LEFT = Cause(
    "operands-exchanged",
    "the kernel is multiplied from the left, as kernel @ x, which fits vectors only: x @ kernel, "
    "with a kernel of shape (in, out), fits batches too",
)
TURNED = Cause(
    "kernel-turned", "x is multiplied by the transposed kernel, as x @ kernel.T: write x @ kernel"
)
TRANSPOSED = Cause(
    "input-transposed",
    "x is transposed, as x.T @ kernel, which fits vectors only: x @ kernel fits batches too",
)
MADE_TRANSPOSED = Cause(
    "kernel-made-transposed",
    "the kernel is made with the shape (out, in), and x @ kernel needs (in, out)",
)
PADDED = Cause(
    "kernel-padded", "the kernel is stored with padding: entries beyond (in, out) are not used"
)
EXCHANGED = Cause(
    "sizes-exchanged", "in_features and out_features are swapped: the layer takes x of width out"
)


_OF_INPUTS = Cause(
    "bias-of-inputs",
    "the bias has one entry for each input; it is added to the output: (out_features,)",
)


def of_kernel(dense: Built, case: Case, shape: tuple[int, ...]) -> str:
    """Return why the kernel has this shape."""
    n, m = case.kernel_shape
    if any(callable(leaf.value) for leaf in dense.leaves):
        return NOT_CALLED
    if n != m and sorted(shape) == sorted(case.kernel_shape):
        takes = [width for width in case.kernel_shape if _takes(dense, width)]
        if takes == [m] and shape == (m, n):
            return EXCHANGED
        if not takes and shape == (m, n) and _is_left(dense.layer, case):
            return MADE_TRANSPOSED
        if takes == [n]:
            if shape == (m, n) and _is_left_only(dense, case):
                return LEFT
            order = "(out, in)" if shape == (m, n) else "(in, out)"
            return Cause("kernel-transposed", f"the kernel is stored transposed, as {order}")
    elif len(shape) != 2 and math.prod(shape) == math.prod(case.kernel_shape):
        axes = "one axis" if len(shape) == 1 else f"{len(shape)} axes"
        return Cause("kernel-rank", f"the kernel has {axes} instead of two, in and out")
    elif len(shape) == 2 and shape[0] >= n and shape[1] >= m and _is_padded(dense, case, shape):
        return PADDED
    return ""


def _is_padded(dense: Built, case: Case, shape: tuple[int, ...]) -> bool:
    """Return whether f(x) depends on the entries (in, out) of a larger array, and on no others."""
    n, m = case.kernel_shape
    x = np.ones((*dense.layer.fewest, n), np.float32)
    own = jax.tree_util.tree_map(lambda value: value, dense.parameters)
    inside = np.zeros(shape, np.float32)
    inside[:n, :m] = 1

    def given(added: np.ndarray) -> np.ndarray | None:
        def moved(value: Any) -> Any:
            return value + added if np.shape(value) == shape else value

        try:
            dense.put(jax.tree_util.tree_map(moved, own))
            return np.asarray(dense.raw(x))
        except Exception:
            return None
        finally:
            dense.put(own)

    plain, beyond, within = given(0 * inside), given(1 - inside), given(inside)
    if plain is None or beyond is None or within is None:
        return False
    return np.array_equal(plain, beyond) and not np.array_equal(plain, within)


def of_bias(dense: Built, case: Case) -> str:
    """Return why the bias is not (out,)."""
    shape = dense.bias.shape
    if shape == (case.in_features,) and case.in_features != case.out_features:
        if _takes(dense, case.out_features) and not _takes(dense, case.in_features):
            return EXCHANGED
        return _OF_INPUTS
    if math.prod(shape) == 1 and case.out_features > 1 and len(shape) < 2:
        return Cause("bias-scalar", "the bias is one number; every output needs its own")
    if shape == case.kernel_shape and 1 not in shape:
        words = "the bias has the shape of the kernel: it has one entry for each output"
        return Cause("bias-as-kernel", f"{words}, (out_features,)")
    if math.prod(shape) == case.out_features:
        return Cause("bias-rank", "the bias has an axis too many: it is a vector (out_features,)")
    return ""


def _takes(dense: Built, width: int) -> bool:
    lead = BATCH if dense.layer.accepts(BATCH) else dense.layer.fewest
    return _gives(lambda: dense.raw(np.ones((*lead, width), np.float32))) is not None


def _gives(call: Callable[[], Any]) -> tuple[int, ...] | None:
    """Return the shape of the call's result, or None if it raises."""
    try:
        return tuple(np.shape(call()))
    except Exception:
        return None


def of_refusal(layer: Layer, case: Case, refused: tuple[int, ...]) -> str:
    """Return why an x with these leading dimensions is refused, by trying others."""
    case = replace(case, in_features=3, out_features=10)

    def works(*lead: int) -> bool:
        x = np.ones((*lead, case.in_features), np.float32)
        return _gives(lambda: layer.forward(case.seed, x, case.out_features)) is not None

    if works(*refused):  # this size accepts an x of that shape
        return _of_axis(layer, case, works)
    if not works() and not works(2):
        if PARAMETERS not in layer.provides:
            return of_inputs_bias(layer, case)
        if _is_left(layer, case):
            # The kernel is read transposed from a layer that stores (out, in).
            if layer.convention.layout == "out,in":
                return MADE_TRANSPOSED
            square = layer.of(replace(case, out_features=3))
            return LEFT if _gives(lambda: square.raw(np.ones((8, 3)))) is None else TURNED
        return ""
    if not refused:
        alone = "a vector is refused: the layer takes batches of rows only"
        return Cause("batches-only", alone) if works(2) else ""
    if works() and not works(2):
        return of_vectors_only(layer)
    if len(refused) > 1 and works(2):
        if works(2, 1) and not works(2, 3):
            return Cause(
                "width-of-all-axes",
                "the width of x is taken from all of its axes but the first, not from the last one",
            )
        if not works(2, 1):
            words = "an x of more than two axes is refused"
            return Cause("rank-2-only", words if works() else _MATRICES_ONLY)
        return _of_axis(layer, case, works)
    return ""


_MATRICES_ONLY = "only a batch of rows, an x of two axes, is taken: a vector is refused too"


def _of_axis(layer: Layer, case: Case, works: Callable[..., bool]) -> str:
    """Return whether the second of three axes of x, and not the last one, is multiplied."""
    n = case.in_features
    if PARAMETERS not in layer.provides or not works(2, n) or works(2, n + 1) or works(2, n - 1):
        return ""
    x = case.normal("x", 2, n, n)
    found = np.asarray(layer.written(case).raw(x))
    if not layer.value_for(case, np.swapaxes(x, 1, 2)).admits(found):
        return ""
    words = "the kernel is multiplied with the second of three axes of x, not with the last one"
    return Cause("axis-of-input", words)


def _shape(layer: Layer, case: Case, *lead: int) -> tuple[int, ...] | None:
    """Return the shape of the result at 3 inputs and 10 outputs, or None if x is refused."""
    x = np.ones((*lead, 3), np.float32)
    return _gives(lambda: layer.forward(case.seed, x, 10)) if layer.accepts(lead) else None


def of_flattening(layer: Layer, case: Case) -> str:
    """Return whether every x becomes a matrix of rows, which the result still is."""
    found = [_shape(layer, case), _shape(layer, case, 2), _shape(layer, case, 2, 4)]
    if found[1] != (2, 10) or found[2] != (8, 10) or found[0] not in ((10,), (1, 10), None):
        return ""
    return Cause("axes-flattened", "the leading axes of x are flattened into one, and not restored")


def of_lost_axes(layer: Layer, case: Case) -> str:
    """Return whether the result of a batch is one vector, or lacks the first axis."""
    leads = [lead for lead in ((2,), (4,), (2, 4)) if layer.accepts(lead)]
    found = {lead: _shape(layer, case, *lead) for lead in leads}
    if len(leads) == 3 and all(shape == (*lead[1:], 10) for lead, shape in found.items()):
        words = "the first axis of a batch is missing: it is averaged, summed or dropped"
        return Cause("axes-lost", words)
    if not leads or any(shape != (10,) for shape in found.values()):
        return ""
    words = "the result is one vector for a batch too: the leading axes of x are summed or dropped"
    return Cause("axes-lost", words)


def of_whole_parts(layer: Layer, case: Case) -> str:
    """Return whether the result has the largest multiple of a number of outputs."""
    x = np.ones((*layer.fewest, 3), np.float32)
    widths = {m: (_gives(partial(layer.forward, case.seed, x, m)) or ())[-1:] for m in _OUTPUTS}
    parts = [k for k in _OUTPUTS[1:] if all(w == (m // k * k,) for m, w in widths.items())]
    if len(parts) != 1:
        return ""
    words = f"out_features are computed in {parts[0]} equal parts, and the rest of them is dropped"
    return Cause("outputs-dropped", words)


_OUTPUTS = range(1, 10)


def of_entries(layer: Layer, case: Case) -> str:
    """Return whether x and the kernel of a square layer are multiplied entry by entry."""
    square = replace(case, in_features=3, out_features=3)
    x = square.normal("x", 3)
    if PARAMETERS not in layer.provides or not layer.accepts(()):
        return ""
    try:
        found = np.asarray(layer.written(square).raw(x))
    except Exception:
        return ""
    kernel, bias = layer.kernel_for(square), layer.bias_for(square)
    for product in (x * kernel, x[:, None] * kernel):
        if found.shape == product.shape and np.allclose(found, product + bias, rtol=1e-5):
            words = "x and the kernel are multiplied entry by entry: write x @ kernel"
            return Cause("multiplied-by-entries", words)
    return ""


def of_rank(layer: Layer, case: Case, lead: tuple[int, ...]) -> str:
    """Return whether an x of more than two axes fits at sizes of 1 only."""
    if len(lead) < 2 or not layer.accepts((2, 4)) or _shape(layer, case, 2) != (2, 10):
        return ""
    if any(_shape(layer, case, *each) is not None for each in ((2, 4), (2, 3), (10, 3), (3, 10))):
        return ""
    return Cause("rank-2-only", "the code fits an x of two axes only")


def of_vectors_only(layer: Layer) -> str:
    """Return why a layer takes vectors and refuses batches."""
    case = Case(3, 10)
    if PARAMETERS not in layer.provides:
        return VECTORS_ONLY
    twice = layer.of(replace(case, in_features=6))
    if _gives(lambda: twice.raw(np.ones((2, 3), np.float32))) == (10,):
        return FLATTENED
    if not _is_left_only(layer.of(case), case):
        return VECTORS_ONLY
    # Both take the columns of x; x.T @ kernel has a row of the result for each of them.
    dense, x = layer.written(case), case.normal("x", *case.kernel_shape)
    right = layer.value_for(case, x.T)
    near = np.abs(np.asarray(dense.raw(x)) - right.value) <= right.bound
    return TRANSPOSED if near.all() else LEFT


def of_inputs_bias(layer: Layer, case: Case) -> str:
    """Return whether a function adds a vector with as many entries as x, by the sizes it accepts.

    A vector of 3 entries can be added to 3 outputs or 1, but not to 10; for the last two sizes, 4
    entries fit.
    """

    def shape(width: int, outputs: int) -> tuple[int, ...] | None:
        x = np.ones(width, np.float32)
        return _gives(lambda: layer.forward(case.seed, x, outputs))

    found = [shape(3, 3), shape(3, 1), shape(3, 10), shape(4, 4), shape(4, 3)]
    return _OF_INPUTS if found == [(3,), (3,), None, (4,), None] else ""


def of_fixed_width(layer: Layer, case: Case) -> str:
    """Return whether a function takes x of one width only, one of the usual examples.

    A function that exchanges its sizes takes as many inputs as features.
    """
    if PARAMETERS in layer.provides:
        return ""

    def taken(features: int) -> list[int]:
        calls = {
            width: partial(layer.forward, case.seed, np.ones(width, np.float32), features)
            for width in range(1, 17)
        }
        return [width for width, call in calls.items() if _gives(call) == (features,)]

    takes = taken(5)
    if takes == [5] and taken(7) == [7]:
        words = "the sizes of the layer are exchanged: x.shape[-1] is in_features, and features"
        return Cause("sizes-exchanged", f"{words} is out_features")
    if len(takes) != 1:
        return ""
    words = f"in_features is {takes[0]} for every x: take the length of its last axis, x.shape[-1]"
    return Cause("width-fixed", words)


def of_first_axis(layer: Layer, case: Case) -> str:
    """Return whether a Linen layer takes its width from the first axis of x.

    A square batch and a vector hide that.
    """
    make = layer.implementation.linen
    if make is None:
        return ""

    def works(*shape: int) -> bool:
        key, x = jax.random.key(case.seed), np.ones(shape, np.float32)
        return _gives(lambda: make(3, 10).init_with_output(key, x)[0]) is not None

    if [works(3), works(3, 3), works(1, 3), works(5, 3)] != [True, True, False, False]:
        return ""
    return Cause(
        "width-of-first-axis",
        "the width of x is taken from its first axis, not from the last one: x.shape[-1]",
    )


def _is_left_only(dense: Built, case: Case) -> bool:
    """Return whether x may be a matrix of columns, but not of rows, as in ``kernel @ x``."""
    n, m = case.kernel_shape
    shapes = (n,), (n, m), (BATCH[0], n)
    found = [_gives(partial(dense.raw, np.ones(shape, np.float32))) for shape in shapes]
    return n != m and BATCH[0] not in (n, m) and found == [(m,), (m, m), None]


def _is_left(layer: Layer, case: Case) -> bool:
    """Return whether a square layer, which accepts any vector, multiplies it from the right."""
    case = replace(case, out_features=case.in_features)
    x, kernel, bias = case.normal("x", case.in_features), case.kernel(), case.bias()
    try:
        found = np.asarray(layer.of(case).write(kernel, bias)(x))
    except Exception:  # it refuses vectors
        return False
    return layer.value(x, kernel.T, bias).admits(found)


def of_result(found: tuple[int, ...], lead: tuple[int, ...], out_features: int) -> str:
    """Return why the result has a wrong shape, if it has the right number of entries."""
    expected = (*lead, out_features)
    if math.prod(found) != math.prod(expected):
        return ""
    if [size for size in found if size != 1] == [size for size in expected if size != 1]:
        if len(found) < len(expected):
            return Cause("axes-squeezed", "axes of length 1 are dropped from the result")
        if len(found) > len(expected):
            return Cause("axes-added", "the result has axes of length 1 that x does not have")
    if not math.prod(expected):
        return ""  # any two empty results have the same entries
    return Cause(
        "axes-changed", "the result has the right entries, but its axes are moved or merged"
    )


def of_acceptance(layer: Layer, case: Case, lead: tuple[int, ...], width: int) -> str:
    """Return what happens to an x of another width that is accepted, first at three inputs."""
    n = case.in_features
    widths = {1: 1, n - 1: 2, n + 1: 4}
    distinct = replace(case, in_features=3, out_features=10)
    there = (distinct, (3,) if lead else (), widths.get(width, 10))
    return _of_acceptance(layer, *there) or _of_acceptance(layer, case, lead, width)


def _of_acceptance(layer: Layer, case: Case, lead: tuple[int, ...], width: int) -> str:
    n, x, dense = case.in_features, case.normal("other width", *lead, width), layer.of(case)
    try:
        found = np.asarray(dense.raw(x))
    except Exception:  # only a trace, or another size, accepts it
        return ""
    forms = {}
    if width == 1:
        forms["broadcast to in_features"] = np.broadcast_to(x, (*lead, n))
    if width > n:
        forms["cut to its first entries"] = x[..., :n]
        forms["cut to its last entries"] = x[..., width - n :]
    else:
        forms["padded with zeros"] = np.pad(x, [(0, 0)] * len(lead) + [(0, n - width)])
    if n in lead[-1:]:
        forms["transposed"] = x.swapaxes(-1, -2)
    if x.size % n == 0 and lead:
        forms["reshaped to rows of in_features"] = x.reshape(-1, n)
        if x.size == n:
            forms["flattened to one vector"] = x.reshape(n)
    fits = [words for words, value in forms.items() if _is_output(dense, found, value)]
    if len(fits) != 1:
        return ""
    slug = fits[0].split()[0]
    return Cause(f"width-{slug}", f"an x of another width is {fits[0]} instead of rejected")


def _is_output(dense: Built, found: np.ndarray, x: np.ndarray) -> bool:
    return dense.layer.value(x, dense.kernel, dense.bias).admits(found)


def of_rows(
    layer: Layer,
    case: Case,
    plain: np.ndarray,
    x: np.ndarray,
    rows: np.ndarray,
    order: np.ndarray | None = None,
) -> str:
    """Return a cause if rows of one call are mixed, or the output is that of another call.

    A new instance has no earlier call.
    """
    fresh = np.asarray(layer.written(case)(x)).reshape(8, -1)
    expected = plain if order is None else plain[order]
    if np.array_equal(fresh[rows], expected[rows]):
        return REMEMBERED
    if order is not None:  # an earlier check showed that a row does not change the others
        return Cause("row-by-place", "the result for a row depends on its place in the batch")
    return ROWS_MIXED


def of_form(f: Any, found: np.ndarray, value: np.ndarray) -> str:
    """Return a cause if the layer reads the memory of the array and ignores its strides."""
    in_memory = value.ravel(order="K").reshape(value.shape)
    read = not np.array_equal(in_memory, value) and np.array_equal(f(in_memory), found)
    words = "the memory of x is read in its own order, and the strides of x are ignored"
    return Cause("strides-ignored", words) if read else ""
