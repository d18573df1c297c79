"""A badge with the number of MUST requirements that hold, never rounded."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from itertools import chain

from conformance.contract.requirement import MUST, SHOULD
from conformance.results.decision import NONCONFORMING, Word, overall_word, tally
from conformance.results.file import Results

LABEL = "dense conformance"

_COLOUR = {
    "brightgreen": "#2f7d1c",
    "yellow": "#8a6d00",
    "orange": "#b35309",
    "red": "#b42318",
    "lightgrey": "#6b7280",
}

# The advance widths of Verdana at 11 pixels, the usual font of badges; textLength enforces them for
# other fonts.
_NARROW, _WIDE, _USUAL = 4.1, 9.6, 7.0


def message(runs: Sequence[Results]) -> str:
    """Return the text of the badge: ``MUST 58/58``, or why it shows no count.

    The text counts the SHOULD requirements if some of them do not hold.
    """
    cells = list(chain.from_iterable(run.verdict.own for run in runs))
    must, should = tally(cells, MUST), tally(cells, SHOULD)
    parts = [f"MUST {must}"] if must.total else []
    parts += [f"SHOULD {should}"] if should.total and not (should.full and parts) else []
    word = overall_word(run.verdict.decision for run in runs)
    # A run may fail to conform although the two numbers are equal.
    decided = word in (Word.CONFORMS, Word.DOES_NOT_CONFORM) and parts
    return ", ".join(parts if decided else [str(word), *parts])


def _colour(runs: Sequence[Results]) -> str:
    word = overall_word(run.verdict.decision for run in runs)
    if word.exit_code == NONCONFORMING:
        return "red"
    if word == Word.NOTHING:
        return "lightgrey"
    if word != Word.CONFORMS:
        return "orange"
    # Green only if the two numbers are equal: an expected failure is not a pass.
    must = tally(chain.from_iterable(run.verdict.own for run in runs), MUST)
    return "brightgreen" if must.full or not must.total else "yellow"


def endpoint(runs: Sequence[Results]) -> str:
    """Return the JSON that shields.io's endpoint badge reads (schema version 1)."""
    found = {"schemaVersion": 1, "label": LABEL, "message": message(runs), "color": _colour(runs)}
    return json.dumps(found, indent=1) + "\n"


def svg(runs: Sequence[Results]) -> str:
    """Return the badge as a picture that loads nothing."""
    said = message(runs)
    left, right = _width(LABEL), _width(said)
    total = left + right
    title = html.escape(f"{LABEL}: {said}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="20" role="img" '
        f'aria-label="{title}">\n'
        f"<title>{title}</title>\n"
        f'<clipPath id="r"><rect width="{total}" height="20" rx="3"/></clipPath>\n'
        f'<g clip-path="url(#r)"><rect width="{left}" height="20" fill="#444"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{_COLOUR[_colour(runs)]}"/></g>\n'
        f'<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">\n'
        f"{_text(LABEL, 0, left)}{_text(said, left, right)}</g>\n</svg>\n"
    )


def _text(text: str, start: int, width: int) -> str:
    return f'<text x="{start + 6}" y="14" textLength="{width - 12}">{html.escape(text)}</text>\n'


def _width(text: str) -> int:
    widths = (
        _NARROW if letter in " ,/.:il1" else _WIDE if letter in "MWmw" else _USUAL
        for letter in text
    )
    return round(sum(widths)) + 12
