"""Laws and numbers that a declaration gives as text: ``uniform, 1 / fan_in``, ``2**-7``."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from conformance.layers.law import NORMAL, TRUNCATED_NORMAL, UNIFORM, Law

_OPERATORS: dict[type, Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}
_INCOMPUTABLE = (SyntaxError, TypeError, ArithmeticError, RecursionError, MemoryError)


def _evaluated(text: str, names: Mapping[str, float]) -> float:
    """Return the value of a formula of these names, numbers, + - * / **, sqrt, max and min.

    Raises
    ------
    ValueError
        If the text contains anything else.
    """

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
        made_of = "".join(f"{name}, " for name in names)
        raise ValueError(
            f"{ast.unparse(node)!r} is not part of it: it is made of {made_of}numbers, "
            "+ - * / ** and sqrt"
        )

    return value(ast.parse(text, mode="eval").body)


def number_of(value: object) -> float:
    """Return a number that is given as a number or as text such as ``2**-7``.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        return float(_evaluated(str(value), {}))
    except _INCOMPUTABLE as error:
        raise ValueError(f"{value!r} cannot be computed: {error}") from None


@dataclass(frozen=True)
class Formula:
    """A variance as a function of ``fan_in`` and ``fan_out``, given as text."""

    text: str

    def __call__(self, fan_in: int, fan_out: int) -> float:
        """Return the variance at these fans."""
        return _evaluated(self.text, {"fan_in": fan_in, "fan_out": fan_out})


FAMILIES = {"normal": NORMAL, "truncated normal": TRUNCATED_NORMAL, "uniform": UNIFORM}
"""The families that can be declared by their name; a law of another one is declared as any."""

_SCALES = {"lecun": "1 / fan_in", "he": "2 / fan_in", "kaiming": "2 / fan_in"}
_AVERAGED = {"glorot": "2 / (fan_in + fan_out)", "xavier": "2 / (fan_in + fan_out)"}


def law_of(text: str) -> Law:
    """Return the law that a text describes.

    ``zeros``; ``constant``, a comma and a number, for a bias; ``lecun``, ``he`` or ``glorot`` with
    ``normal`` (which Flax truncates) or ``uniform``, as Flax's initializers are called; or a family
    (``normal``, ``truncated normal``, ``uniform``, ``any``), a comma, and the variance as a formula
    of fan_in and fan_out.

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
    if comma and first == "constant":
        return Law.of_constant(number_of(formula.strip()))
    if not comma or (first not in FAMILIES and first != "any"):
        raise ValueError(
            "expected zeros, a name such as glorot_uniform, or a family and a variance such as "
            '"uniform, 2 / (fan_in + fan_out)"; families are normal, truncated normal, uniform '
            "and any"
        )
    variance = Formula(formula.strip())
    try:
        found = [variance(fan_in, fan_out) for fan_in, fan_out in ((1, 1), (3, 10), (10, 3))]
    except _INCOMPUTABLE as error:
        raise ValueError(f"the variance {formula.strip()!r} cannot be computed: {error}") from None
    if not all(isinstance(v, float) and 0 <= v < math.inf for v in found):
        raise ValueError(f"the variance {formula.strip()!r} is not a positive number")
    families = (FAMILIES[first],) if first != "any" else ()
    return Law(families, variance, f"{first}, variance {formula.strip()}")
