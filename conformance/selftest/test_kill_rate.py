"""The suite's own kill rate: kept for an environment, and absent in any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.zoo.kill_rate import remember, remembered, summarised

HERE = {"suite": "1.0", "python": "3.11.7", "jax": "0.10.2", "flax": "0.12.8", "seed": 3}
SELFTEST = {
    "kill_rate": {"killed": 1, "defects": 2},
    "judgements": [
        {"name": "N001", "breaks": "state/exact-state", "failed": ["state/exact-state"]},
        {"name": "N002", "breaks": "state/exact-state", "failed": []},
        {"name": "modules:Plain", "breaks": None, "failed": []},
    ],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_what_a_selftest_found_is_known_to_later_runs() -> None:
    """Whatever the seed of the run is."""
    kill = summarised(SELFTEST)
    assert [row["defect"] for row in kill["matrix"]] == ["N001", "N002"]
    assert remember(HERE, kill) is not None
    assert remembered({**HERE, "seed": 4}) == kill


def test_it_is_absent_in_another_environment() -> None:
    """No rate is better than that of other versions."""
    remember(HERE, summarised(SELFTEST))
    assert remembered({**HERE, "jax": "0.11.0"}) is None


def test_a_broken_file_is_as_good_as_none() -> None:
    """Also one that is JSON and no kill rate."""
    path = remember(HERE, summarised(SELFTEST))
    assert path is not None
    for text in ("{", "{}", "[1]"):
        path.write_text(text, encoding="utf-8")
        assert remembered(HERE) is None


def test_it_is_not_kept_where_nothing_can_be_written(cache: Path) -> None:
    """A run is as good without it."""
    (cache / "dense-conformance").write_text("a file", encoding="utf-8")
    assert remember(HERE, summarised(SELFTEST)) is None
    assert remembered(HERE) is None


def test_what_is_no_selftest_is_refused() -> None:
    """With what is missing."""
    with pytest.raises(ValueError, match="kill_rate"):
        summarised({})
