"""``conformance.check``: runs the suite from a notebook or a program, in another process."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from conformance.errors import UsageError, safe_text
from conformance.jax_setup import child_process
from conformance.layers.declaration import as_json, as_options
from conformance.layers.registry import Entry

if TYPE_CHECKING:
    from conformance.results.cell import Cell
    from conformance.results.file import Results

_PATIENCE = 10.0
_INSIDE = "CONFORMANCE_CHECK_RUNS"
"""An environment variable of the processes that a check starts, so that none starts another."""


# An object defined in __main__ or inside a function cannot be imported from a module.
_STUB = """\
import pathlib
import pickle

{name} = pickle.loads(pathlib.Path(__file__).with_suffix(".pickle").read_bytes())
# Instances are pickled by the name of their class, which must be found here.
{name}.__module__, {name}.__qualname__ = __name__, "{name}"
"""


@dataclass(frozen=True)
class Report:
    """The result of a check, shown as text on a terminal and as a table in a notebook.

    Parameters
    ----------
    results
        The content of a results file.

    Examples
    --------
    >>> report = conformance.check("nnx.Linear")  # doctest: +SKIP
    >>> report.passed, report.verdict  # doctest: +SKIP
    (True, 'conforms: MUST 65/65')
    >>> [(cell.requirement, cell.outcome, cell.cause) for cell in report.failures]  # doctest: +SKIP
    []
    """

    results: Results

    @property
    def passed(self) -> bool:
        """Return whether the layer conforms: ``dense-conformance run`` would exit with 0."""
        return self.results.verdict.exit_code == 0

    @property
    def verdict(self) -> str:
        """Return the verdict in one line: the last line of ``dense-conformance run``."""
        return self.results.verdict.decision.sentence

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Return a frozen :class:`~conformance.Cell` for each requirement."""
        return self.results.verdict.cells

    @property
    def failures(self) -> tuple[Cell, ...]:
        """Return the cells that failed, recommendations included, or were lost."""
        return tuple(self.results.verdict.failures())

    def __str__(self) -> str:
        from conformance.report.terminal import write_verdict

        text = io.StringIO()
        write_verdict(self.results, text)
        return text.getvalue().strip()

    def __repr__(self) -> str:
        return f"<Report: {self.verdict}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print the whole report when IPython shows a value as text."""
        printer.text(str(self))

    def __rich__(self) -> str:
        from rich.markup import escape

        return escape(str(self))

    def _repr_html_(self) -> str:
        from conformance.report.notebook import table

        return table(self.results)


def check(
    layer: Any,
    *,
    requirement: str | Sequence[str] = (),
    profile: str = "quick",
    workers: int | str = "auto",
    seed: int | None = None,
    time_limit: float | None = None,
    **declared: Any,
) -> Report:
    """Check a layer and return the report, even if the layer fails or crashes.

    Parameters
    ----------
    layer
        A specification (a registered name, ``module:attribute``, ``path/to/file.py:attribute``), or
        a class or function, which may be defined in a notebook.
    requirement
        The requirements to check: ids, slugs, areas or globs; by default all.
    profile
        ``quick``, ``standard`` or ``thorough``.
    workers
        The number of worker processes.
    seed
        The seed of the generated cases.
    time_limit
        The longest that one cell may take, in seconds.
    **declared
        The layer's declaration, as for ``--declare``: ``use_bias=False``.

    Raises
    ------
    UsageError
        If a name does not exist, or the layer cannot be pickled for another process.
    """
    if os.environ.get(_INSIDE):
        raise UsageError(
            "check() was called by the file that is being checked; put the call under: if __name__ "
            "== '__main__':"
        )
    asked = [requirement] if isinstance(requirement, str) else list(requirement)
    options = [f"--profile={profile}", f"-n{workers}", *(f"--requirement={id}" for id in asked)]
    options += [f"--seed={seed}"] if seed is not None else []
    options += [f"--time-limit={time_limit}"] if time_limit is not None else []
    options += [f"--declare={each}" for each in as_options(as_json(declared))]
    with tempfile.TemporaryDirectory(prefix="dense-conformance-") as folder:
        spec = _named(layer, Path(folder))
        results = _run(spec, options, Path(folder) / "results.json")
    # The file written for the other process no longer exists.
    return Report(_renamed(results, layer.__name__) if spec.startswith(folder) else results)


def _renamed(results: Results, name: str) -> Results:
    """Return the results of the one implementation under this name, without its temporary file."""
    verdict = results.verdict
    (entry,) = verdict.entries
    cells = tuple(
        replace(c, implementation=name, reproduction="", script="") for c in verdict.cells
    )
    named = Entry(id=name, name=name, spec=name, distribution=entry.distribution)
    facts = {**results.facts, "versions": {name: results.about(entry.id)}}
    return replace(results, verdict=replace(verdict, entries=(named,), cells=cells), facts=facts)


def _run(spec: str, options: Sequence[str], results: Path) -> Results:
    from conformance.results.file import read

    command = child_process.python("-m", "conformance", "run", spec, f"--results={results}")
    # Files that the run leaves behind are deleted with this folder.
    folder = {name: str(results.parent) for name in ("TMPDIR", "TEMP", "TMP")}
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
        env=child_process.environment(os.getcwd(), **{_INSIDE: "1"}, **folder),
    )
    try:
        output, errors = process.communicate()
    except BaseException:
        _end(process)
        raise
    if not results.exists():
        said = (errors.strip() or output.strip()).splitlines()[-5:]
        raise UsageError(
            "\n".join(said).removeprefix("dense-conformance: ")
            or f"the run ended with {process.returncode} and wrote no results"
        )
    return read(results)


def _end(process: subprocess.Popen[str]) -> None:
    """End a run; give it the time to end its workers."""
    process.terminate()
    try:
        process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _named(layer: Any, folder: Path) -> str:
    """Return a specification by which another process finds the layer."""
    if isinstance(layer, str):
        return layer
    if not isinstance(layer, type | FunctionType):
        raise UsageError(
            "check takes a class, a function or a specification such as 'file.py:MyDense'; "
            f"found an object of type {type(layer).__name__}"
        )
    module, name = layer.__module__, layer.__qualname__
    if module != "__main__" and "<locals>" not in name and _found(module):
        return f"{module}:{name}"
    path = folder / "in_a_notebook.py"
    path.with_suffix(".pickle").write_bytes(_by_value(layer))
    name = layer.__name__ if layer.__name__.isidentifier() else "layer"  # a lambda
    path.write_text(_STUB.format(name=name), encoding="utf-8")
    return f"{path}:{name}"


def _by_value(layer: Any) -> bytes:
    """Return the pickled class or function, including everything that it uses."""
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(layer))
    except Exception as error:
        raise UsageError(
            f"{layer.__name__} cannot be taken to another process: {type(error).__name__}: "
            f"{safe_text(error)}; put it into a file, and pass 'path/to/file.py:{layer.__name__}'"
        ) from None


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
