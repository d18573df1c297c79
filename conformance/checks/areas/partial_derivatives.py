"""Checks derivatives in some of kernel, bias and x, of second order, and for NaN."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from conformance.checks import programs, require
from conformance.checks.areas import gradients
from conformance.checks.arrays import as_jax
from conformance.checks.cases import BATCH, LARGE, Case
from conformance.checks.diagnosis.wrong_gradients import Point
from conformance.checks.layer import Layer
from conformance.checks.oracle import Bounded
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax

HIDDEN = Cause(
    "gradient-nan-hidden", "a number replaces any entry of a gradient that is not finite"
)
_NAMES = ("kernel", "bias", "input x")
# The other checks differentiate in all three at once.
_SUBSETS = [s for size in (1, 2) for s in itertools.combinations(range(3), size)]


# The ranks 1 to 3; the derivatives in some of the three are taken at the first.
_LEADS = (BATCH, (), (2, 3))


@programs.compiled
def _program(layer: Layer) -> Any:
    """Return ``(parameters, kernel, bias, u, batches) -> gradients by parts``, compiled once.

    They are the gradients for each subset in turn, and for each batch ``(x, g, t, s)`` those of
    ``<dK, t> + <db, u> + <dx, s>`` with respect to kernel, bias, x and g.
    """

    def program(p: Any, kernel: Any, bias: Any, u: Any, batches: Any) -> Any:
        x, cotangent, *_ = batches[0]
        loss = programs.weighted(layer, p, cotangent)
        parts = [jax.grad(loss, subset)(kernel, bias, x) for subset in _SUBSETS]

        def along(kernel: Any, bias: Any, x: Any, g: Any, t: Any, s: Any) -> Any:
            back = jax.grad(programs.weighted(layer, p, g), (0, 1, 2))(kernel, bias, x)
            return sum((a * b).sum() for a, b in zip(back, (t, u, s), strict=True))

        return parts, [jax.grad(along, (0, 1, 2, 3))(kernel, bias, *each) for each in batches]

    return program


def require_parts(layer: Layer, case: Case, parameters: Any) -> None:
    """Require the gradients in each subset of kernel, bias and x, and the second derivatives.

    Partly frozen layers are differentiated in some of the three. A second derivative occurs in a
    gradient penalty, and g depends on the parameters if the error is squared.
    """
    u = case.normal("bias tangent", case.out_features) * np.float32(layer.convention.use_bias)
    at, batches = [next(gradients.points(case, lead)) for lead in _LEADS], []
    for point in at:
        t, s = case.normal("t", *case.kernel_shape), case.normal("s", *point.x.shape)
        if layer.reparameterized:  # the terms of t in the kernel cancel except for their roundings
            t, s = (t, s * 0) if point is at[0] else (t * 0, s)
        batches.append((point.x, point.cotangent, t, s))
    with require.during(
        "jax.grad of the layer for some of kernel, bias and x, and of its gradient"
    ):
        values = (at[0].kernel, at[0].bias, u, batches)
        parts, seconds = jax.device_get(_program(layer)(parameters, *values))
    for subset, found in zip(_SUBSETS, parts, strict=True):
        if subset == (1,) and not layer.convention.use_bias:
            continue
        by = f"jax.grad for the {' and '.join(_NAMES[i] for i in subset)} alone"
        whole: list[Any] = [None, None, None]
        for i, gradient in zip(subset, found, strict=True):
            whole[i] = gradient
        gradients.require_gradients(layer, (whole[0], whole[1], whole[2]), at[0], by, some=True)
    for point, (_, _, t, s), second in zip(at, batches, seconds, strict=True):
        _require_second(layer, point, (t, u, s), second)
    _require_frozen(layer)


def _require_second(layer: Layer, point: Point, along: Any, second: Any) -> None:
    """Require the gradients of ``<dK, t> + <db, u> + <dx, s>`` at the point.

    It is ``<x t + u + s K, g>``: its gradient is s^T g in the kernel, 0 in the bias, g t^T in x,
    and the tangent of f in g.
    """
    t, _, s = along
    arithmetic = layer.arithmetic(len(point.kernel))
    what = f"the second derivative with respect to the {{}}, {point.where},"
    for i, reference, inner in (
        (0, arithmetic.kernel_gradient(s, point.cotangent), "input x"),
        (2, arithmetic.input_gradient(t, point.cotangent), "kernel"),
    ):
        cut = f"the gradient with respect to the {inner} does not depend on the {_NAMES[i]}: "
        cut += "stop_gradient or a rule of differentiation cuts the second derivative off"
        cause = "" if second[i].any() else Cause("second-derivative-cut", cut)
        if i == 2 or not layer.reparameterized or s.any():
            require.near(second[i], reference, what.format(_NAMES[i]), cause=cause)
    require.equal(second[1], np.zeros_like(second[1]), what.format("bias"))
    if layer.reparameterized:
        return

    def tangent(stopped: tuple[int, ...]) -> Bounded:
        rest = [value * (i not in stopped) for i, value in enumerate(along)]
        return arithmetic.tangent(point.x, point.kernel, *rest)

    reference, cause = tangent(()), ""
    for stopped in (*_SUBSETS, (0, 1, 2)):
        if tangent(stopped).admits(second[3]) and not reference.admits(second[3]):
            names = " and ".join(_NAMES[i] for i in stopped)
            words = "the rule of differentiation stops the gradient of the cotangent, for "
            cause = Cause("cotangent-stopped", words + names)
            break
    require.near(second[3], reference, what.format("cotangent g"), cause=cause)


def _require_frozen(layer: Layer) -> None:
    """Require the gradient of each of kernel, bias and x outside of jit, where the others are
    arrays and not traced, as in fine-tuning.

    The scan of programs does not see a branch that needs values, so the size is a large one.
    """
    case = Case(*LARGE)
    point, parameters = next(gradients.points(case, BATCH)), layer.of(case).parameters
    loss = programs.weighted(layer, parameters, point.cotangent)
    for i in range(len(_NAMES)):
        if i == 1 and not layer.convention.use_bias:
            continue
        whole: list[Any] = [None, None, None]
        by = f"jax.grad for the {_NAMES[i]} alone, outside of jit"
        with require.during(by):
            whole[i] = jax.grad(loss, i)(*map(as_jax, point.values()))
        gradients.require_gradients(layer, (whole[0], whole[1], whole[2]), point, by, some=True)


def require_nan_passed(layer: Layer, case: Case, parameters: Any) -> None:
    """Require that a NaN or an infinity in g reaches dK and db at its output, and dx at its row.

    It reaches nothing else. One in x must reach its row of dK, and one in the kernel its column of
    dx. Replacing any of them by a number would hide that training has diverged, or that the
    scale of a loss is too large.
    """
    if jax.config.values["jax_debug_nans"]:
        return
    point, generator = next(gradients.points(case, BATCH)), case.generator("NaN")
    row, column = int(generator.integers(BATCH[0])), int(generator.integers(case.out_features))
    x = case.normal("plain x", *BATCH, case.in_features)
    for name, value in _NOT_FINITE:
        g = point.cotangent.copy()
        g[row, column] = value
        with require.during(f"jax.vjp of the layer for a g that holds {name}"):
            found = programs.pullback(layer)(parameters, point.kernel, point.bias, x, g)[1]
        _require_spread(layer, jax.device_get(found), row, column, f"{name} in g[{row}, {column}]")
    i, kernel = int(generator.integers(case.in_features)), point.kernel.copy()
    for what, value in _NOT_FINITE:
        x[row, i] = kernel[i, column] = value
        for name, which, values, place in (
            ("x", 0, (point.kernel, point.bias, x, point.cotangent), np.s_[i]),
            ("the kernel", 2, (kernel, point.bias, point.x, point.cotangent), np.s_[:, i]),
        ):
            with require.during(f"jax.vjp of the layer for {what} in {name}"):
                found = jax.device_get(programs.pullback(layer)(parameters, *values)[1][which])
            require.that(
                not np.isfinite(found[place]).any(),
                f"with {what} in {name}, the gradient with respect to the {_NAMES[which]} hides it",
                accepted="no finite number where it is a factor",
                cause=HIDDEN,
            )


_NOT_FINITE = (("a NaN", np.nan), ("an infinity", np.inf))


def _require_spread(layer: Layer, found: Any, row: int, column: int, what: str) -> None:
    """Require that gradients are finite except where this row and column of g enter."""
    kernel, bias, down = (~np.isfinite(gradient) for gradient in found)
    outputs, rows = np.arange(len(bias)) == column, np.arange(len(down)) == row
    if 1 in layer.precision(len(kernel)).over:
        kernel = kernel & outputs  # a norm over the outputs spreads it
    for name, wrong, expected in (
        ("kernel", kernel, np.broadcast_to(outputs, kernel.shape)),
        ("bias", bias, outputs),
        ("input x", down, np.broadcast_to(rows[:, None], down.shape)),
    ):
        if name == "bias" and not layer.convention.use_bias:
            continue
        reaches, spreads = wrong[expected].all(), wrong[~expected].any()
        require.that(
            reaches and not spreads,
            f"with {what}, the gradient with respect to the {name} "
            f"{'is not finite elsewhere either' if reaches else 'hides it'}",
            accepted="no finite number where g enters, and finite ones elsewhere",
            cause="" if reaches else HIDDEN,
        )
