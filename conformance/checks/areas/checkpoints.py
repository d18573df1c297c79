"""Converts a layer's values to plain nested dictionaries, and back into another instance."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from conformance.checks.layer import Built
from conformance.jax_setup.lazy import jax, nnx
from conformance.layers.adapters.parameters import Parameters


def values_of(dense: Built) -> Any:
    """Return the content of a checkpoint, as nested dictionaries of arrays."""
    from flax import serialization

    if dense.module is None:
        return serialization.to_state_dict(dense.parameters.tree)
    return nnx.state(dense.module, _saved()).to_pure_dict()


def _saved() -> Any:
    """Return the filter of what goes into a file: files hold no keys."""
    return nnx.Not(nnx.RngState)


def are_boxed(dense: Built) -> bool:
    """Return whether parameters of a Linen layer are in boxes, such as ``nn.Partitioned``."""
    from flax.core import meta

    if dense.module is not None:
        return False
    box: Any = meta.AxisMetadata
    leaves = jax.tree_util.tree_leaves(
        dense.parameters.tree, is_leaf=lambda leaf: isinstance(leaf, box)
    )
    return any(isinstance(leaf, box) for leaf in leaves)


def of_flax(values: dict[str, np.ndarray], like: Built) -> Any:
    """Return what the checkpoint of a Flax layer with these parameters contains."""
    from flax import serialization

    state = values if like.module is not None else {"params": values}
    return serialization.msgpack_restore(serialization.to_bytes(state))


def restored(dense: Built, values: Any) -> Built:
    """Return the instance with these values, which files give as NumPy arrays."""
    from flax import serialization

    if dense.module is None:
        parameters = dense.parameters
        tree = serialization.from_state_dict(parameters.tree, values)
        return Built(dense.layer, parameters=Parameters(parameters.static, tree))
    state = nnx.state(dense.module, _saved())
    state.replace_by_pure_dict(values)
    nnx.update(dense.module, state)
    return dense


def by_bytes(values: Any, template: Any) -> dict[str, Any]:
    """Return the values after ``flax.serialization``, with a template and without."""
    from flax import serialization

    data = serialization.to_bytes(values)
    return {
        "from_bytes(to_bytes)": serialization.from_bytes(template, data),
        "msgpack_restore(to_bytes)": serialization.msgpack_restore(data),
    }


def has_orbax() -> bool:
    """Return whether Orbax is installed."""
    return (
        importlib.util.find_spec("orbax") is not None
        and importlib.util.find_spec("orbax.checkpoint") is not None
    )


def by_orbax(values: Any, template: Any) -> Any:
    """Return the values after Orbax has saved them to a temporary directory and loaded them."""
    import orbax.checkpoint as orbax

    with tempfile.TemporaryDirectory() as folder, orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(folder) / "layer", values)
        checkpointer.wait_until_finished()
        return checkpointer.restore(Path(folder) / "layer", template)
