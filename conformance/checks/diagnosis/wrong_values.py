"""Likely causes of wrong results, given only if the evidence excludes the other causes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from conformance.checks import oracle
from conformance.checks.arithmetic import Arithmetic, is_exact, rounded
from conformance.checks.diagnosis.places import Formula, span
from conformance.errors import Cause, id_of
from conformance.jax_setup.lazy import jax

NO_BIAS = Cause("bias-unused", "the bias is not added: f(x) is x @ K")
SUBTRACTED = Cause("bias-subtracted", "the bias is subtracted instead of added")
TWICE = Cause("bias-twice", "the bias is added twice")
RELU = Cause("relu", "a nonlinearity is applied: negative outputs become 0 (relu)")

_REDUCTIONS: Mapping[str, Callable[[np.ndarray], np.floating]] = {
    "the mean of the bias": np.mean,
    "the sum of the bias": np.sum,
    "the largest entry of the bias": np.max,
    "the first entry of the bias": lambda bias: bias[0],
}

_FEW = 3
"""The minimum number of outputs of one sign that shows an activation."""


def of_zero_input(found: np.ndarray, bias: np.ndarray) -> str:
    """Return why f(0) is not the written bias; ``found`` is ``(..., out)``."""
    bias = np.broadcast_to(bias, found.shape) if found.shape[-1:] == bias.shape else bias
    if found.shape != bias.shape or not bias.size or np.array_equal(found, bias):
        return ""
    causes = {
        NO_BIAS: np.zeros_like(bias),
        SUBTRACTED: -bias,
        TWICE: 2 * bias,
        RELU: np.maximum(bias, 0),
    }
    named = [cause for cause, symptom in causes.items() if np.array_equal(found, symptom)]
    if named:
        return named[0] if len(named) == 1 else ""
    for name in ("bfloat16", "float16"):
        if np.array_equal(found, rounded(bias, name)):
            return Cause(
                "reduced-precision",
                f"the layer computes or returns in reduced precision: f(0) is the bias in {name}",
            )
    reduced = [words for words, of in _REDUCTIONS.items() if np.allclose(found, of(bias[0]))]
    if bias.shape[-1] >= _FEW and len(reduced) == 1:
        words = f"{reduced[0]} is added to every output, where each has its own entry of it"
        return Cause("bias-reduced", words)
    activation = _activation(found, bias)
    if activation:
        return activation
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = found.astype(np.float64) / bias
    # Two single numbers always have a ratio, and a ratio of 1 up to rounding is not a factor.
    off = np.abs(ratio - 1).max()
    if bias.shape[-1] > 1 and np.ptp(ratio) < 1e-6 * np.abs(ratio).max() and off > 1e-5:
        words = f"the bias is multiplied by {ratio.flat[0]:.4g} before it is added"
        return Cause("bias-scaled", words)
    return ""


def of_zero_and_basis(
    cause: str, at_zero: np.ndarray, found: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> str:
    """Return the cause found at f(0), if it concerns the bias alone or f(e_i) agrees.

    ``at_zero`` is f(0), of shape (out,), ``found`` has f(e_i) as rows, ``kernel`` and ``bias`` are
    the written values.
    """
    eye = np.eye(len(kernel), dtype=np.float32)
    if found.shape != kernel.shape:
        return ""
    if cause == RELU:
        return cause if found.min() >= 0 else ""
    of_bias = oracle.affine(eye, kernel, at_zero).admits(found)
    if id_of(cause) == "reduced-precision" and of_bias:
        return Cause("bias-rounded", "the bias is rounded to a narrower dtype")
    if id_of(cause).startswith("bias-"):
        if of_bias:
            return cause
        right = oracle.affine(eye, kernel, bias)
        return "" if right.admits(found) else _factor(found, right)
    return cause


def of_affine(
    found: np.ndarray,
    x: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    value: Formula = oracle.affine,
) -> str:
    """Return the one wrong formula that explains all of ``found`` instead of ``x @ kernel + bias``.

    A formula explains the result if every entry is within its own rounding-error bound, and no
    other candidate also explains it. ``value`` is ``x @ kernel + bias`` with the bound of the dtype
    that the layer declares to compute in.
    """
    found = np.asarray(found)
    if found.shape != (*x.shape[:-1], kernel.shape[1]) or found.size < 2:
        return ""
    right = value(x, kernel, bias)
    if not np.all(np.isfinite(right.value)):
        return ""
    if right.admits(found):
        return ""
    named = [
        cause
        for cause, formula in _candidates(x, kernel, bias, value).items()
        if formula().admits(found)
    ]
    if named:
        return named[0] if len(named) == 1 else ""
    return (
        _activation(found, right.value)
        # A single wrong weight also gives a factor of the output.
        or (_factor(found, right) if kernel.size > 2 else "")
        or _reduced_precision(found, x, kernel, bias, right)
    )


def _factor(found: np.ndarray, right: oracle.Bounded) -> str:
    """Return a cause if every entry is the same multiple of the correct one, within its bound."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        # Entries with a bound too wide to tell the factor are left out.
        clear = np.abs(right.value) > 1e4 * right.bound
        ratios = found.astype(np.float64)[clear] / right.value[clear]
    # A factor of a single row may depend on that row.
    rows = np.count_nonzero(clear.any(axis=-1))
    if ratios.size < _FEW or rows < 2 or not np.isfinite(ratios).all():
        return ""
    factor = float(np.median(ratios))
    same = np.abs(found - factor * right.value) <= 2 * max(abs(factor), 1.0) * right.bound
    if not same.all() or factor == 0.0:
        return ""
    return Cause("output-scaled", f"the output is {factor:.6g} times what it should be")


