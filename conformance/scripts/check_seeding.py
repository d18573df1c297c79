"""What scripts check of seeds, and of what a layer leaves alone; see ``check_values``."""

# ruff: noqa: D103  # a check's text is the statement of its requirement

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from conformance.scripts.given import FIRST, IN, OUT, SECOND, SEED, Layer
from conformance.scripts.numbers import equal, normal, within
from conformance.scripts.of_nnx import build, call, drawn, forward, parameters_of
from conformance.scripts.register import shows

NNX = ("nnx",)


@shows("seeding/repeatable-call")
def repeatable_call() -> None:
    layer, x = build(), jnp.asarray(normal("x", 8, IN))
    other, first = jnp.asarray(normal("other", 8, IN)), np.asarray(call(layer, x))
    for i, between in enumerate((x, other, x, other), start=2):
        call(layer, between)
        equal(call(layer, x), first, f"call {i} on one x")


@shows("seeding/repeatable-call", kinds=(), functions=True)
def repeatable_function() -> None:
    x, other = jnp.asarray(normal("x", IN)), jnp.asarray(normal("other", IN))
    first = np.asarray(forward(SEED, x, OUT))
    for i, between in enumerate((x, other), start=2):
        forward(SEED, between, OUT)
        equal(forward(SEED, x, OUT), first, f"call {i} on one x")


@shows("seeding/global-rng-ignored", functions=True)
def global_rng_ignored() -> None:
    results = []
    for state in range(6):
        random.seed(state)
        np.random.seed(state)
        results.append(np.asarray(forward(SEED, jnp.ones(IN), OUT)))
    for state, result in enumerate(results):
        equal(result, results[0], f"with the global generators seeded by {state}, f(x)")


@shows("seeding/same-seed-same-bits", functions=True)
def same_seed_same_bits() -> None:
    x = jnp.asarray(normal("x", IN))
    for what in ("kernel", "bias"):
        first, second = (parameters_of(build())[what == "bias"] for _ in range(2))
        equal(second, np.asarray(first), f"the {what} of a second layer")
    equal(forward(SEED, x, OUT), np.asarray(forward(SEED, x, OUT)), "f(x) of a second layer")


@shows("seeding/seeds-differ")
def seeds_differ() -> None:
    first, second = (np.asarray(parameters_of(build(6, 129, s))[0]) for s in (FIRST, SECOND))
    rows = {np.abs(row).tobytes() for row in first}
    shared = sum(np.abs(row).tobytes() in rows for row in second)
    assert not shared, f"seeds {FIRST} and {SECOND} share {shared} of 6 rows (up to the sign)"


@shows("seeding/seeds-differ", kinds=(), functions=True)
def seeds_give_other_outputs() -> None:
    x = jnp.asarray([0.5, -1.25, 2.0, 0.75, -0.25, 1.5])
    first, second = (np.asarray(forward(s, x, 129)) for s in (FIRST, SECOND))
    assert not np.array_equal(first, second), f"seeds {FIRST} and {SECOND} give the same f(x)"


