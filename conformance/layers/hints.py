"""Hints for layers that cannot be used: what to write instead, by the exception and the layer."""

from __future__ import annotations

import builtins
import inspect
import pkgutil
import re
import sys
from types import TracebackType
from typing import Any

from conformance.errors import did_you_mean, frames_of, is_users_file, safe_text, users_frames
from conformance.layers.binding import misspelled, signature_of
from conformance.layers.calls import INPUTS, RANDOM

_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_FORWARD = len(("seed", "x", "features"))
_SIZES = 2
BY_FUNCTIONS = """\
describe the layer by the functions that make and apply them:
see 'A description in Python' in docs/libraries.md"""
OF_PARAMETERS = f"if it is the parameters, {BY_FUNCTIONS}"
_PARAMETERS = {"params", "parameters", "weights", "variables", "state"}
_MADE = "an initializer is made, then called: lecun_normal()(key, shape)"


def of_exception(error: BaseException) -> str:
    """Return a hint at what to write instead of the line that raised; empty if none is known."""
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
    if "'function' object" in safe_text(error):
        return _initializer_hint(error)
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


_FACTORIES = (
    *("lecun_normal", "lecun_uniform", "glorot_normal", "glorot_uniform"),
    *("he_normal", "he_uniform"),
)


def _initializer_hint(error: BaseException) -> str:
    """Return which array that a line of the layer uses is an initializer, and which one."""
    frame = [frame for frame in frames_of(error) if is_users_file(frame.f_code.co_filename)][-1:]
    line = next((each.line for each in users_frames(error)), "") or ""
    for name in re.findall(r"\bself\.(\w+)\b(?!\()", line):
        held = getattr(frame[0].f_locals.get("self"), name, None)
        get = getattr(held, "get_raw_value", None)  # of nnx.Variable, in recent versions of Flax
        held = get() if get else getattr(held, "raw_value", held)
        if inspect.isfunction(held) and held.__module__.endswith("nn.initializers"):
            made = _factory(held)
            if made == held.__name__:
                return f"self.{name} is the function {made}: call it, as {made}(key, shape)"
            words = f"an initializer is made, then called: {made}()(key, shape)"
            return f"self.{name} is a function that {made} made: {words}"
    return f"a function: {_MADE}" if "matmul__" in safe_text(error) else ""


def _factory(initializer: Any) -> str:
    """Return the name of the function of JAX that made an initializer, or its own name."""
    from jax.nn import initializers

    def law(of: Any) -> list[Any]:
        held = inspect.getclosurevars(of).nonlocals
        return [held.get(name) for name in ("scale", "mode", "distribution")]

    name: str = initializer.__qualname__.partition(".")[0]
    alike = (n for n in _FACTORIES if law(getattr(initializers, n)()) == law(initializer))
    return next(alike, name) if name == "variance_scaling" else name


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


def of_missing_self(what: str, lines: list[str]) -> str:
    """Return what a method lacks that takes one argument fewer than it is given."""
    takes = re.search(r"\.(\w+)\(\) takes (\d+) positional arguments? but (\d+) were given", what)
    if takes is None or int(takes[3]) != int(takes[2]) + 1:
        return ""
    defined = re.match(rf"\s*def {takes[1]}\((?!self|cls|\*)(.*)", "".join(lines[1:2]))
    if defined is None:
        return ""
    return f"its first argument is self: def {takes[1]}(self, {defined[1]}".rstrip()


def of_dataclass(layer: Any, what: str) -> str:
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


def of_missing_constructor(kind: Any) -> str:
    """Return a hint at the constructor that a class lacks, which may be misspelled."""
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
        if name in _attributes(global_of(error, module)):
            return f"did you mean {module}.{name}?"
    return did_you_mean(name, names)


def global_of(error: BaseException, name: str) -> Any:
    """Return a global of the innermost frame of the traceback that has it."""
    tb, found = error.__traceback__, None
    while tb is not None:
        found = tb.tb_frame.f_globals.get(name, found)
        tb = tb.tb_next
    return found


def _of_function(name: str, takes: set[str]) -> str:
    """Return a hint for a function of these arguments: what is described, made or called."""
    if takes & _PARAMETERS:
        return f"it takes parameters: {BY_FUNCTIONS}"
    hint = f"it is called as {name}(seed, x, features)"
    if takes & INPUTS:
        return hint
    return (
        f"{hint}\nor, if it makes a layer, from both sizes: {name}(in_features, out_features, rngs)"
        f"\nor, if it makes functions, {BY_FUNCTIONS}"
    )


def of_base(layer: Any) -> str:
    """Return a hint if a Linen class has a constructor as an nnx one has."""
    from flax import linen

    its = vars(layer).get("__init__") if isinstance(layer, type) else None
    if its is None or not issubclass(layer, linen.Module):
        return ""
    if "rngs" not in getattr(signature_of(layer), "parameters", ()):
        return ""
    return "its base is linen.Module: a layer that takes rngs is an nnx.Module"


def of_signature(layer: Any) -> str:
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
        return "" if len(needed) == _FORWARD else _of_function(name, {p.name for p in parameters})
    sizes = [each for each in needed if each.lower() not in RANDOM]
    if len(sizes) > _SIZES:
        extra = sizes[_SIZES]
        return f"give `{extra}` a default, or use functools.partial({name}, {extra}=...)"
    takes = {p.name for p in parameters}
    if len(sizes) < _SIZES and not {"in_features", "out_features"} <= takes:
        missing = "in_features" if "in_features" not in takes else "out_features"
        return (
            f"it lacks {missing}: def __init__(self, in_features, out_features, *, rngs)\n"
            "or name a function that makes the layer, and calls it if its first call builds it:\n"
            f"def make(in_features, out_features, rngs): return {name}(...)"
        )
    if not RANDOM & {each.lower() for each in takes}:
        return "it needs `rngs`: def __init__(self, in_features, out_features, *, rngs)"
    return ""
