"""Binds sizes and sources of randomness to the arguments of a constructor, by their names.

Libraries use different names and orders. Position decides only if names do not. A description of
the binding can be printed.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NewType

from conformance.errors import NotAdaptable
from conformance.jax_setup.lazy import jax, jnp, nnx
from conformance.layers.calls import INPUTS, OF_LINEN, RANDOM, as_call, how_to_declare

_NOUNS = ("features", "feature", "dim", "dims", "size", "channels", "units", "width", "nodes",
          "axes")  # fmt: skip


def _spelled(side: str, short: str, *others: str) -> frozenset[str]:
    """Return usual names of one size: ``in_features``, ``dim_in``, ``n_in``, ``din``."""
    found = {f"{word}_{noun}" for word in (side, short) for noun in _NOUNS}
    found |= {f"{noun}_{short}" for noun in _NOUNS}
    found |= {f"{before}_{word}" for before in ("n", "d", "num", "dim", "fan") for word in
              (side, short, f"{side}s", f"{short}_features")}  # fmt: skip
    found |= {f"{before}{short}" for before in ("n", "d")} | {f"{short}dim", short, f"{short}_"}
    return frozenset(found | set(others))


_IN = _spelled("input", "in")
_OUT = _spelled(
    "output", "out", "features", "units", *(f"hidden_{noun}" for noun in _NOUNS), "hidden",
    *(f"{before}_{word}" for before in ("n", "num") for word in ("features", "units", "hidden")),
    *("vocab_size", "num_classes", "n_classes", "num_labels", "num_outputs"),
)  # fmt: skip
_NO_SIZE = ("str", "bool", "float", "callable", "rngs", "dtype", "array", "initializer", "mesh")
_SHAPE = re.compile(r"(typing\.)?(sequence|tuple|list|shape)\b")
_AXES = re.compile(r"\baxis\b|\bdict\b|\bmapping\b")
_NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD,
          inspect.Parameter.KEYWORD_ONLY)  # fmt: skip

_WAYS = {"rngs": "nnx.Rngs(seed)", "key": "jax.random.key(seed)", "seed": "seed"}

Parameter = inspect.Parameter


@dataclass(frozen=True)
class Binding:
    """How a layer is constructed.

    Parameters
    ----------
    construct
        ``construct(in_features, out_features, source)``; the source of randomness is an
        ``nnx.Rngs`` or a seed, by the kind of layer.
    description
        The call in words; empty if it is the usual one.
    takes_seed
        Whether the constructor takes a seed, which an ``nnx.Rngs`` gives as a number.
    """

    construct: Callable[[Any, Any, Any], Any]
    description: str = ""
    takes_seed: bool = False


def signature_of(layer: Any) -> inspect.Signature | None:
    """Return the signature of a class's constructor or of a callable; None if it has none."""
    try:
        if not isinstance(layer, type):
            return inspect.signature(layer)
        # The metaclass of nnx.Module hides the constructor's signature behind its own.
        signature = inspect.signature(layer.__init__)  # type: ignore[misc]  # of the class at hand
        return signature.replace(parameters=list(signature.parameters.values())[1:])
    except (TypeError, ValueError):
        return None  # a callable of C code may hide its signature


def parameters_by_keyword(layer: Any) -> list[str]:
    """Return the names of a constructor's arguments that may be given by keyword."""
    signature = signature_of(layer)
    kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    found = signature.parameters.values() if signature is not None else ()
    return [each.name for each in found if each.kind in kinds]


