"""The least that an example can cost: Hypothesis's draw and warm calls, without the suite.

Prints the milliseconds of a core that one example takes; the first argument is their number.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from flax import nnx

from conformance.checks import profiles, recording
from conformance.checks.cases import Case, over, settled
from conformance.checks.layer import Layer
from conformance.jax_setup import compile_cache
from conformance.layers.adapters import adapt
from implementations.my_dense import MyDense


def main(examples: int) -> float:
    """Return the milliseconds of a core for an example that only builds and calls the layer."""
    compile_cache.prepare()
    profiles.activate(profiles.DEFAULT, examples=examples)
    tried = 0

    def body(layer: Any, case: Case) -> None:
        nonlocal tried
        tried += 1
        dense = MyDense(case.in_features, case.out_features, rngs=nnx.Rngs(case.seed))
        x: Any = case.x()
        np.asarray(dense(x))

    recording.start()
    run = settled(over()(body), profiles.active())
    # The first pass compiles; the second draws the same examples, which a layer runs only once.
    run(layer=Layer(adapt(MyDense)))
    started, tried = time.process_time(), 0
    run(layer=Layer(adapt(MyDense)))
    return 1000 * (time.process_time() - started) / tried


if __name__ == "__main__":
    print(main(int(sys.argv[1])))
