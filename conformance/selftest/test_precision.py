"""What is asked of an accelerator, tried on a CPU that says that it is one."""

from __future__ import annotations

import jax
import pytest

from conformance import precision


@pytest.mark.parametrize(("backend", "name"), [("gpu", "TF32"), ("tpu", "bfloat16")])
def test_an_accelerator_is_asked_for_float32(
    monkeypatch: pytest.MonkeyPatch, backend: str, name: str
) -> None:
    """And its default, inside the block, is named."""
    before = jax.config.values["jax_default_matmul_precision"]
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    try:
        precision.settle()
        assert jax.config.values["jax_default_matmul_precision"] == "highest"
        with precision.by_default() as mode:
            assert mode is not None
            assert mode.name == name
    finally:
        jax.config.update("jax_default_matmul_precision", before)


def test_a_cpu_is_left_alone() -> None:
    """Its products of float32 are products of float32."""
    before = jax.config.values["jax_default_matmul_precision"]
    precision.settle()
    assert jax.config.values["jax_default_matmul_precision"] == before
    with precision.by_default() as mode:
        assert mode is None
