"""Checks ``kernel_init`` and ``bias_init``: a parameter is what its initializer returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.checks import require
from conformance.checks.areas.composition import nnx_layer
from conformance.checks.areas.options import (
    SHARED,
    ignored,
    require_kernel_alone,
    takes,
    with_options,
)
from conformance.checks.arithmetic import rounded
from conformance.checks.cases import Case
from conformance.checks.layer import Layer
from conformance.checks.require import during
from conformance.errors import Cause, Violation
from conformance.jax_setup.lazy import jax, jnp, nnx
from conformance.layers.adapters.parameters import is_key


def _recorder(
    values: np.ndarray, keys: list[bytes]
) -> tuple[Callable[..., Any], list[tuple[tuple[int, ...], str]]]:
    """Return an initializer of these values, and the shape and dtype of each of its calls.

    The bytes of the keys that it gets are added to ``keys``.
    """
    calls: list[tuple[tuple[int, ...], str]] = []

    def record(key: Any) -> None:
        keys.append(np.asarray(key).tobytes())

    def initializer(key: Any, shape: Any, dtype: Any = np.float32, **options: Any) -> Any:
        del options  # recent versions of Flax pass a sharding
        calls.append((tuple(map(int, shape)), jnp.dtype(dtype).name))
        data = jax.random.key_data(key) if is_key(key) else key
        # Within nn.jit and nn.remat, a key has no value before the program runs.
        jax.debug.callback(record, data) if isinstance(data, jax.core.Tracer) else record(data)
        turned = values.shape != tuple(shape) == values.shape[::-1]
        return jnp.asarray(values.T if turned else np.resize(values, shape), dtype)

    return initializer, calls


def require_initializer(
    layer: Layer, case: Case, name: str, values: np.ndarray, **options: Any
) -> list[bytes]:
    """Require that a parameter is what its initializer returns; return the keys of two seeds.

    The initializer is that of one layer, and may return numbers of any scale.
    """
    which = name.partition("_")[0]
    initializer, calls = _recorder(values, [])
    given = with_options(layer, **{name: initializer}, **options)
    dtype = given.convention.parameter_dtype
    before = getattr(layer.of(case), which)
    with during(f"construction with {name}={name}(key, shape, dtype)"):
        dense = given.of(case)
        found = getattr(dense, which)
    require.that(calls, f"{name} is never called", accepted="a call", cause=ignored(name, options))
    require.that(len(calls) == 1, f"construction calls {name} {len(calls)} times", accepted="once")
    for size in () if options else _SIZES:
        with during(f"construction of a layer of {size} with {name}"):
            jax.eval_shape(lambda size=size: given.init(0, *size))
        require.that(
            len(calls) > 1,
            f"{name} is not called for a layer of {size}",
            accepted="a call at every size",
            cause=Cause("option-by-size", f"the option {name} has an effect at some sizes"),
        )
        del calls[1:]
    called = f"{name} is called with the shape {calls[0][0]} and the dtype {calls[0][1]}"
    shapes = [values.shape]
    if which == "kernel" and given.convention.layout == "out,in":
        shapes.insert(0, values.shape[::-1])
    turned = which == "kernel" and calls[0] == (values.shape[::-1], dtype)
    require.that(
        calls[0][0] in shapes and calls[0][1] == dtype,
        called,
        accepted=f"the shape {' or '.join(map(str, shapes))} and the dtype {dtype}",
        cause=_TURNED if turned else "",
    )
    expected = getattr(given, f"{which}_for")(case)
    cause = Cause(
        "initializer-changed",
        f"the {which} is not what {name} returns, or it is changed afterwards",
    )
    require.equal(found, expected, f"the {which} with {name}", cause=cause)
    what = f"after another layer was built with {name}, the {which} of one without"
    require.equal(getattr(layer.of(case), which), before, what, cause=SHARED)
    if not given.reparameterized:
        for scale in _SCALES:
            scaled = rounded(values * np.float32(scale), dtype)
            other = with_options(layer, **{name: _recorder(scaled, [])[0]}, **options)
            what = f"the {which} with {name}, whose result is of the scale {scale:g},"
            require.equal(getattr(other.of(case), which), scaled, what, cause=cause)
    first, second = keys_given(layer, case, name, values)
    require.that(
        first != second,
        f"{name} gets the same key for the seeds {case.seed} and {case.seed + 1}",
        accepted="different keys",
        cause=Cause("key-fixed", f"{name} is called with a fixed key"),
    )
    return [first, second]


def require_no_bias_made(layer: Layer, case: Case) -> None:
    """Require a layer with ``use_bias=False`` to have no bias because a ``bias_init`` is given."""
    if not takes(layer, "bias_init"):
        return
    initializer, _ = _recorder(case.bias(), [])
    try:
        dense = with_options(layer, use_bias=False, bias_init=initializer).of(case)
    except Violation:  # it may refuse an initializer of nothing
        return
    cause = Cause("option-overruled", "bias_init overrules use_bias=False")
    require_kernel_alone(dense, "use_bias=False and a bias_init", cause)


def keys_given(layer: Layer, case: Case, name: str, values: np.ndarray) -> list[bytes]:
    """Return the bytes of the keys that the initializer gets for the case's seed and the next."""
    keys: list[bytes] = []
    given = with_options(layer, **{name: _recorder(values, keys)[0]})
    with during(f"reading the keys that {name} gets"):
        for seed in (case.seed, (case.seed + 1) % 2**32):
            given.build(*case.kernel_shape, seed)
        jax.effects_barrier()
    return keys


def require_own_keys(layer: Layer, case: Case, of_bias: bytes) -> None:
    """Require one key for the kernel and another for the bias.

    Two nnx layers of one ``nnx.Rngs`` draw kernels and biases from four keys.
    """
    require.that(
        keys_given(layer, case, "kernel_init", case.kernel())[0] != of_bias,
        "kernel_init and bias_init get the same key",
        accepted="a key for each",
        cause=Cause("key-shared", "one key serves for kernel and bias: draw or split it for each"),
    )
    if layer.implementation.module is None:
        return
    keys: list[bytes] = []
    each = {"kernel_init": case.kernel(), "bias_init": case.bias()}
    given = {name: _recorder(values, keys)[0] for name, values in each.items()}
    chosen, rngs = with_options(layer, **given), nnx.Rngs(case.seed)
    with during("construction of two layers from one Rngs"):
        for _ in range(2):
            nnx_layer(chosen, *case.kernel_shape, rngs)
        jax.effects_barrier()
    words = "the bias and the next layer share a key: take each by rngs.params()"
    require.that(
        len({*keys}) == len(keys),
        f"two layers of one Rngs draw {len(keys)} parameters from {len({*keys})} keys",
        accepted="a key for each",
        cause=Cause("key-of-next-layer", words),
    )


_TURNED = Cause(
    "initializer-turned", "kernel_init takes the fans exchanged: the kernel is (in, out)"
)

# Sizes for which a layer may draw in a way of its own: square, of one output or input, and large.
_SIZES = ((16, 16), (5, 1), (1, 7), (300, 500))
# Some layers start at zero; a check of the variance would change large numbers.
_SCALES = (0, 1e4)
