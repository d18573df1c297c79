"""Modes run the same suite under another configuration of JAX, each a named environment.

A mode is a set of environment variables that is set before JAX is imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from conformance.errors import UsageError

VARIABLE = "CONFORMANCE_MODE"
"""The environment variable with the name of the run's mode, which the results file shows."""


@dataclass(frozen=True)
class Mode:
    """A configuration of JAX.

    Parameters
    ----------
    name
        The name of the environment.
    meaning
        How it differs from the default, for ``--help``.
    settings
        The environment variables to set.
    devices
        How many devices the CPU shows; None leaves the devices as they are.
    """

    name: str
    meaning: str
    settings: Mapping[str, str] = field(default_factory=dict)
    devices: int | None = None


_DEVICES = "--xla_force_host_platform_device_count"

MODES = {
    mode.name: mode
    for mode in (
        Mode("default", "nothing changed"),
        Mode("x64", "64-bit types", {"JAX_ENABLE_X64": "1"}),
        Mode("threefry-legacy", "the bits of JAX before 0.5", {"JAX_THREEFRY_PARTITIONABLE": "0"}),
        Mode("rbg", "the hardware's random generator", {"JAX_DEFAULT_PRNG_IMPL": "rbg"}),
        Mode(
            "matmul-bfloat16",
            "products of float32 may be taken in bfloat16",
            {"JAX_DEFAULT_MATMUL_PRECISION": "bfloat16"},
        ),
        Mode(
            "matmul-highest",
            "products of float32 are taken in float32",
            {"JAX_DEFAULT_MATMUL_PRECISION": "highest"},
        ),
        Mode(
            "rank-promotion",
            "adding arrays of different rank raises",
            {"JAX_NUMPY_RANK_PROMOTION": "raise"},
        ),
        Mode("debug-nans", "a NaN raises where it arises", {"JAX_DEBUG_NANS": "1"}),
        Mode("one-device", "a single CPU device", devices=1),
        Mode("eight-devices", "eight CPU devices", devices=8),
    )
}


def chosen_modes(names: Sequence[str]) -> tuple[Mode, ...]:
    """Return the modes of these names, each once; ``all`` is every mode, the default first.

    Raises
    ------
    UsageError
        If a name is not the name of a mode.
    """
    wanted = [known for name in names for known in (MODES if name == "all" else (name,))]
    for name in wanted:
        if name not in MODES:
            raise UsageError(f"there is no mode {name!r}; the modes are {', '.join(MODES)} and all")
    return tuple(MODES[name] for name in dict.fromkeys(wanted))


def variables(mode: Mode) -> dict[str, str]:
    """Return the mode's environment variables; a flag of XLA is added to the user's flags."""
    found = {VARIABLE: mode.name, **mode.settings}
    if mode.devices is not None:
        kept = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(_DEVICES)]
        found["JAX_PLATFORMS"] = "cpu"
        found["XLA_FLAGS"] = " ".join([*kept, f"{_DEVICES}={mode.devices}"])
    return found


def active() -> str:
    """Return the name of the active mode; empty if none was asked for."""
    return os.environ.get(VARIABLE, "")


def under_mode(script: str) -> str:
    """Return the script of a failure, which sets the active mode before its imports."""
    mode = MODES.get(active())
    found = {k: v for k, v in variables(mode).items() if k != VARIABLE} if mode else {}
    if not script or not found:
        return script
    title, end, rest = script.partition('\n"""\n')
    return f"{title}{end}\nimport os\n\nos.environ.update({found!r})\n{rest}"
