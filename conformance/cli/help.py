"""``dense-conformance help``: prints the pages of the documentation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.resources import files

from conformance.errors import UsageError, did_you_mean


def topics() -> dict[str, str]:
    """Return the title of each page, by topic."""
    found = {}
    for page in files("conformance").joinpath("docs").iterdir():
        if page.name.endswith(".md"):
            first = page.read_text(encoding="utf-8").partition("\n")[0]
            found[page.name.removesuffix(".md")] = first.removeprefix("# ")
    return dict(sorted(found.items()))


def help_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    parser.add_argument(
        "topic", nargs="?", metavar="TOPIC", help="the page to show (default: list the topics)"
    )


def show_help(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Print a page of the documentation, or the list of pages; return 0.

    Raises
    ------
    UsageError
        If the page does not exist.
    """
    known = topics()
    if options.topic is None:
        width = max(map(len, known))
        print("dense-conformance help TOPIC shows a page:\n")
        print("\n".join(f"  {topic:{width}}  {title}" for topic, title in known.items()))
        return 0
    if options.topic not in known:
        hint = did_you_mean(options.topic, known, f"topics are {', '.join(known)}", repr)
        raise UsageError(f"{options.topic!r} is not a page; {hint}")
    page = files("conformance").joinpath("docs", f"{options.topic}.md")
    text = page.read_text(encoding="utf-8")
    if not sys.stdout.isatty():
        print(text, end="")
        return 0
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))
    return 0
