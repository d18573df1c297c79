"""The same construction in another process, with another hash seed, order and environment.

Each worker starts one other process, which imports JAX once and forks for every question, before
any backend of JAX is initialized. An implementation that ends its process, or never answers, loses
only its own answer. On systems other than Linux, where forking a process with threads is unsafe or
impossible, a new process answers each question.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import hashlib
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import IO, Any

import numpy as np

from conformance.checks import require
from conformance.checks.areas import disguise
from conformance.checks.arrays import as_jax
from conformance.checks.cases import Case
from conformance.contract.requirement import PARAMETERS
from conformance.errors import Cause, described
from conformance.jax_setup import child_process
from conformance.layers.loading import load
from conformance.layers.registry import Entry

SIZES = ((3, 10), (5, 1), (16, 16))
SEEDS = (0, 7, 2**32 - 1)
PICKLED = Case(3, 10)
"""The case whose layer is pickled here, with kernel and bias written, and called there."""

Digest = str | list[float] | dict[str, list[float]]
"""A hash of parameters, the numbers of a function, or those of a call at several times."""

_PATIENCE = 120.0
_BEFORE = 30
_HASH_SEED = "20110311"
_FORKS = sys.platform == "linux"
_ONCE = "once"


def kernel_digests(layer: Any, *, backwards: bool = False) -> dict[str, Digest]:
    """Return digests of parameters for a few seeds and sizes, built in one of two orders, and the
    numbers of one call.

    Of a function, return the numbers of the first and the last row of its kernel, plus its bias.
    """
    asked = [(size, seed) for size in SIZES for seed in SEEDS]
    found: dict[str, Digest] = {}
    for seed in range(_BEFORE if backwards else 0):
        # The number of earlier constructions must not matter.
        _digest(layer, *SIZES[0], seed)
    for (in_features, out_features), seed in reversed(asked) if backwards else asked:
        key = f"in_features={in_features}, out_features={out_features}, seed={seed}"
        found[key] = _digest(layer, in_features, out_features, seed)
    if PARAMETERS in layer.provides:
        found[_CALL] = _called(layer)
    return found


_CALL = "f(x) with a kernel and bias that are written in"


def _called(layer: Any) -> dict[str, list[float]]:
    """Return the numbers of a call, and those at another time, where the clock is shifted."""
    dense, x = layer.written(PICKLED), as_jax(_called_with(layer))

    def numbers() -> list[float]:
        return [*map(float, np.asarray(dense(x), np.float64).ravel())]

    now = numbers()
    later = (numbers() for _ in disguise.moments())
    return {"now": now, "later": next((found for found in later if not _agree(now, found)), now)}


def _digest(layer: Any, in_features: int, out_features: int, seed: int) -> Digest:
    if PARAMETERS in layer.provides:
        dense = layer.build(in_features, out_features, seed)
        return hashlib.sha256(dense.kernel.tobytes() + dense.bias.tobytes()).hexdigest()
    rows = np.eye(in_features, dtype=np.float32)[[0, -1]]
    values = [np.asarray(layer.forward(seed, row, out_features), np.float64) for row in rows]
    return [*map(float, np.concatenate(values))]


_ROUNDINGS = 16 * 2.0**-24
"""A program that draws a kernel and applies it may be compiled otherwise in another process: see
seeding/jitted-init."""


def _agree(here: Any, there: Any) -> bool:
    """Return whether digests are equal, or numbers of a function but for their roundings."""
    if here == there or here is None or there is None:
        return bool(here == there)
    if isinstance(here, dict):
        return here.keys() == there.keys() and all(_agree(here[k], there[k]) for k in here)
    if not isinstance(here, list) or not isinstance(there, list):
        return False
    one, other = np.array(here), np.array(there)
    allowed = _ROUNDINGS * np.abs(one).max(initial=0)
    return one.shape == other.shape and bool((np.abs(one - other) <= allowed).all())


class _Elsewhere:
    """The other process, which answers in the order of the questions."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            child_process.python("-m", __name__), stdin=subprocess.PIPE, **_how()
        )

    def ask(self, entry: Entry, changes: Sequence[str], pickled: str) -> dict[str, Any]:
        """Return the answer about one implementation, or ``{"error": reason}``."""
        question = _question(entry, changes, pickled)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(question)
            self._process.stdin.flush()
        except OSError:
            return {"error": "the other process has ended"}
        if not select.select([self._process.stdout], [], [], _PATIENCE + 30)[0]:
            return {"error": "the other process does not answer"}
        line = self._process.stdout.readline()
        return dict(json.loads(line)) if line else {"error": "the other process has ended"}

    def close(self) -> None:
        """End the other process."""
        with contextlib.suppress(OSError), self._process:
            self._process.kill()


