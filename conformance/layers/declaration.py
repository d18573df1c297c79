"""What a layer declares of itself, without Python: one table of names for every place.

The same names are keys of ``[tool.dense-conformance.layers."name"]`` in ``pyproject.toml``, of the
option ``--declare key=value``, and keyword arguments of ``adapt`` and ``check``.
"""

from __future__ import annotations

import ast
import difflib
import json
import math
import operator
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from conformance.errors import UsageError
from conformance.layers.implementation import FLAX, Convention
from conformance.layers.law import NORMAL, TRUNCATED_NORMAL, UNIFORM, Law

__all__ = [
    "TABLE",
    "Declaration",
    "as_json",
    "as_options",
    "from_options",
    "from_project",
    "law_of",
    "merged",
]

TABLE = "tool.dense-conformance.layers"

DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True)
class Declaration:
    """What a layer declares; None is not declared, and remains as it was.

    Parameters
    ----------
    layer
        Where it is: ``module:attribute`` or ``path/to/file.py:attribute``. In a table alone.
    arguments, call
        Further arguments of the constructor, and of the call. ``module:attribute`` in a text
        names an object.
    use_bias
        False for a layer without a bias.
    layout
        ``"in, out"`` or ``"out, in"``: the axes of the kernel as it is stored.
    names
        The names of ``kernel`` and ``bias`` in the layer's state, or their paths.
    kernel, bias
        Their laws: the name of one of Flax's initializers, or a family and a variance, as
        ``"uniform, 2 / (fan_in + fan_out)"``.
    parameter_dtype, dtype
        The dtypes of new parameters and of the computation, whatever that of ``x`` is.
    ranks
        The ranks of ``x`` that it accepts.
    checks_width
        False if it does not refuse an ``x`` of another width.
    extra_parameters, extra_state
        Names of parameters and of other variables that it has beside kernel and bias.
    derivatives
        ``"both"``, or ``"reverse"`` for a ``custom_vjp`` without forward mode.
    """

    layer: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    use_bias: bool | None = None
    layout: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    kernel: str | None = None
    bias: str | None = None
    parameter_dtype: str | None = None
    dtype: str | None = None
    ranks: tuple[int, ...] | None = None
    checks_width: bool | None = None
    extra_parameters: tuple[str, ...] = ()
    extra_state: tuple[str, ...] = ()
    derivatives: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str = "the declaration") -> Declaration:
        """Make a declaration of plain values.

        Raises
        ------
        UsageError
            If a key is unknown, a value has a wrong form, or two contradict each other.
        """
        known = [each.name for each in fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                raise UsageError(f"{where}: nothing is declared by {key!r}; {hint}")
        found = {key: _checked(key, value, where) for key, value in values.items()}
        declaration = cls(**found)
        if declaration.use_bias is False and (
            declaration.bias is not None or "bias" in declaration.names
        ):
            raise UsageError(
                f"{where}: use_bias = false says that there is no bias, but its "
                f"{'law' if declaration.bias is not None else 'name'} is declared as well"
            )
        return declaration

    def convention(self, base: Convention = FLAX) -> Convention:
        """Return the convention that `base` becomes with what is declared."""
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
            "ranks": self.ranks,
            "checks_width": self.checks_width,
            "extra_parameters": self.extra_parameters or None,
            "extra_state": self.extra_state or None,
            "forward_mode": None if self.derivatives is None else self.derivatives == "both",
        }
        changed = {key: value for key, value in changes.items() if value is not None}
        found = replace(base, **changed)
        return base if found == base else replace(found, name="as declared")


_FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "layer": (lambda v: isinstance(v, str) and ":" in v, 'a text "module:attribute"'),
    "arguments": (lambda v: isinstance(v, Mapping), "a table of arguments"),
    "call": (lambda v: isinstance(v, Mapping), "a table of arguments"),
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
    "ranks": (
        lambda v: (
            isinstance(v, list | tuple)
            and bool(v)
            and all(isinstance(r, int) and 1 <= r <= 5 for r in v)
        ),
        "a list of ranks from 1 to 5, such as [1, 2]",
    ),
    "extra_parameters": (
        lambda v: isinstance(v, list | tuple) and all(isinstance(n, str) for n in v),
        "a list of names",
    ),
    "extra_state": (
        lambda v: isinstance(v, list | tuple) and all(isinstance(n, str) for n in v),
        "a list of names",
    ),
    "derivatives": (lambda v: v in ("both", "reverse"), '"both" or "reverse"'),
    "kernel": (lambda v: isinstance(v, str), "the name of a law, or a family and a variance"),
    "bias": (lambda v: isinstance(v, str), "the name of a law, or a family and a variance"),
}


