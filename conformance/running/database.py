"""The database of failing cases, kept between runs and shared between machines.

The backends are Hypothesis's own. Later runs with the same database try its cases first. Without
the setting nothing is kept, and runs are repeatable.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance.errors import UsageError

if TYPE_CHECKING:
    from hypothesis.database import ExampleDatabase

FORMS = "directory:PATH, readonly:PATH, redis:URL or default, several joined by commas"


def opened(spec: str) -> ExampleDatabase:
    """Return the database that a specification names.

    Parameters
    ----------
    spec
        ``directory:PATH``; ``readonly:PATH`` for a folder that others fill; ``redis:URL``, such as
        ``redis:redis://host:6379/0``; ``default`` for Hypothesis's own, which HypoFuzz uses;
        several of them, joined by commas, are used together.

    Raises
    ------
    UsageError
        If its form is unknown, or the database cannot be reached.
    """
    from hypothesis.database import MultiplexedDatabase

    parts = [_one(part.strip()) for part in spec.split(",")]
    return parts[0] if len(parts) == 1 else MultiplexedDatabase(*parts)


def _one(spec: str) -> ExampleDatabase:
    from hypothesis.database import (
        DirectoryBasedExampleDatabase,
        InMemoryExampleDatabase,
        ReadOnlyDatabase,
    )

    if spec == "default":
        from hypothesis import settings

        return settings.get_profile("default").database or InMemoryExampleDatabase()
    kind, _, place = spec.partition(":")
    if not place or kind not in ("directory", "readonly", "redis"):
        raise UsageError(f"the database {spec!r} has an unknown form; expected one of {FORMS}")
    if kind == "redis":
        return _redis(place)
    path = Path(place).expanduser()
    if kind == "directory":
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"the database {spec!r}: {error.strerror or error}") from None
        return DirectoryBasedExampleDatabase(path)
    if not path.is_dir():
        raise UsageError(f"the database {spec!r}: the directory {place!r} does not exist")
    return ReadOnlyDatabase(DirectoryBasedExampleDatabase(path))


def _redis(url: str) -> ExampleDatabase:
    try:
        import redis
        from hypothesis.extra.redis import RedisExampleDatabase
    except ImportError:
        raise UsageError(
            "a database in Redis needs the extra 'redis': pip install 'dense-conformance[redis]'"
        ) from None
    try:
        client: Any = redis.Redis.from_url(url)
        client.ping()
    except (redis.RedisError, ValueError) as error:
        raise UsageError(f"no Redis answers at {url!r}: {error}") from None
    return RedisExampleDatabase(client)


def key(requirement: str, implementation: str) -> bytes:
    """Return a cell's key in the database; it differs between implementations."""
    return hashlib.sha256(f"{requirement}\0{implementation}".encode()).digest()