def _how() -> dict[str, Any]:
    hash_seed = _HASH_SEED if os.environ.get("PYTHONHASHSEED") != _HASH_SEED else "1"
    return {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "env": child_process.environment(PYTHONHASHSEED=hash_seed),
        "text": True,
    }


def _question(entry: Entry, changes: Sequence[str], pickled: str) -> str:
    asked = {"entry": asdict(entry), "changes": list(changes), "pickled": pickled}
    return json.dumps(asked) + "\n"


def _ask(entry: Entry, changes: Sequence[str], pickled: str) -> dict[str, Any]:
    """Return the answer about one implementation, or ``{"error": reason}``."""
    if _FORKS:
        return _started().ask(entry, changes, pickled)
    command = child_process.python("-m", __name__, _ONCE)
    question = _question(entry, changes, pickled)
    try:
        done = subprocess.run(
            command, input=question, timeout=_PATIENCE + 30, check=False, **_how()
        )
    except subprocess.TimeoutExpired:
        return {"error": "the other process does not answer"}
    return dict(json.loads(done.stdout)) if done.stdout else {"error": "the process died"}


@lru_cache(maxsize=1)
def _started() -> _Elsewhere:
    """Return the other process, which starts at the first call and ends with this one."""
    started = _Elsewhere()
    atexit.register(started.close)
    return started


def elsewhere(layer: Any, changes: Sequence[str] = disguise.CHANGES) -> dict[str, Any]:
    """Return the layer's numbers in the other process, with these changes of its environment.

    The result is ``{"digests": ..., "unpickled": ...}``: the digests of :func:`kernel_digests`, and
    kernel, bias and output of the layer of `PICKLED`, or why it cannot be unpickled. If there is no
    answer, the result is ``{"error": why}``.
    """
    if layer.entry is None:
        return {"error": "it has no name by which it could be found there"}

    def ask() -> dict[str, Any]:
        answer = _ask(layer.entry, changes, _pickled(layer))
        if "error" in answer and changes:
            # A layer that needs its usual environment is asked again with nothing changed.
            answer = _ask(layer.entry, (), _pickled(layer))
        return answer

    return layer.remember(("elsewhere", tuple(changes)), ask)


def what_differs(layer: Any, here: dict[str, Digest], subject: str) -> str:
    """Return what the subject, construction or the call, depends on.

    It is found by making each change alone.
    """

    def digests(*changes: str, again: bool = False) -> Any:
        if again:
            return _another(layer).get("digests")
        return elsewhere(layer, changes).get("digests")

    # Two children of the other process share their hash seed, but differ in process id and time.
    plain, again = digests(), digests(again=True)
    if plain is None or again is None:
        return ""
    if not _agree(plain, again):
        return Cause(
            "depends-on-process",
            f"{subject} depends on the process: on its number, on id(), on when it started, or on "
            "random numbers of the system",
        )
    made = {change: digests(change) for change in disguise.CHANGES}
    found = [change for change, its in made.items() if its and not _agree(plain, its)]
    if found:
        slug = found[0].removeprefix("the ").replace("'s", "").replace(" ", "-")
        cause = Cause(f"depends-on-{slug}", f"{subject} depends on {found[0]}")
        # Another time zone of the user shifts the clock as well.
        of_one = len(found) == 1 or found == ["the clock", "the user's environment"]
        return cause if of_one else ""
    if _agree(plain, here):
        return ""
    return Cause(
        "depends-on-hash",
        f"{subject} depends on hash(), which PYTHONHASHSEED changes, on what was set when the "
        "process started, or on what other layers left in it, such as an attribute of the class",
    )


def _another(layer: Any) -> dict[str, Any]:
    """Return the answer of another child of the other process, with nothing changed."""
    return _started().ask(layer.entry, (), _pickled(layer)) if layer.entry is not None else {}


def require_same_everywhere(layer: Any) -> None:
    """Require the same parameters in another thread, and in the other process."""
    here = kernel_digests(layer)
    results: list[dict[str, Digest]] = []

    def construct() -> None:
        with layer.registered.surroundings():
            results.append(kernel_digests(layer, backwards=True))

    thread = threading.Thread(target=construct)
    thread.start()
    thread.join()
    require.that(results, "construction in another thread raised", accepted="no exception")
    _require_same(
        here,
        results[0],
        "in another thread, in reversed order",
        lambda subject: Cause(
            "depends-on-thread-or-order",
            f"{subject} depends on the thread, or on the order of earlier constructions",
        ),
    )
    answer = elsewhere(layer)
    if "digests" not in answer:
        require.not_applicable(f"no other process: {answer['error']}")
    others = "PYTHONHASHSEED, clock, machine, launcher, devices, user and directory"
    where = f"in another process, with another {others}"
    _require_same(
        here, answer["digests"], where, lambda subject: what_differs(layer, here, subject)
    )


