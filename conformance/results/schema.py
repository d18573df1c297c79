"""The part of JSON Schema that the results' schema uses, so that reading needs no validator.

The schema is the only description of the format: what is read is held to the same document
that is shipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

__all__ = ["UNDERSTOOD", "faults", "results_schema"]

# A keyword beyond these would be shipped and not enforced; a test holds the schema to them.
UNDERSTOOD = frozenset(
    {
        "$ref",
        "additionalProperties",
        "const",
        "description",
        "enum",
        "items",
        "minItems",
        "minimum",
        "properties",
        "required",
        "type",
    }
)

_WORDS = {
    "object": "an object",
    "array": "a list",
    "string": "text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


@lru_cache(maxsize=1)
def results_schema() -> dict[str, Any]:
    """The shipped schema."""
    text = files("conformance.results").joinpath("results.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def faults(value: Any, definition: str) -> Iterator[str]:
    """What of a value is not as the definition of that name wants it, the first fault first."""
    return _faults(value, results_schema()["$defs"][definition], "")


def _faults(value: Any, schema: Mapping[str, Any], place: str) -> Iterator[str]:
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        yield from _faults(value, results_schema()["$defs"][name], place)
        return
    expected = _expectation(value, schema)
    if expected:
        yield f"{place or 'the document'} is {_shown(value)}, expected {expected}"
    elif isinstance(value, dict):
        yield from _faults_in_object(value, schema, place)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _faults(item, schema.get("items", {}), f"{place}[{i}]")


def _expectation(value: Any, schema: Mapping[str, Any]) -> str:
    """What was expected of the value itself, where it is something else."""
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_is(value, name) for name in types):
        return " or ".join(_WORDS[name] for name in types)
    # 1 == True in Python, and 1 is not true in JSON.
    if "const" in schema and not _same(value, schema["const"]):
        return repr(schema["const"])
    if "enum" in schema and not any(_same(value, known) for known in schema["enum"]):
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "minimum" in schema and value < schema["minimum"]:
        return f"at least {schema['minimum']}"
    if "minItems" in schema and len(value) < schema["minItems"]:
        return f"at least {schema['minItems']} of them"
    return ""


def _faults_in_object(
    value: dict[str, Any], schema: Mapping[str, Any], place: str
) -> Iterator[str]:
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{place or 'the document'} has no {key!r}"
    properties = schema.get("properties", {})
    for key, item in value.items():
        inner = properties.get(key, schema.get("additionalProperties", {}))
        yield from _faults(item, inner, f"{place}.{key}" if place else key)


def _is(value: Any, name: str) -> bool:
    if name == "boolean":
        return isinstance(value, bool)
    if name == "null":
        return value is None
    if name in ("integer", "number"):
        kinds = int if name == "integer" else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, {"object": dict, "array": list, "string": str}[name])


def _same(value: Any, known: Any) -> bool:
    return value == known and isinstance(value, bool) == isinstance(known, bool)


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"{_WORDS['object' if isinstance(value, dict) else 'array']} of {len(value)}"
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
