"""Writes failures: the first of each layer in full, on a terminal the others in two lines.

So several faults of one layer fit on a screen, and the first one is to be fixed first.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from conformance.errors import printable
from conformance.report.tally import look_of
from conformance.results.cell import Cell
from conformance.results.failure import described, word

NARROWEST = 40
"""The minimum width to which lines are wrapped, in columns."""


def write_lines(console: Console, lines: Iterable[tuple[str, str]], wide: int = 10) -> None:
    """Write labelled lines, wrapped beside their labels; a command stays on one line."""
    for label, text in lines:
        indent = f"  {label:{wide}}" if label else "  "
        source: list[str] = []
        if label == "why":
            # Carets mark a column of the layer's source line.
            text, *source = text.splitlines() or [""]
        wrapped = textwrap.wrap(
            printable(text),
            # One line, so that users can copy it.
            10_000 if label == "reproduce" else max(console.width, NARROWEST),
            initial_indent=indent,
            subsequent_indent=" " * len(indent),
            break_long_words=False,
            break_on_hyphens=False,
        )
        wrapped += [printable(" " * len(indent) + line) for line in source]
        console.print(Text("\n".join(wrapped), style="" if label else "italic"), soft_wrap=True)


def write_head(
    console: Console, cell: Cell, title: str, *, strict: bool = False, more: str = ""
) -> None:
    """Write the line with the requirement and the layer; ``more`` is appended."""
    look = look_of(cell, strict=strict)
    head = Text(f"{word(cell, strict=strict).upper():8}", style=look.style)
    head.append(f"  {cell.requirement}", style="bold")
    head.append(f"   {printable(title)}   {cell.level}{more}")
    console.print(head, soft_wrap=True)


def write_failure(
    console: Console,
    cell: Cell,
    title: str,
    statement: str,
    *,
    blocked: int = 0,
    strict: bool = False,
    notes: bool = True,
) -> None:
    """Write one failure: the layer, the cause, the numbers, the smallest case, the command.

    ``title`` is the name of the implementation, ``statement`` the text of the requirement, and
    ``blocked`` the number of requirements that could not be checked because of it. With
    ``strict`` a SHOULD counts as a failure; ``notes`` adds the remarks of the check.
    """
    write_head(console, cell, title, strict=strict)
    lines = described(cell, statement, blocked)
    write_lines(console, [line for line in lines if notes or line[0] != "note"])


@dataclass(eq=False)
class Failures:
    """Writes each failure once, and in full only the first of its layer.

    Parameters
    ----------
    console
        Where to.
    strict
        Whether a SHOULD counts as a failure.
    whole
        Whether to write all of them in full.

    Attributes
    ----------
    begun
        The implementations that had a failure written.
    """

    console: Console
    strict: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        self.begun: set[str] = set()
        self._causes: dict[tuple[str, str], str] = {}

    def seen(self, cell: Cell) -> str:
        """Return the requirement of an earlier failure of the same cause, and record this one."""
        return self._causes.setdefault((cell.implementation, cell.cause), cell.requirement)

    def write(self, cell: Cell, title: str, statement: str, *, blocked: int = 0) -> None:
        """Write a failure; the arguments are those of :func:`write_failure`."""
        begun, first = cell.implementation in self.begun, self.seen(cell)
        self.begun.add(cell.implementation)
        if self.whole or not begun:
            self.console.print()
            write_failure(
                self.console,
                cell,
                title,
                statement,
                blocked=blocked,
                strict=self.strict,
                notes=self.whole,
            )
            return
        write_head(self.console, cell, title, strict=self.strict)
        same = f"that of {first}" if cell.cause and first != cell.requirement else ""
        lines = [(label, text) for label, text in described(cell) if label in _BY_PREFERENCE]
        label, text = ("cause", same) if same else lines[0] if lines else ("", statement)
        self._write_line(label, text)

    def _write_line(self, label: str, text: str) -> None:
        if self.console.is_terminal:  # a file or another program gets the whole text
            longest = max(self.console.width, NARROWEST) - len(f"  {label:10}")
            text = textwrap.shorten(text, longest, placeholder=" ...")
        write_lines(self.console, [(label, text)])


_BY_PREFERENCE = ("cause", "found", "why")
"""The fields that describe a failure best, in order of preference."""
