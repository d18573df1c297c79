"""From what people write -- an nnx class, a Linen class, a function -- to an Implementation."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from conformance.errors import NotAdaptable
from conformance.layers.implementation import FLAX, Convention, Implementation

__all__ = ["adapt"]


def adapt(
    layer: Any, *, name: str | None = None, convention: Convention = FLAX, library: str = ""
) -> Implementation:
    """Make an implementation of an nnx class, a Linen class or a forward function.

    Parameters
    ----------
    layer
        The class or the function; an :class:`Implementation` is returned as it is.
    name
        The name on screens; by default the object's own.
    convention
        What the layer declares about itself.
    library
        The distribution whose version is shown; by default that of the object's module.

    Raises
    ------
    NotAdaptable
        If it is something else, or cannot be called as it would have to be.
    """
    from flax import linen, nnx

    if isinstance(layer, Implementation):
        return layer
    label = name or str(getattr(layer, "__qualname__", None) or type(layer).__name__)
    library = library or _top_level(layer)
    if isinstance(layer, functools.partial) and isinstance(layer.func, type):
        return _of_partial(layer, label, convention, library)
    if isinstance(layer, type) and issubclass(layer, nnx.Module):
        from conformance.layers.adapters.nnx import from_nnx

        return from_nnx(layer, _sizes_call(layer), label, convention, library)
    if isinstance(layer, type) and issubclass(layer, linen.Module):
        from conformance.layers.adapters.linen import from_linen

        _require_call(layer, "cls(features=out_features)", features=1)
        return from_linen(layer, label, convention, library)
    if isinstance(layer, type):
        raise NotAdaptable(
            f"the class {label}, which is neither a flax.nnx.Module nor a flax.linen.Module",
            f"Did you mean class {layer.__name__}(nnx.Module)?",
        )
    if isinstance(layer, nnx.Module | linen.Module):
        raise NotAdaptable(
            f"an instance of {type(layer).__name__}", "Name the class itself, not an instance."
        )
    if callable(layer):
        _require_call(layer, "f(seed, x, features)", 0, 0, 1)
        return Implementation(
            name=label,
            forward=layer,
            convention=_of_function(layer, convention),
            library=library,
        )
    raise NotAdaptable(f"an object of type {type(layer).__name__}, which cannot be called")


def _of_partial(
    layer: functools.partial[Any], label: str, convention: Convention, library: str
) -> Implementation:
    """An nnx or a Linen class with some of its options chosen."""
    from flax import linen, nnx

    kind: Any = layer.func
    library = library if library != "functools" else _top_level(kind)
    if issubclass(kind, nnx.Module):
        from conformance.layers.adapters.nnx import from_nnx

        def construct(in_features: int, out_features: int, rngs: Any) -> Any:
            return layer(in_features, out_features, rngs=rngs)

        return from_nnx(kind, construct, label, convention, library)
    if issubclass(kind, linen.Module):
        from conformance.layers.adapters.linen import from_linen

        return from_linen(layer, label, convention, library)
    raise NotAdaptable(f"a partial of {kind.__name__}, which is no nnx and no Linen class")


def _of_function(layer: Any, convention: Convention) -> Convention:
    """The exercise's function takes a vector; its own name says that it is a solution of it."""
    if convention is not FLAX:
        return convention
    solves = getattr(layer, "__name__", "") == "dense_forward"
    return Convention(name="dense_forward", ranks=(1,), fixed_result=solves)


def _top_level(layer: Any) -> str:
    module = str(getattr(layer, "__module__", None) or "")
    return module.partition(".")[0]


def _signature(layer: Any) -> inspect.Signature | None:
    try:
        if not isinstance(layer, type):
            return inspect.signature(layer)
        # The metaclass of nnx.Module hides the constructor's signature behind its own.
        signature = inspect.signature(layer.__init__)  # type: ignore[misc]  # of the class at hand
        return signature.replace(parameters=list(signature.parameters.values())[1:])
    except (TypeError, ValueError):
        return None  # a callable of C code may hide its signature: calling it will tell


def _require_call(layer: Any, form: str, *arguments: Any, **keywords: Any) -> None:
    signature = _signature(layer)
    if signature is None:
        return
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        raise NotAdaptable(
            f"{layer.__name__}{signature}, which cannot be called as {form}: {error}"
        ) from None


# Names by which constructors call the two sizes, where they take them by keyword alone.
_SIZE_NAMES = (
    ("in_features", "out_features"),
    ("in_dim", "out_dim"),
    ("input_dim", "output_dim"),
    ("input_size", "output_size"),
    ("in_size", "out_size"),
    ("n_in", "n_out"),
    ("num_in", "num_out"),
    ("din", "dout"),
    ("d_in", "d_out"),
    ("fan_in", "fan_out"),
)


def _sizes_call(layer: type) -> Callable[[int, int, Any], Any]:
    """How to construct the nnx class: the sizes by position, else by their usual names."""
    signature = _signature(layer)

    def by_position(in_features: int, out_features: int, rngs: Any) -> Any:
        return layer(in_features, out_features, rngs=rngs)

    if signature is None:
        return by_position
    try:
        signature.bind(1, 1, rngs=None)
    except TypeError as error:
        reason = error
    else:
        return by_position
    for first, second in _SIZE_NAMES:
        if first in signature.parameters and second in signature.parameters:
            try:
                signature.bind(**{first: 1, second: 1, "rngs": None})
            except TypeError:
                continue

            def by_name(
                in_features: int,
                out_features: int,
                rngs: Any,
                first: str = first,
                second: str = second,
            ) -> Any:
                return layer(**{first: in_features, second: out_features}, rngs=rngs)

            return by_name
    raise NotAdaptable(
        f"{layer.__name__}{signature}, which cannot be called as "
        f"cls(in_features, out_features, rngs=rngs): {reason}"
    ) from None
