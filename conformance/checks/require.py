"""States what must hold in a property test, and raises a violation with the finding.

A :class:`Violation` means that the *layer* is wrong. Any other exception of a test means that the
suite or the registration is.
"""

from __future__ import annotations

import contextlib
import contextvars
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import pytest

from conformance.checks import recording
from conformance.checks.exceptions import cause_of
from conformance.checks.oracle import Bounded
from conformance.errors import (
    Violation,
    by_user,
    id_of,
    name_of,
    raised_by_layer,
    safe_text,
    users_line,
)
from conformance.jax_setup.lazy import jax


class NotApplicable(pytest.skip.Exception):  # type: ignore[name-defined,misc]  # set on a function
    """Raised by the suite if a check does not apply; a layer cannot skip a check."""


@contextlib.contextmanager
def during(action: str, cause: str = "") -> Iterator[None]:
    """Run the layer's code; an exception becomes a violation that names the action."""
    try:
        yield
    except Violation as violation:
        if raised_by_layer(violation):
            raise _raised(action, violation, cause) from violation
        if cause:
            # The check is about this, so it is not an obstacle.
            violation.cause, violation.obstacle = violation.cause or cause, False
            violation.cause_id = id_of(violation.cause)
        raise
    except BaseException as error:
        known = issubclass(type(error), NotApplicable)  # an instance may lie about its class
        if by_user(error) or (known and not raised_by_layer(error)):
            raise
        if _refused_by_configuration(error):
            not_applicable(
                'jax_numpy_rank_promotion="raise" is set, and refuses what the layer does: '
                "dtypes/rank-promotion"
            )
        raise _raised(action, error, cause) from error


def _raised(action: str, error: BaseException, cause: str) -> Violation:
    # The line that asked JAX to trace belongs to the suite, and does not help.
    text = safe_text(error, 2000).partition(" The error occurred while tracing ")[0]
    kind = name_of(error)
    # The address of an object differs in each run.
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    line = users_line(error)
    action = f"{action}: {line}" if line else action
    message = f"{action} raised {kind}: {_shortened(text)}"
    cause = cause or cause_of(error, text)
    kind_of_violation = Violation if _shows_its_origin(error) else _Unchained
    return kind_of_violation(message, accepted="no exception", cause=cause)


def _shortened(text: str) -> str:
    """Return the beginning and the end of a message, without references to JAX's pages.

    What is wrong is often last, after the text of an array or of a layer.
    """
    text = re.sub(r" ?(For more \w+, )?[Ss]ee https?://\S+", "", text)
    short = len(text) <= _BEGINNING + _END
    return text if short else f"{text[:_BEGINNING]} ... {text[-_END:]}"


_BEGINNING, _END = 200, 100


class _Unchained(Violation):
    """A violation that hides the exception it comes from, because reading its attributes raises."""

    __cause__ = __context__ = None


def _shows_its_origin(error: BaseException) -> bool:
    """Return whether others, such as Hypothesis, can follow the exception to its origin."""
    try:
        return hasattr(error, "__traceback__") and hasattr(error, "__context__")
    except BaseException as refusal:
        if by_user(refusal):
            raise
        return False


_about_rank_promotion = contextvars.ContextVar("about_rank_promotion", default=False)


@contextlib.contextmanager
def about_rank_promotion() -> Iterator[None]:
    """Treat JAX's refusal to promote ranks as a failure of the layer, not as an obstacle."""
    token = _about_rank_promotion.set(True)
    try:
        yield
    finally:
        _about_rank_promotion.reset(token)


def _refused_by_configuration(error: BaseException) -> bool:
    """Return whether JAX was configured to refuse code that is not a fault: see the modes."""
    if _about_rank_promotion.get() or jax.config.values["jax_numpy_rank_promotion"] != "raise":
        return False
    return "jax_numpy_rank_promotion" in safe_text(error)


@contextlib.contextmanager
def on_the_way(action: str) -> Iterator[None]:
    """Run a first step of most checks like :func:`during`; a violation in it is an obstacle."""
    try:
        with during(action):
            yield
    except Violation as violation:
        violation.obstacle = True
        raise


def fail(
    found: str, *, accepted: str = "", cause: str = "", declare: str = "",
    **measured: float | int | str,
) -> NoReturn:  # fmt: skip
    """Raise because the requirement does not hold; ``declare`` is as for :func:`that`."""
    raise Violation(found, accepted=accepted, cause=cause, declare=declare, **measured)


def that(
    holds: object, found: str, *, accepted: str = "", cause: str = "", declare: str = "",
    **measured: float | int | str,
) -> None:  # fmt: skip
    """Require a condition; ``declare`` is the line that declares the opposite as intended."""
    if not holds:
        raise Violation(found, accepted=accepted, cause=cause, declare=declare, **measured)


def same_shape(
    found: Sequence[int], expected: Sequence[int], what: str, *, cause: str = ""
) -> None:
    """Require a shape; a result of another shape counts as wrong numbers."""
    if tuple(found) != tuple(expected):
        shown = f"{what} has shape {tuple(found)}"
        violation = Violation(shown, accepted=f"shape {tuple(expected)}", cause=cause)
        violation.wrong_numbers = True
        raise violation


