"""``dense-conformance grade``: judges a solution of the exercise by its pitfalls."""

from __future__ import annotations

import ast
import contextlib
import difflib
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from conformance.cli.submission import suspicious, wrong_outputs
from conformance.errors import LoadError, UsageError, printable
from conformance.layers.first_use import explained
from conformance.layers.registry import Entry
from conformance.report.failures import write_lines
from conformance.report.terminal import console_for
from conformance.results.cell import Cell
from conformance.results.decision import NONCONFORMING, OK, Word, plural
from conformance.results.failure import described, is_recommendation
from conformance.results.outcome import Outcome
from conformance.results.verdict import Verdict
from conformance.running.pytest_call import run_quietly

NAMES = ("MyDense", "dense_forward")
"""The names that a solution defines: either, or both."""

_SHOWN = 4
"""The number of requirements to name for one cause; the rest are counted."""


@dataclass(frozen=True)
class Pitfall:
    """One of the exercise's pitfalls.

    Parameters
    ----------
    name
        The property of a correct solution.
    shows_in
        The requirements that a solution with this fault breaks.
    is_it
        Whether the failure of such a cell has this cause.
    hint
        A question to think about, which does not reveal the solution.
    """

    name: str
    shows_in: tuple[str, ...]
    is_it: Callable[[Cell], bool]
    hint: str


def _cause_is(*ids: str) -> Callable[[Cell], bool]:
    return lambda cell: cell.cause_id in ids


def _scale(cell: Cell) -> bool:
    """Return whether a cell shows a wrong scale; one cell judges all of a recovered kernel."""
    return (
        cell.requirement == "initialization/kernel-variance"
        or cell.measured.get("check") == "variance"
    )


def _bias(cell: Cell) -> bool:
    of_shape = cell.requirement == "construction/bias-shape" and not cell.obstacle
    return of_shape or cell.cause_id == "bias-of-inputs"


def _float(cell: Cell) -> bool:
    # A failure that also occurs for integers is an obstacle.
    return cell.requirement == "exercise/float-arguments" and not cell.obstacle


PITFALLS = (
    Pitfall(
        "nnx.Param around every array",
        ("state/exact-state", "construction/builds"),
        _cause_is("raw-array", "not-a-param", "parameter-hidden", "array-static"),
        "Print nnx.state(layer, nnx.Param): an optimizer trains what is in it and nothing else. "
        "How does a layer mark the attributes that belong there?",
    ),
    Pitfall(
        "an initial scale that fits the number of inputs",
        ("initialization/kernel-variance", "exercise/recovered-kernel"),
        _scale,
        "Each output is a sum over all inputs. If these have variance 1, what is the variance of "
        "the sum, and what after ten layers? How would it have to depend on the number of inputs?",
    ),
    Pitfall(
        "a bias of the right shape",
        ("construction/bias-shape", "construction/builds", "forward/output-shape"),
        _bias,
        "Write down the shape of x @ kernel. Which of the two sizes is left in it, and so what can "
        "be added to it? A layer with as many inputs as outputs hides the difference.",
    ),
    Pitfall(
        "features and seed used as integers",
        ("exercise/float-arguments",),
        _float,
        "Both arrive as 3.0, not 3. What do shapes and seeds have to be, and where is the one "
        "place to make them so?",
    ),
)


def grade(file: str, call: Sequence[str], *, isolated: bool = False) -> int:
    """Check the solution in a file, print the pitfalls, and return the exit code of ``run``.

    ``call`` has the arguments of pytest, without implementations; ``isolated`` adds a second
    judgement, by outputs that another process computes.

    Raises
    ------
    UsageError
        If the file does not exist, or defines neither name.
    """
    specs = [f"{file}:{name}" for name in names_in(file)]
    verdict = run_quietly([*call, *(f"--conformance-impl={spec}" for spec in specs)])
    console = console_for(sys.stdout)
    write_grade(console, Path(file).name, verdict, of_class=_calls_class(file))
    names = suspicious(file)
    if names:
        note = f"note: it names {', '.join(names)}, which a layer does not need; read the file"
        console.print(Text(printable(note)), soft_wrap=True)
    wrong = [w for name in names_in(file) for w in wrong_outputs(file, name)] if isolated else []
    if isolated:
        said = "the outputs of a separate process are those of a Dense"
        console.print(Text(printable(f"isolated: {'; '.join(wrong) or said}")), soft_wrap=True)
    return verdict.exit_code or (NONCONFORMING if wrong else OK)


