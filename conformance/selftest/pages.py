"""Pages for the tests, and their elements."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest

from conformance.results.file import Results, collection, parse, text_of

Document = dict[str, Any]

NEWER: dict[str, Any] = {"jax": "0.12.0.1", "flax": "0.12.12"}


def loaded(*found: Document) -> tuple[Results, ...]:
    """Return the results as if they were read from a file."""
    return parse(text_of(collection(found)), "x.json")


def needs_extra() -> None:
    """Skip the test if the extra ``report`` is not installed."""
    for module in ("jinja2", "matplotlib"):
        pytest.importorskip(module, reason="the page needs dense-conformance[report]")


def page_of(*found: Document) -> str:
    """Return the page of some results."""
    needs_extra()
    from conformance.report.html import page

    return page(loaded(*found))


class Page(HTMLParser):
    """The elements of a page, with tag, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element."""
        self.elements.append((tag, dict(attrs), []))
        if tag not in ("meta", "br", "wbr", "link"):
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        """Close the last element, which must have that tag."""
        assert self.elements[self._open[-1]][0] == tag, "elements are nested"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        """Add the text to every open element."""
        for i in self._open:
            self.elements[i][2].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        """Return attributes and text of the elements with a tag."""
        return [(a, " ".join("".join(t).split())) for name, a, t in self.elements if name == tag]

    def ids(self) -> dict[str, tuple[dict[str, str | None], str]]:
        """Return the elements that have an id."""
        found = [(a["id"], (a, "".join(t).strip())) for _, a, t in self.elements if "id" in a]
        assert not [id for id, n in Counter(id for id, _ in found).items() if n > 1]
        return {id: element for id, element in found if id}
