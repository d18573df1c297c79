"""``dense-conformance grade``: a solution of the exercise, judged by the pitfalls it teaches."""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from conformance.errors import UsageError
from conformance.report.terminal import case_in_words, console_for
from conformance.results.cell import Cell, Outcome
from conformance.results.verdict import INCOMPLETE, NONCONFORMING, OK, Verdict
from conformance.running.pytest_call import run_quietly

__all__ = ["NAMES", "PITFALLS", "Pitfall", "fallen_into", "grade", "names_in", "write_grade"]

NAMES = ("MyDense", "dense_forward")
"""What a solution defines: either, or both."""

_BROKEN = (Outcome.FAILED, Outcome.CRASHED, Outcome.TIMED_OUT)
_OPEN = (Outcome.BLOCKED, Outcome.ERROR, Outcome.NOT_RUN)


@dataclass(frozen=True)
class Pitfall:
    """One of the exercise's pitfalls.

    Parameters
    ----------
    name
        What it is called.
    shows_in
        The requirements that a solution which falls into it breaks.
    is_it
        Whether a broken cell of these is broken for this reason.
    hint
        What to think about; it does not say what to write.
    """

    name: str
    shows_in: tuple[str, ...]
    is_it: Callable[[Cell], bool]
    hint: str


def _told(cell: Cell) -> str:
    return f"{cell.cause} {cell.message}".lower()


def _unregistered(cell: Cell) -> bool:
    return any(words in _told(cell) for words in ("raw array", "nnx.param", "static", "numpy"))


def _scale(cell: Cell) -> bool:
    if cell.requirement == "initialization/kernel-variance":
        return True
    return any(
        words in _told(cell) for words in ("scale", "variance", "standard deviation", "e[k^2]")
    )


def _bias_for_inputs(cell: Cell) -> bool:
    words = ("one entry for each input", "incompatible shapes for broadcasting")
    if any(word in _told(cell) for word in words):
        return True
    # With one output, a bias for each input is broadcast against it: as many outputs as inputs.
    n = (cell.case or {}).get("in_features", 1)
    return n != 1 and f"x of shape ({n},) gives a result of shape ({n},)" in _told(cell)


def _float(cell: Cell) -> bool:
    return cell.requirement == "exercise/float-arguments"


PITFALLS = (
    Pitfall(
        "no nnx.Param around an array",
        ("state/exact-state", "construction/builds"),
        _unregistered,
        "Ask nnx.state(layer, nnx.Param) what it finds. An optimizer trains what it finds there "
        "and nothing else: how does a layer tell Flax which of its attributes those are?",
    ),
    Pitfall(
        "wrong initial scale",
        ("initialization/kernel-variance", "exercise/recovered-kernel"),
        _scale,
        "Each output is a sum over all inputs. If these have variance 1, what is the variance of "
        "the sum, and what after ten layers? How would it have to depend on the number of inputs?",
    ),
    Pitfall(
        "bias of shape (in_features,)",
        ("construction/bias-shape", "construction/builds", "forward/output-shape"),
        _bias_for_inputs,
        "Write down the shape of x @ kernel. Which of the two sizes is left in it, and so what can "
        "be added to it? A layer with as many inputs as outputs hides the difference.",
    ),
    Pitfall(
        "features or seed used as a float",
        ("exercise/float-arguments",),
        _float,
        "Both arrive as 3.0, not 3. What do shapes and seeds have to be, and where is the one "
        "place to make them so?",
    ),
)


def grade(file: str, call: Sequence[str]) -> int:
    """Check the file's solution, and say which pitfalls it avoids; the exit code as of ``run``.

    Parameters
    ----------
    file
        The solution.
    call
        The call of pytest, without implementations.

    Raises
    ------
    UsageError
        If there is no such file, or it defines neither name.
    """
    specs = [f"{file}:{name}" for name in names_in(file)]
    verdict = run_quietly([*call, *(f"--conformance-impl={spec}" for spec in specs)])
    write_grade(console_for(sys.stdout), Path(file).name, verdict)
    return verdict.exit_code


def write_grade(console: Console, title: str, verdict: Verdict) -> None:
    """Each pitfall with a hint, what else fails, and the verdict in one line."""
    names = " and ".join(entry.spec.rpartition(":")[2] for entry in verdict.entries)
    console.print(Text(f"{title}: {names}", style="bold"))
    explained = _write_pitfalls(console, verdict.cells)
    _write_rest(console, [c for c in verdict.failures() if id(c) not in explained])
    _write_sentence(console, verdict)


