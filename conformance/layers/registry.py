"""Finds implementations by their names.

Only metadata is read here. The code is first imported by :func:`.loading.load`, which a worker
calls inside a cell of that implementation.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from conformance.errors import UsageError
from conformance.jax_setup import child_process
from conformance.layers import declaration

GROUP = "conformance.implementations"

_OWN = "dense-conformance"
_OWN_PACKAGE = Path(__file__).resolve().parents[2] / "implementations"

# The time limit for reading the variants of an implementation, in seconds.
_PATIENCE = 300.0


@dataclass(frozen=True)
class Entry:
    """The name of an implementation that is not loaded yet.

    Parameters
    ----------
    id
        The key of its results: ``distribution:name``, or the specification as given.
    name
        The short name that is shown.
    spec
        The entry point's value, or the specification as the user gave it.
    distribution
        The distribution that registers it; empty if the user named its place.
    missing
        The extra of that distribution that it needs and that is not installed; usually empty.
    fault
        The error in the registration itself; usually empty.
    declared
        Its declaration in ``pyproject.toml`` or as options, as JSON; usually empty.
    given
        The part of the declaration that options give, as JSON; usually empty.
    """

    id: str
    name: str
    spec: str
    distribution: str = ""
    missing: str = ""
    fault: str = ""
    declared: str = ""
    given: str = ""

    @property
    def source(self) -> str:
        """Return the origin of its code; empty for the suite's own, which may share a process.

        The origin of other code is a file, a distribution, or a top-level package.
        """
        place = split_variant(self.spec)[0].rpartition(":")[0]
        if place.endswith(".py"):
            return str(Path(place).resolve())
        if self.distribution:
            return "" if self.distribution == _OWN else self.distribution
        top = place.partition(".")[0]
        return "" if top == _OWN_PACKAGE.name and _is_the_suites_own() else top

    def variant(self, name: str) -> Entry:
        """Return the entry of one of its variants."""
        suffix = f"[{name}]"
        return replace(self, id=self.id + suffix, name=self.name + suffix, spec=self.spec + suffix)


@lru_cache
def _is_the_suites_own() -> bool:
    """Return whether the name of the suite's package finds the suite's own package."""
    try:
        found = importlib.util.find_spec(_OWN_PACKAGE.name)
    except (ImportError, ValueError):
        return False
    places = found.submodule_search_locations if found is not None else None
    return _OWN_PACKAGE in (Path(place).resolve() for place in places or ())


def split_variant(spec: str) -> tuple[str, str]:
    """Split ``nnx.Linear[bf16]`` into ``("nnx.Linear", "bf16")``; the variant may be empty."""
    base, bracket, variant = spec.rpartition("[")
    return (base, variant[:-1]) if bracket and variant.endswith("]") else (spec, "")


def registered() -> tuple[Entry, ...]:
    """Return every implementation that an installed distribution registers, by name.

    This includes those that need an extra which is not installed, with a note.
    """
    entries = []
    for point in importlib.metadata.entry_points(group=GROUP):
        distribution = point.dist.name if point.dist is not None else "unknown"
        id = f"{distribution}:{point.name}"
        if point.pattern.match(point.value) and point.attr:
            spec = f"{point.module}:{point.attr}"
            entries.append(Entry(id, point.name, spec, distribution, _missing_extra(point)))
        else:
            fault = f"its entry point is {point.value!r}, expected module:attribute"
            entries.append(Entry(id, point.name, point.value, distribution, fault=fault))
    # Ours come first, for comparison.
    return tuple(
        sorted(_by_id(entries), key=lambda e: (e.distribution != "dense-conformance", e.id))
    )


def _by_id(entries: Sequence[Entry]) -> Iterator[Entry]:
    """Return each id once; two different entry points of one id are an error."""
    for id in dict.fromkeys(entry.id for entry in entries):
        same = [entry for entry in entries if entry.id == id]
        specs = sorted({entry.spec for entry in same})
        if len(specs) > 1:
            yield replace(same[0], fault=f"it is registered as {' and as '.join(specs)}")
        else:
            yield same[-1]


def _missing_extra(point: importlib.metadata.EntryPoint) -> str:
    """Return the entry point's first extra that lacks an installed requirement."""
    if not point.extras or point.dist is None:
        return ""
    wanted = list(_requirements(point.dist.requires or ()))
    for extra in point.extras:
        for each in wanted:
            if each.marker is None or each.marker.evaluate({"extra": ""}):
                continue
            if each.marker.evaluate({"extra": extra}) and not _is_installed(each):
                return str(extra)
    return ""


