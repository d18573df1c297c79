"""The HTML page: one file that works without scripts and network, made from results files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup, escape

from conformance.report.extract import ELEMENT, embedded
from conformance.report.view import View
from conformance.results.file import Results, collection, document

if TYPE_CHECKING:
    from conformance.report.plots import Picture

_FEW = 3
"""With more environments than this, only the newest one's plots are drawn."""


def page(runs: Sequence[Results], missing: Sequence[str] = ()) -> str:
    """Return the page of one run, or of one run for each environment.

    ``missing`` has a line for each expected environment that is missing.

    Raises
    ------
    ModuleNotFoundError
        If there is data to plot, and Matplotlib is not installed.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("conformance.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    environment.filters["breakable"] = _breakable
    found = collection([document(run) for run in runs])
    view = View(runs, missing)
    plotted = view if len(runs) <= _FEW else View([runs[view.summary.reference]])
    return environment.get_template("page.html.j2").render(
        view=view,
        plots=_plots(plotted),
        plots_of="" if plotted is view else view.titles[view.summary.reference],
        element=ELEMENT,
        # Already escaped, so that nothing can end the element.
        results=Markup(embedded(found)),
    )


def _prose(text: str) -> Markup:
    """Return a docstring's text, in which double backticks mark code."""
    parts = re.split(r"``(.+?)``", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part)
        for i, part in enumerate(parts)
    )


def _breakable(name: str) -> Markup:
    """Return a name such as ``package.module:Layer`` that may break after its punctuation."""
    return Markup("<wbr>").join(re.split(r"(?<=[.:/])(?=[^.:/\d])", name))


def _plots(view: View) -> list[tuple[str, str, list[Picture]]]:
    """Return the plots; Matplotlib takes seconds to import, so only if there is data."""
    runs = view.runs
    if not any(cell.plots for run in runs for cell in run.verdict.cells):
        return []
    from conformance.report.plots import draw

    return draw(runs, view)
