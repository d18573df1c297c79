"""Checks vmap over some of kernel, bias and x."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.checks import jaxprs, programs, require
from conformance.checks.areas import gradients
from conformance.checks.arrays import as_jax
from conformance.checks.cases import BATCH, Case
from conformance.checks.diagnosis.wrong_gradients import Point
from conformance.checks.layer import Layer
from conformance.checks.once import once_per_layer
from conformance.checks.oracle import Bounded
from conformance.checks.scan.literals import names_in_code
from conformance.errors import Cause, Violation
from conformance.jax_setup.lazy import jax

# Which of kernel, bias and x are mapped, and a name that people give to such an axis: a layer may
# take a mean over it.
_PARTS = {
    "kernels": ((0, None, None), "model"),
    "biases": ((None, 0, None), "devices"),
    "kernels and x": ((0, None, 0), "data"),
    "biases and x": ((None, 0, 0), "batch"),
    "kernels and biases": ((0, 0, None), "i"),
}


@once_per_layer()
def _own_axes(layer: Layer) -> set[str]:
    """Return the axes of the layer's own meshes: in a map of that name, JAX refuses sums."""
    return jaxprs.axes_of_meshes(programs.traced(layer, Case(3, 10, lead=layer.fewest)))


@programs.compiled
def _program(layer: Layer) -> Any:
    """Return ``(parameters, stacked values, single values, cotangent) -> results by name``.

    Values are those of kernel, bias and x. The results include the gradient in the stacked kernels,
    and the gradients in all three for stacked cotangents, as ``jax.jacrev`` takes them.
    """
    f, own = programs.affine(layer), _own_axes(layer)

    def program(p: Any, stacked: Any, single: Any, cotangent: Any) -> Any:
        found = {}
        for name, (axes, axis_name) in _PARTS.items():
            values = [many if axis == 0 else one for many, one, axis in
                      zip(stacked, single, axes, strict=True)]  # fmt: skip
            mapped = jax.vmap(f, (None, *axes), axis_name=None if axis_name in own else axis_name)
            found[name] = mapped(p, *values)

        def loss(kernels: Any) -> Any:
            mapped = jax.vmap(f, (None, 0, None, None))
            return (mapped(p, kernels, *single[1:]) * cotangent).sum()

        y, back = jax.vjp(lambda *values: f(p, *values), *single)
        jacobian = jax.vmap(back)(cotangent.astype(y.dtype))
        return found, jax.grad(loss)(stacked[0]), jacobian

    return program


def require_maps_of_parts(layer: Layer, case: Case, parameters: Any) -> None:
    """Require vmap over some of kernel, bias and x, along a named axis, to equal the loop.

    The number of maps equals the number of rows of x, so that even confused axes fit.
    """
    maps = BATCH[0]
    kernels = case.normal("kernels of maps", maps, *case.kernel_shape)
    biases = case.normal("biases of maps", maps, case.out_features) * layer.convention.use_bias
    xs = case.normal("x of maps", maps, *BATCH, case.in_features)
    cotangent = case.normal("cotangent of maps", maps, *BATCH, case.out_features)
    single = (case.kernel(), case.bias() * layer.convention.use_bias, xs[0])
    with require.during("jax.vmap of the layer over some of kernel, bias and x"):
        values = ((kernels, biases, xs), single, cotangent)
        found, gradient, jacobian = jax.device_get(_program(layer)(parameters, *values))
    arithmetic = layer.arithmetic(case.in_features)
    for name, (axes, axis_name) in _PARTS.items():
        if name.startswith("biases") and not layer.convention.use_bias:
            continue
        of = [
            np.broadcast_to(one, many.shape) if axis is None else many
            for many, one, axis in zip((kernels, biases, xs), single, axes, strict=True)
        ]
        reference = arithmetic.affine(of[2], of[0], of[1][:, None])
        what = f"jax.vmap over {name} along the axis '{axis_name}'"
        require.near(found[name], reference, what)
    _require_ensemble(layer, case, parameters, single[2])
    each = [arithmetic.kernel_gradient(single[2], g) for g in cotangent]
    value, bound = (np.stack([getattr(g, part) for g in each]) for part in ("value", "bound"))
    what = "the gradient, with respect to stacked kernels, of jax.vmap of the layer"
    require.within(gradient, value, bound, what)
    for i, g in enumerate(cotangent):
        point = Point("x of one Jacobian", single[0], single[1], single[2], g)
        its = (jacobian[0][i], jacobian[1][i], jacobian[2][i])
        gradients.require_gradients(layer, its, point, "jax.vmap of jax.vjp over g")


