"""The description of a layer as data: its arrays, what it accepts, and its declaration."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from conformance.checks.areas import biases
from conformance.checks.areas.kernels import kernels_of
from conformance.checks.diagnosis.parameters import NO_ONE_KERNEL
from conformance.checks.layer import Layer
from conformance.checks.scan.edges import NOT_TRACED, scan
from conformance.errors import described
from conformance.jax_setup.lazy import jax
from conformance.layers import experiments
from conformance.layers.declaration import TABLE
from conformance.layers.formulas import FAMILIES, law_of
from conformance.layers.implementation import FLAX, Convention, existing
from conformance.layers.law import Law
from conformance.layers.looking import SIZES
from conformance.layers.storage import BiasRow
from conformance.statistics import identify_law
from conformance.statistics.by_requirement import Shape

# Different sides separate fan_in from fan_out; few inputs separate 1/fan_in from 1/(fan_in - 1).
# These are 170 000 weights.
_DRAWN = (((256, 64), range(4)), ((64, 256), range(4)), ((5, 2048), range(4)))

_SUMMED = 256
"""The size of a product that shows how it is accumulated and how its operands are rounded."""

_SMALL = 2.0**-18
"""An error that exceeds the rounding of one operand."""

_FORMULAS = {
    "1/fan_in": "1 / fan_in",
    "not scaled": "1",
    "standard deviation 1/fan_in": "1 / fan_in ** 2",
    "standard deviation 2/fan_in": "4 / fan_in ** 2",
    "standard deviation 1/(2 fan_in)": "1 / (4 * fan_in ** 2)",
    "fan_out": "1 / fan_out",
    "Glorot": "2 / (fan_in + fan_out)",
    "1/(fan_in + fan_out)": "1 / (fan_in + fan_out)",
    "He": "2 / fan_in",
    "He fan_out": "2 / fan_out",
    "1/(3 fan_in)": "1 / (3 * fan_in)",
    **{f"standard deviation {d}": f"{d} ** 2" for d in (0.01, 0.02, 0.05, 0.1)},
}
_OWN = {
    "LeCun uniform": "uniform, 1 / fan_in",
    "Glorot uniform": "uniform, 2 / (fan_in + fan_out)",
    "uniform +-1/sqrt(fan_in)": "uniform, 1 / (3 * fan_in)",
    "zeros": "zeros",
}
_UNCORRECTED = ", truncation not corrected"


@dataclass(frozen=True)
class Description:
    """The description of one layer.

    Parameters
    ----------
    name, kind
        Its name, and its kind: an nnx module, a Linen module, a class or a function.
    bound
        The call that constructs it; empty if it is the usual one.
    arrays
        Its arrays with kinds, dtypes and shapes, at 3 inputs and 10 outputs.
    kernel, bias
        Their paths; empty if not found.
    layout
        The axes of the kernel as it is stored.
    law
        The law of new kernels in a sentence.
    parameter_dtype, result_dtype
        The dtypes of new parameters, and of the result for a float32 ``x``.
    ranks
        The ranks of ``x`` that it accepts.
    extra_parameters, extra_state
        Its parameters and state besides kernel and bias.
    differences
        How it differs from Flax's layer.
    declaration
        Its declaration, by the keys of the table; None if only functions could describe it.
    branches
        Where its programs differ from those at 3 inputs and 10 outputs, or a note that it cannot be
        traced.
    trouble
        Why it could not be described; usually empty.
    """

    name: str
    kind: str
    bound: str = ""
    arrays: tuple[str, ...] = ()
    kernel: str = ""
    bias: str = ""
    layout: str = ""
    law: str = ""
    parameter_dtype: str = ""
    result_dtype: str = ""
    ranks: tuple[int, ...] = ()
    extra_parameters: tuple[str, ...] = ()
    extra_state: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    declaration: dict[str, Any] | None = None
    branches: tuple[str, ...] = ()
    trouble: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def describe_layer(layer: Layer) -> Description:
    """Build, call and draw the layer, and return its description."""
    with layer.registered.surroundings():
        return _described(layer)


def _described(layer: Layer) -> Description:
    its, seen = layer.registered, layer.seen
    kind = "a function (seed, x, features)"
    if its.init is not None:
        kind = "a class or a pure function, whose arrays are its parameters"
        kind = "an nnx module" if its.module is not None else kind
        kind = "a Linen module" if its.linen is not None else kind
    plain = Description(layer.name, kind, its.bound, seen.leaves, trouble=seen.trouble)
    if its.init is None:
        return replace(plain, branches=_branches(layer))
    ranks, dtype, trouble = _accepted(layer)
    trouble = seen.trouble or trouble
    if seen.other:
        trouble = f"it {seen.other}, so it is not a Dense"
    elif layer.has_no_one_kernel or not seen.leaves:
        trouble = trouble or (NO_ONE_KERNEL if seen.leaves else "it has no arrays that can be read")
    if seen.trouble or seen.other or not seen.kernel:
        return replace(plain, ranks=ranks, result_dtype=dtype, trouble=trouble)
    extra = {
        "extra_parameters": seen.extra_parameters,
        "extra_state": seen.extra_state,
        "ranks": ranks or seen.convention.ranks,
    }
    found = replace(seen.convention, **extra)  # type: ignore[arg-type]  # names of its fields
    if ranks:
        with contextlib.suppress(Exception):  # which the requirements report
            inputs = experiments.kinds_taken(layer.implementation, SIZES[0])
            found = replace(found, **_promises(layer, ranks), inputs=inputs)
    sentence, text = law_in_words(layer)
    if text and not law_of(text).within(FLAX.kernel):
        found = replace(found, kernel=_named(law_of(text), sentence))
    of_bias = ""
    if seen.bias:
        with contextlib.suppress(Exception):  # which the requirements report
            of_bias = _law_of_bias(layer)
            found = replace(found, bias=law_of(of_bias)) if of_bias else found
    return replace(
        plain,
        kernel=seen.kernel,
        bias=seen.bias,
        layout=found.layout.replace(",", ", "),
        law=sentence,
        parameter_dtype=found.parameter_dtype,
        result_dtype=dtype,
        ranks=found.ranks,
        extra_parameters=found.extra_parameters,
        extra_state=found.extra_state,
        differences=(*found.differences(), *_by_default(layer)),
        # Keys of the table describe one array for each parameter.
        declaration=None
        if seen.storage
        else dict(_declared(found, text, of_bias)) | _arguments(seen.arguments),
        branches=_branches(layer),
        trouble=trouble,
    )


def _promises(layer: Layer, ranks: Sequence[int]) -> dict[str, Any]:
    """Return a declaration of dtypes or error under which a product is within its bounds.

    The result is empty if the product is within them anyway, or if no declaration helps.
    """
    arithmetic = layer.arithmetic(_SUMMED)
    generator = np.random.default_rng(0)
    x, kernel = (generator.standard_normal((_SUMMED, _SUMMED), np.float32) for _ in range(2))

    def product(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        dense = layer.build(_SUMMED, _SUMMED).write(kernel, np.zeros(_SUMMED, np.float32))
        rows = dense.rows(x) if 2 in ranks else np.stack([np.asarray(dense(row)) for row in x])
        return rows.astype(np.float64)

    if arithmetic.is_half:
        reference = arithmetic.affine(x, kernel, np.zeros(_SUMMED, np.float32))
        return {} if reference.admits(product(x, kernel)) else {"accumulate": arithmetic.results}
    for half in ("bfloat16", "float16"):
        if experiments.rounds_operands(layer.implementation, half, SIZES[0]):
            y = product(x, kernel)
            found = {"compute_dtype": half, "casts_input": True, "result_dtype": "float32"}
            is_rounded = np.array_equal(y, y.astype(jax.numpy.dtype(half)))
            return found | ({"accumulate": half} if is_rounded else {})
    # A kernel of ones and zeros shows how x is rounded, such an x shows how the kernel is.
    eye = np.eye(_SUMMED, dtype=np.float32)
    of_x = np.abs(product(x, eye) - x) / np.abs(x).max(-1, keepdims=True)
    of_kernel = np.abs(product(eye, kernel) - kernel) / np.abs(kernel).max(0)
    error = max(of_x.max(), of_kernel.max())
    return {"product_error": 2.0 ** math.ceil(math.log2(error))} if _SMALL < error < 1 / 16 else {}


def _by_default(layer: Layer) -> tuple[str, ...]:
    """Return what the layer does unless its constructor gets another argument, or its factors."""
    found = [f"applies its argument {name} to the output" for name in layer.seen.arguments]
    storage = layer.seen.storage
    return (*found, *([] if storage is None or isinstance(storage, BiasRow) else [str(storage)]))


def _arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"arguments": dict(arguments)} if arguments else {}


def _branches(layer: Layer) -> tuple[str, ...]:
    found = scan(layer)
    if not found.traced:
        return (NOT_TRACED,)
    return tuple(dict.fromkeys(f"{edge.program}: {edge.where}" for edge in found.edges))


def _named(law: Law, sentence: str) -> Law:
    return replace(law, description=law.description or sentence)


def _accepted(layer: Layer) -> tuple[tuple[int, ...], str, str]:
    """Return the ranks of x that give the right shape, the result's dtype, and other trouble."""
    ranks, dtype, trouble = [], "", ""
    try:
        parameters = layer.init(0, *SIZES[0])
    except Exception as error:  # which the layer raised
        return (), "", described(error)
    for rank in range(1, 6):
        lead = (2, 3, 2, 4)[: rank - 1]
        x = jax.device_put(np.ones((*lead, SIZES[0][0]), np.float32))
        try:
            y = existing(layer.implementation.apply)(parameters, x)
        except Exception as error:
            trouble = trouble or (described(error) if rank == 2 else "")
            continue
        if np.shape(y) == (*lead, SIZES[0][1]):
            ranks.append(rank)
            dtype = dtype or str(y.dtype)
    return tuple(ranks), dtype, trouble if not ranks else ""


