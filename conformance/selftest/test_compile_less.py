"""Programs are compiled and lowered with less work, and with the same bits and the same text."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conformance.jax_setup import draws, mlir_context
from conformance.jax_setup.lazy import jax, jnp

FAMILIES: dict[str, Any] = {
    "normal": jax.random.normal,
    "truncated normal": lambda key, *of: jax.random.truncated_normal(key, -2.0, 2.0, *of),
    "uniform": jax.random.uniform,
}


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[Any]]]:
    """Return the name and the options of each program that is compiled from now on."""
    from jax._src import compiler

    usual = getattr(compiler.compile_or_get_cached, "compile_program", None)
    usual = usual or compiler.compile_or_get_cached
    found: list[tuple[str, list[Any]]] = []

    def note(backend: Any, program: Any, devices: Any, options: Any, *others: Any) -> Any:
        found.append((draws._name(program), list(options.env_option_overrides)))
        return usual(backend, program, devices, options, *others)

    monkeypatch.setattr(compiler, "compile_or_get_cached", note)
    jax.clear_caches()
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_bits_are_the_same(
    family: str, dtype: str, compiled: list[tuple[str, list[Any]]]
) -> None:
    """Each program of a draw is found by its name."""
    draw = FAMILIES[family]
    shapes, key = [(1, 1), (33, 20), (307, 311)], jax.random.key(7)
    usual = [np.asarray(draw(key, shape, dtype).astype("float32")) for shape in shapes]
    assert sum(name in draws.DRAWS for name, _ in compiled) == len(shapes)
    draws.compile_quickly()
    jax.clear_caches()
    compiled.clear()
    for shape, expected in zip(shapes, usual, strict=True):
        np.testing.assert_array_equal(draw(key, shape, dtype).astype("float32"), expected)
    for name, options in compiled:
        assert bool(options) <= (name in draws.DRAWS)
    assert any(options for _, options in compiled)


def test_a_user_s_program_is_compiled_as_usual(compiled: list[tuple[str, list[Any]]]) -> None:
    draws.compile_quickly()
    jax.jit(lambda key: jax.random.normal(key, (3, 4)) @ jnp.ones((4, 2)))(jax.random.key(0))
    assert compiled
    assert not any(options for _, options in compiled)


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
    from jax._src.interpreters import mlir

    mlir_context.share_contexts()
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(mlir.make_ir_context()))
    thread.start()
    thread.join()
    assert found[0] is not mlir.make_ir_context()


@pytest.mark.parametrize(
    ("place", "function", "install"),
    [
        ("jax._src.compiler", "compile_or_get_cached", draws.compile_quickly),
        ("jax._src.interpreters.mlir", "make_ir_context", mlir_context.share_contexts),
    ],
)
def test_a_jax_that_has_moved_it(
    place: str, function: str, install: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(place)
    monkeypatch.delattr(module, function)
    install()
    assert not hasattr(module, function)
