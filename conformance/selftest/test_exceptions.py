"""The causes of exceptions that JAX, NumPy and Python raise, each told from the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from conformance.checks import require
from conformance.errors import Violation

KEY = jax.random.key(0)
READ_ONLY = np.frombuffer(b"1234", np.int32)
draw: Any = jax.random.normal
zeros: Any = jnp.zeros
made: Any = jax.nn.initializers


@pytest.mark.parametrize(
    ("call", "cause_id"),
    [
        (lambda: draw(KEY, 3, 4), "number-as-dtype"),
        (lambda: zeros(3, 4), "number-as-dtype"),
        # These look like an initializer of kernels that is given the shape of a bias.
        (lambda: made.lecun_normal()(KEY, 3, 4), "number-as-dtype"),
        (lambda: made.lecun_normal()(KEY, 3, 4, jnp.float32), "number-as-dtype"),
        (lambda: made.lecun_normal()(KEY, (3,)), "initializer-of-vector"),
        (lambda: made.lecun_normal()(KEY, (3,), jnp.float32), "initializer-of-vector"),
        (lambda: draw((3, 4), KEY), "shape-as-key"),
        (lambda: not jnp.zeros(3), "array-as-condition"),
        (lambda: np.zeros(3) or 0, "array-as-condition"),
        (lambda: jax.jit(lambda x: x or 0)(3.0), "condition-under-trace"),
        (lambda: zeros(3, "no dtype"), ""),
        (lambda: READ_ONLY.__setitem__(0, 1), "written-in-place"),
        (lambda: nnx.Variable(READ_ONLY).__setitem__(0, 1), "variable-written-in-place"),
    ],
)
def test_the_cause_of_an_exception_is_found(call: Callable[[], object], cause_id: str) -> None:
    with pytest.raises(Violation) as raised, require.during("the call"):
        call()
    assert raised.value.cause_id == cause_id
