"""Draws that are compiled with fewer optimizations have the same bits, and no others are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.jax_setup import draws
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


def test_a_jax_that_has_moved_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the private function is missing, nothing changes or raises."""
    from jax._src import compiler

    monkeypatch.delattr(compiler, "compile_or_get_cached")
    draws.compile_quickly()
    assert not hasattr(compiler, "compile_or_get_cached")
