"""Checks derivatives in some of kernel, bias and x, of second order, and for NaN."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.checks import programs, require
from conformance.checks.areas import gradients
from conformance.checks.arrays import as_jax
from conformance.checks.cases import BATCH, LARGE, Case
from conformance.checks.layer import Layer
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax

HIDDEN = Cause(
    "gradient-nan-hidden", "a number replaces any entry of a gradient that is not finite"
)
_NAMES = ("kernel", "bias", "input x")
# The other checks differentiate in all three at once.
_SUBSETS = [s for size in (1, 2) for s in itertools.combinations(range(3), size)]


def _program(layer: Layer) -> Any:
    """Return ``(parameters, kernel, bias, x, cotangent, t) -> gradients by parts``, compiled once.

    They are the gradients for each subset in turn, those of ``<dx, t>``, with t of the shape of x,
    and that of ``<db, t_0>`` in the cotangent, with t_0 a bias.
    """

    def make() -> Callable[..., Any]:
        def program(p: Any, kernel: Any, bias: Any, x: Any, cotangent: Any, t: Any) -> Any:
            loss = programs.weighted(layer, p, cotangent)
            parts = [jax.grad(loss, subset)(kernel, bias, x) for subset in _SUBSETS]

            def along_t(kernel: Any, bias: Any, x: Any, cotangent: Any) -> Any:
                down = jax.grad(programs.weighted(layer, p, cotangent), 2)
                return (down(kernel, bias, x) * t).sum()

            def along_bias(cotangent: Any) -> Any:
                back = jax.grad(programs.weighted(layer, p, cotangent), 1)
                return (back(kernel, bias, x) * bias).sum()

            penalty = jax.grad(along_t, (0, 1, 2, 3))(kernel, bias, x, cotangent)
            return parts, penalty, jax.grad(along_bias)(cotangent)

        return program

    return programs.remembered(layer, "gradients by parts", make)


def require_parts(layer: Layer, case: Case, parameters: Any) -> None:
    """Require the gradients in each subset of kernel, bias and x, and of a gradient penalty.

    Partly frozen layers are differentiated in some of the three. A gradient penalty contains ``<dx,
    t> = <g, t @ K>``, whose gradient is t^T g in the kernel, t @ K in g, and 0 in the others.
    """
    point, t = next(gradients.points(case, BATCH)), case.normal("t", *BATCH, case.in_features)
    with require.during("jax.grad of the layer with respect to some of kernel, bias and x"):
        values = (*point.values(), point.cotangent, t)
        parts, penalty, of_bias = jax.device_get(_program(layer)(parameters, *values))
    for subset, found in zip(_SUBSETS, parts, strict=True):
        if subset == (1,) and not layer.convention.use_bias:
            continue
        by = f"jax.grad for the {' and '.join(_NAMES[i] for i in subset)} alone"
        whole: list[Any] = [None, None, None]
        for i, gradient in zip(subset, found, strict=True):
            whole[i] = gradient
        gradients.require_gradients(layer, (whole[0], whole[1], whole[2]), point, by, some=True)
    what = "the second derivative <dx, t> with respect to the {}"
    reference = layer.arithmetic(case.in_features).kernel_gradient(t, point.cotangent)
    require.within(penalty[0], reference.value, reference.bound, what.format("kernel"))
    for i in (1, 2):
        require.equal(penalty[i], np.zeros_like(penalty[i]), what.format(_NAMES[i]))
    if not layer.reparameterized:
        g = what.format("cotangent g")
        gradients.require_of_cotangent(layer, point, penalty[3], g, x=t)
        if layer.convention.use_bias:
            what = "the second derivative <db, b> with respect to the cotangent g"
            gradients.require_of_cotangent(layer, point, of_bias, what, bias=point.bias)
    _require_frozen(layer)


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
