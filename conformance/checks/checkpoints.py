"""A layer's values as plain nested dictionaries, and back into another instance."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from conformance.checks.layer import Built
from conformance.jax_setup.lazy import jax, jnp, nnx
from conformance.layers.adapters.parameters import Parameters

__all__ = ["by_bytes", "by_orbax", "has_orbax", "restored", "values_of"]


def values_of(dense: Built) -> Any:
    """Everything that a checkpoint has to hold, as nested dictionaries of arrays."""
    from flax import serialization

    if dense.module is None:
        return serialization.to_state_dict(dense.parameters.tree)
    return nnx.state(dense.module).to_pure_dict()


def restored(dense: Built, values: Any) -> Built:
    """Another instance, whose values are replaced by these."""
    from flax import serialization

    # Reading gives NumPy arrays; a layer may use what only JAX's have.
    values = jax.tree_util.tree_map(jnp.asarray, values)
    if dense.module is None:
        parameters = dense.parameters
        tree = serialization.from_state_dict(parameters.tree, values)
        return Built(dense.layer, parameters=Parameters(parameters.static, tree))
    state = nnx.state(dense.module)
    state.replace_by_pure_dict(values)
    nnx.update(dense.module, state)
    return dense


def by_bytes(values: Any, template: Any) -> dict[str, Any]:
    """The values after ``flax.serialization``, with a template and without."""
    from flax import serialization

    data = serialization.to_bytes(values)
    return {
        "from_bytes(to_bytes)": serialization.from_bytes(template, data),
        "msgpack_restore(to_bytes)": serialization.msgpack_restore(data),
    }


def has_orbax() -> bool:
    """Whether Orbax is installed."""
    return (
        importlib.util.find_spec("orbax") is not None
        and importlib.util.find_spec("orbax.checkpoint") is not None
    )


def by_orbax(values: Any, template: Any) -> Any:
    """The values after Orbax has written them to a temporary directory and read them again."""
    import orbax.checkpoint as orbax

    with tempfile.TemporaryDirectory() as folder, orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(folder) / "layer", values)
        checkpointer.wait_until_finished()
        return checkpointer.restore(Path(folder) / "layer", template)