def _calls_class(file: str) -> bool:
    """Return whether dense_forward uses MyDense, in this file or in one that it imports from."""
    path = Path(file).resolve()
    whole = ast.parse(path.read_bytes(), file)
    nodes = [node for tree in _with_imports(whole, path) for node in ast.walk(tree)]
    functions = [node for node in nodes if getattr(node, "name", "") == NAMES[1]]
    inside = [node for function in functions for node in ast.walk(function)]
    return any(isinstance(node, ast.Name) and node.id == NAMES[0] for node in inside)


def _with_imports(tree: ast.Module, *files: Path) -> Iterator[ast.Module]:
    """Return a module, and those that it imports from; each of the ``files`` imports the next."""
    yield tree
    for node in ast.walk(tree):
        for other, imported in _imported(node, files) if isinstance(node, ast.ImportFrom) else ():
            yield from _with_imports(imported, *files, other)


def _of_class(cells: Iterable[Cell]) -> list[Cell]:
    """Return the failures of the function that a fault of its class, MyDense, may cause."""
    failed: dict[str, list[Cell]] = {name: [] for name in NAMES}
    for cell in cells:
        name = cell.implementation.rpartition(":")[2]
        if name in failed and _broken(cell):
            failed[name].append(cell)
    of_class, of_function = failed.values()
    if not any(cell.level == "MUST" for cell in of_class):
        return []
    wrong = {cell.requirement for cell in of_class}
    if "construction/builds" in wrong:
        return of_function
    # What the class does with its seed shows in the function as well.
    return [cell for cell in of_function if cell.requirement not in set(_OWN) - wrong]


_OWN = (
    "construction/builds",
    "exercise/any-length",
    "exercise/bad-arguments-raise",
    "exercise/float-arguments",
    "seeding/seeds-differ",
)
"""These show how the function uses its arguments, and not what its class computes."""


def write_grade(console: Console, title: str, verdict: Verdict, *, of_class: bool = False) -> None:
    """Print each pitfall with a hint, other failures, and the verdict in one line.

    ``of_class`` says that the function uses the class. If the class is wrong, what the function
    gives is judged afterwards.
    """
    names = " and ".join(entry.spec.rpartition(":")[2] for entry in verdict.entries)
    console.print(Text(printable(f"{title}: {names}"), style="bold"))
    if not any(cell.outcome.checked for cell in verdict.own):
        failures = verdict.failures()
        own = [c for c in failures if c.implementation.rpartition(":")[2] == NAMES[0]]
        _write_rest(
            console, "The file cannot be used:", own if of_class and own else failures, verdict
        )
        _write_sentence(console, verdict)
        return
    later = _of_class(verdict.cells) if of_class else []
    explained = _write_pitfalls(console, [cell for cell in verdict.cells if cell not in later])
    rest = [cell for cell in verdict.failures() if cell not in (*explained, *later)]
    advice = [cell for cell in rest if is_recommendation(cell, strict=verdict.strict)]
    faults = [cell for cell in rest if cell not in advice]
    _write_rest(console, "Other requirements that do not hold:", faults, verdict)
    _write_rest(console, "Recommendations that do not hold:", advice, verdict)
    _write_sentence(console, verdict, later=len(later))


def _broken(cell: Cell) -> bool:
    return cell.outcome.violated or cell.outcome in (Outcome.CRASHED, Outcome.TIMED_OUT)


