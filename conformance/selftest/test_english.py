"""The suite's own texts keep to plain English."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = [
    path
    for folder in ("conformance", "implementations")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "selftest" not in path.parts
]
PAGES = [
    path
    for pattern in ("README.md", "conformance/**/*.md", "conformance/**/*.html", ".github/**/*.md")
    for path in sorted(ROOT.glob(pattern))
]

# What a reader stumbles over, with what to write instead.
HABITS = {
    r"told": "reported, shown, given",
    r"the matter of": "X covers this",
    r"(?<!there )(?:is|are) no (?!longer|more\b)\w+": "is not a",
    r"(?:is|are) (?-i:none)\b(?! of)": "is not a, has none",
    r"of which": "a sentence with its own subject",
    r"has it that": "says that",
    r"(?:to|can|cannot) be had": "available",
    r"nothing but": "only",
    r"there is nothing": "a subject and a verb",
    r"has no need": "does not need",
    r"for want of": "without",
    r"but for(?! the)": "except",
    r"whoever": "a user who",
    r"held against": "compared with",
    r"whatever \w+ is": "independent of",
    r"since that": "because",
    r"zoo animal|\bteeth": "a layer of the zoo",
    r"what is not .{1,40} is\b": "subject, verb, object",
}
PATTERN = re.compile("|".join(rf"\b(?:{habit})" for habit in HABITS), re.IGNORECASE)


def texts(path: Path) -> Iterator[str]:
    """Yield the texts of a file on one line each: a whole page, or each string of code."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield " ".join(source.split())
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield " ".join(node.value.split())


def stumbles(text: str) -> Iterator[str]:
    """Yield each place of a text with such a word, and the text around it."""
    for found in PATTERN.finditer(text):
        yield text[max(0, found.start() - 60) : found.end() + 40]


@pytest.mark.parametrize(
    "words", ["It is told there.", "This is no module.", "What is not x is y."]
)
def test_a_habit_is_found(words: str) -> None:
    assert list(stumbles(words)) == [words]


@pytest.mark.parametrize("words", ["It is no longer so.", "There is no file.", "It has none."])
def test_plain_words_are_left_alone(words: str) -> None:
    assert not list(stumbles(words))


def test_texts_are_in_plain_english() -> None:
    """Messages, help, requirements, docstrings and pages have none of these habits."""
    found = [
        f"{path.relative_to(ROOT)}: ...{place}..."
        for path in (*CODE, *PAGES)
        for text in texts(path)
        for place in stumbles(text)
    ]
    assert not found, "\n".join(found)