def _requirements(texts: Iterable[str]) -> Iterator[Any]:
    """Yield the readable requirements of a distribution."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in texts:
        with contextlib.suppress(InvalidRequirement):
            yield Requirement(text)


def _is_installed(requirement: Any) -> bool:
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return bool(requirement.specifier.contains(found, prereleases=True))


def resolve(
    specs: Sequence[str], declared: Sequence[str] = (), project: Path = Path("pyproject.toml")
) -> tuple[Entry, ...]:
    """Return the entries that the specifications name.

    Without specifications, all that are registered with their extras installed, and all that the
    project declares.

    Parameters
    ----------
    specs
        Registered names, names of the project's tables, ``distribution:name``,
        ``module:attribute`` or ``path/to/file.py:attribute``, each with ``[variant]`` after it
        for one of its variants, or ``[*]`` for the layer and all of them.
    declared
        Declarations for each of them: ``key=value``.
    project
        The ``pyproject.toml`` with the tables ``[tool.dense-conformance.layers]``.

    Raises
    ------
    UsageError
        If one names nothing, nothing is registered, or a declaration is invalid.
    """
    given = declaration.from_options(declared)
    declaration.Declaration.of(given, "--declare")
    if given and not specs:
        raise UsageError("--declare needs a layer: name it before the options")
    if "layer" in given:
        raise UsageError("--declare layer=... belongs into a table: name the layer itself instead")
    tables = declaration.from_project(project)
    known = (*registered(), *_declared(tables))
    if not specs:
        if not known:
            raise UsageError(
                f"no implementation is registered in the entry-point group {GROUP!r}; "
                "install the project (pip install -e .) or name one: path/to/file.py:MyDense"
            )
        found: Iterable[Entry] = [entry for entry in known if not entry.missing]
    else:
        each = (entry for spec in specs for entry in _each(spec, known))
        found = {entry.id: entry for entry in each}.values()
    return _shown_apart([_with(entry, tables, given) for entry in found])


def _declared(tables: Mapping[str, Mapping[str, Any]]) -> list[Entry]:
    """Return the layers that the project's tables name."""
    return [
        Entry(id=name, name=name, spec=values["layer"])
        for name, values in tables.items()
        if "layer" in values
    ]


def _with(entry: Entry, tables: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> Entry:
    """Return the entry with the declarations of its table and of the options."""
    own = next((tables[key] for key in (entry.name, entry.id, entry.spec) if key in tables), {})
    values = declaration.merged({k: v for k, v in own.items() if k != "layer"}, given)
    declaration.Declaration.of(values, f"the declaration of {entry.name}")
    return replace(entry, declared=declaration.as_json(values), given=declaration.as_json(given))


def _each(spec: str, known: Sequence[Entry]) -> list[Entry]:
    base, variant = split_variant(spec)
    entry = _resolve(base, known)
    if entry.missing:
        raise UsageError(
            f"{entry.name} needs the extra {entry.missing!r}: "
            f"pip install '{entry.distribution}[{entry.missing}]'"
        )
    if variant == "*":
        return [entry, *(entry.variant(name) for name in _variants(entry))]
    return [entry.variant(variant) if variant else entry]


@lru_cache
def _variants(entry: Entry) -> tuple[str, ...]:
    """Return the names of its variants, read in another process, which imports it."""
    command = (
        "import sys; from conformance.layers import loading, registry; "
        "found = loading.load(registry.Entry('', '', sys.argv[1])); "
        # After anything that the import prints.
        "print('\\0', *found.variants, sep='\\n')"
    )
    try:
        done = child_process.ended("-c", command, entry.spec, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"the variants of {entry.name} cannot be read: its import takes more than "
            f"{_PATIENCE:g} s"
        ) from None
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise UsageError(f"the variants of {entry.name} cannot be read: {last}")
    return tuple(done.stdout.rpartition("\0\n")[2].split("\n")[:-1])


def _shown_apart(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return the entries, with ids for names where short names clash."""
    names = [entry.name for entry in entries]
    return tuple(replace(e, name=e.id) if names.count(e.name) > 1 else e for e in entries)


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
    path = place if colon else spec
    if path.endswith(".py"):
        if not Path(path).is_file():
            raise UsageError(f"{spec!r}: there is no file {path!r}")
        if not (colon and attribute):
            raise UsageError(f"{spec!r} names a file; say which layer in it: {path}:MyDense")
        return Entry(id=spec, name=f"{Path(path).name}:{attribute}", spec=spec)
    if path.endswith(".ipynb"):
        words = "use conformance.check(MyDense) in the notebook, or move the layer to a .py file"
        raise UsageError(f"{spec!r} names a notebook: {words}")
    # A folder may be a package, or have the name of an installed one.
    module = PathFinder.find_spec(path, [os.getcwd(), *sys.path]) if path.isidentifier() else None
    if Path(path).is_dir() and not getattr(module, "origin", None):
        words = f"say which file in it: {path.rstrip('/')}/FILE.py:MyDense"
        raise UsageError(f"{spec!r} names a folder; {words}")
    if module is not None and not colon:
        raise UsageError(f"{spec!r} names a module; say which layer in it: {path}:MyDense")
    if colon and place and attribute:
        _require_importable(place, spec, known)
        return Entry(id=spec, name=spec, spec=spec)
    raise UsageError(_unknown(spec, known))


def _require_importable(module: str, spec: str, known: Sequence[Entry]) -> None:
    if not _is_importable(module):
        top = module.partition(".")[0]
        raise UsageError(f"{_unknown(spec, known)} There is no module {top!r} either.")


def _is_importable(module: str) -> bool:
    """Return whether the top-level package of a module is installed or in the current folder."""
    top = module.partition(".")[0]
    return is_installed(top) or PathFinder.find_spec(top, [os.getcwd()]) is not None


def is_installed(module: str) -> bool:
    """Return whether the top-level package of a module exists, without importing it."""
    top = module.partition(".")[0]
    try:
        return top in sys.modules or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _unknown(spec: str, known: Sequence[Entry]) -> str:
    names = [entry.name for entry in known]
    near = difflib.get_close_matches(spec, names, n=3, cutoff=0.4)
    lower = {name.lower(): name for name in names}
    near = near or [
        lower[name] for name in difflib.get_close_matches(spec.lower(), lower, n=3, cutoff=0.4)
    ]
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else ""
    listed = f"registered are {', '.join(names)}" if names else "none is registered"
    meant = declaration.with_colon(spec)
    also = "module:attribute and path/to/file.py:attribute are accepted, too."
    if meant and _is_importable(spec):
        also = f"for a layer in a module, write {meant!r}"
    return f"no implementation is called {spec!r}: {hint or listed}; {also}"
