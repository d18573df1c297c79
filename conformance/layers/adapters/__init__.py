"""Adapters make an Implementation of what people write: a class, a function, a partial of one.

An adapter of a single library is a module in ``implementations/`` instead.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from conformance.errors import NotAdaptable, by_user
from conformance.layers.adapters.words import in_flax_words
from conformance.layers.binding import (
    Binding,
    bind,
    bind_features,
    bind_forward,
    is_factory,
    misspelled,
    parameters_by_keyword,
    random_argument,
    signature_of,
)
from conformance.layers.calls import called, name_of_input, require_plain_call
from conformance.layers.declaration import Declaration
from conformance.layers.hints import BY_FUNCTIONS
from conformance.layers.implementation import FLAX, Convention, Implementation
from conformance.layers.loading import named

__all__ = ["adapt"]


def adapt(
    layer: Any,
    *,
    name: str | None = None,
    convention: Convention = FLAX,
    library: str = "",
    **declared: Any,
) -> Implementation:
    """Make an Implementation of a class, a function, or a partial of one.

    Parameters
    ----------
    layer
        An nnx class, a Linen class, any other class or factory of a callable whose arrays are
        attributes, or a forward function. Arguments for sizes and seed are found by their names.
    name
        The name shown to users; by default the object's own.
    convention
        The convention that the layer declares, before `declared` changes it.
    library
        The distribution whose version is shown; by default that of the object's module.
    **declared
        Declarations, by the names of :class:`~conformance.layers.declaration.Declaration`:
        ``use_bias=False``, ``layout="out, in"``, ``arguments={"activation": None}``.

    Raises
    ------
    NotAdaptable
        If it is something else, or cannot be called in one of the known ways.
    UsageError
        If a declaration is unknown, or two contradict each other.
    """
    declaration = Declaration.of(declared, f"adapt({name or ''})")
    if isinstance(layer, Implementation):
        return _declared_again(layer, declaration)
    label = name or str(getattr(layer, "__qualname__", None) or type(layer).__name__)
    kind, arguments = _unwrapped(layer, declaration.arguments)
    if convention is FLAX:
        convention = in_flax_words(kind, arguments, FLAX)
    convention = declaration.convention(convention)
    library = library or _top_level(kind)
    call = {key: _object(value) for key, value in declaration.call.items()}
    context = named(declaration.context) if declaration.context else None

    def configured(**options: Any) -> Implementation:
        further = {key: _argument(kind, key, value) for key, value in options.items()}
        given = {**arguments, **further}
        made = _adapted(kind, given, call, label, convention, library)
        return made if context is None else replace(made, context=context)

    found = configured()
    if found.forward is not None:
        return found
    found = replace(found, configured=configured, activations=_activations(kind, arguments))
    options = frozenset(parameters_by_keyword(kind))
    if found.module is not None:
        options |= _passed_on(kind, arguments)
    if found.module is None and found.linen is None:
        options &= {"use_bias"}  # other options have Flax's meaning in Flax only
    return replace(found, options=options, chosen=frozenset(arguments))


def _passed_on(kind: Any, arguments: Mapping[str, Any]) -> set[str]:
    """Return the options of ``nnx.Linear`` that a constructor takes as ``**options``.

    It passes them on to another constructor if it refuses a name that has no meaning.
    """
    from flax import nnx

    signature, theirs = signature_of(kind), signature_of(nnx.Linear)
    kinds = [p.kind for p in signature.parameters.values()] if signature is not None else []
    if inspect.Parameter.VAR_KEYWORD not in kinds or theirs is None:
        return set()

    def is_built(**option: Any) -> bool:
        try:
            bind(kind, {**arguments, **option}, is_nnx=True).construct(*_SIZES, nnx.Rngs(0))
        except BaseException as error:  # the requirements report it, if it is not of the option
            if by_user(error):
                raise
            return False
        return True

    if is_built(an_option_without_meaning=None):
        return set()
    parameters = theirs.parameters
    return {name for name in _PASSED_ON if is_built(**{name: parameters[name].default})}


_PASSED_ON = ("use_bias", "dtype", "param_dtype", "precision", "kernel_init", "bias_init",
              "dot_general", "promote_dtype")  # fmt: skip


def _constants(kind: type, method: str) -> tuple[Any, ...]:
    """Return the constants of a method, among them the functions that are defined within it."""
    code = getattr(inspect.unwrap(vars(kind)[method]), "__code__", None)
    return code.co_consts if code is not None else ()


def _adapted(
    kind: Any, arguments: Mapping[str, Any], call: Mapping[str, Any], label: str,
    convention: Convention, library: str,
) -> Implementation:  # fmt: skip
    from flax import linen, nnx

    if isinstance(kind, nnx.Module | linen.Module):
        raise NotAdaptable(
            f"an instance of {type(kind).__name__}", "Name the class itself, not an instance."
        )
    if inspect.isabstract(kind):
        left = ", ".join(sorted(kind.__abstractmethods__))
        raise NotAdaptable(
            f"the class {label}, which is abstract: it leaves {left} to its subclasses",
            "Name a subclass that defines what is abstract.",
        )
    if isinstance(kind, type) and issubclass(kind, nnx.Module | linen.Module):
        if not _is_called(kind):
            methods = [name for name, value in vars(kind).items() if inspect.isfunction(value)]
            other = misspelled(kind, "__call__")
            other = other or next((name for name in methods if not name.startswith("_")), "")
            instead = f"rename {other} to __call__" if other else "give it __call__(self, x)"
            for name in methods:
                if any(getattr(c, "co_name", "") == "__call__" for c in _constants(kind, name)):
                    instead = f"its __call__ is defined within {name}, so indent it less"
            raise NotAdaptable(
                f"the class {label}, which has no __call__",
                f"Calling runs the forward pass: {instead}.",
            )
        kind = _calling(kind, call)
        if issubclass(kind, nnx.Module):
            return _of_nnx(bind(kind, arguments, is_nnx=True), label, convention, library)
        return _of_linen(bind_features(kind, arguments), label, convention, library)
    others = {base.__module__.partition(".")[0] for base in getattr(kind, "__mro__", ())}
    for library in others & _OTHERS:
        raise NotAdaptable(
            f"the class {label} of {library}, which only {library} itself can build and call",
            "Write a function (seed, x, features) that does, or describe the layer by functions: "
            "see 'A description in Python' in docs/libraries.md.",
        )
    if isinstance(kind, type) and not _is_called(kind):
        raise NotAdaptable(
            f"the class {label}, which is neither a flax.nnx.Module nor a flax.linen.Module, "
            "and has no __call__",
            _instead(kind),
        )
    if not isinstance(kind, type) and callable(kind) and is_factory(kind):
        binding = bind(kind, arguments, is_nnx=True)
        made = _made_by(binding)
        if made is not None:
            return _of_factory(binding, made, label, convention, library, call)
    if isinstance(kind, type) or (callable(kind) and is_factory(kind)):
        from conformance.layers.adapters.plain import from_plain

        further = _further(kind, call) if isinstance(kind, type) else lambda: dict(call)
        name = name_of_input(kind) if isinstance(kind, type) else ""
        binding = bind(kind, arguments, is_nnx=False)
        found = from_plain(
            binding.construct, label, convention, library,
            lambda layer, x: called(layer, name, x, further()),
        )  # fmt: skip
        return replace(found, bound=binding.description)
    if callable(kind):
        return _function(kind, arguments, label, convention, library)
    hint = "Name a class or a function in it." if inspect.ismodule(kind) else ""
    raise NotAdaptable(f"an object of type {type(kind).__name__}, which cannot be called", hint)


def _instead(kind: type) -> str:
    """Return what to name or write instead of a class that cannot be called."""
    if {"init", "apply"} <= set(vars(kind)):
        return f"If its functions take parameters, {BY_FUNCTIONS}"
    return f"Did you mean class {kind.__name__}(nnx.Module)?"


def _is_called(kind: type) -> bool:
    return any("__call__" in vars(base) for base in kind.__mro__)


_OTHERS = frozenset(("haiku", "keras", "tensorflow", "torch"))
_SIZES = (3, 4)
_SAID = ("use_bias", "dtype", "param_dtype", "kernel_init", "bias_init")


def _made_by(factory: Binding) -> Any:
    """Return the Flax module that a function makes; None for any other layer, or if it raises."""
    from flax import linen, nnx

    try:
        made = factory.construct(*_SIZES, nnx.Rngs(0))
    except Exception:  # which the requirements report
        return None
    return made if isinstance(made, nnx.Module | linen.Module) else None


def _of_factory(
    factory: Binding, made: Any, label: str, convention: Convention, library: str,
    call: Mapping[str, Any],
) -> Implementation:  # fmt: skip
    """Return an implementation of a function that makes Flax modules, as if it were their class."""
    from flax import nnx

    calling = _calling(type(made), call)
    if convention == FLAX and type(made).__module__.startswith("flax."):
        said = {key: getattr(made, key) for key in _SAID if hasattr(made, key)}
        convention = in_flax_words(type(made), said, FLAX)
    of = _of_nnx if isinstance(made, nnx.Module) else _of_linen

    def construct(in_features: Any, out_features: Any, source: Any) -> Any:
        found = factory.construct(in_features, out_features, source)
        if type(found) is type(made):
            object.__setattr__(found, "__class__", calling)
        return found

    return of(
        replace(factory, construct=construct) if call else factory, label, convention, library
    )


def _of_nnx(binding: Binding, label: str, convention: Convention, library: str) -> Implementation:
    from conformance.layers.adapters.nnx import from_nnx

    found = from_nnx(binding.construct, label, convention, library, takes_seed=binding.takes_seed)
    return replace(found, bound=binding.description)


def _of_linen(binding: Binding, label: str, convention: Convention, library: str) -> Implementation:
    from conformance.layers.adapters.linen import from_linen

    construct = binding.construct
    found = from_linen(lambda n, m: construct(n, m, None), label, convention, library)
    return replace(found, bound=binding.description)


def _function(
    layer: Any, arguments: Mapping[str, Any], label: str, convention: Convention, library: str
) -> Implementation:
    function = functools.partial(layer, **arguments) if arguments else layer
    bound = bind_forward(function)
    if bound is None:
        raise NotAdaptable(
            f"{label}{signature_of(function)}, which cannot be called as f(seed, x, features)"
        )
    # The exercise's function takes a vector; its name marks a solution of the exercise.
    if convention == FLAX:
        solves = getattr(layer, "__name__", "") == "dense_forward"
        convention = Convention(name="dense_forward", ranks=(1,), fixed_result=solves)
    return Implementation(
        name=label, forward=bound[0], convention=convention, library=library, bound=bound[1]
    )


def _unwrapped(layer: Any, declared: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return a class or function without the partials around it, and their arguments."""
    arguments = {key: _argument(layer, key, value) for key, value in declared.items()}
    while isinstance(layer, functools.partial):
        signature = signature_of(layer.func)
        names = list(signature.parameters) if signature is not None else []
        arguments = {**dict(zip(names, layer.args, strict=False)), **layer.keywords, **arguments}
        layer = layer.func
    # A generic class with its arguments, as in Dense[int], is built as the class.
    return typing.get_origin(layer) or layer, arguments


