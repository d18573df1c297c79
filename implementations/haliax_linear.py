"""Haliax's Linear, with the convention that Haliax documents: named axes, (out, in)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import haliax
import jax

from conformance import Convention, Implementation, Law

__all__ = ["CONVENTION", "Linear"]

_TRUNCATED_VARIANCE = 0.9733369
"""Of a standard normal truncated at three standard deviations."""

CONVENTION = Convention(
    name="Haliax",
    kernel=Law(
        (),
        lambda fan_in, fan_out: _TRUNCATED_VARIANCE / fan_in,
        "normal truncated at 3 deviations, variance 0.973/fan_in",
    ),
    layout="out,in",
    parameter_names=("weight", "bias"),
)


def _apply(layer: Any, x: Any) -> Any:
    """Return the output (..., out); the leading axes of x have names only here."""
    batch = tuple(haliax.Axis(f"batch{i}", size) for i, size in enumerate(x.shape[:-1]))
    y = layer(haliax.named(x, (*batch, layer.In)))
    return y.rearrange((*batch, layer.Out)).array


def _write(layer: Any, kernel: Any, bias: Any) -> Any:
    weight = haliax.named(kernel, (layer.In, layer.Out)).rearrange(layer.weight.axes)
    named = None if bias is None else haliax.named(bias, (layer.Out,))
    return replace(layer, weight=weight, bias=named)


def _linear(convention: Convention) -> Implementation:
    use_bias = convention.use_bias

    def init(seed: Any, in_features: int, out_features: int) -> Any:
        axes = haliax.Axis("in", in_features), haliax.Axis("out", out_features)
        return haliax.nn.Linear.init(*axes, key=jax.random.key(seed), use_bias=use_bias)

    return Implementation.of_functions(
        "haliax.nn.Linear",
        init=init,
        apply=_apply,
        kernel=lambda layer: layer.weight.rearrange((layer.In, layer.Out)).array,
        bias=(lambda layer: layer.bias.array) if use_bias else None,
        write=_write,
        convention=convention,
        library="haliax",
    )


VARIANTS = {"no-bias": _linear(replace(CONVENTION, name="Haliax, without bias", use_bias=False))}

Linear = replace(_linear(CONVENTION), variants=VARIANTS)
