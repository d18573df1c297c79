"""Checks values under settings of JAX on which a layer's program depends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from conformance.checks import programs, require
from conformance.checks.cases import Case
from conformance.checks.layer import Layer
from conformance.checks.once import once_per_layer
from conformance.checks.scan.edges import scan
from conformance.checks.scan.thresholds import counted
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax

_SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "jax.default_matmul_precision('highest')": lambda: jax.default_matmul_precision("highest"),
    "jax.numpy_dtype_promotion('strict')": lambda: jax.numpy_dtype_promotion("strict"),
    "jax.numpy_rank_promotion('raise')": lambda: jax.numpy_rank_promotion("raise"),
}


@once_per_layer()
def require_values_under_settings(layer: Layer, case: Case) -> None:
    """Require f(x) under settings that change precisions and promotions, but not values.

    The layer is traced under each, and called only where its program has other operations. Other
    requirements report a layer that raises.
    """
    if not scan(layer).traced:
        return
    dense, x = layer.written(case), case.x()
    reference = layer.value(x, layer.kernel_for(case), layer.bias_for(case))

    def program() -> Any:
        return counted(programs.traced(layer, case, dense.parameters))

    usual = program()
    for setting, entered in _SETTINGS.items():
        with entered():
            try:
                if program() == usual:
                    continue
                y = np.asarray(dense.raw(x))
            except (Exception, require.NotApplicable):  # as of what the setting refuses
                continue
        cause = Cause("value-of-setting", f"the layer computes something else under {setting}")
        what = f"under {setting}, f(x)"
        require.near(y, reference, what, cause=cause)
