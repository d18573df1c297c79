"""Sets and describes the precision of float32 products on accelerators.

A CPU computes products of float32 in float32. By default, recent GPUs use TF32 and TPUs bfloat16.
There, everything runs under the precision "highest", and the requirement on precision also under
the default, with the default's bound.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from conformance.checks.oracle import Precision
from conformance.jax_setup.lazy import jax

# Operands keep 10 bits (TF32, truncated) or 7 (bfloat16), so a product errs by twice their
# rounding. The accumulation may truncate, which doubles its unit roundoff. These are derived, not
# measured.
_DEFAULTS = {
    "gpu": Precision("TF32", operand=2 * 2.0**-10, sum=2.0),
    "cuda": Precision("TF32", operand=2 * 2.0**-10, sum=2.0),
    "rocm": Precision("TF32", operand=2 * 2.0**-10, sum=2.0),
    "tpu": Precision("bfloat16", operand=2 * 2.0**-8, sum=2.0),
}


_FULL = ("highest", "float32")

_asked: list[str] = []
"""The precision of the user's configuration, after it was overridden."""


def force_float32() -> None:
    """Make JAX compute products in full float32 in this process, if the backend rounds them."""
    if jax.default_backend() in _DEFAULTS and not _asked:
        _asked.append(str(jax.config.values["jax_default_matmul_precision"] or "default"))
        jax.config.update("jax_default_matmul_precision", "highest")


def restore() -> None:
    """Restore the user's precision, which :func:`force_float32` replaced."""
    if _asked:
        asked = _asked.pop()
        jax.config.update("jax_default_matmul_precision", None if asked == "default" else asked)


@contextlib.contextmanager
def by_default() -> Iterator[Precision | None]:
    """Use the user's precision inside the block; yield it, or None if it is float32.

    It is the backend's default, or the value of ``jax_default_matmul_precision``. Formats between
    the default and float32 get the default's bound.
    """
    mode = _DEFAULTS.get(jax.default_backend())
    asked = _asked[0] if _asked else "default"
    if mode is None or asked in _FULL:
        yield None
        return
    with jax.default_matmul_precision(asked):
        yield mode
