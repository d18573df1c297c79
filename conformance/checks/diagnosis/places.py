"""Tells where a result is wrong, and what is there instead: rows, outputs, axes and terms.

These are causes of faults that concern a part of a result, which no formula for all of it explains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from conformance.checks import oracle
from conformance.errors import Cause

Formula = Callable[[np.ndarray, np.ndarray, np.ndarray], oracle.Bounded]

_MOST = 2**24
"""The maximum number of comparisons of rows with each other, and of terms of a product."""
_CHOICES = 10_000
"""Rows at the end of a batch, of so many choices of as many rows, are wrong by their place."""
_ROWS = 4
"""In so many rows, the entries of one output are wrong by no accident."""
_CLEAR = 1e4
"""Terms of so many bounds tell a factor to four digits."""


def of_places(
    found: np.ndarray, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, value: Formula
) -> str:
    """Return which part of ``found`` is not ``x @ kernel + bias``, and what it is instead, or "".

    Parameters
    ----------
    found
        ``(..., out)``, a result that :func:`.wrong_values.of_affine` does not explain.
    x
        ``(..., in)``.
    kernel, bias
        ``(in, out)`` and ``(out,)``.
    value
        Returns ``x @ kernel + bias`` with its bound.
    """
    right = value(x, kernel, bias)
    if found.shape != right.value.shape or not np.isrealobj(found):
        return ""
    if not np.isfinite(right.value).all() or right.admits(found):
        return ""
    return (
        _of_axes(found, x, kernel, bias, value)
        or _of_terms(found, x, kernel, bias, value)
        or of_part(
            found,
            right,
            {
                "0": np.zeros_like(right.value),
                "the bias, as for x = 0,": np.broadcast_to(bias, found.shape),
                "x @ K, without the bias,": value(x, kernel, 0 * bias).value,
            },
        )
    )


def of_constants(
    found: np.ndarray,
    x: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    value: Formula,
    constants: Sequence[float],
) -> str:
    """Return what becomes of x or the kernel at a constant, if this explains all of ``found``.

    The arguments are those of :func:`of_places`, and the numbers with which the layer compares.
    """
    if x.size * kernel.shape[1] > _MOST:
        return ""  # each candidate is a product
    # By the numbers, so that the first words, which claim least, stand for equal ones.
    named: dict[bytes, str] = {}
    for c in [abs(c) for c in constants if 0 < abs(c) < np.inf][:_CONSTANTS]:
        for words, change in _changes(c).items():
            for what, old in (("x", x), ("the kernel", kernel)):
                new = change(old).astype(np.float32)
                kept = np.count_nonzero(new == old)
                # Few numbers may be left out for another reason.
                if words.startswith("magnitudes") and min(kept, new.size - kept) < _SEVERAL:
                    continue
                left, right = (new, kernel) if old is x else (x, new)
                if value(left, right, bias).admits(found):
                    named.setdefault(what.encode() + new.tobytes(), words.format(what))
    return Cause("changed-at-constant", *named.values()) if len(named) == 1 else ""


def _changes(c: float) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return what a layer may do to numbers at a constant, in words about an array."""
    return {
        f"numbers of {{}} above {c:.6g} are clipped": lambda v: np.minimum(v, c),
        f"numbers of {{}} below -{c:.6g} are clipped": lambda v: np.maximum(v, -c),
        f"numbers of {{}} beyond {c:.6g} are clipped": lambda v: np.clip(v, -c, c),
        f"magnitudes of {{}} below {c:.6g} count as 0": lambda v: np.where(np.abs(v) < c, 0, v),
        f"numbers of {{}} that are {c:.6g} count as 0": lambda v: np.where(v == c, 0, v),
        f"numbers of {{}} that are -{c:.6g} count as 0": lambda v: np.where(v == -c, 0, v),
    }


_CONSTANTS, _SEVERAL = 8, 4
"""The maximum number of constants that are tried, and the least number of values on each side."""


def _of_axes(
    found: np.ndarray, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, value: Formula
) -> str:
    """Return the one mistake of an axis for another one of its length that explains the result."""
    named = [cause for cause, other in _mistakes(x, kernel, bias, value) if other.admits(found)]
    return named[0] if len(named) == 1 else ""


def _mistakes(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, value: Formula
) -> Iterator[tuple[Cause, oracle.Bounded]]:
    n, m = kernel.shape
    for axis in range(x.ndim - 1):
        if x.shape[axis] == n:
            words = f"axis {axis} of x, which is as long as the last one, is taken for the inputs"
            yield Cause("input-axis", words), value(np.swapaxes(x, axis, -1), kernel, bias)
        if x.shape[axis] == m:
            words = f"the bias is added along axis {axis} of the result, which is as long as it is"
            along = np.expand_dims(bias, tuple(range(1, x.ndim - axis)))
            yield Cause("bias-axis", words), value(x, kernel, along)
    if x.ndim > 1 and x.shape[-2] == n == m:
        for left, product in ((kernel, "K @ x"), (kernel.T, "K^T @ x")):
            words = f"the kernel is multiplied from the left: {product}"
            yield Cause("kernel-from-left", words), oracle.products(left, x, bias)