def law_in_words(layer: Layer) -> tuple[str, str]:
    """Return the law of new kernels in words, and its declaration; both "" if unknown."""
    try:
        drawn = kernels_of(layer, _DRAWN)
    except Exception:  # requirements report a kernel that cannot be drawn
        return "", ""
    return _in_words(
        {size: np.asarray(each, np.float64) for (size, _), each in zip(_DRAWN, drawn, strict=True)}
    )


def _in_words(samples: Mapping[Shape, np.ndarray]) -> tuple[str, str]:
    """Return the law of these draws in words, and its declaration; that is "" if unknown."""
    found = identify_law(samples)
    sentence = found.sentence.partition(". ")[0].rstrip(".")
    if found.verdict != "known":
        return sentence, ""
    if found.name in _OWN:
        return sentence, _OWN[found.name]
    name = found.name.removesuffix(_UNCORRECTED)
    family, _, scale = name.partition(", ")
    formula = _FORMULAS.get(scale, "")
    if found.name != name and formula:
        formula = f"0.7737413 * {formula}"
    declared = family if family in FAMILIES else "any"
    return sentence, f"{declared}, {formula}" if formula else ""


_USUAL = ("1 / fan_in", "2 / fan_in", "2 / (fan_in + fan_out)", "1 / (3 * fan_in)")


