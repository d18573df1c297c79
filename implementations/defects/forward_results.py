"""Layers that break forward by what a call returns: None, a list or a part of the outputs."""

from __future__ import annotations

from flax import nnx

from implementations.defects import wrong
from implementations.defects.base import CorrectDense, correct_dense_forward
from implementations.defects.record import name_layers

list_out = wrong.solution("X251", "forward/output-shape", 3, cause_id="result-not-array")(
    lambda seed, x, features: [float(y) for y in correct_dense_forward(seed, x, features)],
    "The result is a Python list.",
)
LayerReturned = wrong.casting("Y245", "forward/output-shape", 1, cause_id="result-not-array")(
    lambda seed, x, m: CorrectDense(x.shape[-1], m, rngs=nnx.Rngs(seed)),
    "The layer is returned, and not its output.",
)
Forgotten = wrong.call("Y577", "forward/output-shape", 1, cause_id="no-return")(
    lambda self, x: None, "The return statement is missing."
)
HalvesOnly = wrong.output("Y580", "forward/output-shape", 2, cause_id="outputs-dropped")(
    lambda y, x: y[..., : y.shape[-1] // 2 * 2],
    "Two heads have half of the outputs each, and an odd one is dropped.",
)


name_layers(globals())
