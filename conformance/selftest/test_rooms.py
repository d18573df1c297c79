"""Each room of the package imports only earlier ones, and no two files import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import conformance

PACKAGE = Path(conformance.__file__).parent

# From the bottom up. The plugin is the entry to `running`, `__main__` the one to `cli`, and the
# package itself passes on names lazily.
ROOMS = (
    "errors", "jax_setup", "layers", "contract", "results", "statistics", "checks", "isolation",
    "suite", "scripts", "report", "running", "zoo", "bench", "cli", "selftest",
)  # fmt: skip
DOORS = {"plugin": "running", "__main__": "cli"}


def imports() -> Iterator[tuple[str, str]]:
    """Yield each module of the package with each module that it imports, at any depth of the code.

    Imports for annotations only do not count.
    """
    modules = {
        ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in PACKAGE.rglob("*.py")
    }
    for name, path in modules.items():
        for node in _at_run_time(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                found = [each if each in modules else node.module for each in inner]
            else:
                continue
            yield from ((name, each) for each in found if each.split(".")[0] == PACKAGE.name)


def _at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        test = child.test if isinstance(child, ast.If) else None
        if not (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"):
            yield from _at_run_time(child)


def room(module: str) -> str:
    """Return the room of a module, "" for the package itself."""
    name = module.partition(".")[2].partition(".")[0]
    return DOORS.get(name, name)


def test_no_room_imports_a_later_one() -> None:
    known = {(importer, imported): (room(importer), room(imported)) for importer, imported in
             imports()}  # fmt: skip
    upwards = [
        f"{importer} imports {imported}"
        for (importer, imported), (own, other) in known.items()
        if own and other and ROOMS.index(other) > ROOMS.index(own)
    ]
    assert upwards == []


def test_the_vocabulary_of_checks_does_not_know_the_areas() -> None:
    inner = ("scan", "diagnosis", "areas")  # from the bottom up
    upwards = [
        f"{importer} imports {imported}"
        for importer, imported in imports()
        if (own := _inner(importer)) in inner
        and (other := _inner(imported)) in inner
        and inner.index(other) > inner.index(own)
    ]
    assert upwards == []


def _inner(module: str) -> str:
    """Return the folder of a module within ``checks``, "" for any other module."""
    parts = module.split(".")
    return parts[2] if parts[1:2] == ["checks"] and len(parts) > 3 else ""


def test_no_two_files_import_each_other() -> None:
    below: dict[str, set[str]] = {}
    for importer, imported in imports():
        below.setdefault(importer, set()).add(imported)
    done: set[str] = set()

    def visit(module: str, chain: tuple[str, ...]) -> None:
        assert module not in chain, " -> ".join((*chain, module))
        if module not in done:
            for other in below.get(module, ()):
                visit(other, (*chain, module))
            done.add(module)

    for module in below:
        visit(module, ())


def test_few_modules_stand_outside_of_the_rooms() -> None:
    outside = {path.name for path in PACKAGE.glob("*.py")}
    assert outside == {"__init__.py", "__main__.py", "errors.py", "plugin.py"}
