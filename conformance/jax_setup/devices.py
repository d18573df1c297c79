"""Shares devices among the workers of a run: a few for each accelerator, or one for each core.

Nothing here imports JAX: the controller never does, and a worker has to choose its device before
JAX starts.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path

_MOST = 8
"""Workers on a CPU: each takes about 500 MB."""

_MOST_FOR_A_DEVICE = 4
"""Workers on a device: Python is the bottleneck for small layers; each takes about 1 GB."""

_DEVICES = Path("/dev")


def accelerators(device_files: Path = _DEVICES) -> list[str]:
    """Return the numbers of the NVIDIA devices that JAX will use; empty on a CPU."""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if wanted and not any(name in wanted.split(",") for name in ("cuda", "gpu")):
        return []
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    if not any("cuda" in plugin.name for plugin in plugins):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    files = (re.fullmatch(r"nvidia(\d+)", path.name) for path in device_files.glob("nvidia*"))
    return sorted((found[1] for found in files if found), key=int)


def workers(device_files: Path = _DEVICES) -> int:
    """Return how many processes a run takes by default: a few for each device, or one a core."""
    devices = len(accelerators(device_files))
    if devices:
        return devices * max(1, min(cores() // devices, _MOST_FOR_A_DEVICE))
    return min(cores(), _MOST)


def cores() -> int:
    """Return how many cores this process may use."""
    known = hasattr(os, "sched_getaffinity")
    return (len(os.sched_getaffinity(0)) if known else os.cpu_count()) or 1


def limit_threads() -> None:
    """Have NumPy multiply matrices in one thread, in this process and those that it starts.

    It must be called before NumPy is imported. Its other threads wait by spinning: beside a second
    worker they took a fifth of a run's seconds of a core, and nothing here is large enough to gain.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def take_own(worker: str, device_files: Path = _DEVICES) -> None:
    """Let this worker, such as ``gw3``, see one device only, chosen in turn.

    Several workers share a device, but JAX would give three quarters of its memory to the first.
    """
    devices = accelerators(device_files)
    number = re.search(r"\d+$", worker)
    if devices:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if len(devices) > 1 and number is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[int(number[0]) % len(devices)]