@shows("seeding/same-across-processes")
def same_across_processes() -> None:
    if sys.argv[1:] == ["digest"]:
        sizes = ((3, 10), (5, 1), (16, 16))
        parts = [np.asarray(value) for size in sizes for value in parameters_of(build(*size))]
        print(hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest())
        raise SystemExit
    digests = set()
    for hash_seed in ("1", "20110311"):
        ended = subprocess.run(
            [sys.executable, sys.argv[0], "digest"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        )
        digests.add(ended.stdout)
    assert len(digests) == 1, "another process, with another PYTHONHASHSEED, builds another layer"


@shows("seeding/params-stream", kinds=NNX)
def params_stream() -> None:
    def kernel_of(rngs: Any) -> np.ndarray:
        return np.asarray(Layer(IN, OUT, rngs=rngs).kernel[...])

    other = (SEED + 12345) % 2**32
    plain = kernel_of(nnx.Rngs(params=SEED))
    streams = {"dropout beside it": nnx.Rngs(params=SEED, dropout=other),
               "another default": nnx.Rngs(other, params=SEED),
               "dropout and default": nnx.Rngs(7, params=SEED, dropout=11)}  # fmt: skip
    for what, rngs in streams.items():
        equal(kernel_of(rngs), plain, f"with {what}, the kernel of the same params stream")
    moved = kernel_of(nnx.Rngs(params=other, dropout=SEED))
    assert not np.array_equal(moved, plain), "another seed of params gives the same kernel"


@shows("seeding/constant-key-count", kinds=NNX)
def constant_key_count() -> None:
    counts = {}
    for size in ((1, 1), (3, 10), (10, 3), (16, 16)):
        rngs = nnx.Rngs(SEED)
        Layer(*size, rngs=rngs)
        # Two streams have drawn the same number of keys if their next keys are equal.
        counts[size] = np.asarray(jax.random.key_data(rngs.params())).tobytes()
    assert len(set(counts.values())) == 1, "the number of keys drawn depends on the sizes"


@shows("seeding/siblings-differ", kinds=NNX)
def siblings_differ() -> None:
    rngs = nnx.Rngs(SEED)
    first, second = (np.asarray(Layer(IN, OUT, rngs=rngs).kernel[...]) for _ in range(2))
    same = int((first == second).sum())
    assert same < first.size / 2, f"two layers of one Rngs agree in {same} of {first.size} entries"


@shows("seeding/rngs-forms", kinds=NNX)
def rngs_forms() -> None:
    plain = np.asarray(Layer(IN, OUT, rngs=nnx.Rngs(SEED)).kernel[...])
    for what, rngs in (("Rngs(params=s)", nnx.Rngs(params=SEED)),
                       ("Rngs(key(s))", nnx.Rngs(jax.random.key(SEED)))):  # fmt: skip
        equal(Layer(IN, OUT, rngs=rngs).kernel[...], plain, f"the kernel of {what}")


@shows("seeding/jitted-init")
def jitted_init() -> None:
    plain = np.asarray(parameters_of(build())[0])
    found = jax.jit(lambda seed: drawn(jax.random.key(seed)))(np.uint32(SEED))
    bound = 2 * np.spacing(np.abs(plain))
    within(found, (plain.astype(float), bound), "the kernel of a layer built under jax.jit")


@shows("seeding/vmapped-init", kinds=NNX)
def vmapped_init() -> None:
    kernels = np.asarray(jax.vmap(drawn)(jax.random.split(jax.random.key(SEED), 8)))
    distinct = len({found.tobytes() for found in kernels})
    assert distinct == 8, f"8 split keys give {distinct} different kernels"


@shows("purity/input-untouched")
def input_untouched() -> None:
    for x in (normal("x", IN) * 1000, normal("batch", 4, IN) * 1000):
        before = x.copy()
        jax.block_until_ready(forward(SEED, x, OUT))
        equal(x, before, "after the call, x")


@shows("purity/input-untouched", kinds=(), functions=True)
def vector_untouched() -> None:
    x = normal("x", IN) * 1000
    before = x.copy()
    jax.block_until_ready(forward(SEED, x, OUT))
    equal(x, before, "after the call, x")


@shows("purity/globals-untouched", functions=True)
def globals_untouched() -> None:
    def state() -> dict[str, Any]:
        found = {f"jax.config.{key}": value for key, value in jax.config.values.items()}
        found.update({f"os.environ[{key!r}]": value for key, value in os.environ.items()})
        found["the state of random"] = random.getstate()
        found["the state of numpy.random"] = repr(np.random.get_state(legacy=False))
        return found

    x = jnp.asarray(normal("x", IN))
    before = state()
    jax.block_until_ready(forward(SEED, x, OUT))
    after = state()
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    assert not changed, f"the layer changes {', '.join(changed)}"


@shows("purity/silent", functions=True)
def silent() -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        jax.block_until_ready(forward(SEED, jnp.asarray(normal("x", IN)), OUT))
        jax.effects_barrier()
    assert not out.getvalue().strip(), f"the layer prints {out.getvalue()[:100]!r}"
