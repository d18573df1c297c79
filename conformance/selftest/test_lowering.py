"""Shared MLIR contexts give the same programs as separate ones, and are not kept for long."""

from __future__ import annotations

import threading

import pytest

from conformance.jax_setup import mlir_context
from conformance.jax_setup.lazy import jax, jnp


@pytest.fixture
def unshared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a new context for each program until the test shares them; restore that afterwards."""
    from jax._src.interpreters import mlir

    made = getattr(mlir.make_ir_context, "make", mlir.make_ir_context)
    monkeypatch.setattr(mlir, "make_ir_context", made)


def lowered(size: int) -> str:
    """Return a program with a loop, constants and random numbers, as text."""

    def program(seed: jax.Array) -> jax.Array:
        drawn = jax.random.normal(jax.random.key(seed), (size, size))
        return jax.lax.fori_loop(0, 3, lambda _, y: jnp.tanh(y @ drawn), jnp.ones((2, size)))

    return str(jax.jit(program).lower(0).as_text())


def test_programs_are_the_same(unshared: None) -> None:
    """They are the same text, by which they are compiled and cached."""
    alone = [lowered(size) for size in (2, 3, 2)]
    mlir_context.share_contexts()
    assert [lowered(size) for size in (2, 3, 2)] == alone


def test_a_program_that_another_needs(unshared: None) -> None:
    """A constant that is computed while a program is lowered has its own program."""
    mlir_context.share_contexts()
    jax.clear_caches()
    with jax.ensure_compile_time_eval():
        assert jax.random.normal(jax.random.key(0), (3, 97)).shape == (3, 97)


def test_a_context_serves_many_but_not_all(unshared: None) -> None:
    from jax._src.interpreters import mlir

    mlir_context.share_contexts(programs=2)
    first, second, third, fourth = (mlir.make_ir_context() for _ in range(4))
    assert first is second
    assert third is fourth
    assert first is not third


def test_threads_have_their_own(unshared: None) -> None:
    """Two threads may lower programs at once."""
    from jax._src.interpreters import mlir

    mlir_context.share_contexts()
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(mlir.make_ir_context()))
    thread.start()
    thread.join()
    assert found[0] is not mlir.make_ir_context()


def test_a_jax_that_has_moved_it(unshared: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the private function is missing, nothing changes or raises."""
    from jax._src.interpreters import mlir

    monkeypatch.delattr(mlir, "make_ir_context")
    mlir_context.share_contexts()
    assert not hasattr(mlir, "make_ir_context")