def _of_terms(
    found: np.ndarray, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, value: Formula
) -> str:
    """Return the factor of the product or of the bias, where the other one is as it should be."""
    if x.size < 2 * len(kernel):
        return ""  # a factor of a single row may depend on that row
    product = value(x, kernel, 0 * bias)
    error = product.bound + np.abs(bias) * oracle.F32
    for id, words, term, rest in (
        ("bias-scaled", "the bias is multiplied by {:.4g} before it is added", bias, product.value),
        (
            "product-scaled",
            "x @ kernel is multiplied by {:.4g} before the bias is added",
            product.value,
            bias,
        ),
    ):
        term, rest = np.broadcast_to(term, found.shape), np.broadcast_to(rest, found.shape)
        clear = np.abs(term) > _CLEAR * error
        if np.unique(term[clear]).size < 3:
            continue
        factor = float(np.median((found - rest)[clear] / term[clear]))
        off = np.abs(found - rest - factor * term)
        if abs(factor) > 1e-3 and np.all(off <= 2 * max(1.0, abs(factor)) * error):
            return Cause(id, words.format(factor))
    return ""


def of_part(
    found: np.ndarray,
    right: oracle.Bounded,
    instead: Mapping[str, np.ndarray],
    what: str = "the result",
    names: tuple[str, str] = ("row", "output"),
) -> str:
    """Return which lines of an array are wrong, and what they are instead, or "".

    Parameters
    ----------
    found, right
        ``(..., n)``, which are compared as a matrix.
    instead
        What may be there, in words, and its numbers.
    what
        The array, in words.
    names
        The names of a row and of a column of the matrix.
    """
    m = found.shape[-1]
    rows, expected, bound = (part.reshape(-1, m) for part in (found, right.value, right.bound))
    others = {words: values.reshape(-1, m) for words, values in instead.items()}
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(rows - expected) <= bound)
    bad_rows = np.flatnonzero(wrong.any(1))
    exchanged = _exchanged(rows, expected, bound, bad_rows) if names[0] == "row" else None
    if exchanged:
        places = [np.unravel_index(row, found.shape[:-1]) for row in exchanged]
        at, other = (f"[{', '.join(map(str, place))}]" for place in places)
        words = f"rows of {what} are in another order: at {at} is the one of x{other}"
        return Cause("rows-exchanged", words)
    for axis, name in enumerate(names):
        bad = wrong.any(1 - axis)
        total, places_of = bad.size, np.flatnonzero(bad)
        if places_of.size == total:
            continue
        which = f"{name}{'s' * (places_of.size > 1)} {span(places_of, total)} of {total}"

        def there(values: np.ndarray, bad: np.ndarray = bad, axis: int = axis) -> np.ndarray:
            return np.compress(bad, values, axis)

        fits = [
            words
            for words, other in others.items()
            if np.all(np.abs(there(rows) - there(other)) <= there(bound))
        ]
        if len(fits) == 1:
            return Cause(f"{name}s-replaced", f"{what} is {fits[0]} in {which}")
        at_end = places_of[0] == total - places_of.size
        tail = at_end and math.comb(total, places_of.size) > _CHOICES
        # In one row, the wrong entries may be those of the largest error.
        few = tail if name == "row" else places_of.size <= total // 2 and len(rows) >= _ROWS
        if few and there(wrong).mean() > 0.5:
            return Cause(f"some-{name}s-wrong", f"{what} is wrong only in {which}")
    return ""


def _exchanged(
    rows: np.ndarray, expected: np.ndarray, bound: np.ndarray, wrong: np.ndarray
) -> tuple[int, int] | None:
    """Return a row, and the one that is there, if all wrong rows are each other's right ones.

    Rows of tiny numbers have one result, so they are exchanged with any of them.
    """
    if not 1 < wrong.size <= (_MOST // rows.shape[1]) ** 0.5:
        return None
    off = np.abs(rows[wrong, None] - expected[None, wrong])
    is_row = np.all(off <= bound[None, wrong], axis=2)
    if not is_row.any(0).all() or not is_row.any(1).all():
        return None
    return int(wrong[0]), int(wrong[is_row[0].argmax()])


def span(places: np.ndarray, total: int) -> str:
    """Return indices in words, as a range if they are consecutive."""
    first, last = int(places[0]), int(places[-1])
    if last - first + 1 == places.size and places.size > 1:
        return f"from {first} on" if last == total - 1 else f"from {first} to {last}"
    return ", ".join(map(str, places[:5])) + (", ..." if places.size > 5 else "")