def _activation(found: np.ndarray, right: np.ndarray) -> str:
    """Return a cause if a usual function gives the output, or if it stays in a range of one.

    ``right`` is the correct output.
    """
    known = "" if np.unique(right).size < _FEW else _function_of(found, right)
    if known:
        return Cause("activation", f"an activation is applied to the output: {known}(x @ K + b)")
    # A single value may be a statistic over the bias, and one row a square of it.
    several = np.unique(found).size > 1 and right.size > right.shape[-1]
    if np.count_nonzero(right < 0) >= _FEW and (found >= 0).all() and several:
        return Cause(
            "activation",
            "the output is never negative, where x @ K + b is: an activation is applied to it",
        )
    if np.count_nonzero(np.abs(right) > 1.5) >= _FEW and (np.abs(found) <= 1).all() and found.any():
        return Cause(
            "activation",
            "the output stays within -1 .. 1, where x @ K + b does not: an activation is applied",
        )
    return ""


def _function_of(found: np.ndarray, right: np.ndarray) -> str:
    """Return the name of the one usual activation that gives every entry, or ""."""
    if found.dtype != np.float32 or not np.isfinite(right).all():
        return ""
    z = right.astype(np.float32)
    usual = "tanh sigmoid gelu silu softplus elu selu leaky_relu relu6 softmax log_softmax"
    values = {name: np.asarray(getattr(jax.nn, name)(z)) for name in usual.split()}
    values["gelu"] = np.where(
        np.isclose(found, values["gelu"], rtol=1e-4, atol=1e-6),
        values["gelu"],
        np.asarray(jax.nn.gelu(z, approximate=False)),
    )
    named = [n for n, value in values.items() if np.allclose(found, value, rtol=1e-4, atol=1e-6)]
    return f"jax.nn.{named[0]}" if len(named) == 1 else ""


