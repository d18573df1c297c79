"""What an accelerator computes products of float32 in, and what the suite asks of it.

On a CPU a product of float32 is one of float32. Recent GPUs take TF32 and TPUs take bfloat16
by default: there, everything runs under the precision "highest", and the row on precision once
more under the default, with the bound of what that default is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from conformance.lazy import jax
from conformance.oracle import Precision

__all__ = ["by_default", "settle"]

# Operands keep 10 bits (TF32, truncated) or 7 (bfloat16): a product errs by twice their rounding;
# the accumulation may truncate, which doubles its unit roundoff. Derived, not measured on a device.
_DEFAULTS = {
    "gpu": Precision("TF32", operand=2 * 2.0**-10, sum=2.0),
    "cuda": Precision("TF32", operand=2 * 2.0**-10, sum=2.0),
    "rocm": Precision("TF32", operand=2 * 2.0**-10, sum=2.0),
    "tpu": Precision("bfloat16", operand=2 * 2.0**-8, sum=2.0),
}


def settle() -> None:
    """Ask for full float32 products in this process, where the backend has others."""
    if jax.default_backend() in _DEFAULTS:
        jax.config.update("jax_default_matmul_precision", "highest")


@contextlib.contextmanager
def by_default() -> Iterator[Precision | None]:
    """The backend's default inside the block: what it computes in, or None if that is float32."""
    mode = _DEFAULTS.get(jax.default_backend())
    if mode is None:
        yield None
        return
    with jax.default_matmul_precision("default"):
        yield mode