def names_in(file: str) -> list[str]:
    """Return the names of solutions that the file defines, without running it.

    Raises
    ------
    UsageError
        If it cannot be read or parsed, or defines neither.
    """
    try:
        tree = ast.parse(Path(file).read_bytes(), file)
    except OSError as error:
        hint = "; name the file in it" if Path(file).is_dir() else ""
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}{hint}") from None
    except SyntaxError as error:
        wrong = LoadError(str(error))
        wrong.__cause__ = error
        raise UsageError(explained(wrong, Entry("", file, file))) from None
    except ValueError as error:
        raise UsageError(f"{file}: is not a Python file: {error}") from None
    defined = set(_defined(tree.body, Path(file).resolve()))
    found = [name for name in NAMES if name in defined]
    nested = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    nested = [node for node in nested if node.name == NAMES[1] and node.name not in found]
    if nested:
        raise UsageError(
            f"{file}, line {nested[0].lineno}: {NAMES[1]} is defined inside something else: indent "
            "it less, so that it begins at the left margin"
        )
    for name in (each for each in NAMES if each not in found):
        near = difflib.get_close_matches(_plain(name), map(_plain, defined), n=1, cutoff=0.9)
        meant = [each for each in defined if _plain(each) in near]
        if meant:
            raise UsageError(f"{file} defines {meant[0]}: rename it to {name}, which is judged")
    if not found:
        raise UsageError(
            f"{file} defines neither MyDense nor dense_forward; a solution defines a class "
            "MyDense(in_features, out_features, rngs), a function dense_forward(seed, x, "
            "features), or both"
        )
    return found


def _plain(name: str) -> str:
    return name.replace("_", "").casefold()


