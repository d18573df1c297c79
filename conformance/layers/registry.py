"""Names of implementations, and the implementations themselves.

Naming reads metadata only; nobody's code is imported before :meth:`Entry.load`, which the
workers call, each inside of a cell of that implementation.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from conformance.errors import LoadError, NotAdaptable, UsageError, by_user, safe_text
from conformance.layers import declaration
from conformance.layers.implementation import Implementation

__all__ = [
    "GROUP",
    "Entry",
    "registered",
    "resolve",
    "split_variant",
]

GROUP = "conformance.implementations"

# Seconds that reading the names of an implementation's variants may take.
_PATIENCE = 300.0


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
    missing
        The extra of that distribution that it needs and that is not installed; mostly empty.
    fault
        What is wrong with the registration itself; mostly empty.
    declared
        What is declared of it in ``pyproject.toml`` or as an option, as JSON; mostly empty.
    """

    id: str
    name: str
    spec: str
    distribution: str = ""
    missing: str = ""
    fault: str = ""
    declared: str = ""

    def attribute(self) -> Any:
        """What the specification names, as it stands there.

        Raises
        ------
        LoadError
            If it cannot be imported, or does not exist.
        """
        if self.fault:
            raise LoadError(f"{self.id}: {self.fault}")
        return _attribute(split_variant(self.spec)[0])

    def load(self) -> Implementation:
        """Import it and adapt it.

        Raises
        ------
        LoadError
            If that cannot be done; the message says what was expected, found, and to do.
        """
        from conformance.layers.adapters import adapt

        place, variant = split_variant(self.spec)
        declared = json.loads(self.declared) if self.declared else {}
        try:
            found = self.attribute()
            name = split_variant(self.name)[0]
            implementation = adapt(found, name=name, **({} if variant else declared))
            if variant and variant in implementation.variants:
                return adapt(implementation.variants[variant], **declared).renamed(self.name)
        except NotAdaptable as error:
            raise LoadError(f"{self.spec}: {error}") from error
        except LoadError:
            raise
        except (UsageError, ValueError) as error:
            raise LoadError(f"{self.spec}: {safe_text(error)}") from error
        except BaseException as error:
            if by_user(error):
                raise
            raise LoadError(
                f"{self.spec}: looking at what that is raised {type(error).__name__}: "
                f"{safe_text(error)}"
            ) from error
        if not variant:
            return implementation
        listed = ", ".join(implementation.variants) or "none"
        raise LoadError(f"{place} has no variant {variant!r}; it has {listed}")

    def variant(self, name: str) -> Entry:
        """The entry of one of its variants."""
        suffix = f"[{name}]"
        return replace(self, id=self.id + suffix, name=self.name + suffix, spec=self.spec + suffix)


def split_variant(spec: str) -> tuple[str, str]:
    """``nnx.Linear[bf16]`` as ``("nnx.Linear", "bf16")``; without a variant, that is empty."""
    base, bracket, variant = spec.rpartition("[")
    return (base, variant[:-1]) if bracket and variant.endswith("]") else (spec, "")


def registered() -> tuple[Entry, ...]:
    """Every implementation that an installed distribution registers, by name.

    Also those that need an extra which is not installed: they say so.
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
    # Ours first, as they are the measure.
    return tuple(
        sorted(_by_id(entries), key=lambda e: (e.distribution != "dense-conformance", e.id))
    )


def _by_id(entries: Sequence[Entry]) -> Iterator[Entry]:
    """Each id once: an entry point may be seen on two paths; but if it differs, it is at fault."""
    for id in dict.fromkeys(entry.id for entry in entries):
        same = [entry for entry in entries if entry.id == id]
        specs = sorted({entry.spec for entry in same})
        if len(specs) > 1:
            yield replace(same[0], fault=f"it is registered as {' and as '.join(specs)}")
        else:
            yield same[-1]


def _missing_extra(point: importlib.metadata.EntryPoint) -> str:
    """The first extra of the entry point of which a requirement is not installed."""
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
    """The requirements of a distribution, but for those that nobody can read."""
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
    specs: Sequence[str],
    declared: Sequence[str] = (),
    project: Path = Path("pyproject.toml"),
) -> tuple[Entry, ...]:
    """The entries that the specifications name.

    With none, all that are registered and whose extras are installed, and all that the project
    declares.

    Parameters
    ----------
    specs
        Registered names, names of the project's tables, ``distribution:name``,
        ``module:attribute`` or ``path/to/file.py:attribute``, each with ``[variant]`` after it
        for one of its variants, or ``[*]`` for the layer and all of them.
    declared
        What is declared of each of them: ``key=value``.
    project
        The ``pyproject.toml`` whose tables ``[tool.dense-conformance.layers]`` hold.

    Raises
    ------
    UsageError
        If one names nothing, nothing is registered, or what is declared cannot be.
    """
    given = declaration.from_options(declared)
    declaration.Declaration.of(given, "--declare")
    if given and not specs:
        raise UsageError("--declare needs the layer that it is about: name it before the options")
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
        found = _unique(entry for spec in specs for entry in _each(spec, known))
    return _shown_apart([_with(entry, tables, given) for entry in found])


def _declared(tables: Mapping[str, Mapping[str, Any]]) -> list[Entry]:
    """The layers that the project's tables place."""
    return [
        Entry(id=name, name=name, spec=values["layer"])
        for name, values in tables.items()
        if "layer" in values
    ]


def _with(entry: Entry, tables: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> Entry:
    """The entry with what its table and the options declare of it."""
    own = next((tables[key] for key in (entry.name, entry.id, entry.spec) if key in tables), {})
    values = declaration.merged({k: v for k, v in own.items() if k != "layer"}, given)
    declaration.Declaration.of(values, f"what is declared of {entry.name}")
    return replace(entry, declared=declaration.as_json(values)) if values else entry


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
    """The names of its variants, read in another process: it imports the implementation."""
    command = "import sys; from conformance.layers.registry import Entry; "
    # Behind whatever the import prints.
    command += "print('\\0', *Entry('', '', sys.argv[1]).load().variants, sep='\\n')"
    try:
        done = subprocess.run(
            [sys.executable, "-c", command, entry.spec],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            timeout=_PATIENCE,
        )
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
    """Entries whose short names clash are shown by their ids."""
    names = [entry.name for entry in entries]
    return tuple(replace(e, name=e.id) if names.count(e.name) > 1 else e for e in entries)


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
            raise LoadError(
                f"{spec}: reading {attribute!r} raised {type(error).__name__}: {safe_text(error)}"
            ) from error
    return found


def _import_failure(spec: str, place: str, error: BaseException) -> str:
    what = f"{spec}: importing {place} raised {type(error).__name__}: {safe_text(error)}"
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
