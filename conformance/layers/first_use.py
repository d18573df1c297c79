"""Uses an implementation once, so that one that cannot be used is reported before any check."""

from __future__ import annotations

import inspect
import linecache
import os
import re
from types import TracebackType
from typing import Any

from conformance.errors import (
    LoadError,
    NotAdaptable,
    by_user,
    described,
    safe_text,
    users_frames,
)
from conformance.layers import hints
from conformance.layers.adapters.parameters import leaves_in
from conformance.layers.implementation import Implementation
from conformance.layers.loading import attribute, load
from conformance.layers.looking import look
from conformance.layers.registry import Entry

_SIZES = (3, 4)
_LEAD = 8

# Python's messages for a call whose arguments do not fit the function.
_WRONG_CALL = re.compile(
    r"unexpected keyword argument|required (positional|keyword-only) argument"
    r"|takes .*positional argument|multiple values for|takes no arguments"
    r"|object is not (callable|subscriptable)"
)


def why_unusable(entry: Entry) -> str:
    """Return why an implementation cannot be used, with the faulty line; empty if it can."""
    try:
        require_usable(load(entry))
    except LoadError as error:
        return explained(error, entry)
    return ""


def require_usable(implementation: Implementation) -> None:
    """Build the layer once, and call it once.

    The checks report most exceptions of the layer's code as violations. An unknown name, or a call
    that does not fit the function, shows that the code was never run.

    Raises
    ------
    LoadError
        If the layer raises such an exception, which is the cause of the LoadError.
    """
    try:
        with implementation.surroundings():
            _use(implementation)
            _require_affine(implementation)
    except Exception as error:
        if _was_never_run(error):
            raise LoadError(described(error)) from error
    except BaseException as error:
        if by_user(error):
            raise


def _use(implementation: Implementation) -> None:
    import jax
    import numpy as np
    from flax import nnx

    n, m = _SIZES
    # A layer may use what only an array of JAX has, such as x.at.
    x = jax.device_put(np.ones((*implementation.convention.lead(_LEAD), n), np.float32))
    if implementation.module is not None:
        built = implementation.module(n, m, nnx.Rngs(0))
        built(x)
    elif implementation.forward is not None:
        y = implementation.forward(0, x, m)
        if isinstance(y, tuple) and y and all(map(callable, y)):
            raise NotAdaptable(
                f"the function {implementation.name}, which returns {len(y)} functions",
                "Write a function (seed, x, features) that calls them, or describe the layer by "
                "them: see 'A description in Python' in docs/libraries.md.",
            )
    elif implementation.init is not None and implementation.apply is not None:
        implementation.apply(implementation.init(0, n, m), x)


_PLAIN = len(("kernel", "bias"))


def _require_affine(implementation: Implementation) -> None:
    """Require that a layer of more arrays than a kernel and a bias does not hide the kernel.

    Raises
    ------
    NotAdaptable
        If it computes something else besides, so that nothing of a Dense can be checked.
    """
    its = implementation
    if its.init is None or len(leaves_in(its, its.init(0, *_SIZES))) <= _PLAIN:
        return
    seen = look(its)
    if seen.other:
        layer = seen.kernel.rpartition(".")[0]
        inner = f", the layer {layer} for example," if layer else ""
        names = " and ".join(_dropouts(its)) if "at random" in seen.other else ""
        raise NotAdaptable(
            f"a layer that {seen.other}{names and f', by its {names}'}",
            f"A Dense computes x @ kernel + bias. Check the part that does{inner} by itself, or "
            "give the constructor and the call arguments that leave the rest out.",
        )


def _dropouts(its: Implementation) -> list[str]:
    """Return the names of the attributes of an nnx layer that are dropouts."""
    from flax import nnx

    built = {} if its.module is None else vars(its.module(*_SIZES, nnx.Rngs(0)))
    return [name for name, value in built.items() if isinstance(value, nnx.Dropout)]


def _was_never_run(error: Exception) -> bool:
    if isinstance(error, NotAdaptable):
        return True
    if isinstance(error, TypeError):
        return _WRONG_CALL.search(safe_text(error)) is not None
    if isinstance(error, AttributeError):
        return next(users_frames(error), None) is not None
    return isinstance(error, NameError | ImportError | SyntaxError)


