"""Arrays that are not in memory as they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.checks import require, shapes

__all__ = ["require_views"]


def require_views(f: Callable[..., Any], x: np.ndarray) -> None:
    """Require f of views of ``x``, of rank 3, to be f of what they show."""
    plain = np.asarray(f(x))
    views = {
        "an array of rank 3 in Fortran order": np.asfortranarray(x),
        "a reversed array of rank 3": x[::-1, ::-1].copy()[::-1, ::-1],
    }
    for what, view in views.items():
        found = np.asarray(f(view, as_given=True))
        cause = "" if np.array_equal(found, plain) else shapes.of_form(f, found, view)
        require.equal(found, plain, f"f of {what}", cause=cause)
    same = np.broadcast_to(x[:, :1], x.shape)
    found, expected = np.asarray(f(same, as_given=True)), np.asarray(f(same.copy()))
    require.equal(found, expected, "f of an array of rank 3 whose rows are one row")