def _defined(body: Iterable[ast.stmt], *files: Path) -> Iterable[str]:
    """Return the names that a module defines; each of the ``files`` imports all of the next."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            for other, tree in _imported(node, files):
                yield from _defined(tree.body, *files, other)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (name.id for name in node.targets if isinstance(name, ast.Name))


def _imported(node: ast.ImportFrom, files: Sequence[Path]) -> Iterator[tuple[Path, ast.Module]]:
    """Return the files that an import of the last file may name, beside it, and their modules.

    Files that are among those already are left out, and so are those that cannot be read, which
    their import will report.
    """
    folders = files[-1].parents[max(node.level - 1, 0) :][:1]
    places = [folder.joinpath(*(node.module or "").split(".")) for folder in folders]
    for place in places:
        for other in (place.with_suffix(".py"), place / "__init__.py"):
            if other not in files:
                with contextlib.suppress(OSError, SyntaxError, ValueError):
                    yield other, ast.parse(other.read_bytes(), str(other))


def avoided(pitfall: Pitfall, cells: Iterable[Cell]) -> tuple[str, list[Cell]]:
    """Return whether a solution avoids a pitfall, and the cells that show it.

    ``"no"`` if it falls into the pitfall, ``"yes"`` if it avoids it, ``"open"`` if another fault
    hides it, and ``"not shown"`` if the pitfall does not concern it.
    """
    seen = [cell for cell in cells if cell.requirement in pitfall.shows_in]
    guilty = [cell for cell in seen if _broken(cell) and pitfall.is_it(cell)]
    if guilty:
        return "no", guilty
    relevant = [cell for cell in seen if cell.requirement not in _ON_SOME_VERSIONS]
    decided = [cell for cell in relevant if cell.outcome == Outcome.PASSED]
    if decided:
        return "yes", decided
    hidden = [c for c in relevant if c.outcome.applies]
    hidden = [cell for cell in hidden if not cell.outcome.checked or _broken(cell)]
    return ("open" if hidden else "not shown"), hidden


_ON_SOME_VERSIONS = ("construction/builds", "forward/output-shape")
"""These show a pitfall on some versions of Flax only, so they do not show that it is avoided."""


def _write_pitfalls(console: Console, cells: Sequence[Cell]) -> list[Cell]:
    """Write each pitfall with its finding and a hint; return the cells that pitfalls explain."""
    styles = {"no": "bold red", "yes": "green", "open": "yellow", "not shown": "dim"}
    explained: list[Cell] = []
    for number, pitfall in enumerate(PITFALLS, start=1):
        state, because = avoided(pitfall, cells)
        line = Text(f"{number}. {pitfall.name}: ")
        console.print(line.append(state, style=styles[state]))
        if state == "no":
            explained += because
            cell = because[0]
            failure = dict(described(cell))
            found = [
                ("found", cell.message or cell.reason),
                ("smallest", failure.get("smallest", "")),
            ]
            write_lines(console, [pair for pair in found if pair[1]])
            write_lines(console, [("hint", pitfall.hint)])
        elif state == "open":
            reason = because[0].reason or f"{because[0].requirement} fails for a different reason"
            write_lines(console, [("why", f"{reason}; fix that first")])
    return explained


def _write_rest(console: Console, heading: str, cells: Sequence[Cell], verdict: Verdict) -> None:
    """Write an item for each cause: its requirements and the smallest case."""
    if not cells:
        return
    console.print()
    console.print(Text(heading, style="bold"))
    by_cause: dict[str, list[Cell]] = {}
    for cell in cells:
        by_cause.setdefault(_cause_of(cell).partition("\n")[0], []).append(cell)
    for same in by_cause.values():
        cell = same[0]
        cause = _cause_of(cell)
        names = ", ".join(dict.fromkeys(c.implementation.rpartition(":")[2] for c in same))
        rows = dict.fromkeys(f"{c.requirement} ({c.level})" for c in same)
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        listed = ", ".join([*rows][:_SHOWN]) + more
        # A file that cannot be used says nothing about a requirement.
        if cell.outcome == Outcome.ERROR:
            first, *source = cause.splitlines()
            _write_bullet(console, first)
            # Unwrapped, because carets mark a column.
            for line in source:
                console.print(Text(printable(line)), soft_wrap=True)
            continue
        _write_bullet(console, cause)
        failure = dict(described(cell))
        lines = [
            ("breaks", f"{listed}, of {names}"),
            ("found", failure.get("found", "") if cell.cause else ""),
            ("smallest", failure.get("smallest", "")),
            ("asked", verdict.statements.get(cell.requirement, "")),
        ]
        write_lines(console, [pair for pair in lines if pair[1]])


def _cause_of(cell: Cell) -> str:
    """Return the cause in words; a file that cannot be used has one cause for both names."""
    if cell.outcome == Outcome.ERROR:
        return cell.reason.partition(" cannot be used: ")[2] or cell.reason
    return cell.cause or cell.message or cell.reason


def _write_bullet(console: Console, text: str) -> None:
    wrapped = textwrap.wrap(
        printable(text), max(console.width, 40), initial_indent="- ", subsequent_indent="  "
    )
    console.print(Text("\n".join(wrapped)), soft_wrap=True)


def _write_sentence(console: Console, verdict: Verdict, later: int = 0) -> None:
    decision = verdict.decision
    said = {
        Word.CONFORMS: "a right solution",
        Word.DOES_NOT_CONFORM: "not right yet",
        Word.INCOMPLETE: "could not be judged completely",
        Word.WRONG_REGISTRATION: "the file could not be used",
    }
    count = decision.count if any(cell.outcome.checked for cell in verdict.own) else ""
    parts = [": ".join(filter(None, (said.get(decision.word, decision.word), count)))]
    # What is judged later is not counted among the recommendations.
    parts += [decision.remarks] if decision.remarks and count and not later else []
    blocked = sum(cell.outcome == Outcome.BLOCKED for cell in verdict.own) + later if count else 0
    if blocked:
        parts.append(f"{plural(blocked, 'requirement')} could not be checked")
    console.print()
    console.print(Text("; ".join(parts), style="bold"), soft_wrap=True)
