"""Likely causes of wrong gradients, given only if the evidence excludes the other causes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from conformance.checks import oracle
from conformance.checks.arithmetic import Arithmetic, rounded
from conformance.checks.diagnosis.places import of_part
from conformance.checks.oracle import Bounded
from conformance.errors import Cause

AT_ZERO = Cause(
    "derivative-at-zero",
    "the gradient is not finite at x = 0, although the value is: the forward pass goes through a "
    "function of infinite or undefined derivative there",
)


@dataclass(frozen=True)
class Point:
    """A point at which gradients are taken.

    Parameters
    ----------
    where
        A description of the point, for messages.
    kernel, bias, x
        The values, float32.
    cotangent
        The weights of the output, of its shape and not all ones.
    exact
        Whether all numbers are small integers, so that no order of summation rounds.
    """

    where: str
    kernel: np.ndarray
    bias: np.ndarray
    x: np.ndarray
    cotangent: np.ndarray
    exact: bool = False

    def values(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return kernel, bias and x."""
        return self.kernel, self.bias, self.x


def holds(found: np.ndarray, reference: Bounded, factor: float = 1.0) -> bool:
    """Return whether a gradient is a factor times the reference, within its bound."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(found.astype(np.float64) - factor * reference.value)
    return bool(np.all(error <= abs(factor) * reference.bound))


def why_wrong(
    found: np.ndarray, reference: Bounded, which: str, point: Point, arithmetic: Arithmetic
) -> str:
    """Return the cause if the evidence excludes all others, else ""."""
    at_zero = bool(point.x.size) and not point.x.any()
    if not np.all(np.isfinite(found)):
        if which == "input x":
            zero = ~point.x.any(axis=-1)
            at_zero = not np.isfinite(found[zero]).all() and bool(np.isfinite(found[~zero]).all())
        if not at_zero:
            return ""
        # At other x, in the same batch or at the previous point, the gradient is finite.
        return AT_ZERO
    if not found.any():
        if at_zero:
            words = f"at x = 0 the {which} does not receive a gradient: 0 is a special case"
            return Cause("gradient-masked", words)
        cut = f"the {which} does not receive a gradient: stop_gradient, rounding or a rule of "
        cut += "differentiation cuts it off"
        cut += "" if which == "input x" else ", or it is not the parameter that is used"
        return Cause("gradient-cut", cut)
    if which == "input x":
        with np.errstate(invalid="ignore", over="ignore"):
            wrong = np.abs(found.astype(np.float64) - reference.value) > reference.bound
        if not point.x[wrong].any() and not found[wrong].any():
            words = "where x is 0, the input x does not receive a gradient: 0 is a special case"
            return Cause("gradient-masked", words)
    rows = max(1, int(np.prod(point.x.shape[:-1])))
    one_row = _of_one_row(found, which, point)
    if one_row:
        # If all rows of g are equal, their mean equals the first one.
        mean = rows > 1 and holds(found, reference, 1 / rows)
        return "" if mean else one_row
    factors = {
        2.0: ("doubled", "the gradient is doubled"),
        0.5: ("halved", "the gradient is halved"),
        -1.0: ("negated", "the gradient has the wrong sign"),
        1 / rows: (
            "averaged",
            f"the gradient is averaged over the {rows} rows of the batch, not summed",
        ),
        1 / point.x.shape[-1]: ("over-inputs", "the gradient is divided by in_features"),
        1 / point.cotangent.shape[-1]: ("over-outputs", "the gradient is divided by out_features"),
    }
    for factor, (slug, words) in factors.items():
        if factor != 1.0 and holds(found, reference, factor):
            return Cause(f"gradient-{slug}", words)
    if found.ndim == 2 and found.shape[0] == found.shape[1] and holds(found.T, reference):
        return Cause("gradient-transposed", "the gradient is transposed")
    for limit in _LIMITS:
        clipped = np.clip(point.cotangent, -limit, limit)
        cuts = not np.array_equal(clipped, point.cotangent)
        if cuts and holds(found, _of_cotangent(which, point, clipped)):
            words = f"the gradient that reaches the output is clipped to +-{limit:g}"
            return Cause("cotangent-clipped", words)
    for name, used in (
        ("x that are 0", point.x.any(axis=-1)),
        ("g that add to 0", point.cotangent.sum(axis=-1) != 0),
    ):
        # Rows of both kinds stand among others, so a row that is missing for its place differs.
        rest = _of_cotangent(which, point, point.cotangent * np.expand_dims(used, -1))
        if used.any() and not used.all() and holds(found, rest):
            return Cause("rows-taken-for-padding", f"rows of {name} do not count in the gradient")
    top = np.abs(found).max()
    clipped = np.clip(reference.value, -top, top)
    if np.sum(np.abs(found) == top) > 1 and holds(found, Bounded(clipped, reference.bound)):
        return Cause("gradient-clipped", f"the gradient is clipped to +-{top:g}")
    # A layer of half precision may round its gradients.
    rounds = arithmetic.is_float32 and not point.exact
    return (
        (_rounded(found, which, point) if rounds else "")
        or _of_first_rows(found, which, point)
        or of_part(found, reference, {"0": 0 * reference.value}, "the gradient", _LINES[which])
    )


_LINES = {"kernel": ("input", "output"), "bias": ("total", "output"), "input x": ("row", "input")}
"""The names of a row and of a column of each gradient."""


def _of_first_rows(found: np.ndarray, which: str, point: Point) -> str:
    """Return whether the gradient is the one of the first rows of the batch alone."""
    x = point.x.reshape(-1, point.x.shape[-1])
    g = point.cotangent.reshape(-1, point.cotangent.shape[-1])
    if which == "input x":
        return ""

    def first(k: int) -> Bounded:
        return _of_cotangent(which, replace(point, x=x[:k]), g[:k])

    summed = np.cumsum(g[:, 0] * (x[:, 0] if which == "kernel" else 1.0), dtype=np.float64)
    near = np.abs(summed[:-1] - found.flat[0]) <= 4 * first(len(g)).bound.flat[0]
    counts = [int(k) + 1 for k in np.flatnonzero(near)[:_COUNTS]]
    named = [k for k in counts if holds(found, first(k))]
    if len(named) != 1:
        return ""
    words = f"only the first {named[0]} of {len(g)} rows of the batch contribute to the gradient"
    return Cause("gradient-of-first-rows", words)


_COUNTS = 16
"""The maximum number of counts of rows that are tried."""


_LIMITS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
"""The usual limits of a gradient."""


def _of_cotangent(which: str, point: Point, g: np.ndarray) -> Bounded:
    if which == "kernel":
        return oracle.kernel_gradient(point.x, g)
    return oracle.bias_gradient(g) if which == "bias" else oracle.input_gradient(point.kernel, g)


def _of_one_row(found: np.ndarray, which: str, point: Point) -> str:
    """Return a cause if the gradient uses only one row, or is one total for all outputs."""
    x = point.x.reshape(-1, point.x.shape[-1])
    g = point.cotangent.reshape(-1, point.cotangent.shape[-1])
    if which == "input x" or len(g) < 2:
        return ""
    for place, word in ((slice(0, 1), "first"), (slice(-1, None), "last")):
        kernel, bias = oracle.kernel_gradient(x[place], g[place]), oracle.bias_gradient(g[place])
        if holds(found, kernel if which == "kernel" else bias):
            words = f"only the {word} row of the batch contributes to the gradient"
            return Cause("gradient-of-one-row", words)
    if which == "bias" and found.size > 1:
        total = oracle.products(np.ones((1, g.size), np.float32), g.reshape(-1, 1))
        if holds(found, Bounded(np.full(found.shape, total.value[0, 0]), total.bound[0, 0])):
            words = "the gradient is summed over the outputs, too: every entry is the total"
            return Cause("gradient-of-total", words)
    return ""


def _rounded(found: np.ndarray, which: str, point: Point) -> str:
    """Return a cause if the gradient, or what is multiplied for it, has a short significand."""
    for bits, name in ((8, "bfloat16"), (11, "float16 or TF32")):
        significand, _ = np.frexp(found.astype(np.float64))
        if np.all(np.ldexp(significand, bits) % 1.0 == 0.0) and found.size > 1:
            return Cause("gradient-rounded", f"the gradient is rounded to {name}")
    if which != "bias":
        kernel, x, g = (rounded(v, "bfloat16") for v in (point.kernel, point.x, point.cotangent))
        for kept in (point.cotangent, g):
            if holds(found, _of_cotangent(which, replace(point, kernel=kernel, x=x), kept)):
                return Cause("factors-rounded", "it is a product of numbers rounded to bfloat16")
    return ""