def bind(layer: Any, arguments: Mapping[str, Any], *, is_nnx: bool) -> Binding:
    """Bind the sizes and the source of randomness of a constructor by their names.

    Parameters
    ----------
    layer
        The class, or a function that returns a layer.
    arguments
        Further arguments, which are passed on unchanged.
    is_nnx
        Whether the source of randomness is an ``nnx.Rngs``; else it is a seed.

    Raises
    ------
    NotAdaptable
        If no argument takes a size, or an argument has given a value for.
    """
    signature = signature_of(layer)
    if signature is None or not _named(signature, arguments):
        return Binding(lambda n, m, rngs: layer(n, m, rngs=rngs, **arguments))
    _require_known(layer, signature, arguments)
    named = _named(signature, arguments)
    random = next((p for p in named if p.name.lower() in RANDOM), None)
    passes_on = any(p.kind is Parameter.VAR_POSITIONAL for p in signature.parameters.values())
    if random is not None and passes_on and len(named) == 1:
        name, way = random.name, _source(random, is_nnx)
        return Binding(
            lambda n, m, source: layer(n, m, **{name: _random(way, source)}, **arguments)
        )
    sizes = _sizes(layer, signature, [p for p in named if p is not random])
    axes = [p.name for p in sizes if _AXES.search(_annotation(p))]
    if axes:
        raise NotAdaptable(
            f"{_name(layer)}, whose {' and '.join(axes)} are named axes, not sizes",
            "Describe the layer by functions, which name the axes of x: see 'A description in "
            "Python' in docs/libraries.md.",
        )
    _require_complete(layer, signature, [p for p in named if p not in (random, *sizes)])
    into = _source(random, is_nnx) if random is not None else ""
    takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in signature.parameters.values())

    def construct(in_features: Any, out_features: Any, source: Any) -> Any:
        given: dict[str, Any] = {sizes[0].name: in_features, sizes[1].name: out_features}
        if random is not None:
            given[random.name] = _random(into, source)
        elif is_nnx and takes_any:
            given["rngs"] = source
        return _called(layer, signature, {**given, **arguments})

    words = _described(layer, signature, sizes, random, into, arguments)
    return Binding(construct, words, into == "seed")


def _named(signature: inspect.Signature, arguments: Mapping[str, Any]) -> list[Parameter]:
    parameters = signature.parameters.values()
    return [p for p in parameters if p.kind in _NAMED and p.name not in arguments]


def _called(layer: Any, signature: inspect.Signature, given: Mapping[str, Any]) -> Any:
    """Return the call, which passes positional-only arguments by position."""
    only = Parameter.POSITIONAL_ONLY
    first = [p.name for p in signature.parameters.values() if p.kind is only and p.name in given]
    return layer(
        *(given[name] for name in first),
        **{name: value for name, value in given.items() if name not in first},
    )


def _sizes(
    layer: Any, signature: inspect.Signature, named: Sequence[Parameter]
) -> tuple[Parameter, Parameter]:
    """Return the parameters of both sizes, found by name, else the first that may be sizes."""
    first = next((p for p in named if p.name.lower() in _IN), None)
    outputs = [p for p in named if p.name.lower() in _OUT]
    hidden = [p for p in outputs if p.name.lower().startswith("hidden")]
    if first is None and hidden and len(outputs) > len(hidden):
        # A head takes the hidden size to another one.
        first = hidden[0]
        outputs.remove(first)
    second = outputs[0] if outputs else None
    rest = [p for p in named if p not in (first, second) and _may_be_size(p)]
    # Arguments without a default come first, because the call has to give them.
    rest.sort(key=lambda p: p.default is not Parameter.empty)
    if first is None or second is None:
        rest = [p for p in rest if p.default is Parameter.empty or _is_int(p.default)]
    if first is None and rest:
        first = rest.pop(0)
    if second is None and rest:
        second = rest.pop(0)
    if first is None or second is None:
        missing = " and ".join(
            side for side, found in (("input", first), ("output", second)) if found is None
        )
        makers = _makers(layer)
        raise NotAdaptable(
            f"{as_call(_name(layer), signature)}, which cannot be called as "
            f"cls(in_features, out_features, rngs=rngs): "
            f"no argument is the size of the {missing}",
            f"Name the method that takes sizes: {_name(layer)}.{makers[0]}"
            if makers
            else _by_function(named),
        )
    return first, second


def _by_function(named: Sequence[Parameter]) -> str:
    """Return a hint if an argument is a shape, which no size can be bound to."""
    shape = next((p.name for p in named if _SHAPE.match(_annotation(p))), "")
    of = f"Name a function of in_features and out_features that makes it, and gives it a {shape}."
    return of if shape else ""


def _makers(layer: Any) -> list[str]:
    """Return the names of a class's own methods that take two sizes."""
    names = [name for name in getattr(layer, "__dict__", {}) if not name.startswith("_")]
    return [name for name in names if is_factory(getattr(layer, name))]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _may_be_size(parameter: Parameter) -> bool:
    text = _annotation(parameter)
    return not _SHAPE.match(text) and not any(word in text for word in _NO_SIZE)


def _annotation(parameter: Parameter) -> str:
    found = parameter.annotation
    if found is Parameter.empty:
        return ""
    named = isinstance(found, type | NewType) or inspect.isfunction(found)
    text = str(found.__name__ if named else found).lower()
    annotated = re.search(r"\bannotated\[([^,]+),", text)
    return annotated[1] if annotated else text


