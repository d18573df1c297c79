"""A layer leaves its input, the process's global state and the terminal alone."""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import gc
import io
import itertools
import os
import random
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.checks import require
from conformance.checks.areas import input_dtypes
from conformance.checks.arrays import as_jax
from conformance.checks.cases import BATCH, Case, over
from conformance.checks.layer import Layer
from conformance.checks.programs import FEW_SIZES
from conformance.checks.scan.literals import entries_held
from conformance.contract.requirement import (
    ANY,
    MAY,
    MUST,
    PARAMETERS,
    SHOULD,
    requirement,
    rests_on,
)
from conformance.errors import Cause, Violation
from conformance.isolation import files, snapshot
from conformance.jax_setup.lazy import jax, jnp

_CALLS = 20
_OTHERS = ((BATCH, True, np.int32), (BATCH, True, np.float16))


def _construct_and_call(layer: Layer, case: Case, x: np.ndarray, *, as_given: bool = False) -> None:
    result = layer.forward(case.seed, x, case.out_features, as_given=as_given)
    jax.block_until_ready(result)


def _use(layer: Layer, case: Case) -> None:
    """Construct the layer, call it, and then call it on an x that most layers cast or reject."""
    x = case.normal("x", *layer.fewest, case.in_features)
    _construct_and_call(layer, case, x)
    if PARAMETERS in layer.provides:
        # A context that is not left in a finally stays entered.
        with contextlib.suppress(Exception):
            jax.block_until_ready(layer.of(case).raw(x.astype(jnp.bfloat16)))
        with contextlib.suppress(Exception):
            jax.block_until_ready(layer.of(case).raw(x[..., :0]))


