"""Finds where a layer runs another program: edges on the axes of sizes, batches and dtypes.

JAX traces a layer at any shape without compiling or allocating anything. A layer that does not
branch has one program. If it has another one, both sides of the edge become cases of the ordinary
requirements. Branches inside XLA stay hidden.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from conformance.checks import recording
from conformance.checks.cases import BATCH, Case
from conformance.checks.layer import Layer
from conformance.checks.once import once_per_layer
from conformance.checks.scan.literals import lengths_in_code, numbers_in_code
from conformance.checks.scan.points import (
    BASE,
    INTEGERS,
    WEIGHTS,
    Point,
    base_of,
    larger,
    points_of,
    written,
)  # fmt: skip
from conformance.checks.scan.signatures import Misfit, follows, misfits
from conformance.checks.scan.traces import CONSTRUCTION, FORWARD, GRADIENT, Traces
from conformance.contract.requirement import PARAMETERS
from conformance.errors import Violation

F = TypeVar("F", bound=Callable[..., None])


@dataclass(frozen=True)
class Use:
    """The edges that concern a requirement.

    Parameters
    ----------
    programs
        The programs whose edges are scanned.
    dtypes
        The dtypes of x.
    most
        The maximum number of cases at edges; half as many follow for numbers in the code.
    larger
        Whether larger sizes, drawn for the run, are tried as well.
    functions
        Whether it concerns only functions.
    inputs
        The largest number of inputs.
    """

    programs: tuple[str, ...]
    dtypes: tuple[str, ...] = ("float32",)
    most: int = 8
    larger: bool = True
    functions: bool = False
    inputs: float = math.inf

    def concerns(self, point: Point) -> bool:
        """Return whether the requirement is checked at a point."""
        return point.dtype in self.dtypes and point.in_features <= self.inputs and point.fits


VALUES = Use((FORWARD, GRADIENT), most=16)
DERIVATIVES = Use((FORWARD, GRADIENT))
HALF = Use((FORWARD, GRADIENT), ("float16", "bfloat16"))
COMPILED = Use((FORWARD,), larger=False)
INTEGER = Use((FORWARD,), INTEGERS, larger=False)
COMPLEX = Use((FORWARD,), ("complex64",), larger=False)
NEW = Use((CONSTRUCTION,), larger=False)
NONFINITE = Use((FORWARD,), most=4, larger=False)
# The kernel of a function is found by a call for each input, of as many numbers.
FUNCTIONS = Use((FORWARD,), most=6, functions=True, inputs=40_000)

NOT_TRACED = "the layer cannot be traced, so the branches of its program are unknown"
_MOST_EDGES = 4
_LARGEST_INDEX = 2**17
# The number of draws at an edge with fewer rows than a plain batch.
_FEW_ROWS = 12
# A layer with one operation for each input, or row, is not traced for more than these, and one with
# an operation for each block of inputs not for longer programs than that.
_UNROLLED, _PARTS = 130, 5000
# The experiment with new kernels has sizes up to this one, and more of them would blur it.
_SMALL = 16


@dataclass(frozen=True)
class Edge:
    """A place on one axis where a program changes.

    Parameters
    ----------
    program
        The program: construction, call, or gradient.
    where
        The place, in words.
    points
        The first point of the other program, and some after it.
    before
        The last point of the usual program.
    """

    program: str
    where: str
    points: tuple[Point, ...]
    before: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Scan:
    """The result of scanning the programs of a layer.

    Parameters
    ----------
    edges
        The places where they change.
    traced
        Whether the layer could be traced at all.
    constants
        The constants with which the call compares values, and numbers in the layer's code.
    written
        The places of lengths that are written in the layer's code. A branch there that runs only
        outside of a trace is in none of the programs.
    unrolls_rows
        Whether the program has operations for each row, so that long batches take long to trace.
    longest
        The largest size at which tracing takes little time.
    own_derivative
        Whether the program has a rule of differentiation of its own.
    ranks
        The ranks of x, besides that of a batch, at which the call has other operations.
    """

    edges: tuple[Edge, ...]
    traced: bool = True
    constants: tuple[float, ...] = ()
    written: tuple[Edge, ...] = ()
    unrolls_rows: bool = False
    longest: float = math.inf
    own_derivative: bool = False
    ranks: tuple[int, ...] = ()

    def places(self, use: Use) -> list[tuple[str, Case]]:
        """Return the places, in words, and the cases to try; the usual program has no words."""
        found: dict[Case, str] = {}
        for edges, most in ((self.edges, use.most), (self.written, use.most + use.most // 2)):
            concerned = [edge for edge in edges if edge.program in use.programs]
            # One point of each edge comes before a second one of any edge.
            in_turn = itertools.zip_longest(*((*e.points, *e.before) for e in concerned))
            for points in in_turn:
                for edge, point in zip(concerned, points, strict=True):
                    if point is not None and use.concerns(point) and len(found) < most:
                        found.setdefault(point.case(), edge.where * (point in edge.points))
        places = [(where, case) for case, where in found.items()]
        if self.own_derivative and use is DERIVATIVES:
            # Programs of one output, or input, are compared only with each other.
            narrow = (Point(5, 1).case(), Point(1, 7).case())
            places = [*(("", case) for case in narrow if case not in found), *places]
        return places


# The places at which a layer that cannot be traced is called instead.
_CALLED = (
    Edge(FORWARD, "at a larger size", (Point(256, 100), Point(300, 500))),
    Edge(FORWARD, "with a longer batch", (Point(*BASE, (1000,)), Point(*BASE, (5, 10)))),
    Edge(CONSTRUCTION, "at a larger size", (Point(256, 100), Point(1000, 300))),
)


@once_per_layer()
def scan(layer: Layer) -> Scan:
    """Return the edges of the layer's programs, found once for each layer."""
    traces = Traces(layer)
    base = base_of(layer)
    first = traces(FORWARD, base)
    if not first.numbers:
        return Scan(_CALLED, traced=False)
    kinds = [FORWARD] if PARAMETERS not in layer.provides else [CONSTRUCTION, FORWARD]
    tenfold = replace(base, in_features=30, out_features=100)
    # By length, not by time, on which the result of a scan must not depend.
    unrolled = any(traces.grows(kind, base, tenfold) for kind in kinds)
    longest = _UNROLLED if unrolled else _longest(traces, tenfold)
    unrolls_rows = traces.grows(FORWARD, base, replace(base, lead=tuple(10 * n for n in base.lead)))
    points = [p for p in points_of(layer) if not unrolled or max(p.axes) <= _UNROLLED]
    points = [p for p in points if max(p.axes[:2]) <= longest]
    points = [p for p in points if not unrolls_rows or np.prod(p.lead) <= _UNROLLED]
    if traces.materializes:
        points = [p for p in points if p.in_features * p.out_features <= WEIGHTS]
    edges: list[Edge] = []
    ranks: list[int] = []
    constants = first.values & traces(FORWARD, tenfold).values
    if PARAMETERS in layer.provides and first.own_derivative:
        kinds.append(GRADIENT)
    for kind in kinds:
        chosen = points
        if kind == CONSTRUCTION:
            chosen = list(
                {
                    p.axes[:2]: replace(
                        base, in_features=p.in_features, out_features=p.out_features
                    )
                    for p in points
                }.values()
            )
        if kind == GRADIENT:
            chosen = [p for p in points if p.dtype not in (*INTEGERS, "complex64")]
        edges += _edges(traces, kind, chosen)
        if kind != CONSTRUCTION:
            of_ranks = _edges_of_ranks(traces, kind, chosen)
            edges += of_ranks
            if kind == FORWARD:
                there = [p for edge in of_ranks for p in edge.points if p.dtype == base.dtype]
                ranks = [len(point.lead) + 1 for point in there]
                constants = constants.union(*(traces(kind, point).values for point in there))
        # A number that depends on the sizes is not a constant of the program.
        edges += _edges_of_indices(
            kind, base, traces(kind, base).indices & traces(kind, tenfold).indices
        )
    return Scan(
        tuple(edges),
        constants=tuple(dict.fromkeys((*sorted(constants), *numbers_in_code(layer)))),
        written=tuple(_written(layer, _UNROLLED if unrolls_rows else longest)),
        unrolls_rows=unrolls_rows,
        longest=longest,
        own_derivative=GRADIENT in kinds,
        ranks=tuple(ranks),
    )