_ACTIVATION = re.compile(r"act|nonlin|non_lin|func|^fn$")
_DROPOUT = re.compile(r"drop|rate|^p$|determin|train")


def _activations(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments that may be activations or dropout, by name, with their defaults."""
    signature = signature_of(kind)
    found = {} if signature is None else signature.parameters
    return {
        name: each.default
        for name, each in found.items()
        if name not in given
        and each.default is not inspect.Parameter.empty
        and (
            (_ACTIVATION.search(name.lower()) and _is_activation(each.default))
            or (_DROPOUT.search(name.lower()) and isinstance(each.default, bool | float))
        )
    }


def _is_activation(default: Any) -> bool:
    return callable(default) or isinstance(default, str | bool)


def _argument(layer: Any, name: str, value: Any) -> Any:
    """Return a declared argument; ``none`` means None, unless the layer takes only a text."""
    if isinstance(value, str) and value.lower() == "none":
        signature = signature_of(layer)
        parameter = signature.parameters.get(name) if signature is not None else None
        annotation = "" if parameter is None else str(parameter.annotation)
        takes_text = (
            parameter is not None
            and not re.search("None|Optional", annotation)
            and (isinstance(parameter.default, str) or "str" in annotation)
        )
        return value if takes_text else None
    return _object(value)


def _object(value: Any) -> Any:
    """Return the object that ``module:attribute`` names; any other value as it is."""
    is_place = isinstance(value, str) and ":" in value and " " not in value
    return named(value) if is_place else value


def _further(kind: type, call: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
    """Return a function that makes the further arguments of a call, with a new random source."""
    given = {key: value for key, value in call.items() if key != "rngs"}
    made = [random_argument(kind, call["rngs"])] if "rngs" in call else []
    require_plain_call(kind, [*given, *(name for name, _ in made)])
    return lambda: given | {name: make() for name, make in made}


def _calling(kind: type, call: Mapping[str, Any]) -> type:
    """Return a subclass with further arguments of its call, in this module so that it pickles."""
    from flax import linen

    from conformance.layers.adapters.linen import give_streams

    if not call:
        require_plain_call(kind, ())
        return kind
    base: Any = kind
    name_of_x = name_of_input(kind)
    body: dict[str, Any] = {"__module__": __name__, "__doc__": kind.__doc__}
    # Streams of a Linen module belong to its scope and are not an argument of its call.
    streams = call.get("rngs", ()) if issubclass(kind, linen.Module) else ()
    further = _further(kind, {k: v for k, v in call.items() if k != "rngs" or not streams})

    def __call__(self: Any, x: Any) -> Any:
        # Its parent may have replaced its scope.
        if streams:
            give_streams(self, streams)
        return called(functools.partial(base.__call__, self), name_of_x, x, further())

    def __post_init__(self: Any) -> None:
        base.__post_init__(self)
        give_streams(self, streams)

    body |= {"__call__": __call__, **({"__post_init__": __post_init__} if streams else {})}
    # The qualified name is the same in each process, so that another one can unpickle it; Linen
    # names a submodule by the other one.
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__}{dict(call)}".encode())
    name = f"{kind.__name__}_called_with_{'_'.join(call)}_{digest.hexdigest()[:8]}"
    found = type(kind.__name__, (kind,), body | {"__qualname__": name})
    globals()[name] = found
    return found


def _declared_again(layer: Implementation, declaration: Declaration) -> Implementation:
    if declaration.arguments or declaration.call:
        raise NotAdaptable(
            f"the Implementation {layer.name}, whose arguments of construction and call are fixed",
            "Declare arguments of the class instead: name it as module:Class.",
        )
    convention = declaration.convention(layer.convention)
    found = layer if convention == layer.convention else layer.with_convention(convention)
    return replace(found, context=named(declaration.context)) if declaration.context else found


def _top_level(layer: Any) -> str:
    module = str(getattr(layer, "__module__", None) or "")
    return module.partition(".")[0]
