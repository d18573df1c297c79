"""Hides the differences between the supported versions of JAX and Flax.

No function looks at a version number; each asks the library itself.
"""

from __future__ import annotations

import contextlib
import importlib
import pickle
from collections.abc import Iterator
from typing import Any

import flax
import jax
from flax import nnx


def _is_variable(node: Any) -> bool:
    # Flax up to 0.10.7 puts VariableState copies into a state, later versions the Variables.
    # getattr would warn where the name is deprecated.
    state_type: type = vars(nnx).get("VariableState", nnx.Variable)
    return isinstance(node, nnx.Variable | state_type)


def state_leaves(state: Any) -> list[tuple[tuple[str, ...], str, Any]]:
    """Return the leaves of an nnx state as ``(path, name of the Variable type, array)``.

    The type of a raw array is ``"Array"``. The order is that of ``jax.tree.leaves``.
    """
    found = []
    nodes, _ = jax.tree_util.tree_flatten_with_path(state, is_leaf=_is_variable)
    for path, node in nodes:
        names = tuple(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        if not _is_variable(node):
            found.append((names, "Array", node))
            continue
        kind = node.type if isinstance(getattr(node, "type", None), type) else type(node)
        # A subclass of Param is a Param for every filter.
        name = "Param" if issubclass(kind, nnx.Param) else kind.__name__
        found.extend((names, name, value) for value in jax.tree_util.tree_leaves(node))
    return found


def keys_drawn(rngs: Any) -> int:
    """Return how many keys were drawn from all streams of an ``nnx.Rngs``."""
    counts = [leaf for _, kind, leaf in state_leaves(nnx.state(rngs)) if kind == "RngCount"]
    return int(sum(int(count) for count in counts))


def optimizer(module: nnx.Module, transformation: Any) -> Any:
    """Return an ``nnx.Optimizer`` over the module's Params."""
    return nnx.Optimizer(module, transformation, wrt=nnx.Param)


def gradient_step(optimizer: Any, module: nnx.Module, gradients: Any) -> None:
    """Update the module's Params once; since Flax 0.11 ``update`` also takes the module."""
    try:
        optimizer.update(module, gradients)
    except TypeError:
        optimizer.update(gradients)


def set_value(variable: Any, value: Any) -> None:
    """Set the value of an nnx Variable; Flax 0.12.1 deprecates assignment to ``.value``."""
    if hasattr(nnx.Variable, "set_value"):
        variable.set_value(value)
    else:
        variable.value = value


def inside_mesh(mesh: Any) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which Flax finds the mesh; since Flax 0.12, JAX sets it."""
    found: contextlib.AbstractContextManager[Any] = (
        jax.set_mesh(mesh) if hasattr(jax, "set_mesh") else mesh
    )
    return found


def shard_map(f: Any, mesh: Any, in_specs: Any, out_specs: Any) -> Any:
    """Return ``jax.shard_map`` of a function, which was experimental before JAX 0.6."""
    try:
        found = importlib.import_module("jax").shard_map
    except AttributeError:
        found = importlib.import_module("jax.experimental.shard_map").shard_map
    return found(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs)


def inside_some_mesh() -> bool:
    """Return whether ``jax.set_mesh`` is active, which older versions of JAX do not have."""
    current = getattr(jax.sharding, "get_abstract_mesh", None)
    return current is not None and not current().empty


def without_placing() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which Flax places no annotated Param, for which it needs a mesh."""
    flag = "always_shard_variable"  # since Flax 0.12
    if not hasattr(flax.config, f"flax_{flag}"):
        return contextlib.nullcontext()
    found: contextlib.AbstractContextManager[Any] = flax.config.temp_flip_flag(flag, False)
    return found


def kept_closure(module: nnx.Module) -> str:
    """Return the module's attribute that holds a function of JAX that cannot be pickled, or "".

    Initializers were closures in some versions, and a layer that keeps one cannot be pickled.
    """
    for name, value in vars(module).items():
        if not callable(value) or not str(getattr(value, "__module__", "")).startswith("jax."):
            continue
        try:
            pickle.dumps(value)
        except (AttributeError, TypeError, pickle.PicklingError):
            return name
    return ""


@contextlib.contextmanager
def x64(enabled: bool) -> Iterator[None]:
    """Enable or disable 64-bit types inside the block; ``jax.enable_x64`` exists since 0.8."""
    enable: Any = getattr(jax, "enable_x64", None)
    if enable is None:
        enable = importlib.import_module("jax.experimental").enable_x64
    with enable(enabled):
        yield
