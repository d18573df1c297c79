"""Validates results files against their schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from typing import Any

from conformance.errors import safe_text


@lru_cache(maxsize=1)
def results_schema() -> dict[str, Any]:
    """Return the schema that ships with the suite."""
    text = files("conformance.results").joinpath("results.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@lru_cache(maxsize=4)
def _validator(definition: str) -> Callable[[Any], Any]:
    # Compiled once in a process, in 20 ms, and only to read a results file.
    import fastjsonschema

    # In older drafts a $ref replaces its siblings; inside allOf it means the same in all drafts.
    schema = {"$defs": results_schema()["$defs"], "allOf": [{"$ref": f"#/$defs/{definition}"}]}
    validate: Callable[[Any], Any] = fastjsonschema.compile(schema, use_default=False)
    return validate


def fault(value: Any, definition: str) -> str:
    """Return where and how a value violates the definition of that name, or "" if it fits."""
    from fastjsonschema import JsonSchemaValueException

    try:
        _validator(definition)(value)
    except JsonSchemaValueException as error:
        place = safe_text((error.name or "").removeprefix("data").lstrip("."), 80) or "the document"
        if error.rule == "required":
            missing = next(key for key in error.rule_definition if key not in error.value)
            return f"{place} has no {missing!r}"
        must = error.message.removeprefix(error.name or "").strip()
        return f"{place} {safe_text(must, 160)}, found {_shown(error.value)}"
    return ""


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return ascii(safe_text(value, 60))
