"""Failing cases that are kept between runs, in each of Hypothesis's backends."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis.database import (
    DirectoryBasedExampleDatabase,
    InMemoryExampleDatabase,
    MultiplexedDatabase,
    ReadOnlyDatabase,
)

from conformance.checks import profiles
from conformance.checks.cases import Case, over, settled
from conformance.errors import UsageError
from conformance.running.database import key, opened

_NEEDED = [
    *([] if shutil.which("redis-server") else ["redis-server on the path"]),
    *([] if importlib.util.find_spec("redis") else ["the extra 'redis'"]),
]
with_redis = pytest.mark.skipif(bool(_NEEDED), reason=f"needs {' and '.join(_NEEDED)}")


def test_a_specification_names_backends(tmp_path: Path) -> None:
    place = tmp_path / "kept"
    assert isinstance(opened(f"directory:{place}"), DirectoryBasedExampleDatabase)
    assert isinstance(opened(f"readonly:{place}"), ReadOnlyDatabase)
    assert isinstance(opened(f"directory:{place}, readonly:{place}"), MultiplexedDatabase)
    assert opened("default") is not None


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("here", "the database 'here' has an unknown form; expected one of directory:PATH"),
        ("directory:", "has an unknown form"),
        ("readonly:nowhere", "the directory 'nowhere' does not exist"),
        ("directory:/dev/null/x", "Not a directory"),
    ],
)
def test_another_specification_is_refused(spec: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refusal:
        opened(spec)
    assert "\n" not in str(refusal.value)


def test_without_a_database_runs_are_repeatable() -> None:
    assert profiles.Profile("x", (), 1).hypothesis().derandomize
    kept = profiles.Profile("x", (), 1, database=InMemoryExampleDatabase()).hypothesis()
    assert not kept.derandomize
    assert kept.database is not None


def test_implementations_do_not_share_a_key() -> None:
    assert len({key(r, i) for r in ("a/b", "c/d") for i in ("x:y", "z:y")}) == 4
    assert key("a/b", "x:y") == key("a/b", "x:y")


def tried_again(spec: str) -> bool:
    """Return whether a second run first tries a case that the first run kept."""
    rare: list[int] = []
    tried: list[list[int]] = []

    def check(layer: object, case: Case) -> None:
        tried[-1].append(case.seed)
        # Drawn cases only, without explicit examples.
        if case.seed > 1000 and (not rare or case.seed == rare[0]):
            rare.append(case.seed)
            raise AssertionError

    for _ in range(2):
        tried.append([])
        profile = replace(profiles.named("thorough", examples=200), database=opened(spec))
        test: Any = settled(over(sizes=[(3, 4)])(check), profile)
        test._hypothesis_internal_database_key = key("a/b", "x:y")
        with pytest.raises(AssertionError):
            test(layer=SimpleNamespace(remember=lambda _, make: make()))
    return rare[0] in tried[1][:5]


def test_a_directory_keeps_what_failed(tmp_path: Path) -> None:
    assert tried_again(f"directory:{tmp_path}")
    before = sorted(tmp_path.rglob("*"))
    opened(f"readonly:{tmp_path}").save(b"key", b"value")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """Start a Redis server for one test, and return its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert any("Ready to accept connections" in line for line in server.stdout)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.communicate()


@with_redis
def test_redis_keeps_what_failed(redis_url: str) -> None:
    assert tried_again(f"redis:{redis_url}")


@with_redis
def test_a_redis_that_does_not_answer_is_reported_at_once() -> None:
    with pytest.raises(UsageError, match=r"no Redis answers at 'redis://127\.0\.0\.1:1'"):
        opened("redis:redis://127.0.0.1:1")
