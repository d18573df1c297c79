"""The suite's own texts keep to plain English."""

from __future__ import annotations

import ast
import io
import re
import tokenize
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
    for pattern in (
        *("README.md", "tox.ini", "pyproject.toml", ".ci/gpu", ".ci/run"),
        *("conformance/**/*.md", "conformance/*.toml", ".github/**/*.md", ".github/**/*.yml"),
    )
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
    r"whatever": "any, independent of",
    r"since that": "because",
    r"(?:MUST|SHOULD|MAY) rows?": "a requirement",
    r"anew\b": "again, a new",
    r"in force": "active, set",
    r"on (?:its|their) way": "before, or nothing",
    r"held to\b": "checked against",
    r"singles? out\b": "the evidence excludes the others",
    r"for ever\b": "forever",
    r"(?:is|are) meant": "names, intends",
    r"(?:no|some)body": "a user, another user",
    r"zoo animal|\bteeth": "a layer of the zoo",
    r"what is not .{1,40} is\b": "subject, verb, object",
}
PATTERN = re.compile("|".join(rf"\b(?:{habit})" for habit in HABITS), re.IGNORECASE)
# A docstring that opens like this continues its function's name.
OPENINGS = re.compile(r"(?:Of|Also|As|Whether|Which|Where|Why|What|That|Not|And|But)\b")
# Another user's name, which the suite gives to a forked process.
EXCEPTIONS = {"somebody"}


def texts(path: Path) -> Iterator[str]:
    """Yield the texts of a file: a whole page, or each string and comment of code, on one line."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield " ".join(source.split())
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield " ".join(node.value.split())
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


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
    found = [
        f"{path.relative_to(ROOT)}: ...{place}..."
        for path in (*CODE, *PAGES)
        for text in texts(path)
        if text not in EXCEPTIONS
        for place in stumbles(text)
    ]
    assert not found, "\n".join(found)


def test_docstrings_are_whole_sentences() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {node.name}: {text}"
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and OPENINGS.match(text := ast.get_docstring(node) or "")
        and not node.name.startswith("test_")
    ]
    assert not found, "\n".join(found)
