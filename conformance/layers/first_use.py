"""Uses an implementation once, so that one that cannot be used is reported before any check."""

from __future__ import annotations

import builtins
import inspect
import linecache
import os
import pkgutil
import re
import sys
from types import TracebackType
from typing import Any

from conformance.errors import (
    LoadError,
    NotAdaptable,
    by_user,
    described,
    did_you_mean,
    is_users_file,
    safe_text,
    users_frames,
)
from conformance.layers.adapters.parameters import leaves_in
from conformance.layers.binding import misspelled, signature_of
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
_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_FORWARD = len(("seed", "x", "features"))


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
    ranks = implementation.convention.ranks
    # A layer may use what only an array of JAX has, such as x.at.
    x = jax.device_put(np.ones((n,) if 2 not in ranks else (_LEAD, n), np.float32))
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
            hint = _base_hint(layer) or f"{_signature_hint(layer)}\n{hint}".strip()
    elif cause is None:
        what, lines, hint = str(error).removeprefix(f"{entry.spec}: "), [], ""
    elif isinstance(cause, SyntaxError):
        what, lines, hint = f"{type(cause).__name__}: {cause.msg}", _syntax(cause), ""
    else:
        what, lines = described(cause), _frame(cause)
        hint = _hint(cause) or _self_hint(what, lines) or _dataclass_hint(_named(entry), what)
        made = re.search(r"\b(\w+)\(\) takes no arguments", what)
        if made is not None:
            layer = _named(entry)
            kind = layer if isinstance(layer, type) else _global(cause, made[1])
            lines, hint = _place_of(kind), _constructor_hint(kind)
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


def _hint(error: BaseException) -> str:
    name = str(getattr(error, "name", None) or "")
    if _misuses_stream(error):
        return "rngs.params() draws a key, and takes no argument"
    if isinstance(error, ModuleNotFoundError):
        return f"install it, or correct the name: the module {name!r} does not exist"
    wanted = re.match(r"cannot import name '(\w+)' from '([\w.]+)'", safe_text(error))
    if wanted is not None:
        module = sys.modules.get(wanted[2])
        parts = [each.name for each in pkgutil.iter_modules(getattr(module, "__path__", []))]
        return did_you_mean(wanted[1], [*_attributes(module), *parts])
    if ".init() missing" in safe_text(error) and "'shape'" in safe_text(error):
        return _MADE
    names = _taking_shape(safe_text(error))
    if names:
        return f"its arguments are ({', '.join(names)}): the shape is one of them, a tuple"
    axis = re.match(r"unbound axis name: (\w+)", safe_text(error))
    if axis is not None:
        return f"the axis {axis[1]!r} exists under jax.pmap or shard_map only: make it an option"
    if isinstance(error, NameError) and not isinstance(error, UnboundLocalError):
        return _near_name(error, name)
    if isinstance(error, AttributeError):
        if name.endswith("matmul__") and inspect.isroutine(error.obj):
            return f"a function: {_MADE}"
        if name == "params":
            kind = type(error.obj).__name__
            return f"give rngs as nnx.Rngs(seed): it has the stream params, and this {kind} has not"
        elsewhere = _elsewhere(name) if inspect.ismodule(error.obj) else ""
        near = elsewhere or did_you_mean(name, _attributes(error.obj))
        return _not_kept(error.obj, name) or near
    return ""


def _misuses_stream(error: BaseException) -> bool:
    """Return whether a stream of keys is used in another way than by a call without arguments."""
    if isinstance(error, AttributeError):
        return type(error.obj).__name__ == "RngStream"
    text = safe_text(error)
    return text.startswith("RngStream.__call__()") or "'PRNGKeyArray' object is not call" in text


_MADE = "an initializer is made, then called: lecun_normal()(key, shape)"


def _taking_shape(text: str) -> list[str]:
    """Return the arguments of a function of JAX that was given too many, if one is a shape."""
    import jax

    takes = re.match(r"(\w+)\(\) takes from \d+ to \d+ positional arguments", text)
    name = takes[1] if takes else ""
    for module in (jax.random, jax.numpy):
        made = signature_of(getattr(module, name, None))
        if made is not None and "shape" in made.parameters:
            return list(made.parameters)
    return []


def _self_hint(what: str, lines: list[str]) -> str:
    """Return what a method lacks that takes one argument fewer than it is given."""
    takes = re.search(r"\.(\w+)\(\) takes (\d+) positional arguments? but (\d+) were given", what)
    if takes is None or int(takes[3]) != int(takes[2]) + 1:
        return ""
    defined = re.match(rf"\s*def {takes[1]}\((?!self|cls|\*)(.*)", "".join(lines[1:2]))
    if defined is None:
        return ""
    return f"its first argument is self: def {takes[1]}(self, {defined[1]}".rstrip()


