"""The compile cache: the same results with it, without it, and with corrupt entries."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conformance.jax_setup import compile_cache
from conformance.jax_setup.program_store import ProgramStore, prune
from conformance.selftest.processes import cells_in, python, started

COMMAND = [
    "-m", "conformance", "run", "nnx.Linear", "-n", "1",
    "--requirement", "seeding/fingerprint",
    "--requirement", "numerics/precision",
    "--requirement", "initialization/kernel-variance",
]  # fmt: skip
Normal = tuple[Path, list[dict[str, Any]]]
"""A cache that a run has filled, and the results of that run."""

FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))"


def start(cache: Path, results: Path, *options: str) -> subprocess.Popen[str]:
    """Start a run that keeps its programs in a folder."""
    arguments = (*COMMAND, "--results", str(results), *options)
    return started(results.parent, *arguments, XDG_CACHE_HOME=str(cache))


def found(run: subprocess.Popen[str], results: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the measurements of a run without seconds, and its standard error."""
    output, errors = run.communicate()
    assert run.returncode == 0, output + errors
    kept = [{k: v for k, v in cell.items() if k != "seconds"} for cell in cells_in(results)]
    return kept, errors


def ran(cache: Path, folder: Path, *options: str) -> tuple[list[dict[str, Any]], str]:
    """Return what :func:`found` gives for a run that keeps its programs in a folder."""
    return found(start(cache, folder / "r.json", *options), folder / "r.json")


def entries(cache: Path) -> list[Path]:
    """Return the files of the programs."""
    return sorted((cache / "dense-conformance" / "compiled").rglob("*.program"))


@pytest.fixture(scope="module")
def normal(tmp_path_factory: pytest.TempPathFactory) -> Normal:
    """Return a cache that a run has filled, and the results of that run."""
    folder = tmp_path_factory.mktemp("cold")
    cells, errors = ran(folder, folder)
    assert entries(folder)
    assert errors == ""
    assert any("fingerprint" in cell.get("measured", {}) for cell in cells)
    return folder, cells


def test_warm_is_as_cold(normal: Normal, tmp_path: Path) -> None:
    cache, cells = normal
    before = entries(cache)
    assert ran(cache, tmp_path) == (cells, "")
    assert entries(cache) == before


def test_off_is_as_cold(normal: Normal, tmp_path: Path) -> None:
    assert ran(tmp_path, tmp_path, "--no-compile-cache") == (normal[1], "")
    assert not (tmp_path / "dense-conformance" / "compiled").exists()


