"""Where a layer runs another program: its edges on the axes of sizes, batches and dtypes.

JAX tells what a layer does at any shape without compiling or allocating anything. A layer that does
not branch has one program; where it has another one, both sides of the edge become cases of the
ordinary requirements. What branches inside of XLA is not seen so.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from conformance.checks import profiles, recording
from conformance.checks.cases import BATCH, Case
from conformance.checks.layer import Layer
from conformance.checks.programs import call
from conformance.checks.signatures import Misfit, Signature, follows, misfits, signature
from conformance.contract.requirement import PARAMETERS
from conformance.errors import Violation
from conformance.jax_setup.lazy import jax, jnp

__all__ = [
    "COMPLEX",
    "DERIVATIVES",
    "HALF",
    "INTEGER",
    "NEW",
    "VALUES",
    "Edge",
    "Point",
    "Scan",
    "at_edges",
    "kernel_sizes",
    "scan",
]

F = TypeVar("F", bound=Callable[..., None])
Size = tuple[int, int]

CONSTRUCTION, FORWARD, GRADIENT = "construction", "call", "gradient"


@dataclass(frozen=True)
class Use:
    """Which edges concern a requirement: of which programs, for which dtypes of x, at most."""

    programs: tuple[str, ...]
    dtypes: tuple[str, ...] = ("float32",)
    most: int = 8


VALUES = Use((FORWARD, GRADIENT), most=16)
DERIVATIVES = Use((FORWARD, GRADIENT))
HALF = Use((FORWARD, GRADIENT), ("float16", "bfloat16"))
INTEGER = Use((FORWARD,), ("int32",))
COMPLEX = Use((FORWARD,), ("complex64",))
NEW = Use((CONSTRUCTION,))

_BASE = (3, 10)
# Odd, prime and rich in divisors; powers of two and their neighbours; multiples of 100; wide, tall
# and square; sizes of real models; and what no memory holds.
_SIZES: tuple[Size, ...] = (
    *(_BASE, (2, 4), (16, 16), (24, 36), (33, 20), (64, 100), (63, 65), (101, 50), (127, 257)),
    *((128, 128), (144, 240), (257, 130), (256, 1000), (300, 500), (384, 77), (512, 512)),
    *((600, 601), (784, 10), (840, 720), (1000, 2001), (1024, 1024), (1155, 1210), (768, 3072)),
    *((2049, 130), (3000, 50257), (4099, 8200), (4096, 4096), (10**4, 10**4 + 1)),
    *((64, 10**5), (10**5, 64), (10**6, 10**6)),
)
# JAX squeezes axes of one, so that they are compared with each other alone.
_ONES: tuple[Size, ...] = ((1, 7), (1, 300), (1, 1024), (5, 1), (300, 1), (4096, 1))
_FEWER: tuple[Size, ...] = (_BASE, (64, 100), (128, 128), (300, 500), (840, 720), (1000, 2001))
_ROWS = (64, 100, 127, 256, 300, 512, 625, 1000, 1024, 4096, 2**15 + 1, 70_001, 2**17)
_LEADS: tuple[tuple[int, ...], ...] = (
    *((2, 3), (3, 2), (3, 3), (10, 10), (3, 10), (5, 10), (5, 3), (64, 64), (12, 100), (100, 12)),
    *((7, 300), (1000, 7), (9, 128), (128, 9), (64, 1000)),
    *((2, 3, 4), (3, 3, 3), (2, 10, 10), (5, 4, 10), (8, 8, 8), (10, 20, 30), (4, 3, 64)),
    *((2, 3, 2, 4), (2, 2, 2, 2), (4, 5, 6, 7), (3, 2, 10, 10), (8, 16, 8, 16)),
    *((2, 3, 2, 4, 2), (2, 2, 2, 2, 2), (4, 5, 6, 7, 3)),
    *((1, 5), (1, 64), (1, 1000), (5, 1), (64, 1), (1000, 1)),
)
_DTYPES = ("float16", "bfloat16", "int32", "complex64")

_MOST_EDGES = 4
# What is called at an edge: so many numbers of x, kernel and result each, so many products.
_NUMBERS, _PRODUCTS = 2**22, 2**29
# The weights of one kernel that is looked at.
_WEIGHTS = 2**20
# A layer that writes one operation for each input is not traced at sizes beyond this one.
_UNROLLED = 300


@dataclass(frozen=True)
class Point:
    """A size, the leading axes of x, and its dtype."""

    in_features: int
    out_features: int
    lead: tuple[int, ...] = BATCH
    dtype: str = "float32"

    @property
    def axes(self) -> tuple[int, ...]:
        """In, out, and the leading axes of x."""
        return (self.in_features, self.out_features, *self.lead)

    def moved(self, axis: int, length: int) -> Point:
        """The same point with another length of one axis."""
        axes = [*self.axes]
        axes[axis] = length
        return Point(axes[0], axes[1], tuple(axes[2:]), self.dtype)

    def name(self, axis: int) -> str:
        """What the axis is called."""
        rows = "rows" if len(self.lead) == 1 else f"x.shape[{axis - 2}]"
        return ("in_features", "out_features")[axis] if axis < 2 else rows

    @property
    def fits(self) -> bool:
        """Whether a layer can be called here within the memory and the time of a check."""
        rows = int(np.prod(self.lead))
        n, m = self.in_features, self.out_features
        return max(n * m, rows * n, rows * m) <= _NUMBERS and rows * n * m <= _PRODUCTS

    def case(self) -> Case:
        """The case of this size and batch."""
        return Case(self.in_features, self.out_features, 0, 1, self.lead)


@dataclass(frozen=True)
class Edge:
    """Where a program changes on one axis.

    Parameters
    ----------
    program
        Of what: construction, call, or gradient.
    where
        From where on, in words.
    points
        The first point of the other program, one beyond, and the last one before.
    """

    program: str
    where: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Scan:
    """What the programs of a layer show.

    Parameters
    ----------
    edges
        Where they change.
    traced
        Whether the layer could be traced at all.
    """

    edges: tuple[Edge, ...]
    traced: bool = True

    def places(self, use: Use) -> list[tuple[str, Case]]:
        """Where in words, and the case, of all at which a requirement should be tried."""
        edges = [edge for edge in self.edges if edge.program in use.programs]
        # One point of each edge before a second one of any: the first of the other program.
        in_turn = itertools.zip_longest(*(edge.points for edge in edges))
        found: dict[Case, str] = {}
        for points in in_turn:
            for edge, point in zip(edges, points, strict=True):
                if point is not None and point.dtype in use.dtypes and point.fits:
                    found.setdefault(point.case(), edge.where)
        return [(where, case) for case, where in found.items()][: use.most]


# Where a layer that cannot be traced is called instead.
_CALLED = (
    Edge(FORWARD, "at a larger size", (Point(256, 100), Point(300, 500))),
    Edge(FORWARD, "with a longer batch", (Point(*_BASE, (1000,)), Point(*_BASE, (5, 10)))),
    Edge(CONSTRUCTION, "at a larger size", (Point(256, 100), Point(1000, 300))),
)


def kernel_sizes(layer: Layer) -> list[Size]:
    """The sizes at the edges of the layer's construction, of kernels that are quickly drawn."""
    sizes = [case.kernel_shape for _, case in scan(layer).places(NEW)]
    return [(n, m) for n, m in sizes if n * m <= _WEIGHTS]