def _longest(traces: Traces, tenfold: Point) -> float:
    """Return the largest size at which a program with operations for each block is short."""
    few, many = (
        replace(tenfold, in_features=n, out_features=m) for n, m in ((300, 1000), (3000, 10_000))
    )
    if traces.materializes:
        return math.inf  # other limits hold, and such sizes cost memory
    lengths = [len(traces(FORWARD, point).structure) for point in (tenfold, few)]
    if lengths[1] <= lengths[0] or not traces.grows(FORWARD, few, many):
        return math.inf
    more = len(traces(FORWARD, many).structure) - lengths[1]
    return max(_UNROLLED, _PARTS * (many.in_features - few.in_features) / more)


def _written(layer: Layer, longest: float) -> Iterator[Edge]:
    for length in lengths_in_code(layer):
        if length <= min(longest, _LARGEST_INDEX):
            where = f"near the number {length} in the layer's code"
            points = written(layer, length)
            yield Edge(FORWARD, where, tuple(points))
            if length > _SMALL:
                yield Edge(CONSTRUCTION, where, tuple(p for p in points if p.axes[:2] != BASE))


def _edges_of_ranks(traces: Traces, kind: str, points: Sequence[Point]) -> list[Edge]:
    """Return an edge for each rank with another program than a batch of that dtype."""
    edges, seen = [], set()
    for point in points:
        base = replace(points[0], dtype=point.dtype)
        if point.axes[:2] != base.axes[:2] or (point.dtype, len(point.lead)) in seen:
            continue
        seen.add((point.dtype, len(point.lead)))
        if traces(kind, point).arithmetic != traces(kind, base).arithmetic:
            where = f"for x of rank {len(point.lead) + 1}"
            where += f" and dtype {point.dtype}" if point.dtype != "float32" else ""
            edges.append(Edge(kind, where, (point,)))
    return edges


