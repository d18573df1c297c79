"""Checks layers that several threads build and call at once."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import numpy as np

from conformance.checks import require
from conformance.checks.cases import Case
from conformance.checks.layer import Layer
from conformance.checks.require import during
from conformance.contract.requirement import PARAMETERS
from conformance.errors import Cause, is_layers_file
from conformance.jax_setup.lazy import nnx

_THREADS = 8


def require_same_in_threads(layer: Layer, case: Case) -> None:
    """Require that eight threads at once get the bits that one thread gets."""
    is_function = PARAMETERS not in layer.provides
    shared = None if is_function or _writes_itself_back(layer, case) else layer.written(case)

    def work(i: int, *, at_once: Callable[[], object] = bool) -> list[tuple[str, np.ndarray]]:
        x, seed = case.normal(f"x{i}", *layer.batch, case.in_features), (case.seed + i) % 2**32
        found = []
        with layer.registered.surroundings():
            for _ in range(3):
                at_once()
                if is_function:
                    found.append(("f(x)", np.asarray(layer.forward(seed, x, case.out_features))))
                else:
                    own = layer.build(*case.kernel_shape, seed)
                    found += [("the kernel", own.kernel), ("f(x)", np.asarray(own(x)))]
                    found.append(("f(x) of a shared layer", np.asarray((shared or own)(x))))
        return found

    alone = [work(i) for i in range(_THREADS)]
    barrier = threading.Barrier(_THREADS)

    def in_a_thread(i: int) -> list[tuple[str, np.ndarray]]:
        sys.settrace(_pausing)
        try:
            return work(i, at_once=barrier.wait)
        except BaseException:
            # The others would wait for this thread forever.
            barrier.abort()
            raise
        finally:
            sys.settrace(None)  # of this thread

    in_threads = during("building and calling layers in eight threads")
    # Threads switch as often as possible, also in the middle of a line.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with in_threads, ThreadPoolExecutor(_THREADS) as threads:
            waiting = [threads.submit(in_a_thread, i) for i in range(_THREADS)]
            # An exception of the layer comes before those of the threads that waited for it.
            broken = threading.BrokenBarrierError
            waiting.sort(key=lambda each: isinstance(each.exception(), broken))
            failed = [each for each in waiting if each.exception()]
            together = [each.result() for each in failed or waiting]
    finally:
        sys.setswitchinterval(interval)
    cause = Cause(
        "threads-share", "threads share something that a construction or a call writes to"
    )
    together.append(work(0))
    alone.append(alone[0])
    for i, (found, expected) in enumerate(zip(together, alone, strict=True)):
        where = f"in thread {i} of {_THREADS}" if i < _THREADS else "after all threads have ended"
        for (what, its), (_, one) in zip(found, expected, strict=True):
            require.equal(its, one, f"{where}, {what}", cause=cause)


def _pausing(frame: FrameType, event: str, argument: object) -> Any:
    """Let other threads go on at each line of the layer's own code, however busy the machine is.

    This is a trace function: see :func:`sys.settrace`.
    """
    if not is_layers_file(frame.f_code.co_filename):
        return None
    if event == "line":
        time.sleep(_PAUSE)
    return _pausing


_PAUSE = 1e-4


def _writes_itself_back(layer: Layer, case: Case) -> bool:
    """Return whether the call of a module in the layer is a transformation of nnx, as by nnx.jit.

    Flax takes such a module apart and puts it together again in each call, and says that a module
    is not shared between threads meanwhile.
    """
    module = layer.of(case).module
    if module is None:
        return False
    kinds = {kind for _, each in nnx.iter_graph(module) for kind in type(each).__mro__}
    calls = [vars(kind)["__call__"] for kind in kinds if "__call__" in vars(kind)]
    return any(type(call).__module__.startswith("flax.nnx.transforms") for call in calls)