def scan(layer: Layer) -> Scan:
    """Return the edges of the layer's programs, found once for each layer."""
    found: Scan = layer.remember("scan", lambda: _scan(layer))
    return found


def _scan(layer: Layer) -> Scan:
    traces = _Traces(layer)
    base = replace(Point(*_BASE), lead=BATCH if layer.accepts(BATCH) else layer.fewest)
    first = traces(FORWARD, base)
    if not first.numbers:
        return Scan(_CALLED, traced=False)
    larger = traces(FORWARD, replace(base, in_features=30, out_features=100))
    unrolled = len(larger.structure) > 2 * len(first.structure)  # type: ignore[arg-type]  # a tuple
    most = min(layer.describable, _UNROLLED if unrolled else 10**6)
    points = [p for p in _points(layer, base) if max(p.axes) <= most]
    edges: list[Edge] = []
    kinds = [FORWARD] if PARAMETERS not in layer.provides else [CONSTRUCTION, FORWARD]
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
            chosen = [p for p in points if p.dtype not in ("int32", "complex64")]
        edges += _edges(traces, kind, chosen)
    return Scan(tuple(edges))


def _points(layer: Layer, base: Point) -> list[Point]:
    """Every point that is traced, those of one class in order of interest."""
    sized = [replace(base, in_features=n, out_features=m) for n, m in (*_SIZES, *_drawn(), *_ONES)]
    some = [(n, m) for n, m in _FEWER if n in (3, 64, 300, 1000)]
    batches = [(_BASE, (rows,)) for rows in _ROWS] + [(_BASE, lead) for lead in _LEADS]
    batches += [((64, 64), (64,)), ((64, 64), (1000,)), ((130, 300), (500,)), ((64, 48), (4096,))]
    batches += [((n, m), lead) for n, m in some for lead in ((), (1,), (2, 3), (30, 40))]
    batches += [((512, 512), ()), ((768, 3072), (2, 3)), ((768, 3072), (4, 128))]
    points = [*sized, *(Point(n, m, lead) for (n, m), lead in batches)]
    short = [(_BASE, (rows,)) for rows in (100, 300, 1024, 4096)] + [(_BASE, ()), (_BASE, (2, 3))]
    for dtype in _DTYPES:
        points += [replace(base, in_features=n, out_features=m, dtype=dtype) for n, m in _FEWER]
        points += [Point(n, m, lead, dtype) for (n, m), lead in short]
    return [p for p in dict.fromkeys(points) if layer.accepts(p.lead)]