def _edges_of_indices(kind: str, base: Point, indices: Iterable[int]) -> list[Edge]:
    """Return an edge for each constant that is compared with an index, beyond it on every axis."""
    edges = []
    for index in sorted(indices):
        if 1 < index <= _LARGEST_INDEX:
            beyond = index + (index // 3 | 1)
            points = [base.moved(axis, beyond) for axis in range(len(_axes(kind, base)))]
            edges.append(Edge(kind, f"where an index reaches {index}", tuple(points)))
    return edges[:_MOST_EDGES]


def _edges(traces: Traces, kind: str, points: Sequence[Point]) -> list[Edge]:
    classes: dict[Any, list[Point]] = defaultdict(list)
    for point in points:
        axes = point.axes[:2] if kind == CONSTRUCTION else point.axes
        classes[point.dtype, len(axes), tuple(length == 1 for length in axes)].append(point)
    found = [_edges_of_class(traces, kind, members) for members in classes.values()]
    # In turn, so that the first edge of each class comes before the second one of any.
    in_turn = [edge for edges in itertools.zip_longest(*found) for edge in edges if edge]
    return list({edge.points: edge for edge in in_turn}.values())


def _edges_of_class(traces: Traces, kind: str, points: Sequence[Point]) -> list[Edge]:
    base = points[0]
    of_base = traces(kind, base).structure
    by_structure: dict[Any, list[Point]] = defaultdict(list)
    for point in points:
        by_structure[traces(kind, point).structure].append(point)
    same = by_structure.pop(of_base)
    edges = []

    def other(point: Point) -> bool:
        return traces(kind, point).structure != of_base

    for deviating in list(by_structure.values())[:_MOST_EDGES]:
        for point in dict.fromkeys((_smallest(deviating), deviating[-1])):
            edges += edge_between(kind, base, point, other)
    for misfit in _misfits(traces, kind, same)[:_MOST_EDGES]:
        deviating = [same[i] for i in misfit.deviating]
        if misfit.formula is None:
            # The number follows no formula, so it may be wrong anywhere.
            most = WEIGHTS if kind == CONSTRUCTION else WEIGHTS // 4
            callable_ = [p for p in same if p.fits and p.in_features * p.out_features <= most]
            chosen = sorted(callable_, key=lambda p: np.prod(p.axes))[-3:]
            edges.append(Edge(kind, "at a larger size", tuple(chosen)))
            continue

        def misfitting(point: Point, misfit: Misfit = misfit) -> bool:
            return other(point) or not follows(traces(kind, point), misfit, _axes(kind, point))

        edges += edge_between(kind, base, _smallest(deviating), misfitting)
    return edges


def _axes(kind: str, point: Point) -> tuple[int, ...]:
    return point.axes[:2] if kind == CONSTRUCTION else point.axes


def _misfits(traces: Traces, kind: str, points: Sequence[Point]) -> list[Misfit]:
    if len(points) < 4:
        return []
    axes = np.array([_axes(kind, point) for point in points])
    return misfits(axes, np.array([traces(kind, point).numbers for point in points]))


def _smallest(points: Iterable[Point]) -> Point:
    return min(points, key=lambda point: float(np.prod([float(n) for n in point.axes])))


def edge_between(kind: str, base: Point, end: Point, other: Callable[[Point], bool]) -> list[Edge]:
    """Return the edge between the base and a point of another program, axis by axis."""
    at = base
    for axis, length in enumerate(end.axes):
        moved = at.moved(axis, length)
        if moved != at and other(moved):
            low, high = at.axes[axis], length
            while abs(high - low) > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if other(at.moved(axis, middle)) else (middle, high)
            before, after = _shrunk(base, at.moved(axis, low), at.moved(axis, high), axis, other)
            return [_described(kind, base, before, after, axis, other)]
        at = moved
    return []


def _shrunk(
    base: Point, before: Point, after: Point, axis: int, other: Callable[[Point], bool]
) -> tuple[Point, Point]:
    """Return the edge with the other axes as at the base, if it exists there as well."""
    for i, length in enumerate(base.axes):
        fewer = before.moved(i, length), after.moved(i, length)
        if i != axis and not other(fewer[0]) and other(fewer[1]):
            before, after = fewer
    return before, after


def _described(
    kind: str, base: Point, before: Point, after: Point, axis: int, other: Callable[[Point], bool]
) -> Edge:
    length, step = after.axes[axis], after.axes[axis] - before.axes[axis]
    name = after.name(axis)
    further = (length // 3 | 1) * (1 if step > 0 else -1)
    beyond = after.moved(axis, max(length + further, min(length, 2)))
    divisor = _divisor(length, lambda n: other(after.moved(axis, n)))
    if divisor:
        before, after = (after.moved(axis, n) for n in (divisor - 1, divisor))
        beyond = after.moved(axis, 3 * divisor)
        where = f"where {name} is a multiple of {divisor}"
    elif not other(after.moved(axis, length + step)):
        beyond = after.moved(axis, length + step)
        where = f"at {name} = {length}"
    else:
        where = f"from {name} = {length} on" if step > 0 else f"up to {name} = {length}"
    others = [
        f"{after.name(i)} = {n}"
        for i, n in enumerate(_axes(kind, after))
        if i != axis and n != base.axes[i]
    ]
    where += f" with {' and '.join(others)}" if others else ""
    where += f" for x of dtype {after.dtype}" if after.dtype != "float32" else ""
    where += f" for x of rank {len(after.lead) + 1}" if len(after.lead) != 1 else ""
    return Edge(kind, where, (after, beyond), (before,))


def _divisor(length: int, other: Callable[[int], bool]) -> int:
    """Return the smallest number at whose multiples the program differs, or 0."""
    if length > 2**16 or (other(length + 1) and other(length - 1)):
        return 0
    divisors = [n for n in range(2, length + 1) if length % n == 0]
    small = [n for n in divisors if other(n) and other(2 * n) and other(3 * n)]
    return next((n for n in small if not other(n - 1) and not other(n + 1)), 0)


def at_edges(use: Use) -> Callable[[F], F]:
    """Check a property also at the layer's edges, once it holds for the drawn case."""

    def decorate(test: F) -> F:
        @functools.wraps(test)
        def run(layer: Layer, case: Case) -> None:
            test(layer, case)
            layer.remember(("edges", test.__qualname__), lambda: _at_each(layer, test, use))

        return run  # type: ignore[return-value]  # functools.wraps keeps the signature

    return decorate


def _at_each(layer: Layer, test: Callable[..., None], use: Use) -> bool:
    """Try the property at every edge; a failure, and a note of the cell, name the edge."""
    if use.functions and PARAMETERS in layer.provides:
        return True
    found = scan(layer)
    places = found.places(use)
    edges = {edge.where for edge in found.edges}
    noted = [f"another program of the layer runs {w}" for w, _ in places if w in edges]
    instead = f"{NOT_TRACED}; it is called at a few larger sizes instead"
    for text in noted if found.traced else [instead]:
        recording.current().note(text)
    if use.larger:
        places += [("at a larger size", case) for case in larger(layer, others=use is VALUES)]
    for where, case in places:
        # Each row has one kind, large or tiny, so a batch of few rows is drawn several times.
        draws = _FEW_ROWS if use is VALUES and np.prod(case.lead) < BATCH[0] else 1
        try:
            for values in range(case.values, case.values + draws):
                test(layer, recording.current().draw(replace(case, values=values)))
        except Violation as violation:
            violation.located(where)
            raise
    return True
