"""The programs of a layer by size, batch and dtype, from abstract traces."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.checks import jaxprs
from conformance.checks.layer import Layer
from conformance.checks.programs import call
from conformance.checks.scan.points import Point
from conformance.checks.scan.signatures import Signature, signature
from conformance.contract.requirement import PARAMETERS
from conformance.errors import name_of
from conformance.jax_setup.lazy import jax, jnp

Size = tuple[int, int]
CONSTRUCTION, FORWARD, GRADIENT = "construction", "call", "gradient"

# A constant of fewer numbers may be a table of one size.
_TABLE = 1000


class Traces:
    """The programs of a layer by point, each traced once."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self._known: dict[tuple[str, Point], Signature] = {}
        self._parameters: dict[Size, tuple[Signature, Any]] = {}
        # Whether a trace contains an array of the kernel's size, such as NumPy draws, or a mask:
        # larger sizes cost memory.
        self.materializes = False

    def __call__(self, kind: str, point: Point) -> Signature:
        """Return the signature of a program; one without numbers if it cannot be traced."""
        key = (kind, point)
        if key not in self._known:
            try:
                self._known[key] = self._trace(kind, point)
            except Exception as error:
                self._known[key] = Signature(("raises", name_of(error)))
        return self._known[key]

    def grows(self, kind: str, point: Point, tenfold: Point) -> bool:
        """Return whether the program of a point that is ten times as large is that much longer."""
        return len(self(kind, tenfold).structure) > 4 * len(self(kind, point).structure)

    def _trace(self, kind: str, point: Point) -> Signature:
        layer, n, m = self.layer, point.in_features, point.out_features
        x = jax.ShapeDtypeStruct((*point.lead, n), point.dtype)
        if PARAMETERS not in layer.provides:
            program = jax.make_jaxpr(lambda x: layer.of_function(0, x, m))(x)
            self._note_constants(program, n * m)
            return signature(program)
        if (n, m) not in self._parameters:
            jaxpr, new = jax.make_jaxpr(lambda s: layer.init(s, n, m), return_shape=True)(
                jax.ShapeDtypeStruct((), jnp.uint32)
            )
            self._note_constants(jaxpr, n * m)
            self._parameters[n, m] = signature(jaxpr), new
        built, parameters = self._parameters[n, m]
        if kind == CONSTRUCTION:
            return built

        def f(parameters: Any, x: Any) -> Any:
            return call(layer, parameters, x)

        if kind == FORWARD:
            program = jax.make_jaxpr(f)(parameters, x)
            self._note_constants(program, n * m)
            return signature(program)
        y = jax.eval_shape(f, parameters, x)

        def back(parameters: Any, x: Any, g: Any) -> Any:
            return jax.vjp(f, parameters, x)[1](g)

        return signature(jax.make_jaxpr(back)(parameters, x, y))

    def _note_constants(self, program: Any, size: int) -> None:
        held = max((int(np.size(each)) for each in jaxprs.constants(program)), default=0)
        self.materializes |= held >= max(size, _TABLE)
