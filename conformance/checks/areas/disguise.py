"""Make a forked process look like another machine: clock, hostname, launcher, devices, user."""

from __future__ import annotations

import datetime
import functools
import os
import platform
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

# This shift of the clock changes year, month, weekday, hour, minute and second.
_LATER = datetime.timedelta(days=400, hours=5, minutes=17, seconds=23.4).total_seconds()
_NAME = "another-machine"
# The environment variables that launchers set for the second of two processes.
_LAUNCHER = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "PMI_RANK": "1",
    "NODE_RANK": "1",
    "GROUP_RANK": "1",
    "JAX_PROCESS_ID": "1",
    "PROCESS_ID": "1",
}
# The launcher of the first of two processes sets this to the devices that are there.
_DEVICES = {"CUDA_VISIBLE_DEVICES": "0", "ROCR_VISIBLE_DEVICES": "0"}
_PROCESSORS, _ONE_DEVICE = 3, 1
_VARIABLES = {
    "USER": "somebody",
    "LOGNAME": "somebody",
    "HOSTNAME": _NAME,
    "TZ": "Asia/Tokyo",
    "LANG": "tr_TR.UTF-8",
    "LANGUAGE": "tr",
}


class _Like(type):
    """A metaclass that accepts instances of the base class, so that real dates still count."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.__mro__[1])


class _Date(datetime.date, metaclass=_Like):
    @classmethod
    def today(cls) -> _Date:
        return cls.fromtimestamp(time.time())


class _Moment(datetime.datetime, metaclass=_Like):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> _Moment:
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def today(cls) -> _Moment:
        return cls.fromtimestamp(time.time())

    @classmethod
    def utcnow(cls) -> _Moment:
        return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)


def _of_now(function: Callable[..., Any], place: int) -> Callable[..., Any]:
    """Return a function of ``time`` whose argument ``place`` defaults to the shifted clock."""

    @functools.wraps(function)
    def changed(*arguments: Any) -> Any:
        if len(arguments) > place and arguments[place] is not None:
            return function(*arguments)
        now = time.time() if function.__name__ in ("gmtime", "localtime", "ctime") else None
        return function(*arguments[:place], time.localtime() if now is None else now)

    return changed


_SHIFT = SimpleNamespace(seconds=0.0)
"""How far the clock is shifted."""


def _clock() -> None:
    _SHIFT.seconds = _LATER
    now, in_nanoseconds = time.time, time.time_ns
    changed: dict[str, Callable[..., Any]] = {
        "time": lambda: now() + _SHIFT.seconds,
        "time_ns": lambda: in_nanoseconds() + int(_SHIFT.seconds * 10**9),
    }
    for name, place in (("gmtime", 0), ("localtime", 0), ("ctime", 0), ("asctime", 0)):
        changed[name] = _of_now(getattr(time, name), place)
    changed["strftime"] = _of_now(time.strftime, 1)
    for name, function in changed.items():
        setattr(time, name, function)
    datetime.date, datetime.datetime = _Date, _Moment  # type: ignore[misc]  # for who imports later


def moments() -> Iterator[None]:
    """Move a shifted clock on by steps that come to every third hour and every day of the week.

    A true clock is left alone, and gives no moments.
    """
    for _ in range(8) if _SHIFT.seconds else ():
        _SHIFT.seconds += datetime.timedelta(days=1, hours=3).total_seconds()
        yield


def _machine() -> None:
    if hasattr(os, "uname"):
        names = os.uname()
        renamed = os.uname_result((names.sysname, _NAME, *names[2:]))
        os.uname = lambda: renamed
    socket.gethostname = lambda: _NAME
    platform.node = lambda: _NAME


def _process() -> None:
    """Make this the second process of a computation, which must start from the same kernel."""
    import jax

    jax.process_index = lambda backend=None: 1


def _launcher() -> None:
    os.environ.update(_LAUNCHER)
    for name, value in _DEVICES.items():
        os.environ.setdefault(name, value)


def _devices() -> None:
    """Change the number of devices and processors, before XLA reads its flags."""
    count = "--xla_force_host_platform_device_count"
    kept = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(count)]
    os.environ["XLA_FLAGS"] = " ".join([*kept, f"{count}={_ONE_DEVICE}"])
    os.cpu_count = lambda: _PROCESSORS
    if hasattr(os, "sched_getaffinity"):
        os.sched_getaffinity = lambda pid: set(range(_PROCESSORS))  # as it is called


def _user() -> None:
    os.environ.update(_VARIABLES)
    if hasattr(time, "tzset"):
        time.tzset()


def _directory() -> None:
    other = tempfile.gettempdir()
    os.chdir(other if not os.path.samefile(other, os.getcwd()) else os.sep)


CHANGES = (
    "the clock",
    "the machine's name",
    "the index of the process",
    "the launcher's variables",
    "the number of devices and processors",
    "the user's environment",
    "the working directory",
)
"""The first five are made before the implementation is imported, the others afterwards, so that its
files and settings are found as usual."""

_MAKING = (_clock, _machine, _process, _launcher, _devices, _user, _directory)
_MADE = dict(zip(CHANGES, _MAKING, strict=True))
_BEFORE_IMPORT = CHANGES[:5]


def change(changes: Sequence[str]) -> None:
    """Make the changes that precede the import of the implementation."""
    for name in _BEFORE_IMPORT:
        if name in changes:
            _MADE[name]()


def settle(changes: Sequence[str]) -> None:
    """Make the changes that follow the import of the implementation."""
    for name in CHANGES:
        if name in changes and name not in _BEFORE_IMPORT:
            _MADE[name]()
