"""Additional sizes: ``--size 768x3072`` checks a size outside of the pool."""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from conformance.checks import profiles
from conformance.cli.main import main
from conformance.running.options import size


class WrongWhenWide(nnx.Module):
    """A layer that loses the last output when it is wider than the pool."""

    def __init__(self, in_features: int, out_features: int, rngs: nnx.Rngs) -> None:
        draw = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(draw(rngs.params(), (in_features, out_features), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(out_features))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...] + self.bias[...]
        return y if y.shape[-1] < 300 else y.at[..., -1].set(0.0)


def test_a_size_is_read() -> None:
    assert size("768x3072") == (768, 3072)
    for text in ("768", "768x", "0x3", "-1x3", "axb", "1x2x3"):
        with pytest.raises(argparse.ArgumentTypeError, match="such as 768x3072"):
            size(text)


def test_it_is_added_to_the_pool() -> None:
    try:
        found = profiles.activate("quick", own_sizes=[(768, 3072), (768, 3072), (1, 1)])
        assert found.sizes[-1] == (768, 3072)
        assert found.sizes.count((768, 3072)) == 1
        assert "--size 768x3072" in found.as_options()
    finally:
        profiles.activate("quick")


def test_a_fault_at_a_size_of_ones_own(capsys: pytest.CaptureFixture[Any]) -> None:
    """The fault is found, and the reproduction names the size."""
    spec = f"{__name__}:WrongWhenWide"
    assert main(["run", spec, "--requirement=zero-input", "-n0"]) == 0
    capsys.readouterr()
    assert main(["run", spec, "--requirement=zero-input", "-n0", "--size=7x301"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "in_features=7, out_features=301" in text
    assert "--size 7x301" in text
