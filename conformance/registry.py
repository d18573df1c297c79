"""Names of implementations, and the implementations themselves.

Naming reads metadata only; nobody's code is imported before :meth:`Entry.load`, which the
workers call, each inside of a cell of that implementation.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.implementation import Implementation
from conformance.require import safe_text

__all__ = ["GROUP", "Entry", "LoadError", "UsageError", "registered", "resolve"]

GROUP = "conformance.implementations"


class UsageError(Exception):
    """What was asked for does not exist, or is given in a wrong form."""


class LoadError(Exception):
    """A registration is wrong: it cannot be imported, or is nothing that can be checked."""


@dataclass(frozen=True)
class Entry:
    """The name of an implementation, not loaded yet.

    Parameters
    ----------
    id
        What results are keyed by: ``distribution:name``, or the specification as given.
    name
        The short form, for screens.
    spec
        The entry point's value, or the specification as the user gave it.
    distribution
        The distribution that registers it; empty for one that the user named by its place.
    """

    id: str
    name: str
    spec: str
    distribution: str = ""

    def load(self) -> Implementation:
        """Import it and adapt it.

        Raises
        ------
        LoadError
            If that cannot be done; the message says what was expected, found, and to do.
        """
        from conformance.adapters import NotAdaptable, adapt

        try:
            found = _attribute(self.spec)
            implementation = adapt(found, name=self.name)
        except NotAdaptable as error:
            raise LoadError(f"{self.spec}: {error}") from error
        except LoadError:
            raise
        except ValueError as error:
            raise LoadError(f"{self.spec}: {safe_text(error)}") from error
        variant = self.name.partition("[")[2].rstrip("]")
        return implementation.variants[variant] if variant else implementation


def registered() -> tuple[Entry, ...]:
    """Every implementation that an installed distribution registers, by name."""
    entries = []
    for point in importlib.metadata.entry_points(group=GROUP):
        distribution = point.dist.name if point.dist is not None else "unknown"
        id = f"{distribution}:{point.name}"
        entries.append(Entry(id, point.name, point.value, distribution))
    # Ours first, as they are the measure; an entry point seen on two paths counts once.
    unique = {entry.id: entry for entry in entries}
    return tuple(
        sorted(unique.values(), key=lambda e: (e.distribution != "dense-conformance", e.id))
    )


def resolve(specs: Sequence[str]) -> tuple[Entry, ...]:
    """The entries that the specifications name; with none, all that are registered.

    Parameters
    ----------
    specs
        Registered names, ``distribution:name``, ``module:attribute`` or
        ``path/to/file.py:attribute``.

    Raises
    ------
    UsageError
        If one names nothing, or nothing is registered.
    """
    known = registered()
    if not specs:
        if not known:
            raise UsageError(
                f"no implementation is registered in the entry-point group {GROUP!r}; "
                "install the project (pip install -e .) or name one: path/to/file.py:MyDense"
            )
        return _shown_apart(known)
    return _shown_apart(_unique(_resolve(spec, known) for spec in specs))


def _shown_apart(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Entries whose short names clash are shown by their ids."""
    names = [entry.name for entry in entries]
    return tuple(
        Entry(e.id, e.id, e.spec, e.distribution) if names.count(e.name) > 1 else e for e in entries
    )


def _unique(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple({entry.id: entry for entry in entries}.values())


def _resolve(spec: str, known: Sequence[Entry]) -> Entry:
    named = [entry for entry in known if spec in (entry.name, entry.id)]
    if len(named) == 1:
        return named[0]
    if named:
        raise UsageError(
            f"several distributions register {spec!r}; say which: "
            + ", ".join(entry.id for entry in named)
        )
    place, colon, attribute = spec.rpartition(":")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise UsageError(f"{spec!r}: there is no file {place!r}")
        return Entry(id=spec, name=f"{Path(place).name}:{attribute}", spec=spec)
    if colon and place and attribute:
        _require_importable(place, spec, known)
        return Entry(id=spec, name=spec, spec=spec)
    if spec.endswith(".py") and Path(spec).is_file():
        raise UsageError(f"{spec!r} names a file; say which layer in it: {spec}:MyDense")
    raise UsageError(_unknown(spec, known))


def _require_importable(module: str, spec: str, known: Sequence[Entry]) -> None:
    """Look for the top-level package only: finding more would import it."""
    top = module.partition(".")[0]
    try:
        found = top in sys.modules or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise UsageError(f"{_unknown(spec, known)} There is no module {top!r} either.")


def _unknown(spec: str, known: Sequence[Entry]) -> str:
    names = [entry.name for entry in known]
    near = difflib.get_close_matches(spec, names, n=3, cutoff=0.4)
    lower = {name.lower(): name for name in names}
    near = near or [
        lower[name] for name in difflib.get_close_matches(spec.lower(), lower, n=3, cutoff=0.4)
    ]
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else ""
    listed = f"registered are {', '.join(names)}" if names else "none is registered"
    return (
        f"no implementation is called {spec!r}: {hint or listed}; "
        "module:attribute and path/to/file.py:attribute are accepted, too."
    )


def _attribute(spec: str) -> Any:
    """Import what ``module:attribute`` or ``file.py:attribute`` names."""
    place, _, path = spec.rpartition(":")
    try:
        module = (
            _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        )
    except LoadError:
        raise
    except (Exception, SystemExit) as error:
        raise LoadError(_import_failure(spec, place, error)) from error
    found: Any = module
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise LoadError(_no_attribute(spec, place, attribute, module)) from None
        except Exception as error:
            raise LoadError(
                f"{spec}: reading {attribute!r} raised {type(error).__name__}: {safe_text(error)}"
            ) from error
    return found


def _import_failure(spec: str, place: str, error: BaseException) -> str:
    what = f"{spec}: importing {place} raised {type(error).__name__}: {safe_text(error)}"
    if place.partition(".")[0] == "implementations":
        here = Path(__file__).resolve().parent.parent / "implementations"
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


def _from_file(path: Path) -> Any:
    """The module of a file, registered under its name, so that its objects can be pickled."""
    path = path.resolve()
    name = path.stem
    present = sys.modules.get(name)
    if present is not None and getattr(present, "__file__", None) == str(path):
        return present
    if present is not None or importlib.util.find_spec(name) is not None:
        name = f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if name in sys.modules:
            return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # A script may import what lies beside it.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
