"""Finds the edge of the layer's program beyond which a failing case lies."""

from __future__ import annotations

from dataclasses import replace

from conformance.checks.cases import Case
from conformance.checks.layer import Layer
from conformance.checks.scan.edges import edge_between, scan
from conformance.checks.scan.points import Point, base_of
from conformance.checks.scan.traces import CONSTRUCTION, FORWARD, GRADIENT, Traces
from conformance.contract.requirement import Requirement

_KINDS = {
    "construction": (CONSTRUCTION,),
    "initialization": (CONSTRUCTION,),
    "seeding": (CONSTRUCTION,),
    "transforms": (FORWARD, GRADIENT),
}
_LARGEST = 2**13
"""The size up to which a layer with a Python loop over its inputs is traced."""


def edge_before(layer: Layer, row: Requirement, case: Case) -> str:
    """Return in words where the failing case's program begins; "" if no edge is before it.

    The program at the case is compared with the program of a small layer for a plain batch.
    """
    point, base = Point(*case.kernel_shape, case.lead), base_of(layer)
    # JAX itself runs another program for an axis of 1.
    if len(point.axes) != len(base.axes) or min(point.axes) < 2 or max(point.axes) > _LARGEST:
        return ""
    traces = Traces(layer)
    tenfold = Point(10 * base.in_features, 10 * base.out_features, tuple(10 * n for n in base.lead))
    for kind in _KINDS.get(row.area, (FORWARD,)):
        if traces.grows(kind, base, tenfold):
            continue  # a Python loop: every length has a program of its own
        for edge in scan(layer).edges:
            if edge.program == kind and any(_same(each, point, kind) for each in edge.points):
                return edge.where
        at = point if kind != CONSTRUCTION else replace(point, lead=base.lead)
        of_base = traces(kind, base).structure

        def other(point: Point, kind: str = kind, of_base: object = of_base) -> bool:
            return traces(kind, point).structure != of_base

        found = edge_between(kind, base, at, other) if other(at) else []
        if found:
            return found[0].where
    return ""


def _same(one: Point, other: Point, kind: str) -> bool:
    """Return whether two points have one size and, except for construction, one batch."""
    return one.axes[:2] == other.axes[:2] and (kind == CONSTRUCTION or one.lead == other.lead)