def explained(error: LoadError, entry: Entry) -> str:
    """Return the message of a load error with file, line, source line, caret and a hint."""
    cause = error.__cause__
    while isinstance(cause, LoadError):
        cause = cause.__cause__
    if isinstance(cause, NotAdaptable):
        layer = _named(entry)
        what, lines = f"found {cause.found}", _place_of(layer)
        hint = cause.hint
        if not hint or hint.startswith("Declare"):
            hint = hints.of_base(layer) or f"{hints.of_signature(layer)}\n{hint}".strip()
    elif cause is None:
        what, lines, hint = str(error).removeprefix(f"{entry.spec}: "), [], ""
    elif isinstance(cause, SyntaxError):
        what, lines, hint = f"{type(cause).__name__}: {cause.msg}", _syntax(cause), ""
    else:
        what, lines = described(cause), _frame(cause)
        hint = (
            hints.of_exception(cause)
            or hints.of_missing_self(what, lines)
            or hints.of_dataclass(_named(entry), what)
        )
        made = re.search(r"\b(\w+)\(\) takes no arguments", what)
        if made is not None:
            layer = _named(entry)
            kind = layer if isinstance(layer, type) else hints.global_of(cause, made[1])
            lines, hint = _place_of(kind), hints.of_missing_constructor(kind)
        made = re.fullmatch(r"TypeError: '(\w+)' object is not callable", what)
        if made is not None and not lines:  # the suite called it
            what = f"it returns an object of type {made[1]}, which cannot be called on x"
            lines, hint = _place_of(_named(entry)), hints.OF_PARAMETERS
    lines += [f"  hint: {line}" for line in hint.splitlines()]
    return "\n".join([f"{entry.name} cannot be used: {what}", *lines])


def _syntax(error: SyntaxError) -> list[str]:
    if not error.filename or not error.lineno:
        return []
    source = error.text or linecache.getline(error.filename, error.lineno)
    return _shown(error.filename, error.lineno, source, (error.offset or 1) - 1, error.end_offset)


def _frame(error: BaseException) -> list[str]:
    frame = next(users_frames(error), None)
    if frame is None:
        return _called(error)
    source = linecache.getline(frame.filename, frame.lineno or 0)
    # Positions are in bytes of the line.
    begin = len(source.encode()[: frame.colno or 0].decode(errors="replace"))
    one_line = frame.end_lineno == frame.lineno and frame.end_colno is not None
    end = len(source.encode()[: frame.end_colno].decode(errors="replace")) + 1 if one_line else None
    return _shown(frame.filename, frame.lineno or 0, source, begin, end)


def _called(error: BaseException) -> list[str]:
    """Return the definition of the function that a call does not fit, by the message."""
    name = re.match(r"([\w.<>]+)\(\)", safe_text(error))
    tb: TracebackType | None = error.__traceback__
    while name is not None and tb is not None:
        for value in tb.tb_frame.f_locals.values():
            for owner in (value, type(value)):
                method = getattr(owner, name[1].rpartition(".")[2], None)
                if getattr(method, "__qualname__", "") == name[1]:
                    return _place_of(method)
        tb = tb.tb_next
    return []


def _named(entry: Entry) -> Any:
    try:
        found = attribute(entry)
    except LoadError:
        return None
    return getattr(found, "func", found)


def _place_of(value: Any) -> list[str]:
    if inspect.ismodule(value):
        return []
    try:
        file = inspect.getsourcefile(inspect.unwrap(value))
        lines, first = inspect.getsourcelines(inspect.unwrap(value))
    except (TypeError, OSError, ValueError):
        return []
    # Decorators come first.
    skipped = next((i for i, line in enumerate(lines) if re.match(r"\s*(class|def)\b", line)), 0)
    source = lines[skipped]
    name = re.match(r"\s*(?:class|def)\s+(\w+)", source)
    begin, end = name.span(1) if name else (len(source) - len(source.lstrip()), None)
    return _shown(file or "", first + skipped, source, begin, end + 1 if end else None)


def _shown(file: str, line: int, source: str, begin: int, end: int | None) -> list[str]:
    """Return place, line, and carets under the columns from ``begin`` up to ``end`` (1-based)."""
    place = os.path.relpath(file) if file.startswith(os.getcwd() + os.sep) else file
    text = source.rstrip()
    bare = text.lstrip()
    if not bare:
        return [f"  {place}, line {line}"]
    begin = min(max(begin - (len(text) - len(bare)), 0), len(bare))
    last = len(bare) if end is None else min(end - 1 - (len(text) - len(bare)), len(bare))
    carets = "^" * max(last - begin, 1)
    return [f"  {place}, line {line}", f"      {bare}", f"      {' ' * begin}{carets}"]