def _require_known(layer: Any, signature: inspect.Signature, arguments: Mapping[str, Any]) -> None:
    if any(p.kind is Parameter.VAR_KEYWORD for p in signature.parameters.values()):
        return
    unknown = [name for name in arguments if name not in signature.parameters]
    if unknown:
        raise NotAdaptable(
            f"{as_call(_name(layer), signature)}, which has no argument {unknown[0]!r}",
            f"It is given by: arguments = {{ {unknown[0]} = ... }}",
        )


def _require_complete(
    layer: Any, signature: inspect.Signature, others: Sequence[Parameter]
) -> None:
    required = [p for p in others if p.default is Parameter.empty]
    needed, makers = [p.name for p in required], _makers(layer)
    if makers and any(re.search(r"array\b(?!\])", _annotation(p)) for p in required):
        raise NotAdaptable(
            f"{_name(layer)}, whose constructor takes its arrays: {' and '.join(needed)}",
            f"Name the method that takes sizes: {_name(layer)}.{makers[0]}",
        )
    if needed:
        raise NotAdaptable(
            f"{as_call(_name(layer), signature)}, which also needs "
            f"{' and '.join(map(repr, needed))}",
            how_to_declare("arguments", needed),
        )


def _source(parameter: Parameter, is_nnx: bool) -> str:
    """Return whether an argument takes an Rngs, a key or a seed, by its annotation or name."""
    text, name = _annotation(parameter), parameter.name.lower()
    if "rngs" in text or name == "rngs":
        return "rngs"
    if "key" in text or "array" in text or "prng" in text:
        return "key"
    if text == "int" or "seed" in name:
        return "seed"
    return "rngs" if is_nnx and name in ("rng", "rngs") else "key"


def random_argument(kind: type, streams: Sequence[str]) -> tuple[str, Callable[[], Any]]:
    """Return the argument of a layer's call that takes randomness, and a function for its value.

    Raises
    ------
    NotAdaptable
        If the call has none.
    """
    signature = signature_of(kind.__call__)
    named = [] if signature is None else _named(signature, {})
    found = next((p for p in named if p.name.lower() in RANDOM), None)
    if found is None:
        raise NotAdaptable(
            f"{kind.__name__}, whose call takes no source of randomness for the streams "
            f"{', '.join(streams)}",
            "Declare no rngs of the call.",
        )
    into = _source(found, issubclass(kind, nnx.Module))
    if into == "rngs":
        return found.name, lambda: nnx.Rngs(**dict.fromkeys(streams, 0))
    return found.name, lambda: 0 if into == "seed" else jax.random.key(0)


def _random(into: str, source: Any) -> Any:
    """Return the source of randomness in the form that an argument takes.

    An ``nnx.Rngs`` gives a key, or a seed, of its ``params`` stream.
    """
    if isinstance(source, nnx.Rngs):
        if into == "rngs":
            return source
        return source.params() if into == "key" else _number(source.params)
    if into == "seed":
        return source
    key = jax.random.key(source)
    return key if into == "key" else nnx.Rngs(source if isinstance(source, int) else key)


def _number(stream: Any) -> Any:
    """Return the seed of a new stream, because drawn bits may collide; later, the bits it draws."""
    is_new, seed = stream.count[...] == 0, jax.random.key_data(stream.key[...])[..., -1]
    number = jnp.where(is_new, seed, jax.random.bits(stream()))
    return number if isinstance(number, jax.core.Tracer) else int(number)


def _described(
    layer: Any, signature: inspect.Signature, sizes: tuple[Parameter, Parameter],
    random: Parameter | None, into: str, arguments: Mapping[str, Any],
) -> str:  # fmt: skip
    """Return the call in words, unless the sizes are the first two arguments under known names."""
    first, second = sizes
    order = list(signature.parameters)
    known = first.name.lower() in _IN and second.name.lower() in _OUT
    plain = known and order.index(first.name) < order.index(second.name)
    if plain and random is not None and into == "rngs":
        return ""
    parts = [f"{first.name}=in_features", f"{second.name}=out_features"]
    if order.index(first.name) > order.index(second.name):
        parts.reverse()
    parts += [f"{random.name}={_WAYS[into]}"] if random is not None else []
    parts += [f"{name}={value!r}" for name, value in arguments.items()]
    call = f"{_name(layer)}({', '.join(parts)})"
    pairs = ((first, _IN), (second, _OUT))
    unknown = [size.name for size, names in pairs if size.name.lower() not in names]
    remarks = [] if known else [f"by position, not by name: {' and '.join(unknown)}"]
    takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in signature.parameters.values())
    remarks += [] if random is not None or takes_any else ["it takes no seed"]
    return call + (f" ({'; '.join(remarks)})" if remarks else "")


