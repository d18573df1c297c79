"""Imports the code of an implementation, from a module or from a file."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from conformance.errors import LoadError, NotAdaptable, UsageError, by_user, described, safe_text
from conformance.layers.implementation import Implementation
from conformance.layers.registry import Entry, is_installed, split_variant


def attribute(entry: Entry) -> Any:
    """Return the object that the specification of an entry names, unchanged.

    Raises
    ------
    LoadError
        If it cannot be imported, or does not exist.
    """
    if entry.fault:
        raise LoadError(f"{entry.id}: {entry.fault}")
    return named(split_variant(entry.spec)[0])


def load(entry: Entry) -> Implementation:
    """Import the object that an entry names, and adapt it.

    Raises
    ------
    LoadError
        If that fails; the message says what was expected, what was found, and what to do.
    """
    from conformance.layers.adapters import adapt

    place, variant = split_variant(entry.spec)
    declared = json.loads(entry.declared) if entry.declared else {}
    try:
        with named(declared["context"])() if "context" in declared else contextlib.nullcontext():
            found = attribute(entry)
            name = split_variant(entry.name)[0]
            implementation = adapt(found, name=name, **({} if variant else declared))
            if variant and variant in implementation.variants:
                return adapt(implementation.variants[variant], **declared).renamed(entry.name)
    except NotAdaptable as error:
        raise LoadError(f"{entry.spec}: {error}") from error
    except LoadError:
        raise
    except (UsageError, ValueError) as error:
        raise LoadError(f"{entry.spec}: {safe_text(error)}") from error
    except BaseException as error:
        if by_user(error):
            raise
        raise LoadError(f"{entry.spec}: inspecting it raised {described(error)}") from error
    if not variant:
        return implementation
    listed = ", ".join(implementation.variants) or "none"
    raise LoadError(f"{place} has no variant {variant!r}; it has {listed}")


def named(spec: str) -> Any:
    """Return the object that ``module:attribute`` or ``file.py:attribute`` names.

    Raises
    ------
    LoadError
        If it cannot be imported, or does not exist.
    """
    place, _, path = spec.rpartition(":")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    except BaseException as error:
        if by_user(error):
            raise
        raise LoadError(_import_failure(spec, place, error)) from error
    found: Any = module
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise LoadError(_no_attribute(spec, place, attribute, module)) from None
        except BaseException as error:
            if by_user(error):
                raise
            raise LoadError(f"{spec}: reading {attribute!r} raised {described(error)}") from error
    return found


def _import_failure(spec: str, place: str, error: BaseException) -> str:
    what = f"{spec}: importing {place} raised {described(error)}"
    if place.partition(".")[0] == "implementations":
        here = Path(__file__).resolve().parents[2] / "implementations"
        shadow = getattr(sys.modules.get("implementations"), "__file__", None) or "another place"
        if Path(shadow).resolve().parent != here:
            what += (
                f". Another package named 'implementations' shadows the suite's own: {shadow} "
                f"instead of {here}. Rename it, or start Python elsewhere"
            )
    return what


def _no_attribute(spec: str, place: str, attribute: str, module: Any) -> str:
    public = [name for name in vars(module) if not name.startswith("_")]
    near = difflib.get_close_matches(attribute, public, n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"{spec}: {place} has no attribute {attribute!r}{hint}"


def _from_name(name: str) -> ModuleType:
    """Return an installed module, or one in the current folder."""
    if name.partition(".")[0] in sys.modules or is_installed(name):
        return importlib.import_module(name)
    with _first_on_path(Path.cwd()):
        return importlib.import_module(name)


def _from_file(path: Path) -> ModuleType:
    """Return the module of a file, under its own name so that its objects can be pickled.

    A file of a package is imported as a module of the package.
    """
    path = path.resolve()
    root, name = _place_in_package(path)
    with _first_on_path(root):
        if _is_of(sys.modules.get(name), path):
            return sys.modules[name]
        if name not in sys.modules and _is_found(name, path):
            return importlib.import_module(name)
        if "." in name:
            package = name.partition(".")[0]
            raise ImportError(
                f"{path.name} belongs to the package {package!r} in {root}, and another package "
                f"of that name comes before it"
            )
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
        name = f"{re.sub(r'[^0-9A-Za-z_]', '_', name)}_{digest}"
        return sys.modules[name] if name in sys.modules else _executed(name, path)


def _place_in_package(path: Path) -> tuple[Path, str]:
    """Return the folder to put on the path, and the name of the file's module."""
    root, names = path.parent, [] if path.name == "__init__.py" else [path.stem]
    while (root / "__init__.py").is_file() and root.name.isidentifier():
        names.insert(0, root.name)
        root = root.parent
    return root, ".".join(names) or path.stem


@contextlib.contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    """Put a folder first on the path while a layer is imported, and last afterwards.

    The layer's code can import from it later. No file of the folder replaces a module of Python, or
    a library that the suite needs.
    """
    import flax.nnx

    del flax
    for name in sorted({file.stem for file in folder.glob("*.py")} & sys.stdlib_module_names):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    others = [place for place in sys.path if place != str(folder)]
    sys.path[:] = [str(folder), *others]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = [*(place for place in sys.path if place != str(folder)), str(folder)]


def _is_of(module: ModuleType | None, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and os.path.realpath(file) == str(path)


def _is_found(name: str, path: Path) -> bool:
    """Return whether importing the name would find the file."""
    with contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec(name)
        return found is not None and os.path.realpath(found.origin or "") == str(path)
    return False


def _executed(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
