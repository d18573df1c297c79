"""Randomly mutated results files give one line and exit code 2, or a report."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.cli.main import main
from conformance.results.file import text_of
from conformance.selftest.pages import Page, needs_extra
from conformance.selftest.synthetic import places, put, results

HOSTILE: tuple[Any, ...] = (
    10**400,
    -1,
    1e300,
    1e-320,
    "",
    "\x1b[2J\x9b\u202e",
    "<img src=x onerror=alert(1)>",
    "\n\n# heading\n::error::x",
    None,
    True,
    [],
    {},
    [[[]]],
    "x" * 5000,
    "1/x",
    "passed",
    "MAY",
    [1e308, -1e308],
)


def mutated(count: int, seed: int) -> Iterator[str]:
    """Draw the text of a results file with one value changed."""
    generator = random.Random(seed)
    whole = results(2, 12, wrong=0.6, seed=seed, plots=True)
    known = list(places(whole))
    for _ in range(count):
        found = put(whole, generator.choice(known), generator.choice(HOSTILE))
        yield json.dumps(found, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["markdown", "junit", "github", "badge-svg"])
def test_no_mutation_gets_through(
    form: str, count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value is rejected in one line, or shown without control characters."""
    path, good = tmp_path / "x.json", tmp_path / "good.json"
    good.write_text(text_of(results(2, 12, wrong=0.3)), encoding="utf-8")
    for text in mutated(count, seed=3):
        path.write_text(text, encoding="utf-8")
        for arguments in (
            ["report", str(path), "--format", form],
            ["diff", str(good), str(path)],
            ["expect", str(path)],
        ):
            code = main(arguments)
            said = capsys.readouterr()
            assert code in (0, 1, 2)
            assert not {"\x1b", "\x9b", "\u202e"} & set(said.out + said.err)
            assert said.err.count("\n") <= 1


def test_no_mutation_adds_an_element_to_the_page(tmp_path: Path) -> None:
    needs_extra()
    path, page = tmp_path / "x.json", tmp_path / "x.html"
    for text in mutated(12, seed=4):
        path.write_text(text, encoding="utf-8")
        if main(["report", str(path), "-o", str(page)]) == 0:
            assert "img" not in {tag for tag, _, _ in Page(page.read_text()).elements}
