"""Converts arrays for a layer, and checks its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from conformance.checks.require import fail
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax, jnp
from conformance.layers.adapters.parameters import is_key


def as_jax(x: Any, dtype: str | None = None) -> Any:
    """Return a NumPy array as a JAX array, in `dtype` if given; any other value unchanged.

    It is transferred unchanged, because ``jnp.asarray`` compiles a program for each new shape. In
    a context that sets a mesh it lies on that mesh, as arrays do that are made there.
    """
    from conformance.jax_setup.compat import inside_some_mesh

    if not isinstance(x, np.ndarray):
        return x
    given = x if dtype is None else x.astype(jnp.dtype(dtype))
    return jnp.asarray(given) if inside_some_mesh() else jax.device_put(given)


def stack(*arrays: Any) -> Any:
    """Return the stacked arrays; NumPy compiles nothing, but cannot stack keys."""
    return jnp.stack(arrays) if is_key(arrays[0]) else as_jax(np.stack(arrays))


def require_array(y: Any) -> Any:
    """Return an output, which must be an array; another requirement checks that it is JAX's."""
    if not isinstance(y, jax.Array | np.ndarray):
        shown = "None" if y is None else f"a {type(y).__module__}.{type(y).__name__}"
        fail(f"the layer returned {shown}", accepted="a jax.Array", cause=_of_another_type(y))
    return y


def _of_another_type(y: Any) -> Cause:
    """Return why a result is not an array."""
    if y is None:
        words = "the result is computed and not returned: the return statement is missing"
        return Cause("no-return", words)
    words = f"the result is not an array, but a {type(y).__name__}"
    if callable(y):
        words += ": return what it gives when it is called on x"
    elif isinstance(y, tuple | list | dict):
        words += ": return the output alone"
    return Cause("result-not-array", words)


def require_same_shape(present: Any, wanted: np.ndarray, which: str) -> None:
    """Require that a parameter has the shape of the values to write."""
    if np.shape(present) != wanted.shape:
        fail(
            f"the {which} has shape {np.shape(present)}, so that no {which} of shape "
            f"{wanted.shape} can be written in",
            accepted=f"shape {wanted.shape}",
        )


def require_kept(layer: Any, old: Any, new: Any, written: Mapping[str, np.ndarray]) -> None:
    """Require once, of kernel and bias, that a description's `write` changes what is read."""
    kept = layer.remember("kept", set)
    for which, read in (("kernel", layer.kernel_of), ("bias", layer.bias_of)):
        if which in kept or (which == "bias" and not layer.convention.use_bias):
            continue
        before = np.asarray(read(old))
        if np.array_equal(before, written[which]):
            continue
        if np.array_equal(before, np.asarray(read(new))):
            fail(
                f"after write(parameters, kernel, bias), the {which} that is read is the old one",
                accepted=f"the {which} that was written",
                cause=Cause(
                    "not-written", f"the description's function `write` leaves the {which} as it is"
                ),
            )
        kept.add(which)