def _dataclass_hint(layer: Any, what: str) -> str:
    """Return a hint if JAX cannot rebuild a dataclass, whose own constructor lacks its fields."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", what)
    fields = getattr(layer, "__dataclass_fields__", {})
    if unknown is None or unknown[1] not in fields:
        return ""
    given = ", ".join(f"{name}=..." for name in fields)
    return (
        f"register_dataclass rebuilds the layer as {layer.__name__}({given}): make new layers in a "
        "class method instead of __init__, or register the class by register_pytree_node"
    )


def _constructor_hint(kind: Any) -> str:
    near = misspelled(kind, "__init__") if isinstance(kind, type) else ""
    if near:
        return f"rename {near} to __init__, which Python calls"
    return "it has no constructor: def __init__(self, in_features, out_features, *, rngs)"


def _not_kept(value: Any, name: str) -> str:
    """Return a hint if the constructor has a local variable of this name."""
    code = getattr(getattr(type(value), "__init__", None), "__code__", None)
    if code is None or not is_users_file(code.co_filename) or name not in code.co_varnames:
        return ""
    given = code.co_argcount + code.co_kwonlyargcount
    of = name if name in code.co_varnames[:given] else "..."
    return f"__init__ does not keep {name}: self.{name} = {of}"


def _elsewhere(name: str) -> str:
    """Return a hint if a usual module has exactly the name that another module lacks."""
    for place in ("jax", "jax.numpy", "jax.random", "jax.nn", "jax.lax", "flax.nnx", "math"):
        if name in _attributes(sys.modules.get(place)):
            return f"did you mean {place}.{name}?"
    return ""


def _attributes(value: Any) -> list[str]:
    try:
        return [name for name in dir(value) if not name.startswith("_")]
    except Exception:
        return []


def _near_name(error: NameError, name: str) -> str:
    """Return a hint: the nearest name that the line could mean, or a missing import."""
    usual = {
        "nnx": "from flax import nnx",
        "linen": "from flax import linen",
        "nn": "from flax import linen as nn",
        "jnp": "import jax.numpy as jnp",
        "np": "import numpy as np",
        "jax": "import jax",
        "flax": "import flax",
        "lax": "from jax import lax",
    }
    if name in usual:
        return f"the file lacks: {usual[name]}"
    if name == "rngs":
        return "the constructor takes the source of randomness as: *, rngs: nnx.Rngs"
    names = list(vars(builtins))
    tb: TracebackType | None = error.__traceback__
    while tb is not None:
        if is_users_file(tb.tb_frame.f_code.co_filename):
            names += [*tb.tb_frame.f_locals, *tb.tb_frame.f_globals]
            if name in _attributes(tb.tb_frame.f_locals.get("self")):
                return f"did you mean self.{name}?"
        tb = tb.tb_next
    for module in ("nnx", "linen", "nn", "jnp"):
        if name in _attributes(_global(error, module)):
            return f"did you mean {module}.{name}?"
    return did_you_mean(name, names)


def _global(error: BaseException, name: str) -> Any:
    """Return a global of the innermost frame of the traceback that has it."""
    tb, found = error.__traceback__, None
    while tb is not None:
        found = tb.tb_frame.f_globals.get(name, found)
        tb = tb.tb_next
    return found


def _base_hint(layer: Any) -> str:
    """Return a hint if a Linen class has a constructor as an nnx one has."""
    from flax import linen

    its = vars(layer).get("__init__") if isinstance(layer, type) else None
    if its is None or not issubclass(layer, linen.Module):
        return ""
    if "rngs" not in getattr(signature_of(layer), "parameters", ()):
        return ""
    return "its base is linen.Module: a layer that takes rngs is an nnx.Module"


def _signature_hint(layer: Any) -> str:
    """Return a signature that fits, for the constructor of an nnx class or for a function."""
    from flax import linen

    signature = signature_of(layer)
    if signature is None or (isinstance(layer, type) and issubclass(layer, linen.Module)):
        return ""
    parameters = list(signature.parameters.values())
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in _ANY_NUMBER]
    name = getattr(layer, "__name__", "")
    if not isinstance(layer, type):
        if not inspect.isroutine(layer):
            return ""  # the name is that of an instance, not of its class
        return "" if len(needed) == _FORWARD else f"it is called as {name}(seed, x, features)"
    sizes = [each for each in needed if each != "rngs"]
    if len(sizes) > len(_SIZES):
        extra = sizes[len(_SIZES)]
        return f"give `{extra}` a default, or use functools.partial({name}, {extra}=...)"
    takes = {p.name for p in parameters}
    if len(sizes) < len(_SIZES) and not {"in_features", "out_features"} <= takes:
        missing = "in_features" if "in_features" not in takes else "out_features"
        return f"it lacks {missing}: def __init__(self, in_features, out_features, *, rngs)"
    if "rngs" not in takes:
        return "it needs `rngs`: def __init__(self, in_features, out_features, *, rngs)"
    return ""
