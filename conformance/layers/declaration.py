"""The declaration of a layer, as plain values.

The same names are keys of ``[tool.dense-conformance.layers."name"]`` in ``pyproject.toml`` and of
the option ``--declare key=value``, and keyword arguments of ``adapt`` and ``check``.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from conformance.errors import UsageError, did_you_mean
from conformance.layers.formulas import law_of, number_of
from conformance.layers.implementation import FLAX, INPUTS, Convention
from conformance.layers.project import own_table

TABLE = "tool.dense-conformance.layers"

DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True)
class Declaration:
    """The declaration of a layer; None is not declared, and changes nothing.

    Parameters
    ----------
    layer
        Its place, ``module:attribute`` or ``path/to/file.py:attribute``; only in a table.
    context
        ``module:attribute`` of a function that returns a context manager, which is entered for
        import, construction and calls: a mesh, axis rules, a configuration.
    arguments, call
        Further arguments of the constructor, and of the call. ``module:attribute`` in a text
        names an object. ``rngs`` of the call is a list of the streams that it draws from.
    use_bias
        False for a layer without a bias.
    layout
        ``"in, out"`` or ``"out, in"``: the axes of the kernel as it is stored.
    names
        The names of ``kernel`` and ``bias`` in the layer's state, or their paths.
    kernel, bias
        Their laws: the name of one of Flax's initializers, or a family and a variance, as
        ``"uniform, 2 / (fan_in + fan_out)"``. A bias may be ``"constant, 0.01"``.
    parameter_dtype, dtype
        The dtypes of new parameters and of the computation, independent of the dtype of ``x``.
    result_dtype
        ``"float32"`` if it computes in a `dtype` of half precision and returns float32.
    accumulate
        The dtype in which a product of half precision is summed.
    product_error
        The relative error that a product may have besides rounding: a number, or a text such as
        ``"2**-7"``.
    inputs
        The kinds of numbers in ``x``: ``floating``, ``integer``, ``boolean``, ``complex``.
    ranks
        The ranks of ``x`` that it accepts.
    checks_width
        False if it does not reject an ``x`` of another width.
    extra_parameters, extra_state
        Names of parameters, and of other variables, that it has besides kernel and bias.
    derivatives
        ``"both"``, or ``"reverse"`` for a ``custom_vjp``, which has no forward mode.
    """

    layer: str = ""
    context: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    use_bias: bool | None = None
    layout: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    kernel: str | None = None
    bias: str | None = None
    parameter_dtype: str | None = None
    dtype: str | None = None
    result_dtype: str | None = None
    accumulate: str | None = None
    product_error: float | None = None
    inputs: tuple[str, ...] | None = None
    ranks: tuple[int, ...] | None = None
    checks_width: bool | None = None
    extra_parameters: tuple[str, ...] = ()
    extra_state: tuple[str, ...] = ()
    derivatives: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str = "the declaration") -> Declaration:
        """Make a declaration from plain values.

        Raises
        ------
        UsageError
            If a key is unknown, a value has a wrong form, or two contradict each other.
        """
        known = [each.name for each in fields(cls)]
        for key in values:
            if key not in known:
                hint = did_you_mean(key, known, f"known are {', '.join(known)}", repr)
                raise UsageError(f"{where}: the key {key!r} is unknown; {hint}")
        found = {key: _checked(key, value, where) for key, value in values.items()}
        declaration = cls(**found)
        if declaration.use_bias is False and (
            declaration.bias is not None or "bias" in declaration.names
        ):
            raise UsageError(
                f"{where}: use_bias = false says that there is no bias, but its "
                f"{'law' if declaration.bias is not None else 'name'} is declared as well"
            )
        allowed = (None, "float32", declaration.dtype)
        for key in ("accumulate", "result_dtype"):
            value = getattr(declaration, key)
            if declaration.dtype is not None and value not in allowed:
                raise UsageError(
                    f"{where}: {key} is float32 or the dtype, {declaration.dtype}; found {value!r}"
                )
        return declaration

    def convention(self, base: Convention = FLAX) -> Convention:
        """Return the convention `base` with the declared changes."""
        kernel, bias = base.parameter_names
        changes: dict[str, Any] = {
            "use_bias": self.use_bias,
            "layout": self.layout,
            "parameter_names": (self.names.get("kernel", kernel), self.names.get("bias", bias)),
            "kernel": None if self.kernel is None else law_of(self.kernel),
            "bias": None if self.bias is None else law_of(self.bias),
            "parameter_dtype": self.parameter_dtype,
            "compute_dtype": self.dtype,
            "casts_input": None if self.dtype is None else True,
            "result_dtype": self.result_dtype,
            "accumulate": self.accumulate,
            "product_error": self.product_error,
            "inputs": self.inputs,
            "ranks": self.ranks,
            "checks_width": self.checks_width,
            "streams": tuple(self.call.get("rngs", ())) or None,
            "extra_parameters": self.extra_parameters or None,
            "extra_state": self.extra_state or None,
            "forward_mode": None if self.derivatives is None else self.derivatives == "both",
        }
        changed = {key: value for key, value in changes.items() if value is not None}
        try:
            found = replace(base, **changed)
        except ValueError as error:
            raise UsageError(str(error).partition(": ")[2]) from None
        return base if found == base else replace(found, name="as declared")


def _is_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


_FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "layer": (lambda v: isinstance(v, str) and ":" in v, 'a text "module:attribute"'),
    "context": (lambda v: isinstance(v, str) and ":" in v, 'a text "module:attribute"'),
    "arguments": (lambda v: isinstance(v, Mapping), "a table of arguments"),
    "call": (
        lambda v: isinstance(v, Mapping) and ("rngs" not in v or _is_names(v["rngs"])),
        'a table of arguments, and of rngs a list of streams such as rngs = ["dropout"]',
    ),
    "use_bias": (lambda v: isinstance(v, bool), "true or false"),
    "checks_width": (lambda v: isinstance(v, bool), "true or false"),
    "layout": (
        lambda v: isinstance(v, str) and v.replace(" ", "") in ("in,out", "out,in"),
        '"in, out" or "out, in"',
    ),
    "names": (
        lambda v: (
            isinstance(v, Mapping)
            and set(v) <= {"kernel", "bias"}
            and all(isinstance(name, str) and name for name in v.values())
        ),
        'a table such as { kernel = "weight", bias = "b" }',
    ),
    "parameter_dtype": (lambda v: v in DTYPES, f"one of {', '.join(DTYPES)}"),
    "dtype": (lambda v: v in DTYPES, f"one of {', '.join(DTYPES)}"),
    "result_dtype": (lambda v: v in DTYPES[:3], f"one of {', '.join(DTYPES[:3])}"),
    "accumulate": (lambda v: v in DTYPES[:3], f"one of {', '.join(DTYPES[:3])}"),
    "product_error": (
        lambda v: isinstance(v, int | float | str) and not isinstance(v, bool),
        'a relative error such as "2**-7"',
    ),
    "inputs": (_is_names, f"a list of kinds of numbers: {', '.join(INPUTS)}"),
    "ranks": (
        lambda v: (
            isinstance(v, list | tuple)
            and bool(v)
            and all(isinstance(r, int) and 1 <= r <= 5 for r in v)
        ),
        "a list of ranks from 1 to 5, where 5 stands for 5 and more, such as [1, 2]",
    ),
    "extra_parameters": (_is_names, "a list of names"),
    "extra_state": (_is_names, "a list of names"),
    "derivatives": (lambda v: v in ("both", "reverse"), '"both" or "reverse"'),
    "kernel": (lambda v: isinstance(v, str), "the name of a law, or a family and a variance"),
    "bias": (lambda v: isinstance(v, str), "the name of a law, or a family and a variance"),
}


def with_colon(spec: object) -> str:
    """Return ``module:attribute`` for a text ``module.attribute``; empty for anything else."""
    module, dot, attribute = spec.rpartition(".") if isinstance(spec, str) else ("", "", "")
    fits = dot and attribute.isidentifier() and all(map(str.isidentifier, module.split(".")))
    return f"{module}:{attribute}" if fits else ""


def _checked(key: str, value: Any, where: str) -> Any:
    right, form = _FORMS[key]
    if not right(value):
        meant = with_colon(value) if "module:attribute" in form else ""
        hint = f": write {meant!r}" if meant else ""
        raise UsageError(f"{where}: {key} is {form}, found {value!r}{hint}")
    if key in ("kernel", "bias"):
        try:
            law = law_of(value)
        except ValueError as error:
            raise UsageError(f"{where}: {key} = {value!r}: {error}") from None
        if key == "kernel" and law.constant:
            raise UsageError(f"{where}: kernel = {value!r}: only a bias starts at a constant")
    if key == "layout":
        return value.replace(" ", "")
    if key == "product_error":
        return _product_error(value, where)
    if key == "inputs":
        _require_kinds(value, where)
    return tuple(value) if isinstance(value, list) else value


def _product_error(value: Any, where: str) -> float:
    try:
        found = number_of(value)
    except ValueError as error:
        raise UsageError(f"{where}: product_error = {value!r}: {error}") from None
    if not 0 <= found < 1:
        raise UsageError(f"{where}: product_error is a relative error from 0 to 1, found {found:g}")
    return found


def _require_kinds(value: Sequence[str], where: str) -> None:
    unknown = next((kind for kind in value if kind not in INPUTS), None)
    if unknown is not None:
        hint = did_you_mean(unknown, INPUTS, f"known are {', '.join(INPUTS)}", repr)
        raise UsageError(f"{where}: inputs has the unknown kind {unknown!r}; {hint}")
    if "floating" not in value:
        raise UsageError(
            f"{where}: inputs lacks floating: every layer takes an x of float32, found {value!r}"
        )


def from_options(options: Iterable[str]) -> dict[str, Any]:
    """Return the values of ``--declare key=value``; a dot in a key leads into a table.

    Raises
    ------
    UsageError
        If one has no ``=``, or the same key is given twice.
    """
    found: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--declare takes key=value, such as use_bias=false; found {option!r}")
        *tables, last = key.strip().split(".", 1)
        place = found
        for name in tables:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise UsageError(f"--declare {option}: {name} has a value already")
        if last in place:
            raise UsageError(f"--declare gives {key.strip()} twice")
        place[last] = _value(text.strip())
    return found


def _value(text: str) -> Any:
    """Parse a text as TOML; a word without quotes is a text as well."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return {"True": True, "False": False}.get(text, text)