@requirement("purity/input-untouched", MUST, ANY)
@rests_on("construction/builds")
@over(every_size=False)
def test_input_untouched(layer: Layer, case: Case) -> None:
    """A NumPy x is not modified; it has rank 1 to 3, integers, halves, or numbers not finite."""
    # jax_debug_nans raises at values that are not finite.
    kinds = (True,) if jax.config.values["jax_debug_nans"] else (True, False)
    plain = case.kernel_shape == FEW_SIZES[-1]
    leads = (layer.fewest, (4,), (2, 4)) if plain else (layer.fewest, (4,))
    tried: list[Any] = [
        (lead, finite, np.float32) for lead, finite in itertools.product(leads, kinds)
    ]
    for lead, finite, dtype in [*tried, *_OTHERS] if plain else tried:
        if not layer.accepts(lead):
            continue
        x = (case.normal("x", *lead, case.in_features) * 1000).astype(dtype)
        if not finite:  # a layer might repair them in place
            x.flat[0 : x.size // 2 : 3] = np.nan
            x.flat[1 : x.size // 2 : 3] = -np.inf
        x.flat[-1] = -0.0
        before, flags = x.tobytes(), str(x.flags)
        try:
            _construct_and_call(layer, case, x, as_given=True)
        except Violation:
            plainest = finite and dtype is np.float32
            if plainest and input_dtypes.takes_numpy(layer):  # a layer may refuse other values
                raise
        require.that(
            x.tobytes() == before and str(x.flags) == flags,
            "after the call, x has other bytes or flags",
            accepted="x as it was",
            cause=Cause("input-written", "the layer writes into its input"),
        )


@requirement("purity/input-kept", MUST, ANY)
@rests_on("construction/builds", "purity/input-untouched")
@over(sizes=[(16, 16)], at_most=1)
def test_input_kept(layer: Layer, case: Case) -> None:
    """A JAX array x is still there after the call, with the values that it had.

    A call that donates the memory of x to its result deletes an array that its caller may still
    use. This shows only if x and the result have the same shape. An x of a million numbers is
    checked as well.
    """
    cause = Cause("input-donated", "the call donates x, so that its memory is given to the result")
    leads = [(16, BATCH), (16, (2, 4)), (512, (2048,))]
    for width, lead in [each for each in leads if layer.accepts(each[1])] or [(16, layer.fewest)]:
        values = case.normal("x", *lead, width)
        # Make a copy: JAX never donates memory that belongs to NumPy.
        x = jnp.copy(as_jax(values))
        jax.block_until_ready(layer.forward(case.seed, x, width))
        found = f"after the call, x of shape {x.shape} is deleted"
        require.that(not x.is_deleted(), found, accepted="x", cause=cause)
        require.equal(x, values, "x after the call")


@requirement("purity/globals-untouched", MUST, ANY)
@rests_on("construction/builds", "seeding/global-rng-ignored")
@over(every_size=False)
def test_globals_untouched(layer: Layer, case: Case) -> None:
    """Construction and call leave ``jax.config``, ``flax.config``, ``os.environ``, logging and the
    global random generators as they were, also if the call raises; they write no file, and no
    thread of theirs goes on.

    A setting that the layer needs otherwise gets its former value back, not its default.
    """
    changes: list[str] = []
    for _ in range(2):
        # Changes made by an import in the first use do not occur in the second.
        random.seed(case.values)
        np.random.seed(case.values)
        before, threads = snapshot.take(), set(threading.enumerate())
        try:
            with files.written() as paths:
                _use(layer, case)
        finally:
            found = before.changes()
            started = set(threading.enumerate()) - threads
            found += ["a thread that was started goes on"] * any(t.is_alive() for t in started)
            # JAX keeps compiled programs, and notes when one was used last.
            cache = str(jax.config.values["jax_compilation_cache_dir"])
            own = sorted(path for path in paths if not path.startswith(cache))
            found += [f"the file {path} is written" for path in own]
            before.restore()
        changes = [change for change in found if not changes or change in changes]
    changes = changes or _left_in_a_thread(layer, case)
    changes = changes or layer.remember("settings reset", lambda: _reset_to_default(layer, case))
    require.that(
        not changes,
        "; ".join(changes[:5]),
        accepted="global state as it was",
        cause=Cause(
            "global-changed",
            f"constructing or calling the layer changes global state: {changes[0]}",
        )
        if changes
        else "",
    )


def _left_in_a_thread(layer: Layer, case: Case) -> list[str]:
    """Return what the layer changes in the state of a fresh thread.

    A context of JAX's configuration that is entered and never left, as by
    ``jax.default_matmul_precision(...).__enter__()``, stays active for the rest of the thread, so
    that a second use in the same thread changes nothing.
    """

    def use() -> list[str]:
        before = snapshot.take()
        with contextlib.suppress(Exception):  # the main thread has reported it
            _use(layer, case)
        return before.config_changes()

    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(contextvars.copy_context().run, use).result()


def _reset_to_default(layer: Layer, case: Case) -> list[str]:
    """Return which settings of JAX are not as they were, where they were set otherwise.

    The layer is only traced, because it would have to be compiled for each setting.
    """

    def use(x: Any) -> Any:
        if layer.implementation.forward is not None:
            return layer.of_function(case.seed, x, case.out_features)
        return layer.apply(layer.init(case.seed, *case.kernel_shape), x)

    x, found = jax.ShapeDtypeStruct((*layer.fewest, case.in_features), np.float32), []
    for settings in _UNUSUAL:
        original = {name: jax.config.values[name] for name in settings}
        try:
            for name, values in settings.items():
                jax.config.update(name, values[values[0] == original[name]])
            before = snapshot.take()
            with contextlib.suppress(Exception):  # as the rules of promotion do
                jax.eval_shape(use, x)
            found += before.config_changes()
        finally:
            for name, value in original.items():
                jax.config.update(name, value)
    return [f"{change}, after it was set otherwise" for change in found]


# The rules of promotion are apart, because a layer that they refuse does not run to its end.
_UNUSUAL: tuple[dict[str, tuple[Any, Any]], ...] = (
    {
        "jax_default_matmul_precision": ("high", "float32"),
        "jax_enable_x64": (True, False),
        "jax_debug_nans": (True, False),
        "jax_debug_infs": (True, False),
    },
    {
        "jax_numpy_dtype_promotion": ("strict", "standard"),
        "jax_numpy_rank_promotion": ("raise", "allow"),
    },
)


@requirement("purity/nothing-kept", SHOULD, ANY)
@rests_on("purity/input-kept", "forward/output-shape", "state/call-changes-nothing")
@over(sizes=FEW_SIZES[-1:], at_most=1)
def test_nothing_kept(layer: Layer, case: Case) -> None:
    """Neither calls nor layers that are deleted keep an array alive: twenty more of them leave as
    many arrays of JAX and of NumPy as before. No list, dictionary or set of the layer's code gets
    an entry from each call.

    A list or a cache that grows with every call, or every layer, fills the memory of a server.
    """
    leads = [layer.fewest] + [(2, 4)] * layer.accepts((2, 4))
    values = [case.normal("x", *lead, case.in_features) for lead in leads]
    cause = Cause("array-kept", "every call keeps an array, as in a list or in a cache")
    f, before = layer.at(case), entries_held(layer)
    _require_none_kept(lambda xs: [f(x) for x in xs], values, "calls", cause)
    more = entries_held(layer) - before
    require.that(
        more < _CALLS,
        f"calls add {more} entries to the collections that the layer's code refers to",
        accepted=f"fewer than {_CALLS}, for more calls",
        cause=Cause("entry-kept", "every call adds an entry to a list, a dictionary or a set"),
    )
    if PARAMETERS in layer.provides:
        cause = Cause("layer-kept", "every layer, or its arrays, is kept, as in a list of layers")
        _require_none_kept(lambda _: layer.of(case).kernel, values, "layers", cause)


def _require_none_kept(f: Any, values: list[np.ndarray], what: str, cause: Cause) -> None:
    def alive(calls: int, *, collected: bool = False) -> int:
        for _ in range(calls):
            jax.block_until_ready(f(values))
        if collected:
            gc.collect()
        return len(jax.live_arrays()) + _numpy_arrays()

    with _counted_arrays():
        before = alive(2)
        more = alive(_CALLS) - before
        if more > 0:
            before = alive(0, collected=True)
            more = alive(_CALLS, collected=True) - before
    require.that(
        more <= 0,
        f"after {_CALLS} more {what}, {more} more arrays are alive",
        accepted="none",
        cause=cause,
    )


@contextlib.contextmanager
def _counted_arrays() -> Iterator[None]:
    """Let :func:`_numpy_arrays` count what is allocated here, and keep the garbage of earlier
    checks, whose collection would hide as many arrays.
    """
    already, collects = tracemalloc.is_tracing(), gc.isenabled()
    tracemalloc.start()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
        if not already:
            tracemalloc.stop()


def _numpy_arrays() -> int:
    """Return how many of the arrays that NumPy has allocated meanwhile are alive.

    JAX 0.4.38 folds constants of a program into arrays of NumPy, and keeps them with it.
    """
    of_numpy = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    folded = tracemalloc.Filter(False, os.path.join("*", "jax", "_src", "lax", "*"))
    return len(tracemalloc.take_snapshot().filter_traces([of_numpy, folded]).traces)


@requirement("purity/silent", MAY, ANY)
@rests_on("construction/builds")
@over(sizes=FEW_SIZES[-1:])
def test_silent(layer: Layer, case: Case) -> None:
    """Nothing is printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        _construct_and_call(layer, case, case.normal("x", *layer.fewest, case.in_features))
        jax.effects_barrier()
    text = (out.getvalue() + err.getvalue()).strip()
    require.that(not text, f"the layer prints {text[:100]!r}", accepted="no output")