def names_in(file: str) -> list[str]:
    """Which of the two names the file defines, read without running it.

    Raises
    ------
    UsageError
        If it cannot be read or parsed, or defines neither.
    """
    try:
        tree = ast.parse(Path(file).read_bytes(), file)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{file}: is no Python file: {error}") from None
    defined = set(_defined(tree.body))
    found = [name for name in NAMES if name in defined]
    if not found:
        raise UsageError(
            f"{file} defines neither MyDense nor dense_forward; a solution defines a class "
            "MyDense(in_features, out_features, rngs), a function dense_forward(seed, x, "
            "features), or both"
        )
    return found


def _defined(body: Iterable[ast.stmt]) -> Iterable[str]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (name.id for name in node.targets if isinstance(name, ast.Name))


def fallen_into(pitfall: Pitfall, cells: Iterable[Cell]) -> tuple[str, list[Cell]]:
    """``"fallen into"``, ``"avoided"``, ``"open"`` or ``"not shown"``, and the cells that say so.

    ``"open"`` is what another fault hides; ``"not shown"`` is what the solution has no part in.
    """
    seen = [cell for cell in cells if cell.requirement in pitfall.shows_in]
    guilty = [cell for cell in seen if cell.outcome in _BROKEN and pitfall.is_it(cell)]
    if guilty:
        return "fallen into", guilty
    telling = [cell for cell in seen if cell.requirement in _telling(pitfall)]
    decided = [cell for cell in telling if cell.outcome == Outcome.PASSED]
    if decided:
        return "avoided", decided
    hidden = [cell for cell in telling if cell.outcome in (*_BROKEN, *_OPEN)]
    return ("open" if hidden else "not shown"), hidden


def _telling(pitfall: Pitfall) -> tuple[str, ...]:
    """The requirements that are about the pitfall, not merely broken by it on some versions."""
    return tuple(
        id for id in pitfall.shows_in if id not in ("construction/builds", "forward/output-shape")
    )


def _write_pitfalls(console: Console, cells: Sequence[Cell]) -> set[int]:
    """Each pitfall with what was found and a hint; the cells that are explained by one."""
    styles = {"fallen into": "bold red", "avoided": "green", "open": "yellow", "not shown": "dim"}
    explained: set[int] = set()
    for number, pitfall in enumerate(PITFALLS, start=1):
        state, because = fallen_into(pitfall, cells)
        line = Text(f"{number}. {pitfall.name}: ")
        console.print(line.append(state, style=styles[state]))
        if state == "fallen into":
            explained |= {id(cell) for cell in because}
            cell = because[0]
            _indented(console, "found", cell.message or cell.reason)
            _indented(console, "hint", pitfall.hint)
        elif state == "open":
            reason = because[0].reason or f"{because[0].requirement} fails for another reason"
            _indented(console, "why", f"{reason}; mend that first")
    return explained


def _write_rest(console: Console, cells: Sequence[Cell]) -> None:
    if cells:
        console.print("\nWhat else fails:")
    told: set[str] = set()
    for cell in cells:
        text = cell.cause or cell.message or cell.reason
        # What keeps a layer from being loaded is the same for all of its requirements.
        if cell.outcome != Outcome.ERROR:
            text = f"{cell.requirement} ({cell.implementation.rpartition(':')[2]}): {text}"
        if text in told:
            continue
        told.add(text)
        console.print(Text(f"  {text}"), soft_wrap=True)
        if cell.case:
            _indented(console, "smallest", case_in_words(cell.case))


def _indented(console: Console, label: str, text: str) -> None:
    indent = f"   {label:9}"
    wrapped = textwrap.wrap(
        text, max(console.width, 60), initial_indent=indent, subsequent_indent=" " * len(indent)
    )
    console.print(Text("\n".join(wrapped)), soft_wrap=True)


def _write_sentence(console: Console, verdict: Verdict) -> None:
    said = {
        OK: "a right solution",
        NONCONFORMING: "not right yet",
        INCOMPLETE: "could not be judged completely",
    }
    applicable = [c for c in verdict.cells if c.outcome != Outcome.NOT_APPLICABLE]
    held = sum(c.outcome in (Outcome.PASSED, Outcome.EXPECTED_FAILURE) for c in applicable)
    blocked = sum(c.outcome == Outcome.BLOCKED for c in applicable)
    more = f", {blocked} rest on what fails" if blocked else ""
    words = said.get(verdict.exit_code, "the file could not be used")
    console.print(f"\n{words}: {held} of {len(applicable)} requirements hold{more}")
