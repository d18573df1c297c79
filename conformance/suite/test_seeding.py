"""Equal seeds give equal layers, in every process; different seeds give different layers."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from typing import Any

import numpy as np

from conformance.checks import oracle, require
from conformance.checks.areas.another_process import require_same_everywhere
from conformance.checks.areas.kernels import judge
from conformance.checks.areas.seeds import require_different, require_uncorrelated
from conformance.checks.areas.siblings import of_rngs, require_unrelated
from conformance.checks.areas.streams import (
    default_stream,
    kernel_of_streams,
    of_shared_rngs,
    require_keys_of_every_kind,
    require_others_untouched,
    require_others_unused,
    require_same_first_output,
)
from conformance.checks.areas.threads import require_same_in_threads
from conformance.checks.cases import LARGE, TALL, WIDE, Case, over
from conformance.checks.layer import Layer
from conformance.checks.programs import FEW_SIZES, compiled_to_run_once
from conformance.checks.require import during, on_the_way
from conformance.checks.scan.literals import constructions_in_code, counts_in_code
from conformance.contract.requirement import (
    ANY,
    DRAWN_KERNEL,
    LINEN,
    MAY,
    MUST,
    NNX,
    PARAMETERS,
    SHOULD,
    idle_because,
    requirement,
    rests_on,
)
from conformance.errors import Cause, Violation
from conformance.jax_setup.lazy import jax, nnx
from conformance.layers.implementation import existing
from conformance.statistics.moments import variance


@requirement("seeding/repeatable-call", MUST, ANY, ground=True)
@rests_on("forward/output-shape", "purity/globals-untouched", "state/call-changes-nothing")
@over(every_size=False)
def test_repeatable_call(layer: Layer, case: Case) -> None:
    """f(x) twice gives equal bits, with other calls before and in between."""
    x, other = (case.normal(name, *layer.batch, case.in_features) for name in ("x", "other"))
    # A bias that gets lost shows only if it is not 0.
    dense = layer.written(case) if PARAMETERS in layer.provides else None
    call = dense or layer.at(case)
    first = np.asarray(call(x))
    for i, between in enumerate((x, other) * _rounds(layer, case), start=2):
        call(between)
        again = np.asarray(call(x))
        same = np.array_equal(again, first, equal_nan=True)
        cause = _CHANGES if same else of_shared_rngs(layer, case) or _CHANGES
        _require_repeated(again, first, f"call {i} on one x", cause)
    if dense is not None:
        # A layer may take a scale or a range from its first call.
        later = layer.written(case)
        later(other * np.float32(0.01))
        _require_repeated(later(x), first, "f(x) of a layer that was first called on small numbers")
    if dense is not None and _is_thorough(case):
        for count in counts_in_code(layer):
            for i in range(1, count + 2):
                _require_repeated(call(x), first, f"call {i} after those, on the same x,")
    if dense is not None and dense.module is not None:
        # Models call these methods on every submodule.
        for mode in ("train", "eval"):
            with during(f"{mode}() of the module"):
                getattr(dense.module, mode)()
            cause = Cause("mode-changes-output", f"{mode}() changes what the layer computes")
            _require_repeated(dense(x), first, f"after {mode}(), f(x)", cause)
    if layer.implementation.linen is not None:
        require_same_first_output(layer, case, x)


def _rounds(layer: Layer, case: Case) -> int:
    """Return how often to call: many times at one case, for a counter or a cache of any period."""
    # A function constructs its layer in each call, which is slow.
    many, few = (50, 2) if PARAMETERS in layer.provides else (12, 1)
    return many if _is_thorough(case) else few


def _is_thorough(case: Case) -> bool:
    """Return whether the case is the one at which calls and constructions are repeated often."""
    return case.kernel_shape == (3, 10) and not case.seed


_CHANGES = Cause("output-changes", "calls differ: randomness or state in the forward")


def _require_repeated(found: Any, first: np.ndarray, what: str, cause: str = _CHANGES) -> None:
    require.equal(np.asarray(found), first, what, cause=cause)


@requirement("seeding/global-rng-ignored", MUST, ANY)
@idle_because(
    "another process also has other states of the global generators; this one "
    "names them as the cause."
)
@rests_on("construction/builds")
@over(every_size=False, at_most=2)
def test_global_rng_ignored(layer: Layer, case: Case) -> None:
    """The layer is independent of the state of ``random`` and ``numpy.random``."""
    x = np.ones((*layer.fewest, case.in_features), np.float32)

    def under(state: int) -> np.ndarray:
        random.seed(state)
        np.random.seed(state)
        return np.asarray(layer.forward(case.seed, x, case.out_features))

    before = random.getstate(), np.random.get_state()
    try:
        # Use several states: the layer may draw as little as one bit from them.
        results = {state: under(state) for state in range(6)}
        differ = [state for state, result in results.items() if not _same(result, results[0])]
        # same-seed-same-bits reports changes that occur without a change of the state.
        control = differ and all(_same(under(s), results[s]) for s in (*results, *results))
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
    if control:
        cause = "the layer draws from a global random generator instead of its own key"
        require.equal(
            results[differ[0]],
            results[0],
            f"with the global generators seeded by {differ[0]}, f(x)",
            cause=Cause("global-generator", cause),
        )


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other, equal_nan=True)


@requirement("seeding/same-seed-same-bits", MUST, ANY, ground=True)
@idle_because(
    "if equal seeds differ, every comparison of two layers fails; this one names the fault."
)
@rests_on("seeding/global-rng-ignored", "seeding/repeatable-call")
@over()
def test_same_seed_same_bits(layer: Layer, case: Case) -> None:
    """Equal seeds give bitwise equal parameters and outputs."""
    try:
        _require_same_layers(layer, case)
    except Violation as violation:
        why = "" if violation.obstacle else of_shared_rngs(layer, case)
        raise violation.because(why) from violation


def _require_same_layers(layer: Layer, case: Case) -> None:
    cause = Cause("depends-on-more-than-seed", "construction depends on more than the seed")
    if PARAMETERS in layer.provides:
        first = layer.of(case)
        for _ in range(1 + (constructions_in_code(layer) if _is_thorough(case) else 0)):
            again = layer.of(case)
            require.equal(again.kernel, first.kernel, "the kernel of a second layer", cause=cause)
            require.equal(again.bias, first.bias, "the bias of a second layer", cause=cause)
    x = case.normal("x", *layer.fewest, case.in_features)
    outputs = [np.asarray(layer.forward(case.seed, x, case.out_features)) for _ in range(2)]
    require.equal(outputs[1], outputs[0], "f(x) of a second layer", cause=cause)


@requirement("seeding/seeds-differ", MUST, ANY, presumes=[DRAWN_KERNEL], every_seed=True, order=-10)
@rests_on("seeding/same-seed-same-bits")
def test_seeds_differ(layer: Layer) -> None:
    """Seeds that are distinct modulo 2^32 give distinct, uncorrelated kernels.

    The fixed set of seeds contains every difference up to 1 024 (65 536 in the thorough profile),
    flips of every bit of three bases, and both sides of 2^31 and 2^32 - 1, so that it detects a
    seed that is reduced modulo m, rounded, made absolute or stripped of a bit. Among a quarter
    of a million seeds at a small size, no two give the same kernel, and the kernels of neighbours
    also differ in magnitudes.
    """
    require_different(layer)
    require_uncorrelated(layer)


@requirement("seeding/same-across-processes", MUST, ANY, order=10, seconds=3.0)
@rests_on(
    "seeding/same-seed-same-bits",
    "seeding/global-rng-ignored",
    "construction/builds",
    "state/instances-independent",
)
def test_same_across_processes(layer: Layer) -> None:
    """The parameters, and what a call computes, do not depend on the process, the machine, the
    time, PYTHONHASHSEED, the order and number of earlier constructions, or the thread.

    The other process has another clock, hostname, user and directory, another number of devices
    and processors, and the environment variables of a launcher, as the second of two processes
    that train one model.
    """
    require_same_everywhere(layer)


@requirement("seeding/threads", MUST, ANY)
@rests_on("seeding/same-seed-same-bits", "seeding/same-across-processes", "seeding/repeatable-call")
@over(sizes=[(3, 10)], at_most=1)
def test_threads(layer: Layer, case: Case) -> None:
    """Eight threads that build and call layers at once get what one thread gets, bit by bit.

    Each thread builds a layer, and calls it and a shared one several times, as data loaders,
    servers and tests do.
    """
    require_same_in_threads(layer, case)


@requirement("seeding/params-stream", MUST, NNX, LINEN, presumes=[DRAWN_KERNEL])
@rests_on(
    *("construction/builds", "state/exact-state"),
    *("seeding/same-seed-same-bits", "seeding/seeds-differ"),
)
@over(sizes=[(3, 10)])
def test_params_stream(layer: Layer, case: Case) -> None:
    """Only the ``params`` stream matters, or ``default`` if there is no ``params``.

    The others are not drawn from, neither from an ``nnx.Rngs`` nor from the rngs of Linen's
    ``init``. They get different seeds, because equal seeds give equal keys and would hide a wrong
    stream.
    """
    if layer.implementation.linen is not None:
        require_others_unused(layer, case)
        return
    module = kernel_of_streams(layer, case)
    s, other = case.seed, (case.seed + 12345) % 2**32
    default = default_stream(layer, case)
    kernels = {
        "params": module(nnx.Rngs(*default, params=s)),
        "params and dropout": module(nnx.Rngs(*default, params=s, dropout=other)),
        "params and another default": module(nnx.Rngs(other, params=s)),
        "params, dropout and default": module(nnx.Rngs(7, params=s, dropout=11)),
    }
    for which, kernel in kernels.items():
        stream = "dropout" if which == "params and dropout" else "default"
        words = f"the kernel's key comes from the stream {stream} instead of params"
        cause, what = Cause("stream-other", words), f"with the streams {which}, the kernel"
        require.equal(kernel, kernels["params"], what, cause=cause)
    if not default:
        require_others_untouched(layer, case)
    moved = module(nnx.Rngs(*default, params=other, dropout=s))
    require.that(
        not np.array_equal(moved, kernels["params"]),
        "another seed of the params stream gives the same kernel",
        accepted="another kernel",
        cause=Cause("stream-other", "the kernel's key comes from another stream than params"),
    )


@requirement("seeding/constant-key-count", SHOULD, NNX)
@rests_on("seeding/params-stream")
@over(sizes=[(3, 10)], at_most=1)
def test_constant_key_count(layer: Layer, case: Case) -> None:
    """Construction consumes the same number of keys for every size.

    Otherwise the size of one layer changes the parameters of all layers that are built after it.
    """
    from conformance.jax_setup.compat import keys_drawn

    construct = existing(layer.implementation.module)
    counts = {}
    for size in ((1, 1), (3, 10), (16, 16), WIDE, TALL):
        rngs = nnx.Rngs(case.seed)
        with on_the_way(f"construction with the sizes {size}"):
            construct(*size, rngs)
        counts[size] = keys_drawn(rngs)
    require.record(keys=max(counts.values()))
    require.that(
        len(set(counts.values())) == 1,
        f"keys drawn by size: {counts}",
        accepted="one number",
        cause=Cause("keys-depend-on-sizes", "the number of keys depends on the sizes"),
    )


@requirement("seeding/siblings-differ", MUST, NNX, presumes=[DRAWN_KERNEL], order=40)
@rests_on(
    "seeding/params-stream",
    "seeding/seeds-differ",
    "construction/finite",
    "initialization/kernel-variance",
    "initialization/kernel-dispersion",
)
@over(sizes=[(3, 10), LARGE], at_most=2)
def test_siblings_differ(layer: Layer, case: Case) -> None:
    """Seventeen layers built from one ``Rngs`` are uncorrelated and share no run of weights."""
    kernel, rngs = kernel_of_streams(layer, case), nnx.Rngs(case.seed)
    siblings = [kernel(rngs) for _ in range(4)]
    words = "the key is read without being drawn: layers get the same one"
    same_key = Cause("key-not-drawn", words)
    for (i, first), (j, second) in itertools.combinations(enumerate(siblings, start=1), 2):
        # If all magnitudes of a kernel are equal, only the signs can differ.
        same = int((np.abs(first) == np.abs(second)).sum())
        require.that(
            same < first.size / 2,
            f"layers {i} and {j} built from one Rngs agree in {same} of {first.size} magnitudes",
            accepted="different kernels",
            cause=same_key if np.array_equal(first, second) else "",
        )
    deviation = math.sqrt(layer.convention.kernel.variance(*case.kernel_shape))
    for i, sibling in enumerate(siblings, start=1):
        if deviation and case.kernel_shape == LARGE:
            cause = Cause("sibling-scaled", f"layer {i} of one Rngs has another scale")
            judge([variance(sibling.astype(np.float64) / deviation)], cause)
    if case.kernel_shape != LARGE:
        require_unrelated(layer, of_rngs(layer, case.seed), "layers of four Rngs")


@requirement("seeding/rngs-forms", MUST, NNX)
@rests_on("seeding/params-stream")
@over(sizes=[(3, 10)])
def test_rngs_forms(layer: Layer, case: Case) -> None:
    """``Rngs(s)``, ``Rngs(params=s)`` and ``Rngs(jax.random.key(s))`` agree."""
    kernel, s = kernel_of_streams(layer, case), case.seed
    plain = kernel(nnx.Rngs(s))
    params = nnx.Rngs(*default_stream(layer, case), params=s)
    require.equal(kernel(params), plain, "the kernel of Rngs(params=s)")
    require.equal(kernel(nnx.Rngs(jax.random.key(s))), plain, "the kernel of Rngs(key(s))")


@requirement("seeding/key-kinds", SHOULD, NNX, LINEN, presumes=[DRAWN_KERNEL])
@rests_on("seeding/seeds-differ", "seeding/rngs-forms", "construction/finite")
@over(sizes=[(3, 10)], at_most=1)
def test_key_kinds(layer: Layer, case: Case) -> None:
    """A key of any kind builds the layer: raw or typed, of the default generator, ``rbg`` or
    ``unsafe_rbg``. A raw key gives the kernel of the typed one, and different keys of one kind give
    different kernels.
    """
    require_keys_of_every_kind(layer, case)


@requirement("seeding/jitted-init", SHOULD, PARAMETERS, wrong_numbers=MUST, order=30)
@rests_on("seeding/same-seed-same-bits", "construction/abstract-init", "construction/finite")
@over(sizes=FEW_SIZES)
def test_jitted_init(layer: Layer, case: Case) -> None:
    """Construction under ``jax.jit`` equals the eager one within 16 roundings of its dtype.

    A compiled program may fuse operations and so omit their roundings. About a dozen operations
    follow the draw of a uniform number: the polynomials of an inverse distribution function, and
    the scale. Each rounding moves an entry by one unit roundoff of its magnitude or of a standard
    deviation, whichever is larger. Different random numbers differ by a standard deviation. A
    kernel that differs by a factor is wrong.
    """

    def make():  # type: ignore[no-untyped-def]  # a compiled function
        def construct(seed):  # type: ignore[no-untyped-def]  # traced
            parameters = layer.init(seed, *case.kernel_shape)
            return layer.kernel_of(parameters)

        return jax.jit(construct)

    compiled = layer.remember(("jitted-init", case.kernel_shape), make)
    with during("construction under jax.jit"):
        found = np.asarray(compiled(np.uint32(case.seed)), np.float64)
    plain = layer.of(case).kernel.astype(np.float64)
    deviation = math.sqrt(layer.convention.kernel.variance(*case.kernel_shape))
    unit = max(oracle.F32, oracle.unit_roundoff(layer.convention.parameter_dtype))
    bound = 16 * unit * np.maximum(np.abs(plain), deviation)
    times = float(np.vdot(plain, found) / np.vdot(plain, plain)) if plain.any() else 1.0
    is_scaled = bool((np.abs(found - times * plain) <= abs(times) * bound).all())
    words = f"under a trace the kernel is scaled otherwise: by {times:.6g}"
    cause, eager = Cause("scaled-under-trace", words) if is_scaled else "", "the eager one"
    try:
        require.within(found, plain, bound, "the kernel under jit", cause=cause, against=eager)
    except Violation as violation:
        violation.wrong_numbers &= is_scaled  # other numbers of the same law are not wrong
        raise


@requirement("seeding/vmapped-init", SHOULD, NNX, presumes=[DRAWN_KERNEL])
@rests_on("seeding/jitted-init", "seeding/seeds-differ", "initialization/kernel-independence")
@over(sizes=[(16, 16)], at_most=1)
def test_vmapped_init(layer: Layer, case: Case) -> None:
    """Construction vmapped over split keys gives distinct, uncorrelated kernels."""
    construct = existing(layer.implementation.module)

    def kernel(key: jax.Array) -> jax.Array:
        from conformance.layers.adapters.nnx import split

        module = construct(*case.kernel_shape, nnx.Rngs(key))
        return layer.kernel_of(split(module))

    keys = jax.random.split(jax.random.key(case.seed), 8)
    with during("construction under jax.vmap"):
        mapped = layer.remember(
            ("vmapped-init", case.kernel_shape),
            lambda: compiled_to_run_once(jax.jit(jax.vmap(kernel)).trace(keys)),
        )
        kernels = np.asarray(mapped(keys))
    distinct = len({k.tobytes() for k in kernels})
    require.that(
        distinct == 8,
        f"8 split keys give {distinct} different kernels",
        accepted="8",
        cause=Cause("key-of-another-place", "the key is not what the kernel is drawn from"),
    )
    require_unrelated(layer, kernels, "kernels of split keys")


@requirement("seeding/fingerprint", MAY, PARAMETERS)
@idle_because("it only records, and passes for every layer that can be built.")
def test_fingerprint(layer: Layer) -> None:
    """A digest of the kernels for fixed seeds and sizes is recorded, to compare versions.

    All entries are recorded as well, so that a comparison can allow 2 ulp: normal draws may differ
    by that between versions of JAX.
    """
    kernels = [
        layer.build(*size, seed=seed).kernel for size in ((3, 10), (16, 16)) for seed in (0, 7)
    ]
    digest = hashlib.sha256(b"".join(kernel.tobytes() for kernel in kernels)).hexdigest()[:16]
    entries = np.concatenate([kernel.ravel() for kernel in kernels]).astype("<f4")
    require.record(fingerprint=digest, entries=entries.tobytes().hex())
