"""Workers and accelerators, on a machine that pretends to have some."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.jax_setup import devices

Machine = Callable[..., Path]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """Make a machine with so many NVIDIA devices, with JAX's plugin for them or without."""

    def make(count: int, plugin: str = "xla_cuda13") -> Path:
        for name in (*(f"nvidia{i}" for i in range(count)), "nvidiactl", "nvidia-uvm"):
            (tmp_path / name).touch()
        point = importlib.metadata.EntryPoint(plugin, "somewhere", "jax_plugins")
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
        for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("count", "cores", "workers"), [(1, 16, 4), (1, 2, 2), (3, 8, 6), (12, 8, 12)]
)
def test_a_device_has_as_many_processes_as_cores_allow(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, count: int, cores: int, workers: int
) -> None:
    files = machine(count)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert devices.accelerators(files) == [str(i) for i in range(count)]
    assert devices.workers(files) == workers


def test_a_worker_sees_one_device(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    files = machine(4)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "")
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE")
    os.environ["CUDA_VISIBLE_DEVICES"] = "1,3"
    devices.take_own("gw2", files)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_devices_that_jax_does_not_use_count_for_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = machine(2, plugin="other")
    assert devices.accelerators(files) == []
    machine(2)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert devices.accelerators(files) == []
    assert 1 <= devices.workers(files) <= 8
