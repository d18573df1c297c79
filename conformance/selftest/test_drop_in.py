"""Drop-in checks by ``--like``, on ports with one difference each."""

from __future__ import annotations

from typing import Any

import jax
import pytest
from flax import nnx

from conformance.cli.main import main
from conformance.contract.catalogue import catalogue, drop_in
from conformance.selftest.processes import failing


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


def _failing(spec: str, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    main(["run", spec, "--like", "nnx.Linear", "--requirement=drop-in", "-n0", "--strict"])
    text = capsys.readouterr().out
    return sorted(failing(text)), text


@pytest.mark.parametrize(
    ("spec", "failed"),
    [
        ("nnx.Linear", []),
        (f"{__name__}:OtherLaw", ["drop-in/same-law"]),
        (f"{__name__}:OutputsFirst", ["drop-in/same-arguments"]),
        (f"{__name__}:Renamed", ["drop-in/same-state"]),
        (f"{__name__}:ByKeyword", ["drop-in/same-arguments"]),
    ],
)
def test_ports_with_one_difference(
    spec: str, failed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each port fails only in its difference; the layer is its own drop-in."""
    assert _failing(spec, capsys)[0] == failed


def test_my_dense(capsys: pytest.CaptureFixture[str]) -> None:
    """Its law is normal, not truncated; missing options and other bits are MAY."""
    failed, text = _failing("nnx.MyDense", capsys)
    assert failed == ["drop-in/same-law"]
    assert "normal, 1 / fan_in" in text
    assert "--like nnx.Linear" in " ".join(text.split())
    assert "2 not offered" in text


def test_other_bits(capsys: pytest.CaptureFixture[str]) -> None:
    """The law is the same, and only the numbers of a seed differ, which is a MAY."""
    failed, text = _failing(f"{__name__}:OtherBits", capsys)
    assert failed == []
    assert "not offered: drop-in/same-bits" in text


def test_off_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert not {row.id for row in drop_in()} & {row.id for row in catalogue()}
    assert main(["run", "nnx.MyDense", "--requirement=drop-in", "-n0"]) == 2
    assert main(["run", "nnx.MyDense", "--like", "nnx.Linaer", "-n0"]) == 2
    assert "did you mean 'nnx.Linear'" in capsys.readouterr().err
