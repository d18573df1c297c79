"""The precision on an accelerator, tested on a CPU that pretends to be one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import pytest

from conformance.checks import precision


@pytest.fixture(autouse=True)
def _precision_is_restored() -> Iterator[None]:
    precision.restore()
    before = jax.config.values["jax_default_matmul_precision"]
    yield
    precision.restore()
    jax.config.update("jax_default_matmul_precision", before)


@pytest.mark.parametrize(("backend", "name"), [("gpu", "TF32"), ("tpu", "bfloat16")])
def test_an_accelerator_is_asked_for_float32(
    monkeypatch: pytest.MonkeyPatch, backend: str, name: str
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    precision.force_float32()
    assert jax.config.values["jax_default_matmul_precision"] == "highest"
    with precision.by_default() as mode:
        assert mode is not None
        assert mode.name == name


@pytest.mark.parametrize(("asked", "given"), [("highest", False), ("tensorfloat32", True)])
def test_what_the_user_asked_for_is_tried_beside(
    monkeypatch: pytest.MonkeyPatch, asked: str, given: bool
) -> None:
    """It is used unless it is float32; forcing float32 twice changes nothing."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jax.config.update("jax_default_matmul_precision", asked)
    precision.force_float32()
    precision.force_float32()
    with precision.by_default() as mode:
        assert (mode is not None) == given
        config: Any = jax.config
        assert config.jax_default_matmul_precision == (asked if given else "highest")


def test_a_cpu_is_left_alone() -> None:
    """A CPU computes float32 products in float32."""
    before = jax.config.values["jax_default_matmul_precision"]
    precision.force_float32()
    assert jax.config.values["jax_default_matmul_precision"] == before
    with precision.by_default() as mode:
        assert mode is None