def law_line(layer: Layer) -> str:
    """Return the line that declares the law of new kernels, if libraries use that law.

    It is "" if such a kernel follows the law that the layer has already.
    """
    found = law_in_words(layer)[1]
    line = _usual_line("kernel", found)
    return "" if line and law_of(found).within(layer.convention.kernel) else line


def bias_law_line(layer: Layer) -> str:
    """Return the line that declares the law of new biases: a constant, or one of libraries."""
    found = _law_of_bias(layer)
    return f'bias = "{found}"' if found.startswith(_CONSTANT) else _usual_line("bias", found)


_CONSTANT = "constant, "


def _law_of_bias(layer: Layer) -> str:
    """Return the declaration of the law of new biases; "" if unknown."""
    drawn = biases.new(layer)
    values = np.unique(np.concatenate([each.ravel() for each in drawn.values()]))
    if len(values) == 1 and np.isfinite(values[0]):
        return f"{_CONSTANT}{values[0]:.9g}"
    return _in_words(drawn)[1]


def _usual_line(key: str, declared: str) -> str:
    return f'{key} = "{declared}"' if declared.partition(", ")[2] in _USUAL else ""


def _declared(found: Convention, kernel: str, bias: str) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values that declare the convention's differences from Flax's."""
    if not found.use_bias:
        yield "use_bias", False
    if found.layout != FLAX.layout:
        yield "layout", found.layout.replace(",", ", ")
    keys = ("kernel", "bias")[: 2 if found.use_bias else 1]
    pairs = zip(keys, found.parameter_names, FLAX.parameter_names, strict=False)
    names = {key: own for key, own, flax in pairs if own != flax}
    if names:
        yield "names", names
    if kernel and not law_of(kernel).within(FLAX.kernel):
        yield "kernel", kernel
    if bias and not law_of(bias).within(FLAX.bias):
        yield "bias", bias
    if found.parameter_dtype != FLAX.parameter_dtype:
        yield "parameter_dtype", found.parameter_dtype
    if found.compute_dtype != FLAX.compute_dtype:
        yield "dtype", found.compute_dtype
    if found.result_dtype:
        yield "result_dtype", found.result_dtype
    if found.accumulate != FLAX.accumulate:
        yield "accumulate", found.accumulate
    if found.product_error:
        yield "product_error", f"2**{round(math.log2(found.product_error))}"
    if not set(FLAX.inputs) <= set(found.inputs):
        yield "inputs", list(found.inputs)
    if not set(FLAX.ranks) <= set(found.ranks):
        yield "ranks", list(found.ranks)
    if found.extra_parameters:
        yield "extra_parameters", list(found.extra_parameters)
    if found.extra_state:
        yield "extra_state", list(found.extra_state)


def table_of(name: str, spec: str, declaration: dict[str, Any]) -> str:
    """Return the declaration as a table of ``pyproject.toml``."""
    lines = [f'[{TABLE}."{name}"]'] + ([f"layer = {json.dumps(spec)}"] if ":" in spec else [])
    for key, value in declaration.items():
        if isinstance(value, dict):
            inside = ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items())
            lines.append(f"{key} = {{ {inside} }}")
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines)