def of_basis(found: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> str:
    """Return why f(e_i) is not K[i] + b; ``found`` is ``(in, out)``, with f(e_i) as row i."""
    eye = np.eye(len(kernel), dtype=np.float32)
    cause = of_affine(found, eye, kernel, bias)
    if cause or found.shape != kernel.shape:
        return cause
    right, (n, m) = kernel + bias, kernel.shape
    if min(n, m) > 1 and np.array_equal(found, kernel.reshape(m, n).T + bias):
        words = "the kernel is read as by reshape(out, in), which is not its transpose"
        return Cause("kernel-reshaped", words)
    differs = found != right
    wrong = np.flatnonzero(differs.any(axis=1))
    ignored = np.flatnonzero((found == bias).all(axis=1) & (kernel != 0).any(axis=1))
    # With one output, a single entry of the kernel may be dropped.
    if ignored.size and kernel.shape[1] > 1 and np.array_equal(ignored, wrong):
        return Cause(
            "inputs-ignored", f"inputs are ignored: {span(ignored, len(kernel))} of {len(kernel)}"
        )
    columns = np.flatnonzero(differs.any(axis=0))
    by_column = differs[:, columns].sum(axis=0)
    # If an output is wrong only for a few inputs, single entries of the kernel are wrong.
    if 0 < columns.size <= kernel.shape[1] // 2 and by_column.min() > max(1, len(kernel) // 2):
        return Cause(
            "some-outputs-wrong",
            f"only outputs {span(columns, kernel.shape[1])} of {kernel.shape[1]} are wrong",
        )
    dropped = differs & (found == bias)
    if 0 < dropped.sum() < differs.size and np.array_equal(dropped, differs):
        words = f"{dropped.sum()} of {differs.size} weights do not count: the kernel is masked"
        return Cause("weights-masked", words)
    for decimals in (1, 2, 3, 4):
        grid = np.abs(np.round(found.astype(np.float64) - bias, decimals) - (found - bias))
        if found.size > 3 and grid.max() < 1e-6:
            return Cause(
                "kernel-rounded",
                f"the kernel, or its product with x, is rounded to {decimals} decimals",
            )
    return ""


def _candidates(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, f: Formula
) -> Mapping[str, Callable[[], oracle.Bounded]]:
    n, m = kernel.shape
    root = np.float32(np.sqrt(n))
    none = np.zeros_like(bias)
    found: dict[str, Callable[[], oracle.Bounded]] = {
        NO_BIAS: lambda: f(x, kernel, none),
        SUBTRACTED: lambda: f(x, kernel, -bias),
        TWICE: lambda: f(x, kernel, 2 * bias),
        Cause("bias-in-kernel", "the bias is added to the kernel, not to the product"): lambda: f(
            x, kernel + bias, none
        ),
        Cause("kernel-unused", "the kernel is not used: f(x) is the bias"): lambda: f(
            x, np.zeros_like(kernel), bias
        ),
        Cause("kernel-negated", "the kernel is used with its sign reversed"): lambda: f(
            x, -kernel, bias
        ),
        Cause(
            "scaled-again",
            "the product is divided by in: the mean is taken instead of the sum, or the kernel is "
            "scaled again",
        ): lambda: f(x / np.float32(n), kernel, bias),
        Cause(
            "scaled-again", "the kernel is scaled again in the forward pass, by 1/sqrt(in)"
        ): lambda: _looser(f(x / root, kernel, bias)),
        RELU: lambda: oracle.Bounded(
            np.maximum(f(x, kernel, bias).value, 0), f(x, kernel, bias).bound
        ),
        Cause("input-left-out", "the last input is left out"): lambda: f(
            x[..., :-1], kernel[:-1], bias
        ),
        Cause("input-left-out", "the first input is left out"): lambda: f(
            x[..., 1:], kernel[1:], bias
        ),
        Cause(
            "input-truncated", "the fractions of x are dropped: it is cast to integers"
        ): lambda: f(np.trunc(x), kernel, bias),
        Cause("input-rounded", "x is rounded to integers"): lambda: f(np.round(x), kernel, bias),
        Cause("inputs-reversed", "the order of the inputs is reversed"): lambda: f(
            x[..., ::-1], kernel, bias
        ),
        Cause("outputs-reversed", "the order of the outputs is reversed"): lambda: f(
            x, kernel[:, ::-1], bias[::-1]
        ),
    }
    if n == m and n > 1:
        transposed = Cause("kernel-used-transposed", "the kernel is used transposed: x @ K.T")
        found[transposed] = lambda: f(x, kernel.T, bias)
        early = Cause("bias-in-input", "the bias is added to x, not to the product")
        found[early] = lambda: f(x + bias, kernel, none)
        residual = "the input is added to the output when in equals out (residual)"
        found[Cause("residual", residual)] = lambda: f(
            x, kernel.astype(np.float64) + np.eye(n), bias
        )
    if n == 1 or m == 1:
        # With one input or one output several formulas agree, so none is returned.
        for key in [k for k in found if "order" in k or "left out" in k]:
            del found[key]
    # One input has no scale of its own, and of a single number, x may have the other sign.
    alike = {"scaled-again": n == 1, "kernel-negated": x.size == 1}
    return {cause: formula for cause, formula in found.items() if not alike.get(id_of(cause))}


def _looser(formula: oracle.Bounded) -> oracle.Bounded:
    """Return a looser bound, because the layer also rounds the factor 1/sqrt(in)."""
    return oracle.Bounded(formula.value, 4 * formula.bound)


_PRODUCT = "the product is computed in reduced precision: errors are those of"
_LARGEST_HALF = 65504.0
_MANY, _LEVELS = 64, 8
"""So many numbers, or different ones, fit the roundings of a format by no accident."""
_FORMATS = {"bfloat16": ("bfloat16", 2.0**-8), "float16": ("TF32 or float16", 2.0**-11)}


def _reduced_precision(
    found: np.ndarray, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, right: oracle.Bounded
) -> str:
    """Return the usual format that explains the error, by its size and the numbers themselves.

    The operands are rounded to it, or the result, or the product before the bias is added. The size
    of the error alone does not suffice: a factor or a coarser kernel may cause it. A layer that
    declares such a format has a bound far above that of float32.
    """
    if np.any(right.bound > 2 * oracle.affine(x, kernel, bias).bound):
        return ""
    size = np.abs(x).astype(np.float64) @ np.abs(kernel).astype(np.float64) + np.abs(bias)
    overflows = ~np.isfinite(found)
    if overflows.any():
        # Each partial sum is below the sum of the magnitudes.
        may = np.maximum(size, np.maximum(np.abs(x).max(-1, keepdims=True), np.abs(kernel).max(0)))
        must = np.abs(right.value) > 1.01 * _LARGEST_HALF
        wrong = (overflows & (may < _LARGEST_HALF)).any() or (must & ~overflows).any()
        held, exact = (
            np.abs(product - rounded(product, "float16")) <= right.bound[~overflows]
            for product in ((y - bias)[~overflows].astype(np.float32) for y in (found, right.value))
        )
        if wrong or not held.all() or exact.all():
            return ""
        return Cause("reduced-precision", f"{_PRODUCT} float16, in which large numbers overflow")
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.abs(found.astype(np.float64) - right.value) - right.bound
        relative = np.where(error <= 0, 0.0, error / size)
    worst = float(np.max(relative)) if relative.size else 0.0
    for name, (words, unit) in _FORMATS.items():
        # The errors of long sums cancel, so a small one tells only if the numbers do.
        least = 0.0 if found.size >= _MANY else unit / 16
        if least < worst <= 2.5 * unit:
            held_x, held_kernel = rounded(x, name), rounded(kernel, name)
            of_operands = {
                "x is rounded to": (held_x, kernel),
                "the kernel is rounded to": (x, held_kernel),
                _PRODUCT: (held_x, held_kernel),
            }
            if is_exact(x, name) != is_exact(kernel, name):
                del of_operands[_PRODUCT]  # only one operand has anything to round
            named = [
                what
                for what, operands in of_operands.items()
                if oracle.affine(*operands, bias).admits(found)
            ]

            def is_held(result: np.ndarray, name: str = name) -> bool:
                result, product = result.astype(np.float32), (result - bias).astype(np.float32)
                near = np.abs(product - rounded(product, name)) <= right.bound
                return is_exact(result, name) or bool(near.all())

            several = found.size < _MANY or np.unique(found - bias).size > _LEVELS
            if named or (several and is_held(found) and not is_held(right.value)):
                what = named[0] if len(named) == 1 else _PRODUCT
                return Cause("reduced-precision", f"{what} {words}")
    return ""


def of_wide_result(
    found: np.ndarray, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, its: Arithmetic
) -> str:
    """Return whether a result that is declared to be wider is rounded as if it were not."""
    if not its.is_wider or its.sums == its.results or not is_exact(found, its.results):
        return ""
    if its.affine(x, kernel, bias).admits(found):
        return ""
    if not replace(its, sums=its.results).affine(x, kernel, bias).admits(found):
        return ""
    words = f"the result is rounded to {its.results}, and then cast to float32"
    return Cause(
        "result-rounded", f'{words}: if this is intended, declare accumulate = "{its.results}"'
    )


def of_scale(found: np.ndarray, right: oracle.Bounded, scale: float) -> str:
    """Return why f(x) is wrong for x of this scale, if it is right for x of scale 1."""
    if scale < 1 and not found.any() and right.value.any():
        return Cause("small-flushed", f"an x of the size {scale:g} is taken for 0")
    return ""


def of_saturation(found: np.ndarray, right: np.ndarray) -> str:
    """Return a cause if only large results are too small, or all have one magnitude."""
    if found.shape != right.shape:
        return ""
    with np.errstate(invalid="ignore", divide="ignore"):
        short = np.abs(found.astype(np.float64)) < 0.9 * np.abs(right)
    limits = np.abs(found[short])
    if not limits.size or not short[np.abs(right) >= np.abs(right[short]).min()].all():
        return ""  # other large values are right, so their size is not the reason
    same = np.all(limits == np.abs(found).max()) and np.isfinite(limits[0]) and limits[0] > 0
    # Of a single output, x may be what is clipped.
    if same and np.count_nonzero(short.any(axis=0)) > 1:
        words = f"the output is clipped: it does not exceed {float(limits[0]):.4g}"
        return Cause("output-clipped", words)
    return Cause("large-values", "large values are clipped or squashed")


def of_building(error: str) -> str:
    """Return the cause in Flax's own message: an array outside of Variables, or no mesh."""
    if "mesh" in error and "out_sharding" in error:
        words = (
            "the parameters have sharding annotations, and there is no mesh: declare one by "
            'context = "module:function", which returns jax.set_mesh(mesh), or check the layer '
            "without one, with FLAX_ALWAYS_SHARD_VARIABLE=0 in the environment"
        )
        return Cause("mesh-missing", words)
    held = _PLAIN_CONTAINER.search(error)
    if held is not None:
        kind, name = held.groups()
        # The line that is shown ends with a comma, and perhaps a comment.
        if kind == "tuple" and re.search(r",\s*(#.*)?` raised", error):
            words = f"{name} is a tuple, because of the comma at the end of the line: remove it"
            return Cause("array-in-tuple", words)
        words = (
            f"{name} is a plain {kind} that holds arrays, and nnx does not look in it: give each "
            "array an attribute of its own"
        )
        return Cause("array-static", words)
    if "in static attribute" not in error:
        return ""
    words = "an array is kept where nnx does not look for one: wrap it in nnx.Param"
    return Cause("array-static", words)


_PLAIN_CONTAINER = re.compile(
    r"Found data on value of type '<class '(list|dict|set|tuple)'>' "
    r"assigned to static attribute '(\w+)'"
)


def of_numpy_sizes(found: np.ndarray, expected: np.ndarray) -> str:
    """Return a cause if NumPy integers as sizes give nearly the kernel of Python integers."""
    near = np.abs(found - expected) < 0.05 * np.abs(expected)
    words = "a size is computed with in its own type, and is rounded"
    return Cause("size-rounded", words) if near.all() else ""