def from_project(path: Path) -> dict[str, dict[str, Any]]:
    """Return the tables of layers in a ``pyproject.toml``, by name; empty without the file.

    Raises
    ------
    UsageError
        If a table is not a valid declaration.
    """
    found = own_table(path).get("layers", {})
    if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
        raise UsageError(f'{path}: write [{TABLE}."name"], a table for each layer')
    for name, values in found.items():
        Declaration.of(values, f'{path}: [{TABLE}."{name}"]')
    return found


def as_json(values: Mapping[str, Any]) -> str:
    """Return the values as one text that is the same for equal values; empty for none.

    Raises
    ------
    UsageError
        If a value cannot be written as text.
    """
    if not values:
        return ""
    try:
        return json.dumps(values, sort_keys=True)
    except TypeError as error:
        raise UsageError(
            f"declarations must be plain values, or a text 'module:attribute': {error}"
        ) from None


def as_options(declared: str) -> list[str]:
    """Return the result of :func:`as_json` as arguments ``key=value`` of ``--declare``."""
    found = []
    for key, value in (json.loads(declared) if declared else {}).items():
        inside = {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else None
        found += [f"{k}={json.dumps(v)}" for k, v in (inside or {key: value}).items()]
    return found


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return both declarations merged; the second wins, even inside tables."""
    found = dict(first)
    for key, value in second.items():
        before = found.get(key)
        tables = isinstance(before, dict) and isinstance(value, dict)
        found[key] = {**before, **value} if tables else value  # type: ignore[dict-item]  # as asked
    return found
