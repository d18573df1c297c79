"""Checks of functions without parameters, whose kernel and bias are found by probing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from conformance.checks import oracle, require
from conformance.checks.areas import input_dtypes
from conformance.checks.areas.kinds import rows_by_kind
from conformance.checks.arrays import as_jax
from conformance.checks.cases import Case
from conformance.checks.diagnosis import conversions, telling
from conformance.checks.diagnosis.wrong_gradients import AT_ZERO
from conformance.checks.layer import Layer
from conformance.checks.require import during
from conformance.checks.scan.edges import scan
from conformance.contract.requirement import PARAMETERS
from conformance.errors import Cause, NotAdaptable
from conformance.jax_setup.lazy import jax, nnx
from conformance.layers.binding import bind, signature_of

# Probing costs a call for each input, so these are few sizes; one is wider than a vector unit.
_SIZES = ((3, 10), (16, 16), (33, 20))
# Integers up to this one are float32 numbers.
_EXACT = 2**24


def is_function(layer: Layer) -> bool:
    """Return whether the layer has no parameters to read or write."""
    return PARAMETERS not in layer.provides


def layer_beside(function: Any) -> Any:
    """Return the nnx class ``MyDense`` in the module of a function if it can be called, or None."""
    found = getattr(inspect.unwrap(function), "__globals__", {}).get("MyDense")
    if not (isinstance(found, type) and issubclass(found, nnx.Module)):
        return None
    return found if any("__call__" in vars(each) for each in found.__mro__) else None


def constructor(layer: Any) -> Callable[[Any, Any, Any], Any]:
    """Return ``construct(in_features, out_features, rngs)`` of an nnx class that takes these.

    They are given by name: the exercise leaves open whether they can be given by position. The
    outputs may not come first, because the exercise says in which order they come.
    """
    signature = signature_of(layer)
    named = [] if signature is None else [*signature.parameters.values()]
    first = [p.name for p in named if p.kind is not p.KEYWORD_ONLY][:2]
    words = (
        f"MyDense takes {''.join(first[:1])} first, where the exercise asks for in_features first"
    )
    require.that(
        not first or "out" not in first[0],
        f"MyDense takes ({', '.join(first)})",
        accepted="(in_features, out_features), in this order",
        cause=Cause("outputs-first", words),
    )
    try:
        return bind(layer, {}, is_nnx=True).construct
    except NotAdaptable as error:
        require.not_applicable(f"its MyDense takes more than both sizes and rngs: {error.found}")


def _require(
    layer: Layer, case: Case, x: Any, equivalent: np.ndarray, what: str, *, as_given: bool = False
) -> None:
    """Require f(x) to be x K + b, for the probed kernel and bias."""
    if case.kernel_shape not in _SIZES or layer.convention.compute_dtype != "float32":
        return
    kernel, bias = layer.remember(("probed", case), lambda: layer.affine(case))
    if not np.isfinite(kernel).all():
        return  # forward/additive reports a function that is not finite
    found = layer.at(case)(x, as_given=as_given)
    wide = "complex64" if np.iscomplexobj(equivalent) else "float32"
    require.that(str(found.dtype) == wide, f"{what} is {found.dtype}", accepted=wide)
    reference = oracle.affine(equivalent, kernel, bias)
    close = np.abs(np.asarray(found) - reference.value) <= 2 * reference.bound
    cause = ""
    if not np.all(close):
        own = kernel.astype(np.float32), bias.astype(np.float32)
        cause = _of_range(layer, case) or conversions.cause_of(
            np.asarray(found), np.asarray(x), equivalent, *own
        )
    # If there is a bias, the probed kernel is itself rounded.
    require.within(found, reference.value, 2 * reference.bound, what, cause=cause)


def _of_range(layer: Layer, case: Case) -> str:
    """Return a cause if the outputs for large x, which have both signs, keep to a range."""
    x = [case.normal(f"large {i}", case.in_features, scale=1e4) for i in range(8)]
    y = np.stack([np.asarray(layer.at(case)(each), np.float32) for each in x])
    if y.size < _MANY or not np.isfinite(y).all():
        return ""
    least, most = float(y.min()), float(y.max())
    if least >= 0 and most > 2:
        words = "the output is never negative: a function such as relu is applied to it"
        return Cause("output-range", words)
    ranges = {(-1.0, 1.0): "tanh", (0.0, 1.0): "the sigmoid"}
    name = ranges.get((least, most), "")
    words = f"the output keeps to {least:g} .. {most:g}: {name} or clipping is applied to it"
    return Cause("output-range", words) if name else ""


_MANY = 40
"""So many outputs have one sign with a probability below 1e-9."""


def require_scale_of_long(layer: Layer) -> None:
    """Require the kernel of a long x to have its variance, which one output for each column shows.

    For x of 1 and -1, an output is a sum of n entries, and hardly differs from a normal variable of
    variance n v. The mean of the squares of 256 of them then exceeds 1.8 n v, or stays below
    0.45 n v, with probability exp(-128 (r - 1 - ln r)) < 2e-12 each (Chernoff).
    """
    if scan(layer).longest < _LONG or not scan(layer).traced:
        return
    x = np.resize(np.array([1, -1, -1, 1, -1], np.float32), _LONG)
    y = np.asarray(layer.forward(0, x, 256), np.float64)
    found = float((y**2).mean()) / (_LONG * layer.convention.kernel.variance(_LONG, 256))
    require.that(
        0.45 <= found <= 1.8,
        f"with {_LONG} inputs, the variance of the entries is {found:.3g} times the declared one",
        accepted="0.45 .. 1.8 of the declared variance",
    )


# A prime beyond 2^16, so that no length of a block divides it.
_LONG = 70_001


def require_finite(layer: Layer, kernel: np.ndarray, bias: np.ndarray) -> None:
    """Require the probed kernel and bias of a function to be finite."""
    if not np.isfinite(bias).all():
        place = int(np.argmin(np.isfinite(bias)))
        cause = _normalized(layer)
        require.fail(f"f(0) at [{place}] is {bias[place]}", accepted="finite", cause=cause)
    wrong = ~np.isfinite(kernel)
    require.that(
        not wrong.any(),
        f"{int(wrong.sum())} of {wrong.size} entries of f(e_i) are not finite",
        accepted="finite outputs",
        cause=telling.of_many_not_finite(kernel.ravel()),
    )


def _normalized(layer: Layer) -> str:
    """Return a cause if twice as large an x gives the same output, but not if one entry is."""
    case = Case(*_SIZES[0])
    x = case.normal("x", *layer.fewest, case.in_features)
    longer = x * np.array([2, 1, 1], np.float32)
    found, twice, other = (np.asarray(layer.at(case)(each)) for each in (x, 2 * x, longer))
    if not found.any() or not np.allclose(found, twice, rtol=1e-5, atol=0):
        return ""
    if np.allclose(found, other, rtol=1e-3, atol=0):
        return ""  # only the signs of x count
    return Cause("input-normalized", "x is divided by its own size: f(2x) equals f(x)")


def require_additive(
    layer: Layer, found: np.ndarray, expected: np.ndarray, bound: np.ndarray
) -> None:
    """Require f(x + y) - f(0) to be the sum of both terms, within the bound."""
    right = np.all(np.abs(found - expected) <= bound)
    cause = "" if right else _normalized(layer)
    require.within(found, expected, bound, "f(x + y) - f(0)", cause=cause)


def require_scales(layer: Layer, case: Case, *scales: float) -> None:
    """Require f(x) to be right for x of these scales, with the signs of a column of the kernel."""
    for scale in scales:
        x = case.normal("x", case.in_features, scale=scale)
        kernel, _ = layer.remember(("probed", case), lambda: layer.affine(case))
        x = np.abs(x) * np.where(kernel[:, 0] < 0, np.float32(-1), np.float32(1))
        _require(layer, case, as_jax(x), x, f"f(x) for x of {scale:g}")


# Each row costs a call, which constructs a layer.
_ROWS = 2


def require_kinds(layer: Layer, case: Case, constants: Sequence[float]) -> None:
    """Require f(x) to be right for rows of every kind, and for x near constants of its program."""
    if not is_function(layer) or case.kernel_shape not in _SIZES or case.seed:
        return
    for kind, rows in rows_by_kind(case, _ROWS):
        for x in rows:
            _require(layer, case, as_jax(x), x, f"f(x) for {kind}")
    for constant in [c for c in constants if 1e-30 < c < 1e30][:_ROWS]:
        x = case.normal("x", case.in_features)
        x[0], x[-1] = np.float32(constant), -np.float32(constant)
        what = f"f(x) for an entry as large as the constant {constant:.6g} of the program"
        _require(layer, case, as_jax(x), x, what)


def require_not_finite(layer: Layer, case: Case, poison: float) -> None:
    """Require an entry of x that is not finite to show in every output."""
    if case.kernel_shape not in _SIZES:
        return
    x = case.normal("x", case.in_features)
    x[int(case.generator("place").integers(case.in_features))] = poison
    input_dtypes.require_shown(layer.at(case), x, poison)


def require_dtypes(layer: Layer, case: Case, *dtypes: Any) -> None:
    """Require that x of these dtypes gives the result of its numbers in float32 or complex64."""
    for x in _of_dtypes(case, dtypes):
        if not input_dtypes.takes(layer, x.dtype):
            input_dtypes.require_refused(layer.at(case), as_jax(x))
            continue
        wide = x if np.iscomplexobj(x) else x.astype(np.float32)
        _require(layer, case, as_jax(x), wide, f"f(x) for x of dtype {x.dtype}")
        if x.dtype == np.int32 and input_dtypes.takes_numpy(layer):
            what = "f(x) for a NumPy array of int64"
            _require(layer, case, x.astype(np.int64), wide, what, as_given=True)
        if np.dtype(x.dtype).kind not in "iu" and case.kernel_shape == _SIZES[0]:
            x[0] = np.nan
            input_dtypes.require_shown(layer.at(case), x, np.nan)


def _of_dtypes(case: Case, dtypes: Any) -> Iterator[np.ndarray]:
    plain = case.normal("x", case.in_features)
    for dtype in dtypes:
        if np.dtype(dtype).kind in "iu":
            largest = min(int(np.iinfo(dtype).max), _EXACT)
            yield case.integers("integers", case.in_features, bound=largest).astype(dtype)
        elif np.dtype(dtype).kind == "c":
            yield (plain + 1j * case.normal("imaginary", case.in_features)).astype(dtype)
        else:
            yield plain.astype(dtype)


def require_input_gradients(f: Any, x: np.ndarray, kernel: np.ndarray, g: np.ndarray) -> None:
    """Require the gradient in x of a function to be K g, for g of every size and of NaN."""
    scales = (1.0, 1e20, 1e-20, np.nan)
    for given in (x, 0 * x):
        with during("jax.vjp over x"):
            _, back = jax.vjp(f, as_jax(given))
            *finite, of_nan = [np.asarray(back(as_jax(s * g, "float32"))[0]) for s in scales]
        for scale, gradient in zip(scales, finite, strict=False):
            expected = oracle.input_gradient(kernel, np.float32(scale) * g)
            zero = not given.any()
            at = f"the gradient in x{' = 0' * zero} for g of the scale {scale:g}"
            cause = AT_ZERO if zero and not np.isfinite(gradient).all() else ""
            require.within(gradient, expected.value, 2 * expected.bound, at, cause=cause)
        require.that(
            np.isnan(of_nan).all(),
            "for a g of NaN, the gradient in x has other numbers",
            accepted="NaN",
            cause=Cause("gradient-nan-hidden", "a number replaces a gradient that is not finite"),
        )


def require_usable_after_a_trace(layer: Layer, case: Case) -> None:
    """Require a call outside of jit after the first call of a seed was traced."""
    x, seed = as_jax(case.normal("x", case.in_features)), case.seed ^ 1
    with during("tracing the first call of a seed"):
        jax.eval_shape(lambda x: layer.of_function(seed, x, case.out_features), x)
    with during("a call outside of jit, after the first call of the seed was traced"):
        layer.of_function(seed, x, case.out_features)
