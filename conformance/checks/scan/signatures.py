"""The signature of a traced program, which is the same at all sizes if a layer does not branch.

The structure is the primitives, with the dtypes and ranks of their operands and their parameters
that are not numbers. The numbers (sizes, limits, literals) follow the sizes of the layer by a
formula if it does not branch: see :func:`misfits`.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conformance.checks.scan.thresholds import arithmetic, thresholds

# Parameters that name a function or a device, and do not affect the computation.
_NAMES = ("name", "debug_info", "mesh", "sharding", "out_sharding", "ctx_mesh", "source_info")
_SAME = 1e-5  # The type of a literal varies between float32 and a Python float.


@dataclass(frozen=True)
class Signature:
    """A program's structure, which is equal for equal programs, and its numbers in order.

    It also has the operations without shapes, and the constants that the program compares with.
    """

    structure: tuple[Hashable, ...]
    numbers: tuple[float, ...] = ()
    own_derivative: bool = False
    arithmetic: frozenset[tuple[str, ...]] = frozenset()
    values: frozenset[float] = frozenset()
    indices: frozenset[int] = frozenset()


def signature(jaxpr: Any) -> Signature:
    """Return the signature of a closed jaxpr."""
    structure: list[Hashable] = []
    numbers: list[float] = []
    _read(jaxpr, structure, numbers)
    own = any(isinstance(part, str) and part.startswith("custom_") for part in structure)
    values, indices = thresholds(jaxpr)
    return Signature(
        (*structure, len(numbers)), tuple(numbers), own, arithmetic(jaxpr), values, indices
    )


def _read(jaxpr: Any, structure: list[Hashable], numbers: list[float]) -> None:
    for constant in getattr(jaxpr, "consts", ()):
        _read_array(constant, structure, numbers)
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name = equation.primitive.name
        structure.append(name)
        for variable in (*equation.invars, *equation.outvars):
            aval = variable.aval
            structure.append(str(getattr(aval, "dtype", type(aval).__name__)))
            if name != "reshape":
                structure.append(len(getattr(aval, "shape", ())))
            if hasattr(variable, "val"):
                _read_array(variable.val, structure, numbers)
        for key, value in sorted(equation.params.items()):
            if key not in _NAMES:
                _read_parameter(value, structure, numbers)


def _read_array(value: Any, structure: list[Hashable], numbers: list[float]) -> None:
    dtype = getattr(value, "dtype", None)
    if np.ndim(value) == 0 and (dtype is None or np.dtype(str(dtype)).kind in "biuf"):
        numbers.append(float(value))
        return
    structure.append((str(dtype), np.ndim(value)))
    numbers.extend(float(length) for length in np.shape(value))


def _read_parameter(value: Any, structure: list[Hashable], numbers: list[float]) -> None:
    if hasattr(value, "eqns"):
        _read(value, structure, numbers)
    elif isinstance(value, bool | str | bytes | type(None)):
        structure.append(value)
    elif isinstance(value, int | float | np.number):
        numbers.append(float(value))
    elif isinstance(value, np.dtype | type | enum.Enum):
        structure.append(str(value))
    elif isinstance(value, tuple | list):
        structure.append(len(value))
        for item in value:
            _read_parameter(item, structure, numbers)
    elif isinstance(value, dict):
        _read_parameter(sorted(value.items(), key=str), structure, numbers)
    else:
        structure.append(type(value).__name__)


@dataclass(frozen=True)
class Misfit:
    """A number that follows a formula at some sizes only.

    Parameters
    ----------
    position
        The index of the number.
    formula
        Maps the axes of a size to the number at most sizes; None if no formula fits half of them.
    deviating
        The indices of the sizes at which the number differs.
    """

    position: int
    formula: Callable[[Sequence[int]], float] | None
    deviating: tuple[int, ...]


def misfits(axes: np.ndarray, numbers: np.ndarray) -> list[Misfit]:
    """Return the numbers of a program that do not follow its sizes by one formula.

    A formula is a constant times a product of axes, possibly plus or minus one, or a constant times
    powers of in and out. A layer that does not branch has only such numbers.

    Parameters
    ----------
    axes
        ``(sizes, axes)``: in, out, then the leading axes. The other sizes are compared with the
        first one.
    numbers
        ``(sizes, numbers)``.
    """
    count = axes.shape[1]
    found: dict[bytes, Misfit] = {}
    exponents: list[tuple[float, ...]] = list(itertools.product((0.0, 1.0), repeat=count))
    exponents += [
        (a, b, *(0,) * (count - 2))
        for a, b in itertools.product((-1.0, -0.5, 0.5, 1.0, 0.0), repeat=2)
        if min(a, b) < 0 or 0.5 in (a, b)
    ]
    powers = np.array([[np.prod(row.astype(float) ** e) for row in axes] for e in exponents])
    for position in range(numbers.shape[1]):
        column = numbers[:, position]
        if column.tobytes() in found or np.all(column == column[0]):
            continue
        if not column[0]:
            deviating = tuple(int(i) for i in np.flatnonzero(column))
            found[column.tobytes()] = Misfit(position, lambda axes: 0.0, deviating)
            continue
        best: tuple[int, Misfit] | None = None
        for offset in (0.0, 1.0, -1.0):
            with np.errstate(all="ignore"):
                ratios = (column + offset) / powers
                fits = np.abs(ratios - ratios[:, :1]) <= _SAME * np.abs(ratios[:, :1])
            which = int(fits.sum(1).argmax())
            agreeing = int(fits[which].sum())
            if best is None or agreeing > best[0]:
                deviating = tuple(int(i) for i in np.flatnonzero(~fits[which]))
                formula = _formula(exponents[which], float(ratios[which, 0]), offset)
                known = formula if agreeing > len(axes) / 2 else None
                best = agreeing, Misfit(position, known, deviating)
        assert best is not None
        if best[1].deviating:
            found[column.tobytes()] = best[1]
    return list(found.values())


def _formula(
    exponents: Sequence[float], ratio: float, offset: float
) -> Callable[[Sequence[int]], float]:
    def number(axes: Sequence[int]) -> float:
        powers = [float(length) ** e for length, e in zip(axes, exponents, strict=True)]
        return float(ratio * np.prod(powers) - offset)

    return number


def follows(found: Signature, misfit: Misfit, axes: Sequence[int]) -> bool:
    """Return whether the number of the misfit follows its formula at a size."""
    if misfit.formula is None or misfit.position >= len(found.numbers):
        return False
    expected = misfit.formula(axes)
    return abs(found.numbers[misfit.position] - expected) <= _SAME * abs(expected) + 1e-9