def _drawn() -> list[Size]:
    """Sizes that are drawn for this run, small ones as likely as large ones."""
    generator = random.Random(profiles.active().seed or 0)
    return [
        (int(2 ** generator.uniform(5, 12)), int(2 ** generator.uniform(5, 12))) for _ in range(3)
    ]


class _Traces:
    """The programs of a layer by point, each traced once."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self._known: dict[tuple[str, Point], Signature] = {}
        self._parameters: dict[Size, tuple[Signature, Any]] = {}

    def __call__(self, kind: str, point: Point) -> Signature:
        """The signature of a program; one without numbers where it cannot be traced."""
        key = (kind, point)
        if key not in self._known:
            try:
                self._known[key] = self._trace(kind, point)
            except Exception as error:
                self._known[key] = Signature(("raises", type(error).__name__))
        return self._known[key]

    def _trace(self, kind: str, point: Point) -> Signature:
        layer, n, m = self.layer, point.in_features, point.out_features
        x = jax.ShapeDtypeStruct((*point.lead, n), point.dtype)
        if PARAMETERS not in layer.provides:
            forward = layer.implementation.forward
            assert forward is not None
            return signature(jax.make_jaxpr(lambda x: forward(0, x, m))(x))
        if (n, m) not in self._parameters:
            jaxpr, new = jax.make_jaxpr(lambda s: layer.init(s, n, m), return_shape=True)(
                jax.ShapeDtypeStruct((), jnp.uint32)
            )
            self._parameters[n, m] = signature(jaxpr), new
        built, parameters = self._parameters[n, m]
        if kind == CONSTRUCTION:
            return built

        def f(parameters: Any, x: Any) -> Any:
            return call(layer, parameters, x)

        if kind == FORWARD:
            return signature(jax.make_jaxpr(f)(parameters, x))
        y = jax.eval_shape(f, parameters, x)

        def back(parameters: Any, x: Any, g: Any) -> Any:
            return jax.vjp(f, parameters, x)[1](g)

        return signature(jax.make_jaxpr(back)(parameters, x, y))


def _edges(traces: _Traces, kind: str, points: Sequence[Point]) -> list[Edge]:
    classes: dict[Any, list[Point]] = defaultdict(list)
    for point in points:
        axes = point.axes[:2] if kind == CONSTRUCTION else point.axes
        classes[point.dtype, len(axes), tuple(length == 1 for length in axes)].append(point)
    found = [_edges_of_class(traces, kind, members) for members in classes.values()]
    # In turn, so that the first edge of each class comes before the second of any.
    in_turn = [edge for edges in itertools.zip_longest(*found) for edge in edges if edge]
    return list({edge.points: edge for edge in in_turn}.values())


def _edges_of_class(traces: _Traces, kind: str, points: Sequence[Point]) -> list[Edge]:
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
            edges += _edge(kind, base, point, other)
    for misfit in _misfits(traces, kind, same)[:_MOST_EDGES]:
        deviating = [same[i] for i in misfit.deviating]
        if misfit.formula is None:
            # The number follows no formula: it may be wrong anywhere.
            most = _WEIGHTS if kind == CONSTRUCTION else _NUMBERS
            callable_ = [p for p in same if p.fits and p.in_features * p.out_features <= most]
            chosen = sorted(callable_, key=lambda p: np.prod(p.axes))[-3:]
            edges.append(Edge(kind, "at a larger size", tuple(chosen)))
            continue

        def misfitting(point: Point, misfit: Misfit = misfit) -> bool:
            return other(point) or not follows(traces(kind, point), misfit, _axes(kind, point))

        edges += _edge(kind, base, _smallest(deviating), misfitting)
    return edges


def _axes(kind: str, point: Point) -> tuple[int, ...]:
    return point.axes[:2] if kind == CONSTRUCTION else point.axes


def _misfits(traces: _Traces, kind: str, points: Sequence[Point]) -> list[Misfit]:
    if len(points) < 4:
        return []
    axes = np.array([_axes(kind, point) for point in points])
    return misfits(axes, np.array([traces(kind, point).numbers for point in points]))


def _smallest(points: Iterable[Point]) -> Point:
    return min(points, key=lambda point: float(np.prod([float(n) for n in point.axes])))


def _edge(kind: str, base: Point, end: Point, other: Callable[[Point], bool]) -> list[Edge]:
    """The edge on the way from the base to a point of another program, axis by axis."""
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
    """The same edge with the other axes as they are at the base, where it is there as well."""
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
    beyond = after.moved(axis, length + (length // 3 | 1))
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
    return Edge(kind, where, (after, beyond, before))


def _divisor(length: int, other: Callable[[int], bool]) -> int:
    """The smallest number at whose multiples the program is another one, or 0."""
    if length > 2**16 or (other(length + 1) and other(length - 1)):
        return 0
    divisors = [n for n in range(2, length + 1) if length % n == 0]
    small = [n for n in divisors if other(n) and other(2 * n) and other(3 * n)]
    return next((n for n in small if not other(n - 1) and not other(n + 1)), 0)


def at_edges(use: Use) -> Callable[[F], F]:
    """Check a property at the layer's edges, too, once it holds for the case that is drawn."""

    def decorate(test: F) -> F:
        @functools.wraps(test)
        def run(layer: Layer, case: Case) -> None:
            test(layer, case)
            layer.remember(("edges", test.__qualname__), lambda: _at_each(layer, test, use))

        return run  # type: ignore[return-value]  # functools.wraps keeps the signature

    return decorate


def _at_each(layer: Layer, test: Callable[..., None], use: Use) -> bool:
    """Try the property at every edge; a failure names the edge, and so does a note of the cell."""
    for where, case in scan(layer).places(use):
        recording.current().note(f"another program of the layer runs {where}")
        try:
            test(layer, recording.current().draw(case))
        except Violation as violation:
            violation.found = f"{where}: {violation.found}"
            violation.args = (violation.found,)
            raise
    return True
