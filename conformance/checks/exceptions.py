"""Finds the cause of an exception of the layer's code by its message and by its frames."""

from __future__ import annotations

import re
from collections import deque
from types import MappingProxyType

import numpy as np

from conformance.errors import Cause, frames_of, name_of, raised_by_layer
from conformance.jax_setup.lazy import nnx

_IN_PLACE = Cause(
    "written-in-place", "an array is changed in place, and it is read-only, as those of JAX are"
)
_IN_VARIABLE = Cause(
    "variable-written-in-place",
    "variable[...] = value writes into the array that the Variable holds, and one that NumPy reads "
    "from a file is read-only: replace it, by variable.set_value(value) or variable.value = value",
)
NOT_CALLED = Cause(
    "initializer-not-called",
    "a function stands where an array is needed: an initializer is made first, and then called, as "
    "lecun_normal()(key, shape)",
)
_OF_VECTOR = Cause(
    "initializer-of-vector",
    "an initializer of kernels, such as lecun_normal, is given a shape of one axis: a bias starts "
    "at zeros",
)
_NUMBER_AS_DTYPE = Cause(
    "number-as-dtype",
    "a number is given in the place of the dtype: a shape is one argument, the tuple "
    "(in_features, out_features)",
)
_RNGS_AS_KEY = Cause(
    "stream-as-key",
    "the Rngs, or a stream of it, is given in the place of a key or a seed: rngs.params() draws a "
    "key",
)
# The texts are those of JAX, if nothing else is said.
_BY_MESSAGE = (
    (
        r"PRNG key type.*RngStream|RngStream.*PRNG key type",
        Cause(
            "stream-as-key",
            "a stream of keys is given where a key is needed: rngs.params is the stream, and "
            "rngs.params() draws a key from it",
        ),
    ),
    # The Rngs may be shown as their default stream. The last one is Python's.
    (r"PRNG key type .*Rngs'|(interpret|Value) '?RngStream\(", _RNGS_AS_KEY),
    (r"number, not '(Rngs|RngStream)'", _RNGS_AS_KEY),
    (
        r"PRNG key type <class '(tuple|list)'>",
        Cause(
            "shape-as-key",
            "a shape is given in the place of the key, which comes first: "
            "jax.random.normal(key, shape)",
        ),
    ),
    (
        r"scalar seed, but was given a PRNG key",
        Cause(
            "key-as-seed",
            "a key is given where a seed is needed: rngs.params() already is a key",
        ),
    ),
    # The messages of JAX and of Python.
    (
        r"of type <class 'function'>|got <class 'function'>|for @: '[\w.]+' and 'function'"
        r"|'function' object has no attribute '__r?matmul__'",
        NOT_CALLED,
    ),
    (r"Cannot interpret '-?\d+' as a data type", _NUMBER_AS_DTYPE),
    # Of JAX and of NumPy.
    (
        r"truth value of an (empty )?array",
        Cause(
            "array-as-condition",
            "an array stands where Python needs true or false, as after `if` or `not`: to ask "
            "whether there is one, compare it by `is not None`",
        ),
    ),
    # Of the initializers of jax.nn.
    (r"-dimensional weights tensor", _OF_VECTOR),
    # Of Linen.
    (
        r"wrapped in `@compact`",
        Cause(
            "compact-missing",
            "the call makes parameters: write @nn.compact in the line above its def",
        ),
    ),
    # Of jax.checking_leaks.
    (
        r"Leaked tracer",
        Cause("value-stored", "the call stores its result, or x, on the layer or in a global"),
    ),
    (
        r"(shard_map|sharding_constraint) inside jit with device ids",
        Cause(
            "mesh-of-its-own",
            "the layer computes on a mesh of its own, and these arrays lie on other devices: "
            "declare the mesh as its context",
        ),
    ),
    (
        r"has been deleted",
        Cause(
            "array-deleted",
            "an array is used after it was deleted: by delete(), or because it was donated",
        ),
    ),
    (
        r"float0",
        Cause(
            "derivative-of-integers",
            "a rule of differentiation computes with the derivative of integers, of JAX's dtype "
            "float0, which has no numbers: cast x before the function that has the rule",
        ),
    ),
    # Of NumPy, as are the next two.
    (
        r"^Unable to allocate",
        Cause(
            "allocated-by-numpy",
            "NumPy makes the array, also where JAX only describes it: make it by jax.numpy or "
            "jax.random",
        ),
    ),
    (r"^(output array|assignment destination) is read-only$", _IN_PLACE),
)
TRACER_KEPT = Cause(
    "tracer-kept",
    "an array of a traced call is kept, in a cache, a global or an attribute, and used in a later "
    "call",
)
_NUMBER_UNDER_TRACE = "number-under-trace"
_BY_NAME = MappingProxyType(
    {
        "TracerArrayConversionError": Cause(
            "numpy-under-trace",
            "a JAX array is passed to NumPy, which no transformation allows: use jax.numpy",
        ),
        "ConcretizationTypeError": Cause(
            _NUMBER_UNDER_TRACE,
            "an array is converted to a Python number, as by int() or float(), which no "
            "transformation allows",
        ),
        "UnexpectedTracerError": TRACER_KEPT,
        "TracerIntegerConversionError": Cause(
            _NUMBER_UNDER_TRACE,
            "an array is used as a Python integer, which no transformation allows",
        ),
        "TracerBoolConversionError": Cause(
            "condition-under-trace",
            "Python decides by the value of an array, as in an `if`, which no transformation "
            "allows: use jnp.where or jax.lax.cond",
        ),
    }
)
"""The causes of JAX's own errors, by their names."""


def cause_of(error: BaseException, text: str) -> str:
    """Return the cause of an exception with this text, or "" if it has no usual one."""
    found = next((cause for message, cause in _BY_MESSAGE if re.search(message, text)), "")
    if found is _OF_VECTOR and _has_number_as_dtype(error):
        return _NUMBER_AS_DTYPE
    if found is _IN_PLACE and _is_in_variable(error):
        return _IN_VARIABLE
    kind = name_of(error)
    asked = re.search(r"The (\w+)\(\) method was called on", text)
    if not found and asked is not None and kind == "ConcretizationTypeError":
        words = f"{asked[1]}() is asked of an array under a trace, which has no device yet"
        return Cause("device-under-trace", words)
    if kind == "TracerArrayConversionError" and not raised_by_layer(error):
        kind = "UnexpectedTracerError"  # of a check, which reads arrays outside of traces only
    return found or _BY_NAME.get(kind, "")


def _is_in_variable(error: BaseException) -> bool:
    """Return whether an nnx.Variable changed the array that it holds."""
    innermost = deque(frames_of(error), maxlen=1)  # none, if the exception has no traceback
    return any(isinstance(frame.f_locals.get("self"), nnx.Variable) for frame in innermost)


def _has_number_as_dtype(error: BaseException) -> bool:
    """Return whether a function on the way to the exception was given a number as its dtype."""
    given = (frame.f_locals.get("dtype") for frame in frames_of(error))
    return any(isinstance(dtype, int | np.integer) for dtype in given)
