"""Recovers the results file from an HTML page."""

from __future__ import annotations

import json
import re
from pathlib import Path

from conformance.errors import ResultsError
from conformance.results.file import parse, text_of

ELEMENT = "results"


def embedded(found: object) -> str:
    """Return a document as JSON for a page, in which nothing can end the script element."""
    text = json.dumps(found, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def extract(page: Path) -> str:
    """Return the text of the results file that a page contains, the same to the byte.

    Raises
    ------
    ResultsError
        If the page cannot be read, has no results, or its results are not valid.
    """
    try:
        content = page.read_text(encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"{page}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ResultsError(
            f"{page}: is not a page of this suite, because it is not UTF-8"
        ) from None
    # No other element can be inside, see `embedded`; a page that was cut has no end of it.
    found = re.search(rf'<script [^>]*id="{ELEMENT}">([^<]+)', content)
    if found is None:
        raise ResultsError(f"{page}: holds no results; was it made by dense-conformance report?")
    try:
        text = text_of(json.loads(found[1]))
    except ValueError as error:
        raise ResultsError(f"{page}: the results in it are not JSON: {error}") from None
    parse(text, str(page))
    return text