def bind_features(layer: Any, arguments: Mapping[str, Any]) -> Binding:
    """Bind the sizes of a Linen class: ``construct(in_features, out_features, None)``.

    A single size field, under any name, is the size of the output.

    Raises
    ------
    NotAdaptable
        If no field can be the size of the output, or another field needs a value.
    """
    signature = signature_of(layer)
    if signature is None:
        return Binding(lambda n, m, _: layer(features=m, **arguments))
    _require_known(layer, signature, arguments)
    fields = [p for p in _named(signature, arguments) if p.name not in OF_LINEN]
    first = next((p for p in fields if p.name.lower() in _IN), None)
    second = next((p for p in fields if p.name.lower() in _OUT), None)
    if second is None:
        needed = [p for p in fields if p.default is Parameter.empty and p is not first]
        second = next((p for p in needed if _may_be_size(p)), None)
    if second is None:
        untyped = [n for n in vars(layer) if n.lower() in _OUT and n not in signature.parameters]
        raise NotAdaptable(
            f"{as_call(_name(layer), signature)}, which cannot be called as "
            "cls(features=out_features): no field is the size of the output",
            f"{untyped[0]} has no type, so it does not become a field: {untyped[0]}: int"
            if untyped
            else _by_function(fields),
        )
    _require_complete(layer, signature, [p for p in fields if p not in (first, second)])

    def construct(in_features: Any, out_features: Any, _: Any) -> Any:
        sizes = {second.name: out_features}
        if first is not None:
            sizes[first.name] = in_features
        return layer(**sizes, **arguments)

    parts = [f"{first.name}=in_features"] if first is not None else []
    parts += [f"{second.name}=out_features"]
    parts += [f"{name}={value!r}" for name, value in arguments.items()]
    plain = first is None and second.name.lower() in _OUT
    return Binding(construct, "" if plain else f"{_name(layer)}({', '.join(parts)})")


def bind_forward(layer: Any) -> tuple[Callable[[Any, Any, Any], Any], str] | None:
    """Return a function as ``(seed, x, features)``; its own arguments may have another order.

    Returns
    -------
    tuple or None
        The function in the suite's order, and its call in words if that differs; None if it cannot
        be called with three arguments.
    """
    signature = signature_of(layer)
    if signature is None:
        return layer, ""
    named = {p.name.lower(): p for p in _named(signature, {})}
    seed = next((p for name, p in named.items() if name in RANDOM), None)
    x = next((p for name, p in named.items() if name in INPUTS), None)
    features = next((p for name, p in named.items() if name in _OUT), None)
    needed = [p for p in named.values() if p.default is Parameter.empty]
    order = [p for p in named.values() if p in (seed, x, features)]
    known = seed is not None and x is not None and features is not None
    into = "seed" if seed is None else _source(seed, is_nnx=False)
    plain = order == [seed, x, features] and into == "seed"
    if known and not plain and all(p in order for p in needed):
        assert seed is not None
        assert x is not None
        assert features is not None
        names = (seed.name, x.name, features.name)

        def forward(seed: Any, *others: Any) -> Any:
            whole = seed if into == "seed" or isinstance(seed, int) else jnp.uint32(seed)
            given = dict(zip(names, (_random(into, whole), *others), strict=True))
            return _called(layer, signature, given)

        functools.update_wrapper(forward, layer)
        words = {seed.name: f"{seed.name}={_WAYS[into]}"} if into != "seed" else {}
        return forward, f"{_name(layer)}({', '.join(words.get(p.name, p.name) for p in order)})"
    try:
        signature.bind(0, 0, 1)
    except TypeError:
        return None
    return layer, ""


def is_factory(layer: Any) -> bool:
    """Return whether a function takes two sizes and no ``x``, and so makes a layer."""
    signature = signature_of(layer) if callable(layer) else None
    names = set() if signature is None else {p.name.lower() for p in _named(signature, {})}
    return bool(names & _IN) and bool(names & _OUT) and not names & INPUTS


def misspelled(kind: Any, name: str) -> str:
    """Return the own method of a class that is nearly called `name`, as ``_init_``; else ""."""
    own = [each for each, value in vars(kind).items() if inspect.isfunction(value)]
    plain = [each for each in own if each != name and each.strip("_") == name.strip("_")]
    return next(iter(plain + difflib.get_close_matches(name, own, n=1, cutoff=0.8)), "")


def _name(layer: Any) -> str:
    return str(getattr(layer, "__name__", None) or type(layer).__name__)
