"""Describes the environment of a run: versions, devices, and relevant settings of JAX."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from conformance.jax_setup import modes
from conformance.layers.implementation import Implementation
from conformance.layers.registry import Entry


def version(distribution: str) -> str:
    """Return the version of an installed distribution, or the empty string."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def describe(profile: str, seed: int | None) -> dict[str, Any]:
    """Return the environment of this process, which has imported JAX, as plain JSON values."""
    import jax

    device, settings = jax.devices()[0], jax.config.values
    return {
        **({"mode": modes.active()} if modes.active() else {}),
        "suite": version("dense-conformance"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "jaxlib", "flax", "numpy", "hypothesis")},
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "device": str(device.device_kind),
        "devices": jax.device_count(),
        "matmul_precision": str(settings["jax_default_matmul_precision"] or "default"),
        "x64": bool(settings["jax_enable_x64"]),
        "prng": str(settings["jax_default_prng_impl"]),
        "threefry_partitionable": bool(settings["jax_threefry_partitionable"]),
        "rank_promotion": str(settings["jax_numpy_rank_promotion"]),
        "debug_nans": bool(settings["jax_debug_nans"]),
        "profile": profile,
        "seed": seed,
    }


def library_of(implementation: Implementation | None, entry: Entry) -> dict[str, Any]:
    """Return the library of a layer, its version, and the laws that the layer declares."""
    if implementation is None:
        return _distribution("", entry)
    convention = implementation.convention
    return {
        **_distribution(implementation.library, entry),
        "convention": convention.name,
        **({"declared": entry.declared} if entry.declared else {}),
        **({"bound": implementation.bound} if implementation.bound else {}),
        "kernel_law": convention.kernel.description,
        "bias_law": convention.bias.description if convention.use_bias else "no bias",
        # A function is compared only by its results, because it cannot replace a layer anyway.
        "differences": list(convention.differences()) if implementation.init else [],
    }


def _distribution(name: str, entry: Entry) -> dict[str, str]:
    known = version(name) if name else ""
    if known:  # most distributions are named like their package, which avoids reading them all
        return {"library": name, "version": known}
    for distribution in _providers().get(name, ()):
        if version(distribution):
            return {"library": distribution, "version": version(distribution)}
    return {"library": name or entry.distribution, "version": ""}


@lru_cache(maxsize=1)
def _providers() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()