def _checked(key: str, value: Any, where: str) -> Any:
    right, form = _FORMS[key]
    if not right(value):
        raise UsageError(f"{where}: {key} is {form}, found {value!r}")
    if key in ("kernel", "bias"):
        try:
            law_of(value)
        except ValueError as error:
            raise UsageError(f"{where}: {key} = {value!r}: {error}") from None
    if key == "layout":
        return value.replace(" ", "")
    return tuple(value) if isinstance(value, list) else value


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
    """Return what TOML makes of a text; a word without quotes is a text as well."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return {"True": True, "False": False}.get(text, text)


def from_project(path: Path) -> dict[str, dict[str, Any]]:
    """Return the tables of layers in a ``pyproject.toml``, by name; empty without the file.

    Raises
    ------
    UsageError
        If one cannot be what a layer declares.
    """
    if not path.is_file():
        return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return {}  # other tools report what is wrong with the file
    found = document.get("tool", {}).get("dense-conformance", {}).get("layers", {})
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
        If a value is an object that no text can name.
    """
    if not values:
        return ""
    try:
        return json.dumps(values, sort_keys=True)
    except TypeError as error:
        raise UsageError(
            f"what is declared must be plain values, or a text 'module:attribute': {error}"
        ) from None


def as_options(declared: str) -> list[str]:
    """Return what :func:`as_json` gives as arguments ``key=value`` of ``--declare``."""
    found = []
    for key, value in (json.loads(declared) if declared else {}).items():
        inside = {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else None
        found += [f"{k}={json.dumps(v)}" for k, v in (inside or {key: value}).items()]
    return found


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return both declarations merged; the second wins, also inside tables."""
    found = dict(first)
    for key, value in second.items():
        before = found.get(key)
        tables = isinstance(before, dict) and isinstance(value, dict)
        found[key] = {**before, **value} if tables else value  # type: ignore[dict-item]  # as asked
    return found


_OPERATORS: dict[type, Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}


@dataclass(frozen=True)
class Formula:
    """A variance as a function of ``fan_in`` and ``fan_out``, given as text."""

    text: str

    def __call__(self, fan_in: int, fan_out: int) -> float:
        """Return the variance at these fans."""
        names = {"fan_in": fan_in, "fan_out": fan_out}

        def value(node: ast.AST) -> float:
            if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
                return float(node.value)
            if isinstance(node, ast.Name) and node.id in names:
                return float(names[node.id])
            if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
                return _OPERATORS[type(node.op)](value(node.left), value(node.right))
            if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
                return _OPERATORS[type(node.op)](value(node.operand))
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("sqrt", "max", "min")
            ):
                arguments = [value(argument) for argument in node.args]
                if node.func.id == "sqrt":
                    return math.sqrt(*arguments)
                return max(arguments) if node.func.id == "max" else min(arguments)
            raise ValueError(
                f"{ast.unparse(node)!r} is not part of a variance: it is made of fan_in, "
                "fan_out, numbers, + - * / ** and sqrt"
            )

        return value(ast.parse(self.text, mode="eval").body)


_FAMILIES = {
    "normal": NORMAL,
    "truncated normal": TRUNCATED_NORMAL,
    "uniform": UNIFORM,
}
_SCALES = {"lecun": "1 / fan_in", "he": "2 / fan_in", "kaiming": "2 / fan_in"}
_AVERAGED = {"glorot": "2 / (fan_in + fan_out)", "xavier": "2 / (fan_in + fan_out)"}


def law_of(text: str) -> Law:
    """Return the law that a text declares.

    ``zeros``; ``lecun``, ``he`` or ``glorot`` with ``normal`` (which Flax truncates) or
    ``uniform``, as Flax's initializers are called; or a family (``normal``, ``truncated
    normal``, ``uniform``, ``any``), a comma, and the variance as a formula of fan_in and fan_out.

    Raises
    ------
    ValueError
        If the text has another form.
    """
    name = text.strip().lower().replace("-", "_").replace(" ", "_")
    if name in ("zeros", "zero", "0"):
        return Law.zero()
    scale, _, family = name.partition("_")
    formula = {**_SCALES, **_AVERAGED}.get(scale)
    if formula is not None and family in ("normal", "uniform"):
        family = TRUNCATED_NORMAL if family == "normal" else UNIFORM
        return Law((family,), Formula(formula), f"{family.replace('-', ' ')}, {formula}")
    first, comma, formula = text.partition(",")
    first = first.strip().lower().replace("-", " ").replace("_", " ")
    if not comma or (first not in _FAMILIES and first != "any"):
        raise ValueError(
            "expected zeros, a name such as glorot_uniform, or a family and a variance such as "
            '"uniform, 2 / (fan_in + fan_out)"; families are normal, truncated normal, uniform '
            "and any"
        )
    variance = Formula(formula.strip())
    try:
        found = [variance(fan_in, fan_out) for fan_in, fan_out in ((1, 1), (3, 10), (10, 3))]
    except (SyntaxError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"the variance {formula.strip()!r} cannot be computed: {error}") from None
    if not all(isinstance(v, float) and 0 <= v < math.inf for v in found):
        raise ValueError(f"the variance {formula.strip()!r} is not a positive number")
    families = (_FAMILIES[first],) if first != "any" else ()
    return Law(families, variance, f"{first}, variance {formula.strip()}")