def test_a_cache_of_rubbish(normal: Normal, tmp_path: Path) -> None:
    cache, cells = normal
    generator = random.Random(0)
    paths = entries(cache)
    kept = [path.read_bytes() for path in paths]
    for i, (path, content) in enumerate(zip(paths, kept, strict=True)):
        half = content[: len(content) // 2]
        path.write_bytes((generator.randbytes(500), half, b"", kept[i - 1])[i % 4])
    (cache / "dense-conformance" / "compiled" / "no-program").write_bytes(b"\0" * 100)
    assert ran(cache, tmp_path) == (cells, "")
    assert entries(cache) == paths
    assert all(ProgramStore(path.parent).get(path.stem) is not None for path in paths)


def test_two_runs_at_once_share_one(normal: Normal, tmp_path: Path) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    runs = [start(tmp_path, path) for path in paths]
    for run, path in zip(runs, paths, strict=True):
        assert found(run, path) == (normal[1], "")
    assert not list(tmp_path.rglob(".new-*"))


def test_a_home_that_cannot_be_written(normal: Normal, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    cells, errors = ran(tmp_path / "home", tmp_path)
    assert cells == normal[1]
    assert errors.startswith("dense-conformance: compiled programs cannot be kept in ")
    assert len(errors.splitlines()) == 1


def test_a_store_gives_what_was_put(tmp_path: Path) -> None:
    store = ProgramStore(tmp_path)
    assert store.get("a") is None
    store.put("a", b"program")
    store.put("a", b"another")
    assert store.get("a") == b"another"
    assert store.get("b") is None


def test_a_store_on_a_full_disk(tmp_path: Path) -> None:
    code = (
        f"{FULL_DISK}; import sys; from pathlib import Path\n"
        "from conformance.jax_setup.program_store import ProgramStore\n"
        "store = ProgramStore(Path(sys.argv[1]))\n"
        "store.put('small', b'x'); store.put('large', b'x' * 100_000)\n"
        "assert store.get('small') == b'x' and store.get('large') is None\n"
    )
    done = python(tmp_path, "-c", code, str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["small.program"]


def test_a_store_whose_directory_is_gone(tmp_path: Path) -> None:
    store = ProgramStore(tmp_path / "gone")
    for _ in range(5):
        store.put("a", b"program")
    assert store.get("a") is None


def test_the_oldest_go_first(tmp_path: Path) -> None:
    for i in range(10):
        path = tmp_path / f"v{i % 2}" / f"{i}.program"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (i, i))
    assert prune(tmp_path, 450) == 400
    assert sorted(path.stem for path in tmp_path.rglob("*.program")) == ["6", "7", "8", "9"]
    assert prune(tmp_path / "nowhere", 1) == 0


def test_a_program_that_is_used_stays(tmp_path: Path) -> None:
    store = ProgramStore(tmp_path)
    for key in ("a", "b"):
        store.put(key, bytes(100))
        os.utime(tmp_path / f"{key}.program", (1, 1))
    store.get("a")
    prune(tmp_path, 150)
    assert store.get("a") is not None
    assert store.get("b") is None


def test_the_bound_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(compile_cache.SWITCH, raising=False)
    assert compile_cache.trouble() == ""
    folder = compile_cache.directory()
    for key in ("a", "b"):
        (folder / f"{key}.program").write_bytes(bytes(100))
    compile_cache.bound(150)
    assert len(entries(tmp_path)) == 1
    (folder / "c.program").write_bytes(bytes(100))
    compile_cache.bound(150)
    assert len(entries(tmp_path)) == 2
    os.utime(compile_cache.location() / ".bounded", (1, 1))
    compile_cache.bound(150)
    assert len(entries(tmp_path)) == 1


@pytest.mark.skipif(os.name != "posix", reason="about the rights of a POSIX file system")
def test_only_the_user_can_write_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled program is code, so a directory that others can write to is not used."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(compile_cache.SWITCH, raising=False)
    assert compile_cache.trouble() == ""
    folder = compile_cache.directory()
    for place in (folder, *folder.parents[:2]):
        assert place.stat().st_mode & 0o777 == 0o700
        place.chmod(0o777)
        assert "others can write to" in compile_cache.trouble()
        place.chmod(0o700)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert f"{folder} is a link" in compile_cache.trouble()
    folder.unlink()
    folder.mkdir(mode=0o700)
    others = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: others)
    assert "belongs to another user" in compile_cache.trouble()


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_links_and_the_files_of_others_are_left_alone(tmp_path: Path) -> None:
    store = ProgramStore(tmp_path)
    store.put("a", b"program")
    (tmp_path / "b.program").symlink_to(tmp_path / "a.program")
    assert store.get("b") is None
    (tmp_path / "notes.txt").write_bytes(bytes(100))
    assert prune(tmp_path, 0) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.program", "notes.txt"]


def test_a_relative_place_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compile_cache.SWITCH, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")
    assert str(compile_cache.location()) == "/home/somebody/.cache/dense-conformance/compiled"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user without a home
    assert not compile_cache.enabled()
    assert compile_cache.trouble() == ""


def test_versions_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    here = compile_cache.directory()
    monkeypatch.setattr(compile_cache, "version", lambda name: "99.0")
    assert compile_cache.directory() != here
    assert compile_cache.directory().parent == here.parent
