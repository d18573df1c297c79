"""Draws how the cost of a run grows: over layers, over examples and over workers."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_AXES = ("layers", "examples", "workers")
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "dense-conformance", "font.size": 8}


def growth(runs: Mapping[str, Any]) -> str:
    """Return an SVG picture of the runs that the parts ``growth`` and ``examples`` measured.

    Parameters
    ----------
    runs
        By name, such as ``"4 layers"``, with their ``seconds`` and ``computing``.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 2.4), layout="constrained", facecolor="white")
        for axes, over in zip(figure.subplots(1, 3), _AXES, strict=True):
            named = ((re.fullmatch(rf"(\d+) {over}", name), run) for name, run in runs.items())
            points = sorted((int(name[1]), run) for name, run in named if name)
            counts = [count for count, _ in points]
            for key, label in (("seconds", "seconds"), ("computing", "seconds of a core")):
                axes.plot(counts, [run[key] for _, run in points], "o-", ms=3, label=label)
            axes.set_xlabel("examples of each property" if over == "examples" else over)
            axes.set_xticks(counts)
            axes.set_ylim(bottom=0)
            axes.spines[["top", "right"]].set_visible(False)
        figure.axes[0].legend(frameon=False)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
