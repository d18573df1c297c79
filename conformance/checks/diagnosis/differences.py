"""Reports the differences that experiments found, each by one requirement.

All other requirements use the observed behaviour.
"""

from __future__ import annotations

import json
import math

from conformance.checks import require
from conformance.checks.cases import Case
from conformance.checks.diagnosis import shapes
from conformance.checks.layer import Built, Layer
from conformance.errors import Cause
from conformance.layers.storage import BiasRow, Scaled, values_at

_BY_FUNCTIONS = "it by functions: see 'A description in Python' in docs/libraries.md"


def require_no_activation(layer: Layer) -> None:
    """Require that no argument of the constructor applies an activation or dropout by default."""
    for name, value in layer.seen.arguments.items():
        default = layer.registered.activations[name]
        called = default if isinstance(default, str) else getattr(default, "__name__", default)
        words = f"the argument {name} is {called} by default, and is applied to the output"
        if isinstance(value, bool | float):
            words = f"the argument {name} is {called} by default; f is affine if it is {value}"
        require.fail(
            f"f(0) is not b by default, but it is with {name} = {json.dumps(value)}",
            accepted="a bias that is not changed",
            declare=f"arguments = {{ {name} = {json.dumps(value)} }}",
            cause=Cause("activation-by-default", words),
        )


def require_plain_operands(layer: Layer) -> None:
    """Require that the operands are not quantized, unless declared, and the kernel not scaled."""
    _require_no_steps(layer)
    storage = layer.seen.storage
    if isinstance(storage, Scaled):
        require.fail(
            f"f(e_i) is not K[i] + b: {storage}",
            accepted="f(e_i) = K[i] + b, bitwise",
            declare=_BY_FUNCTIONS,
            cause=Cause("kernel-scaled", f"{storage}, as for an equalized learning rate"),
        )


def _require_no_steps(layer: Layer) -> None:
    found, declared = layer.convention.product_error, layer.declared.product_error
    line = f'product_error = "2**{round(math.log2(found))}"' if found else ""
    require.that(
        found <= declared,
        f"x or the kernel moves by up to {found:g} of its largest entry in the product",
        accepted="f(e_i) = K[i] + b, bitwise",
        declare=line,
        cause=Cause(
            "quantized", "the product is quantized: its operands lie on a grid of few steps"
        ),
    )


def require_one_kernel(layer: Layer) -> None:
    """Require the kernel to be one parameter, unless functions describe the layer."""
    storage = layer.seen.storage
    if storage is not None and not isinstance(storage, BiasRow | Scaled):
        require.fail(
            f"{storage}; the layer's arrays are {', '.join(layer.seen.leaves)}",
            accepted="one array of the kernel's shape, and a bias",
            declare=_BY_FUNCTIONS,
            cause=Cause("kernel-in-parts", str(storage)),
        )


def _require_flat_bias(layer: Layer, dense: Built, case: Case) -> None:
    """Require the bias to be stored as a vector."""
    storage = layer.seen.storage
    if not isinstance(storage, BiasRow):
        return
    (stored,) = values_at(layer.implementation, dense.parameters, [storage.path])
    require.that(
        stored.ndim == 1,
        f"the bias has shape {stored.shape} for in_features={case.in_features}, "
        f"out_features={case.out_features}",
        accepted=f"shape {(case.out_features,)}",
        declare=_BY_FUNCTIONS,
        cause=Cause("bias-row", "the bias is stored as a row (1, out)"),
    )


def require_kernel_shape(layer: Layer, case: Case) -> None:
    """Require the shape (in, out), or (out, in) if the layer declares that."""
    dense, expected = layer.of(case), case.kernel_shape
    shape = dense.kernel.shape
    if layer.convention.layout == "out,in":
        shape = shape[::-1]
    if layer.declared.layout == "out,in":
        expected = expected[::-1]
    cause = "" if shape == expected else shapes.of_kernel(dense, case, shape)
    stored = layer.convention.layout.replace(",", ", ")
    differs = layer.convention.layout != layer.declared.layout
    differs = differs and cause not in (shapes.EXCHANGED, shapes.MADE_TRANSPOSED)
    declare = f'layout = "{stored}"' if differs else ""
    other_rank = len(shape) != len(expected) and math.prod(shape) == math.prod(expected)
    # Other requirements cannot use such a kernel, so the suite proposes no declaration.
    by_functions = cause == shapes.PADDED or other_rank
    require.that(
        shape == expected,
        f"the kernel has shape {shape} for in_features={case.in_features}, "
        f"out_features={case.out_features}",
        accepted=f"shape {expected}"
        + (f"; if this is intended, describe {_BY_FUNCTIONS}" if by_functions else ""),
        cause=cause,
        declare=declare,
    )


def require_bias_shape(layer: Layer, case: Case) -> None:
    """Require a bias of shape (out,)."""
    require.that(
        layer.convention.use_bias,
        f"the layer has no bias: its arrays are {', '.join(layer.seen.leaves)}",
        accepted="a bias of shape (out,)",
        declare="use_bias = false",
        cause=Cause("bias-missing", "the layer has no bias"),
    )
    dense = layer.of(case)
    _require_flat_bias(layer, dense, case)
    shape = dense.bias.shape
    cause = "" if shape == (case.out_features,) else shapes.of_bias(dense, case)
    require.that(
        shape == (case.out_features,),
        f"the bias has shape {shape} for in_features={case.in_features}, "
        f"out_features={case.out_features}",
        accepted=f"shape {(case.out_features,)}",
        cause=cause,
    )
