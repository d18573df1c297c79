"""Checks construction from streams and keys of every kind, and Linen's first output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.checks import require
from conformance.checks.arrays import as_jax
from conformance.checks.cases import Case
from conformance.checks.layer import Built, Layer
from conformance.checks.require import during
from conformance.checks.scan.literals import names_in_code, rngs_in_code
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax, nnx
from conformance.layers.adapters.parameters import Parameters
from conformance.layers.implementation import existing


def kernel_of_streams(layer: Layer, case: Case) -> Callable[[Any], np.ndarray]:
    """Return a function from an ``nnx.Rngs`` to the kernel of the case's layer."""
    construct = existing(layer.implementation.module)

    def kernel(rngs: Any) -> np.ndarray:
        words = "keys are drawn from a stream that is not given: call rngs.params()"
        cause = Cause("stream-not-given", words)
        with during(f"construction with the streams {', '.join(rngs)}", cause=cause):
            module = construct(*case.kernel_shape, rngs)
        return Built(layer, module=module).kernel

    return kernel


def of_shared_rngs(layer: Layer, case: Case) -> str:
    """Return a cause if a call draws from an ``nnx.Rngs`` to which the layer's code refers."""
    from conformance.jax_setup.compat import keys_drawn

    shared = rngs_in_code(layer)
    if not shared:
        return ""
    before = [keys_drawn(rngs) for rngs in shared]
    x = np.ones((*layer.fewest, case.in_features), np.float32)
    layer.forward(case.seed, x, case.out_features)
    if [keys_drawn(rngs) for rngs in shared] == before:
        return ""
    words = "keys come from an nnx.Rngs that is made once, as a default or a global, and is shared"
    return Cause("rngs-shared", f"{words} by all layers: give each layer its own nnx.Rngs(seed)")


def default_stream(layer: Layer, case: Case) -> tuple[int, ...]:
    """Return the seed of a default stream, if the layer keeps a stream for its calls."""
    return (1,) if any(leaf.is_stream for leaf in layer.of(case).leaves) else ()


def require_others_untouched(layer: Layer, case: Case) -> None:
    """Require that construction draws no key of a stream that belongs to other layers."""
    from conformance.jax_setup.compat import keys_drawn

    counts, others = [], {"dropout": 1, "noise": 2}
    for streams in ({}, others):
        rngs = nnx.Rngs(params=case.seed, **streams)
        kernel_of_streams(layer, case)(rngs)
        counts.append(keys_drawn(rngs))
    # Rngs.fork takes a key of every stream.
    require.that(
        counts[1] - counts[0] in (0, len(others)),
        f"with the streams dropout and noise, construction draws {counts[1]} keys, and "
        f"{counts[0]} without them",
        accepted="keys of params alone",
        cause=Cause("stream-drawn", "construction draws a key of a stream that it has no use for"),
    )


def require_others_unused(layer: Layer, case: Case) -> None:
    """Require that the rngs of other layers leave the new parameters of a Linen module alone."""
    model = existing(layer.implementation.linen)(*case.kernel_shape)
    key, others = jax.random.key(case.seed), jax.random.split(jax.random.key(~case.seed % 2**32))
    x = as_jax(np.zeros((*layer.fewest, case.in_features), np.float32))
    plain = layer.of(case)
    for more in ({}, dict(zip(("dropout", "noise"), others, strict=True))):
        given = {"params": key, **more}
        with during(f"init with the rngs {', '.join(given)}"):
            variables = model.init(given, x)
        found = Built(layer, parameters=Parameters(model, variables))
        words = "new parameters depend on an rng that is given for other layers"
        cause = Cause("stream-other", words) if more else ""
        for which in ("kernel", "bias"):
            what = f"with the rngs {', '.join(given)}, the {which}"
            require.equal(getattr(found, which), getattr(plain, which), what, cause=cause)


def require_keys_of_every_kind(layer: Layer, case: Case) -> None:
    """Require that raw keys, and keys of other generators, can build the layer."""
    its, (n, m) = layer.implementation, case.kernel_shape

    def kernel(key: jax.Array) -> np.ndarray:
        if its.module is not None:
            return Built(layer, module=its.module(n, m, nnx.Rngs(key))).kernel
        model = existing(its.linen)(n, m)
        variables = model.init(key, as_jax(np.zeros((*layer.convention.lead(1), n), np.float32)))
        return Built(layer, parameters=Parameters(model, variables)).kernel

    with during("construction from a raw key"):
        raw = kernel(jax.random.PRNGKey(case.seed))
    require.equal(raw, layer.of(case).kernel, "the kernel of a raw key")
    for kind in ("rbg", "unsafe_rbg"):
        with during(f"construction from a key of the generator {kind}"):
            first, second = (kernel(jax.random.key(case.seed ^ i, impl=kind)) for i in (0, 1))
        require.that(
            np.isfinite(first).all() and not np.array_equal(first, second),
            f"two keys of the generator {kind} give one kernel, or one that is not finite",
            accepted="different kernels",
            cause=Cause("key-part-unused", "the part of a key that differs is not used"),
        )


def require_same_first_output(layer: Layer, case: Case, x: np.ndarray) -> None:
    """Require that a Linen module returns the same result during and after initialization."""
    model = existing(layer.implementation.linen)(*case.kernel_shape)
    with during("init_with_output"):
        found, variables = model.init_with_output(jax.random.key(case.seed), as_jax(x))
        again = model.apply(variables, as_jax(x))
    if layer.reparameterized:  # computing the kernel from its parameters may round
        new = Built(layer, parameters=Parameters(model, variables))
        reference = layer.value(x, new.kernel, new.bias)
        bound, what = 2 * reference.bound, "the output while initializing"
        require.within(found, np.asarray(again, np.float64), bound, what, against="f(x)")
    else:
        require.equal(found, again, "the output while initializing")
    streams = dict.fromkeys(("dropout", "noise", "params", *names_in_code(layer)))
    own = layer.convention.streams
    rngs = {name: jax.random.key(case.seed) for name in streams if name not in own}
    # A bias that gets lost shows only if it is not 0.
    variables = layer.written(case).parameters.tree
    with during("applying the layer with the rngs of other layers"):
        plain = model.apply(variables, as_jax(x))
        given = model.apply(variables, as_jax(x), rngs=rngs)
    cause = Cause("rng-taken", "the call uses an rng that is given for other layers")
    require.equal(given, plain, f"f(x) with rngs called {', '.join(rngs)}", cause=cause)
