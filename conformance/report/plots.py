"""Draws plots as SVG in the colours of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from conformance.report.view import View
from conformance.results.cell import Cell
from conformance.results.file import Results
from conformance.results.outcome import Outcome

# Unique colours, which the page's replace, so that a plot is light or dark like the page.
_FG, _MUTED, _GRID, _OK, _BAD, _BAND, _KNOWN = (f"#0{i}0{i}0{i}" for i in range(1, 8))
_VARIABLES = {
    _FG: "--fg",
    _MUTED: "--muted",
    _GRID: "--grid",
    _OK: "--ok",
    _BAD: "--bad",
    _BAND: "--band",
    _KNOWN: "--known",
}

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dense-conformance",
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _FG,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "text.color": _FG,
    "xtick.labelcolor": _FG,
    "ytick.labelcolor": _FG,
    # The grid already marks the ticks.
    "xtick.bottom": False,
    "ytick.left": False,
    # A dollar sign in the name of a layer must not start a formula.
    "text.parse_math": False,
}

# A page shows at most this many pictures of a kind; the results file has all data.
_MOST = 36


# Draws into the axes, and returns the caption.
Fill = Callable[[Axes], str]


_LEAST_RATIO = 1e-4


@dataclass(frozen=True)
class Picture:
    """An SVG element with its caption."""

    svg: Markup
    caption: str


def draw(runs: Sequence[Results], view: View) -> list[tuple[str, str, list[Picture]]]:
    """Return heading, explanation and pictures of each kind of plot that has data."""
    pictures = _Pictures(runs, view)
    kinds: tuple[tuple[str, str, Sequence[Fill]], ...] = (
        (
            "Kernel against the declared law",
            "Entries of new kernels in units of the declared standard deviation. "
            "The line is the law; the outer bins also count all values beyond them. Red: a "
            "requirement on the initialization fails.",
            pictures.histograms(),
        ),
        (
            "Variance against fan_in",
            "Measured variance / declared variance; the band is what is accepted. "
            "A point outside it is red.",
            pictures.variances(),
        ),
        (
            "Rounding error against its bound",
            "The largest error / bound at each in_features, a line for each implementation; "
            "above 1 it is wrong, and red. Exact results are drawn at 0.0001.",
            pictures.errors(),
        ),
    )
    return [
        (
            heading,
            f"{said} {_left_out(fills)}".strip(),
            [pictures.draw(fill) for fill in fills[:_MOST]],
        )
        for heading, said, fills in kinds
        if fills
    ]


def _left_out(found: Sequence[object]) -> str:
    left = len(found) - _MOST
    return f"{left} more are in the results file." if left > 0 else ""


class _Pictures:
    def __init__(self, runs: Sequence[Results], view: View) -> None:
        self.runs = runs
        self.view = view
        self.count = 0

    def _data(self, kind: str) -> Iterator[tuple[str, Cell, dict[str, Any]]]:
        for title, run in zip(self.view.titles, self.runs, strict=True):
            for cell in run.verdict.cells:
                for plot in cell.plots:
                    if plot["kind"] == kind and all(plot.values()):
                        yield self._name(title, cell), cell, plot

    def _name(self, title: str, cell: Cell) -> str:
        name = self.view.label(cell.implementation)
        return f"{name}, {title}" if self.view.several else name

    def draw(self, fill: Fill) -> Picture:
        """Draw one picture; ``fill`` returns its caption."""
        self.count += 1
        with matplotlib.rc_context(_STYLE):
            # Matplotlib measures with another font than the page's, hence the margins.
            layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
            figure = Figure(figsize=(2.9, 2.0), layout=layout)
            axes = figure.add_subplot()
            caption = fill(axes)
            stream = io.StringIO()
            figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
        svg = _for_page(stream.getvalue(), f"plot{self.count}", caption)
        return Picture(svg, caption)

    def histograms(self) -> list[Fill]:
        """Return a picture of the counts and the expected law for each kernel."""
        wrong = {
            self._name(title, cell)
            for title, run in zip(self.view.titles, self.runs, strict=True)
            for cell in run.verdict.cells
            if cell.requirement.startswith("initialization/") and cell.outcome == Outcome.FAILED
        }
        return [
            partial(_histogram, name=name, cell=cell, plot=plot, wrong=name in wrong)
            for name, cell, plot in self._data("kernel-histogram")
        ]

    def variances(self) -> list[Fill]:
        """Return pictures of measured / declared variances, with the accepted band."""
        return [
            partial(_variance, name=name, cell=cell, plot=plot)
            for name, cell, plot in self._data("kernel-variance")
        ]

    def errors(self) -> list[Fill]:
        """Return one picture for each requirement, with all implementations."""
        by_row: dict[str, list[tuple[str, Cell, dict[str, Any]]]] = {}
        for found in self._data("error-over-bound"):
            by_row.setdefault(found[1].requirement, []).append(found)
        # A plot needs at least three sizes.
        drawn = {
            row: lines
            for row, lines in by_row.items()
            if any(len(plot["in_features"]) > 2 for _, _, plot in lines)
        }
        every = [n for _, _, plot in chain(*drawn.values()) for n in plot["in_features"]]
        largest = max(every, default=1)
        return [
            partial(_errors, row=row, lines=lines, largest=largest) for row, lines in drawn.items()
        ]


def _histogram(axes: Axes, name: str, cell: Cell, plot: dict[str, Any], wrong: bool) -> str:
    edges, counts, expected = plot["edges"], plot["counts"], plot["expected"]
    axes.stairs(counts, edges, fill=True, color=_BAD if wrong else _BAND)
    axes.stairs(expected, edges, color=_FG, linewidth=1.0)
    axes.set_xlabel("K / declared standard deviation")
    axes.set_yticks([])
    axes.grid(visible=False)
    total = f"{sum(counts):,.0f}".replace(",", " ")
    return f"{name}: {total} weights against the law {plot['law']} ({cell.requirement})"


def _variance(axes: Axes, name: str, cell: Cell, plot: dict[str, Any]) -> str:
    sizes, values = plot["fan_in"], plot["value"]
    low, high = plot["low"], plot["high"]
    outside = [not a <= v <= b for v, a, b in zip(values, low, high, strict=True)]
    axes.fill_between(sizes, low, high, color=_BAND, linewidth=0)
    axes.axhline(1.0, color=_MUTED, linewidth=0.8)
    for wrong, colour, marker in ((False, _OK, "o"), (True, _BAD, "X")):
        chosen = [i for i, is_wrong in enumerate(outside) if is_wrong == wrong]
        axes.plot(
            [sizes[i] for i in chosen],
            [values[i] for i in chosen],
            color=colour,
            marker=marker,
            markersize=4,
            linestyle="none",
        )
    _logarithmic(axes.xaxis, base=2)
    axes.set_xlabel("fan_in")
    if all(v > 0 for v in values) and max(values) / min(values) > 4:
        _logarithmic(axes.yaxis, base=10)
    places = ", ".join(f"{n:g}" for n, wrong in zip(sizes, outside, strict=True) if wrong)
    said = f"outside at fan_in {places}" if places else "all inside the band"
    return f"{name}: {min(values):.4g} to {max(values):.4g}, {said} ({cell.requirement})"


def _logarithmic(axis: Axis, base: int) -> None:
    """Make an axis logarithmic, with plain numbers as labels: 64 and 0.01, not powers."""
    scale = axis.axes.set_xscale if axis is axis.axes.xaxis else axis.axes.set_yscale
    scale("log", base=base)
    axis.set_major_locator(LogLocator(base=base, numticks=6))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _errors(
    axes: Axes, row: str, lines: Sequence[tuple[str, Cell, dict[str, Any]]], largest: float
) -> str:
    worst: tuple[float, float, str] = (0.0, 1.0, "")
    wrong: list[str] = []
    for name, _, plot in lines:
        sizes, ratios = plot["in_features"], plot["ratio"]
        highest = max(zip(ratios, sizes, strict=True), default=(0.0, 1.0))
        worst = max(worst, (*highest, name))
        if highest[0] > 1.0:
            wrong.append(name)
        axes.plot(
            sizes,
            # A logarithmic scale has no zero, so an exact result is drawn at the lower edge.
            [max(ratio, _LEAST_RATIO) for ratio in ratios],
            color=_BAD if highest[0] > 1.0 else _MUTED,
            marker="X" if highest[0] > 1.0 else ".",
            linewidth=1,
            alpha=0.8,
        )
    axes.axhline(1.0, color=_BAD, linewidth=1, linestyle="--")
    _logarithmic(axes.xaxis, base=2)
    _logarithmic(axes.yaxis, base=10)
    # Every picture has the same scales, so that they can be compared.
    axes.set_xlim(0.8, 1.25 * largest)
    axes.set_ylim(_LEAST_RATIO / 2, max(3.0, 3.0 * worst[0]))
    axes.set_xlabel("in_features")
    if wrong:
        return f"{row}: beyond the bound for {', '.join(wrong)}; at most {worst[0]:.3g} times it"
    return f"{row}: at most {worst[0]:.2g} of the bound, {worst[2]} at in_features {worst[1]:g}"


def _for_page(svg: str, prefix: str, caption: str) -> Markup:
    """Fit an SVG document into a page: the page's colours, unique ids, no links, no metadata."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"<svg [^>]*viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1">', svg, count=1)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    # The page's own font, and tenths of a point.
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d)\d+", r"\1", tag[0]), svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    opening = Markup('<svg role="img" aria-label="{}" ').format(caption)
    # Matplotlib escapes the texts that it draws.
    return opening + Markup(svg.removeprefix("<svg ").rstrip())
