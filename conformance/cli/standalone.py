"""A class or function of a notebook as a file of its own, which another process can import.

What is defined in ``__main__`` exists in no file that could be imported without running
everything else in it. So its source is taken, and with it whatever it uses of its module.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import sys
import textwrap
from types import FunctionType, ModuleType
from typing import Any

from conformance.errors import UsageError

__all__ = ["source_of"]

_ADVICE = "put it into a file, and pass 'path/to/file.py:NAME'"


def source_of(layer: Any) -> str:
    """The text of a module that defines the class or function as it is in its own.

    Raises
    ------
    UsageError
        If its source, or that of something that it uses, cannot be had.
    """
    parts: dict[str, str] = {}
    _collect(layer.__name__, layer, parts, layer.__name__)
    imports = [text for text in parts.values() if text.startswith(("import ", "from "))]
    others = [text for text in parts.values() if text not in imports]
    return "\n".join([*imports, "", "\n\n".join(others)])


def _collect(name: str, value: Any, parts: dict[str, str], wanted: str) -> None:
    """Add what defines ``name`` as ``value``, after everything that this needs itself."""
    if name in parts:
        return
    if isinstance(value, ModuleType):
        parts[name] = f"import {value.__name__} as {name}"
        return
    place = getattr(value, "__module__", None)
    own_name = getattr(value, "__qualname__", None)
    if place and own_name and place != "__main__" and _is_importable(place, own_name, value):
        parts[name] = f"from {place} import {own_name} as {name}"
        return
    if isinstance(value, type | FunctionType):
        text = _definition(value, wanted)
        parts[name] = ""  # so that a recursion ends
        for used in _free_names(text):
            around = _namespace(value)
            if used in around:
                _collect(used, around[used], parts, wanted)
        del parts[name]
        parts[name] = text if own_name == name else f"{text}\n\n{name} = {value.__name__}"
        return
    try:
        same = ast.literal_eval(repr(value)) == value
    except (ValueError, SyntaxError):
        same = False
    if not same:
        raise UsageError(
            f"{wanted} uses {name!r}, a {type(value).__name__} that cannot be written down; "
            + _ADVICE
        )
    parts[name] = f"{name} = {value!r}"


def _is_importable(place: str, name: str, value: Any) -> bool:
    module = sys.modules.get(place)
    return "." not in name and getattr(module, name, None) is value


def _namespace(value: Any) -> dict[str, Any]:
    if isinstance(value, FunctionType):
        return value.__globals__
    module = sys.modules.get(value.__module__)
    return {} if module is None else vars(module)


def _definition(value: Any, wanted: str) -> str:
    """The source of a class or function, its decorators included."""
    if "<locals>" in value.__qualname__:
        raise UsageError(f"{value.__qualname__} is defined inside of a function; " + _ADVICE)
    for lines in _files(value):
        # The last definition of that name is the one that is in force.
        for node in reversed(_parsed(lines)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == value.__name__:
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                return textwrap.dedent("".join(lines[first - 1 : node.end_lineno]))
    raise UsageError(f"the source of {value.__name__} cannot be found; " + _ADVICE)


def _files(value: Any) -> list[list[str]]:
    """The lines of the files, or of the cells of a notebook, that its code comes from."""
    members = [value] if isinstance(value, FunctionType) else list(vars(value).values())
    codes = [getattr(inspect.unwrap(m), "__code__", None) for m in members if callable(m)]
    names = dict.fromkeys(code.co_filename for code in codes if code is not None)
    return [lines for name in names if (lines := linecache.getlines(name))]


def _parsed(lines: list[str]) -> list[ast.stmt]:
    try:
        return list(ast.parse("".join(lines)).body)
    except SyntaxError:
        return []


def _free_names(text: str) -> list[str]:
    tree = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)]
    return [name for name in dict.fromkeys(n.id for n in tree) if not hasattr(builtins, name)]
