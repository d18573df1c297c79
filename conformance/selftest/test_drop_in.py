"""Drop-in checks by ``--like``, on ports with one difference each."""

from __future__ import annotations

from typing import Any

import jax
import pytest
from flax import nnx

from conformance.contract.catalogue import catalogue, drop_in
from conformance.selftest.processes import Checked, failing


class Renamed(nnx.Linear):
    """A port with another name for the kernel."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.weight = self.kernel
        del self.kernel

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        return inputs @ self.weight[...] + self.bias[...]  # type: ignore[index]  # it has one


class OtherLaw(nnx.Linear):
    """A port with another variance of kernels."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options["kernel_init"] = nnx.initializers.glorot_uniform()
        super().__init__(*arguments, **options)


class OutputsFirst(nnx.Linear):
    """A port with the sizes in the other order."""

    def __init__(self, out_features: int, in_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)


class ByKeyword(nnx.Linear):
    """A port that takes its sizes by keyword only."""

    def __init__(self, *, in_features: int, out_features: int, rngs: nnx.Rngs, **others: Any):
        super().__init__(in_features, out_features, rngs=rngs, **others)


class OtherBits(nnx.Linear):
    """A port that draws its kernels from other keys."""

    def __init__(self, *arguments: Any, rngs: nnx.Rngs, **options: Any) -> None:
        rngs.params()
        super().__init__(*arguments, rngs=rngs, **options)


LIKE = ("--like=nnx.Linear", "--requirement=drop-in", "--strict")


@pytest.mark.parametrize(
    ("layer", "failed", "words"),
    [
        ("nnx.Linear", set(), ""),
        (OtherLaw, {"drop-in/same-law"}, ""),
        (OutputsFirst, {"drop-in/same-arguments"}, ""),
        (Renamed, {"drop-in/same-state"}, ""),
        (ByKeyword, {"drop-in/same-arguments"}, ""),
        # The law is the same, and only the numbers of a seed differ, which is a MAY.
        (OtherBits, set(), "not offered: drop-in/same-bits"),
    ],
)
def test_ports_with_one_difference(
    layer: object, failed: set[str], words: str, checked: Checked
) -> None:
    _, text = checked(layer, *LIKE)
    assert failing(text) == failed
    assert words in text


def test_my_dense(checked: Checked) -> None:
    """Its law is normal, not truncated; missing options and other bits are MAY."""
    _, text = checked("nnx.MyDense", *LIKE)
    assert failing(text) == {"drop-in/same-law"}
    assert "normal, 1 / fan_in" in text
    assert "--like nnx.Linear" in " ".join(text.split())
    assert "2 not offered" in text


def test_off_by_default() -> None:
    assert not {row.id for row in drop_in()} & {row.id for row in catalogue()}