def _require_same(
    here: dict[str, Digest], there: dict[str, Digest], where: str, cause: Callable[[str], str]
) -> None:
    changed = [key for key, digest in here.items() if not _agree(digest, there.get(key))]
    if changed == [_CALL]:
        require.fail(f"{where}, {_CALL} differs", accepted="the same", cause=cause("the call"))
    if changed:
        require.fail(
            f"{where}, {len(changed)} of {len(here)} layers differ, first {changed[:1]}",
            accepted="the same bits",
            cause=cause("construction"),
        )


def require_unpickled(layer: Any) -> None:
    """Require that the unpickled layer computes the same there; other checks judge the value."""
    there = elsewhere(layer).get("unpickled")
    if there is None:
        return  # same-across-processes reports a missing process
    cause = Cause(
        "pickle-refers-here", "what is pickled refers to something that only this process has"
    )
    require.that(
        "error" not in there,
        f"unpickling in another process raised {there.get('error', '')}",
        accepted="the layer",
        cause=cause,
    )
    x = _called_with(layer)
    here = layer.written(PICKLED)
    kernel, bias = here.kernel, here.bias
    require.equal(there["kernel"], kernel, "the kernel in another process", cause=cause)
    require.equal(there["bias"], bias, "the bias in another process", cause=cause)
    found, expected = np.array(there["f(x)"]), np.asarray(here(x), np.float64)
    require.that(
        bool((np.abs(found - expected) <= 2 * layer.value(x, kernel, bias).bound).all()),
        f"f(x) in another process differs from f(x) here by {np.abs(found - expected).max():.3g}",
        accepted="the same within the rounding-error bounds",
        cause=cause,
    )


def _called_with(layer: Any) -> np.ndarray:
    """Return the x of `PICKLED`, of numbers whose products no half precision overflows."""
    lead = PICKLED.lead if layer.accepts(PICKLED.lead) else ()
    return PICKLED.normal("x", *lead, PICKLED.in_features)


def _pickled(layer: Any) -> str:
    """Return the pickled module of `PICKLED` as text; "" if it cannot be pickled."""
    if layer.implementation.module is None:
        return ""
    try:
        return base64.b64encode(pickle.dumps(layer.written(PICKLED).module)).decode()
    except Exception:  # state/pickles reports that it does not pickle here
        return ""


def _unpickled(layer: Any, pickled: str) -> dict[str, Any]:
    from conformance.checks.layer import Built

    try:
        dense = Built(layer, module=pickle.loads(base64.b64decode(pickled)))
        x = _called_with(layer)
        values = {"kernel": dense.kernel, "bias": dense.bias, "f(x)": np.asarray(dense(x))}
        return {name: value.astype(np.float64).tolist() for name, value in values.items()}
    except Exception as error:
        return {"error": described(error)}


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    from conformance.checks.layer import Layer

    try:
        disguise.change(question["changes"])
        entry = Entry(**question["entry"])
        layer = Layer(load(entry), entry)
        disguise.settle(question["changes"])
        with layer.registered.surroundings():
            answer: dict[str, Any] = {"digests": kernel_digests(layer, backwards=True)}
            if question["pickled"]:
                answer["unpickled"] = _unpickled(layer, question["pickled"])
        return answer
    except BaseException as error:  # any exception is an answer
        return {"error": described(error)}


def _serve(questions: IO[str], answers: int) -> None:
    import flax.nnx
    import jax.numpy

    from conformance.jax_setup import compile_less

    compile_less()
    del flax, jax
    for line in questions:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            # Output of the implementation must not mix with the answers.
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, 1)
            text = json.dumps(_answer(json.loads(line)))
            os.write(write, text.encode())
            os._exit(0)
        os.close(write)
        text = _read(read, child, time.monotonic() + _PATIENCE)
        os.write(answers, (text or '{"error": "the process died"}').encode() + b"\n")


def _read(pipe: int, child: int, until: float) -> str:
    chunks: list[bytes] = []
    while select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
        chunk = os.read(pipe, 65536)
        if not chunk:
            break
        chunks.append(chunk)
    else:
        os.kill(child, signal.SIGKILL)
    os.close(pipe)
    os.waitpid(child, 0)
    return b"".join(chunks).decode()


def main(arguments: Sequence[str]) -> None:
    """Answer questions from standard input until it ends, or only the first of them."""
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if _ONCE in arguments:
        text = json.dumps(_answer(json.loads(sys.stdin.readline())))
        os.write(answers, text.encode())
        # Do not wait for threads that the implementation leaves running.
        os._exit(0)
    _serve(sys.stdin, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