# A prime, beyond the blocks in which a rule may go through the members of an ensemble.
_MEMBERS = 131


def _require_ensemble(layer: Layer, case: Case, parameters: Any, x: np.ndarray) -> None:
    """Require vmap over the parameters of many layers, or one, outside of jit to equal the loop."""
    for members in (_MEMBERS, 1):
        kernels = case.normal("kernels of an ensemble", members, *case.kernel_shape)
        biases = case.normal("biases of an ensemble", members, case.out_features)
        biases *= layer.convention.use_bias
        with require.during(f"jax.vmap of the layer over {members} kernels and biases"):
            mapped = jax.vmap(programs.affine(layer), (None, 0, 0, None))
            found = mapped(parameters, *map(as_jax, (kernels, biases, x)))
        reference = layer.arithmetic(case.in_features).affine(x, kernels, biases[:, None])
        what = f"jax.vmap over {members} kernels and biases, outside of jit,"
        require.near(found, reference, what)


def require_along_names(
    layer: Layer, case: Case, parameters: Any, x: np.ndarray, rows: Bounded
) -> None:
    """Require vmap over the rows of x to give them along an axis of any name in the layer's code.

    A layer that adds its results along an axis called ``tp`` has the name in its code. If it has a
    rule of differentiation, the gradients of the rows are compared as well.
    """
    names = [name for name in names_in_code(layer) if name not in _own_axes(layer)]
    for name in names:
        with require.during(f"jax.vmap of the layer along the axis '{name}'"):
            mapped = jax.vmap(
                lambda p, row: programs.call(layer, p, row), (None, 0), axis_name=name
            )
            found = mapped(parameters, as_jax(x))
        what = f"jax.vmap over x along the axis '{name}'"
        require.near(found, rows, what, cause=_by_name(name))
    if programs.has_own_derivatives(layer, parameters, x[0]):
        # Without a name first, so that the name is the cause of what it changes.
        for each in dict.fromkeys((None, "batch", *names)):
            _require_gradients_along(layer, case, parameters, x, each)


def _by_name(name: str | None) -> Cause | str:
    words = f"the layer acts on a mapped axis that is called {name}"
    return "" if name is None else Cause("axis-by-name", words)


def _require_gradients_along(
    layer: Layer, case: Case, parameters: Any, x: np.ndarray, name: str | None
) -> None:
    """Require vmap of jax.vjp over the rows of x to give the gradients of each row."""
    f, g = programs.affine(layer), case.normal("g of rows", *x.shape[:-1], case.out_features)
    kernel, bias = case.kernel(), case.bias()

    def of_row(p: Any, kernel: Any, bias: Any, row: Any, g: Any) -> Any:
        y, back = jax.vjp(lambda *values: f(p, *values), kernel, bias, row)
        return back(g.astype(y.dtype))

    by = "jax.vmap of jax.vjp" + (f" along the axis '{name}'" if name else "")
    with require.during(by):
        mapped = jax.vmap(of_row, (None, None, None, 0, 0), axis_name=name)
        found = jax.device_get(mapped(parameters, *map(as_jax, (kernel, bias, x, g))))
    for i, its in enumerate(zip(*found, strict=True)):
        point = Point("x of one row", kernel, bias, x[i], g[i])
        try:
            gradients.require_gradients(layer, its, point, by)
        except Violation as violation:
            violation.because(_by_name(name))
            raise