def equal(found: Any, expected: Any, what: str, *, cause: str = "", declare: str = "") -> None:
    """Require two arrays to be equal entry by entry; -0.0 equals 0.0, and NaN equals NaN.

    Reports a different shape, else the number of entries that differ and the worst of them.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    same_shape(found.shape, expected.shape, what, cause=cause)
    same = found == expected
    if found.dtype.kind not in "biu" and expected.dtype.kind not in "biu":
        same = same | (np.isnan(found) & np.isnan(expected))
    if np.all(same):
        return
    differs = ~same
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(_wide(found) - _wide(expected))
    place = _worst(np.where(differs, distance, -1.0))
    violation = Violation(
        f"{what} differs in {int(differs.sum())} of {found.size} entries; "
        f"at {_index(place)} it is {found[place]!s}, not {expected[place]!s}",
        accepted="bitwise equality",
        cause=cause,
        declare=declare,
        error=float(distance[place]),
    )
    # Two results of one layer may differ in the order of summation, never in half of their digits.
    digits = 0.0 if found.dtype.kind in "biu" else float(jax.numpy.finfo(found.dtype).eps) ** 0.5
    violation.wrong_numbers = _are_wrong(found, expected, digits)
    raise violation


def within(
    found: Any, reference: Any, bound: Any, what: str, *, cause: str = "",
    against: str = "the float64 reference",
) -> float:  # fmt: skip
    """Require ``|found - reference| <= bound`` entry by entry; return the largest error / bound.

    All three broadcast to the shape of ``reference``, which ``against`` names; the bound must be
    derived.
    """
    found, reference = np.asarray(found), np.asarray(reference)
    same_shape(found.shape, reference.shape, what, cause=cause)
    if found.size == 0:
        return 0.0
    bound = np.broadcast_to(np.asarray(bound, np.float64), reference.shape)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        # Equal infinities count as a difference of 0, not NaN.
        same = found == reference
        error = np.where(same, 0.0, np.abs(_wide(found) - _wide(reference)))
        # An exact result is within any bound, even 0; every result is within an infinite one.
        ratio = np.where((error == 0.0) | np.isposinf(bound), 0.0, error / bound)
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    place = _worst(ratio)
    recording.current().error_over_bound(float(ratio[place]))
    if ratio[place] <= 1.0:
        return float(ratio[place])
    violation = Violation(
        f"{what} at {_index(place)} is {found[place]!s}, {against} is "
        f"{reference[place]:.9g}: error / bound = {ratio[place]:.3g}",
        accepted=f"error <= {bound[place]:.3g} (rounding-error bound)",
        cause=cause,
        error=float(error[place]),
        bound=float(bound[place]),
        ratio=float(ratio[place]),
    )
    # Rounding two factors and their sum to bfloat16 changes each term by 3 * 2^-8 at most.
    violation.wrong_numbers = _are_wrong(found, reference, 2**-6)
    raise violation


def near(found: Any, reference: Bounded, what: str, *, cause: str = "") -> float:
    """Require a result to be within the bound of its reference, as :func:`within` does."""
    return within(found, reference.value, reference.bound, what, cause=cause)


def raises(call: Callable[[], Any], what: str, *, cause: Callable[[], str] = str) -> None:
    """Require the call to raise any exception; ``cause`` is called if it does not."""
    try:
        result = call()
    except Exception:
        return
    fail(f"{what} gave {_shown(result)}", accepted="an exception", cause=cause())


def _shown(result: Any) -> str:
    """Return the shape of an array, or the shapes of the arrays of a layer, as text."""
    shape = getattr(result, "shape", None)
    if shape is not None:
        return f"a result of shape {tuple(shape)}"
    leaves = jax.tree_util.tree_leaves(result)
    if leaves and all(hasattr(leaf, "shape") for leaf in leaves):
        return f"arrays of shape {' and '.join(str(tuple(leaf.shape)) for leaf in leaves)}"
    return safe_text(result, 80)


def not_applicable(reason: str) -> NoReturn:
    """End the check, because it does not apply to this layer or environment."""
    raise NotApplicable(reason)


def note(text: str) -> None:
    """Add a remark to the result of the current cell, for any outcome."""
    recording.current().note(text)


def record(**numbers: float | int | str) -> None:
    """Add figures to the result of the current cell, for any outcome."""
    recording.current().numbers.update(numbers)


def _are_wrong(found: np.ndarray, expected: np.ndarray, allowed: float) -> bool:
    """Return whether numbers differ by more than this part of the largest of them."""
    found, expected = _wide(found), _wide(expected)
    if not np.array_equal(np.isfinite(found), np.isfinite(expected)):
        return True
    finite = np.isfinite(expected)
    error, size = np.abs(found[finite] - expected[finite]), np.abs(expected[finite])
    return bool(error.max(initial=0) > allowed * size.max(initial=0))


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def _worst(values: np.ndarray) -> tuple[int, ...]:
    values = np.where(np.isnan(values), np.inf, values)
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(values)), values.shape))


def _index(place: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, place)) + "]" if place else "the scalar"
