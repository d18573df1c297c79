"""Finds a forward pass that uses old values of the parameters after new ones were written."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from conformance.checks import require
from conformance.checks.cases import Case
from conformance.checks.layer import Built, Layer
from conformance.checks.oracle import Bounded
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax

Values = tuple[np.ndarray, np.ndarray]
"""A kernel (in, out) and a bias (out,)."""

_LAST = "of the last write"
_BUILT = "from construction"


def values_before(kernel: np.ndarray, bias: np.ndarray) -> list[Values]:
    """Return the values to write and use before these ones.

    A layer may copy values at any write. First both change, then only one of them, or one weight,
    because a layer may keep a copy as long as the others stay the same.
    """
    # A layer that doubles or halves its result must not look like one that uses these.
    more, other = np.float32(1.375), kernel.copy()
    other[-1, -1] *= more
    factors = (np.float32(factor) for factor in (1.75, 0.625, 1.375))
    both = [(kernel * factor, bias * factor) for factor in factors]
    return [*both, (other, bias), (kernel, bias * more), (kernel, bias), (kernel * more, bias)]


def require_fresh(
    layer: Layer, case: Case, x: np.ndarray, found: np.ndarray, way: str, constructed: Values
) -> None:
    """Require that a result for the case's kernel and bias is not that of older values.

    ``forward/affine-value`` reports a result that fits neither.

    Parameters
    ----------
    found
        f(x) after the values of :func:`values_before` and then the case's were written.
    way
        The way of writing, in words.
    constructed
        The kernel and the bias of the layer after construction.
    """
    last = layer.kernel_for(case), layer.bias_for(case)
    if layer.value(x, *last).admits(found):
        return
    earlier = values_before(*last)
    kernels, biases = (
        [(_BUILT, constructed[i]), (_LAST, last[i])]
        + [("of an earlier write", values[i]) for values in earlier]
        for i in (0, 1)
    )
    for (of_kernel, kernel), (of_bias, bias) in itertools.product(kernels, biases):
        stale = {"kernel": of_kernel, "bias": of_bias}
        old = {name: when for name, when in stale.items() if when != _LAST}
        if old and layer.value(x, kernel, bias).admits(found):
            if _BUILT not in old.values() and _is_wrong_when_new(layer, case):
                return  # the value is wrong without an earlier write, too
            made = _when_copied(layer, case, x) if _BUILT in old.values() else "in a call"
            words = f"the forward uses a copy of the {' and '.join(old)} made {made}"
            require.fail(
                f"{way}, f(x) is still that of "
                + " and ".join(f"the {name} {when}" for name, when in old.items()),
                accepted="f(x) of the values written in last",
                cause=Cause("stale-copy", words),
            )


def of_earlier(
    reference: Callable[..., Bounded], values: tuple[Values, Values], found: np.ndarray, made: str
) -> Cause | str:
    """Return a cause if a result has the kernel, the bias or both of before the last write.

    Parameters
    ----------
    reference
        Returns f(x) of a kernel and a bias.
    values
        Those before the last write, and those that it wrote.
    made
        When the copy that is used was made, in words.
    """
    old, new = values
    candidates = (("kernel", (old[0], new[1])), ("bias", (new[0], old[1])), ("parameters", old))
    for which, used in candidates:
        if reference(*used).admits(found):
            return Cause("stale-copy", f"the forward uses a copy of the {which} made {made}")
    return ""


def require_latest(
    reference: Callable[..., Bounded],
    values: tuple[Values, Values],
    found: np.ndarray,
    made: str,
    what: str,
) -> None:
    """Require a result to have the values of the last write; :func:`of_earlier` has the rest."""
    latest = reference(*values[1])
    cause = "" if latest.admits(found) else of_earlier(reference, values, found, made)
    require.near(found, latest, what, cause=cause)


def require_written(dense: Built, case: Case, x: np.ndarray, after: str) -> None:
    """Require new values of a layer that has the case's kernel and bias to be used.

    ``after`` says in words what was done with the layer before.
    """
    layer, new = dense.layer, replace(case, values=case.values + 1)
    y = np.asarray(dense.write(new.kernel(), new.bias())(x))
    old, last = ((layer.kernel_for(each), layer.bias_for(each)) for each in (case, new))
    what = f"after {after}, f(x) for new values"
    require_latest(functools.partial(layer.value, x), (old, last), y, f"in {after}", what)


def require_read_again(
    layer: Layer, case: Case, dense: Built, x: np.ndarray, found: np.ndarray
) -> None:
    """Require a result for an array x of earlier calls to be the one for a new array."""
    reference = layer.value_for(case, x)
    if reference.admits(found) or not reference.admits(dense(x.copy())):
        return
    words = "what is kept of a call depends on the object x, not on the parameters"
    require.near(
        found,
        reference,
        "after new values are written, f(x) of the array x of earlier calls",
        cause=Cause("kept-by-object", words),
    )


def require_fresh_of_whole(layer: Layer, case: Case, dense: Built, x: np.ndarray) -> None:
    """Require a kernel of whole numbers to be used after one of the same numbers in other rows.

    A layer may keep a copy for as long as the sum, the largest or the first weight is the same.
    Sums of whole numbers are exact in any order.
    """
    if layer.reparameterized or case.in_features < 3:
        return
    kernel, bias = (
        case.integers("whole kernel", *case.kernel_shape),
        case.integers("b", case.out_features),
    )
    moved = kernel.copy()
    moved[1:] = kernel[:0:-1]
    for values in (kernel, moved):
        found = dense.write(values, bias)(x)
    added = bias * np.float32(layer.convention.use_bias)
    reference, before = (layer.value(x, each, added) for each in (moved, kernel))
    if reference.admits(found) or not before.admits(found):
        return  # other requirements report a wrong product
    words = "a copy of the kernel is kept until some number that is computed of it changes"
    what = "f(x) for a kernel that has the weights of the kernel before it in another order"
    cause = Cause("stale-copy", words)
    require.near(found, reference, what, cause=cause)


def _is_wrong_when_new(layer: Layer, case: Case) -> bool:
    """Return whether f(x) is wrong after a first write, at a size that no earlier one had."""
    other = replace(case, in_features=case.in_features + 1)
    x = other.normal("x", 8, other.in_features)
    right = layer.value_for(other, x)
    return not right.admits(layer.written(other).rows(x))


def of_copy(layer: Layer, case: Case) -> str:
    """Return a cause if f keeps the kernel and the bias of construction after both are written."""
    x, dense = case.normal("x", 8, case.in_features), layer.of(case)
    built = layer.value(x, dense.kernel, dense.bias)
    if not built.admits(layer.written(case).rows(x)):
        return ""
    if not _is_rebuilt(dense):
        words = "tree_unflatten does not use the arrays that it is given: JAX rebuilds a layer so"
        return Cause("unflatten-ignores", words)
    made = _when_copied(layer, case, x)
    return Cause("stale-copy", f"the forward uses a copy of kernel and bias made {made}")


def _is_rebuilt(dense: Built) -> bool:
    """Return whether a registered pytree has the arrays from which JAX rebuilds it."""
    rebuild = getattr(getattr(dense.parameters, "static", None), "rebuild", None)
    if rebuild is None:
        return True
    given = dense.parameters.tree
    found = jax.tree_util.tree_leaves(rebuild(given))
    if len(found) == 1 and not hasattr(found[0], "dtype"):
        return True  # a class that is not a pytree
    kept = {id(leaf) for leaf in found}
    return all(id(leaf) in kept for leaf in given.values())


def _when_copied(layer: Layer, case: Case, x: np.ndarray) -> str:
    """Return when values from construction are copied, found by an instance of another seed.

    Its own values at construction separate a copy in the layer from one that is kept outside of it.
    """
    fresh = layer.build(*case.kernel_shape, (case.seed + 1) % 2**32)
    kernels, biases = [fresh.kernel, layer.kernel_for(case)], [fresh.bias, layer.bias_for(case)]
    found = np.asarray(fresh.write(kernels[1], biases[1])(x))
    if layer.value(x, kernels[1], biases[1]).admits(found):
        return "in the first call"
    own = any(layer.value(x, *pair).admits(found) for pair in itertools.product(kernels, biases))
    return "at construction" if own else "for another instance"
