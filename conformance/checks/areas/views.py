"""Checks arrays with an unusual order in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.checks import require
from conformance.checks.diagnosis import shapes
from conformance.checks.layer import Layer
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax


def forms_of(x: np.ndarray) -> dict[str, np.ndarray]:
    """Return equal arrays in other forms of memory, each by its name."""
    return {
        "a NumPy array": x,
        # NumPy cannot make a view of immutable bytes writeable again.
        "a read-only array": np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
        "a strided array": np.repeat(x, 2, axis=-1)[..., ::2],
        "an array of Fortran order": np.asfortranarray(x),
    }


def require_views(layer: Layer, f: Callable[..., Any], x: np.ndarray) -> None:
    """Require f of views of ``x`` to equal f of plain copies, a batch at ranks 2 and 3.

    The array may also be one that was filled with other values since the last call.
    """
    _require_read_again(f, x)
    if x.ndim == 1:
        return
    for lead in ((len(x),), (2, len(x) // 2)):
        if layer.accepts(lead):
            _require_views(f, x.reshape(*lead, -1))


def _require_read_again(f: Callable[..., Any], x: np.ndarray) -> None:
    """Require f of an array that was filled with other values since the last call to be theirs.

    Data loaders fill one buffer again and again. The result of the earlier call stays.
    """
    buffer = x.copy()
    earlier = f(buffer, as_given=True)
    before = np.array(earlier)
    buffer[...] = -x
    # The control is an array of NumPy too, whose arithmetic may round unlike JAX's.
    found, expected = (np.asarray(f(each, as_given=True)) for each in (buffer, -x))
    cause = Cause("kept-by-object", "what is kept of a call depends on the object x")
    what = "f of an array that was filled with other values since the last call"
    require.equal(found, expected, what, cause=cause)
    words = "the result is in memory that the layer uses again in its next call"
    what = "the result of an earlier call, after others,"
    require.equal(earlier, before, what, cause=Cause("result-overwritten", words))


def _require_views(f: Callable[..., Any], x: np.ndarray) -> None:
    plain, rank = np.asarray(f(x)), f"rank {x.ndim}"
    views = {
        f"an array of {rank} in Fortran order": np.asfortranarray(x),
        f"a reversed array of {rank}": x[::-1, ::-1].copy()[::-1, ::-1],
        f"a read-only array of {rank} in Fortran order": _read_only(np.asfortranarray(x)),
    }
    if not jax.config.values["jax_enable_x64"]:
        views[f"a float64 array of {rank}"] = x.astype(np.float64)
    for what, view in views.items():
        found = np.asarray(f(view, as_given=True))
        cause = "" if np.array_equal(found, plain) else shapes.of_form(f, found, view)
        require.equal(found, plain, f"f of {what}", cause=cause)
    same = np.broadcast_to(x[..., :1, :], x.shape)
    found, expected = np.asarray(f(same, as_given=True)), np.asarray(f(same.copy()))
    require.equal(found, expected, f"f of an array of {rank} whose rows are one row")


def _read_only(x: np.ndarray) -> np.ndarray:
    x.flags.writeable = False
    return x
