"""Accelerators and the workers of a run: one process for each device by default.

Nothing here imports JAX: the process that controls the workers never does, and which device a
worker sees has to be settled before its JAX starts.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path

__all__ = ["accelerators", "take_own", "workers"]

_MOST = 8
"""Workers on a CPU: each takes about 500 MB."""

_DEVICES = Path("/dev")


def accelerators(device_files: Path = _DEVICES) -> list[str]:
    """Return the numbers of the NVIDIA devices that JAX is going to use here; none on a CPU."""
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
    """Return how many processes a run takes by default: one for each device, or for each core."""
    devices = accelerators(device_files)
    if devices:
        return len(devices)
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count()
    return max(1, min(cores or 1, _MOST))


def take_own(worker: str, device_files: Path = _DEVICES) -> None:
    """Have this worker, such as ``gw3``, see one device only: the next in turn."""
    devices = accelerators(device_files)
    number = re.search(r"\d+$", worker)
    if len(devices) > 1 and number is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[int(number[0]) % len(devices)]
