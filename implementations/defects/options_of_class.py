"""Layers that keep an option, or a program, where one layer decides for others."""

from __future__ import annotations

import dataclasses
import inspect
import types
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from implementations.correct.options import LECUN, AllOptions, AllOptionsLinen
from implementations.defects.base import affine
from implementations.defects.options import constructor
from implementations.defects.record import defect, name_layers


def _on_the_class(id: str, breaks: str, option: str, doc: str) -> Any:
    """Return a layer with one option besides `use_bias`, which it keeps on its class."""

    def construct(
        self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs, **given: Any
    ) -> None:
        AllOptions.__init__(self, in_features, out_features, rngs=rngs)
        delattr(self, option)
        chosen = given.get(option, known[option].default)
        setattr(type(self), option, staticmethod(chosen) if callable(chosen) else chosen)

    known = inspect.signature(AllOptions.__init__).parameters
    names = ("self", "in_features", "out_features", option, "rngs")
    construct.__signature__ = inspect.Signature([known[name] for name in names])  # type: ignore[attr-defined]  # an attribute of any function
    members = {"__init__": construct, "__doc__": doc, "__module__": __name__}
    made: Any = types.new_class("<lambda>", (AllOptions,), exec_body=lambda n: n.update(members))
    return defect(id, breaks, 4, cause_id="options-shared")(made)


PrecisionOfTheClass = _on_the_class(
    "Y277", "options/precision", "precision", "`precision` is an attribute of the class."
)
DotGeneralOfTheClass = _on_the_class(
    "Y278", "options/dot-general", "dot_general", "`dot_general` is an attribute of the class."
)
PromotionOfTheClass = _on_the_class(
    "Y279", "options/promote-dtype", "promote_dtype", "`promote_dtype` is one of the class."
)


@defect("Y276", "options/use-bias", 4, cause_id="options-shared")
class UseBiasOfTheClass(AllOptions):
    """`use_bias` is an attribute of the class; each layer has, or has not, its own bias."""

    adds: bool = True

    def __init__(
        self, in_features: int, out_features: int, *, use_bias: bool = True, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, use_bias=use_bias, rngs=rngs)
        type(self).adds = use_bias

    def affine(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        """Return the output, to which the bias is added if the last layer has one."""
        return super().affine(x, kernel, bias if self.adds else None)


@defect("Y230", "options/dtype", 4, cause_id="options-shared")
class DtypeOfTheClass(AllOptions):
    """`dtype` is an attribute of the class, so that the last layer decides for all."""

    computed: Any = None

    def __init__(
        self, in_features: int, out_features: int, *, dtype: Any = None, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        DtypeOfTheClass.computed = dtype

    def computed_in(self, x: Any, kernel: Array, bias: Array | None) -> Any:
        return DtypeOfTheClass.computed


_programs: dict[Any, Any] = {}


@defect("Y523", "options/dtype", 3, cause_id="program-of-another")
class CompiledForAShape(AllOptions):
    """The first layer that is called with an x of a shape decides the dtype for all of them."""

    def __init__(
        self, in_features: int, out_features: int, *, dtype: Any = None, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, dtype=dtype, rngs=rngs)

    def __call__(self, x: Any) -> Array:
        dtype, shape = self.dtype, (*jnp.shape(x), *self.kernel.shape)
        program = jax.jit(lambda *values: _cast_affine(dtype, *values))
        return _programs.setdefault(shape, program)(x, self.kernel[...], self.bias[...])


def _cast_affine(dtype: Any, *values: Any) -> Array:
    if dtype is not None:
        values = tuple(jnp.asarray(value, dtype) for value in values)
    x, kernel, bias = values
    return affine(x, kernel, bias)


_first: dict[str, Any] = {}
InitializerOfTheClass = constructor("Y450", "options/kernel-init", 4, cause_id="options-shared")(
    lambda kernel_init: {
        "kernel_init": _first.get("init", LECUN)
        if kernel_init is LECUN
        else _first.setdefault("init", kernel_init)
    },
    "An initializer that was given stays, for layers that are built without one.",
)


@dataclasses.dataclass(frozen=True)
class _Computed:
    dtype: Any = dataclasses.field(default=None, compare=False)


@defect("Y397", "options/dtype", 4, cause_id="options-not-compared")
class DtypeNotCompared(AllOptions):
    """The dtype is in a field that == leaves out, so that jit runs programs of other layers."""

    def __init__(
        self, in_features: int, out_features: int, *, dtype: Any = None, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.computed = _Computed(dtype)

    def computed_in(self, x: Any, kernel: Array, bias: Array | None) -> Any:
        return self.computed.dtype


@defect("Y398", "options/dtype", 4, cause_id="options-not-compared")
class FieldNotCompared(AllOptionsLinen):
    """The field dtype does not count in ==, so that jit runs programs of other layers."""

    dtype: Any = dataclasses.field(default=None, compare=False)


FalseByIdentity = constructor("Y649", "options/use-bias", 3, cause_id="false-by-identity")(
    lambda use_bias: {"use_bias": use_bias is not False},
    "`use_bias=0`, as from a configuration file, makes a bias.",
)


@defect("Y652", "options/dtype", 3, cause_id="option-by-rank")
class PreferredOfBatches(nnx.Linear):
    """`preferred_element_type` is used for a batch of rank 2 alone."""

    def __call__(self, x: Any, *sharding: Any) -> Array:
        """Return the output, whose product has the given dtype at rank 2."""
        values = (x, self.kernel[...], None if self.bias is None else self.bias[...])
        x, kernel, bias = self.promote_dtype(values, dtype=self.dtype)
        made = self.preferred_element_type if x.ndim == 2 else None
        y = jnp.matmul(x, kernel, preferred_element_type=made)
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


name_layers(globals())
