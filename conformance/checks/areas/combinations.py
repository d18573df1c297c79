"""Checks circumstances in pairs: each may be right alone, and two of them meet in one branch.

The rows are a covering array of strength two, as in pairwise testing of configurations: each pair
of levels of two factors is in one of them; in the profile thorough, each triple. A row is traced,
which costs milliseconds, and compiled only if its program has other operations than those before.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import itertools
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from conformance.checks import profiles, programs, require
from conformance.checks.areas import cast_models, gradients, input_dtypes, meshes, mutation, options
from conformance.checks.arithmetic import rounded
from conformance.checks.arrays import as_jax
from conformance.checks.cases import BATCH, Case
from conformance.checks.diagnosis.wrong_gradients import Point
from conformance.checks.layer import Built, Layer
from conformance.checks.scan.points import larger
from conformance.checks.scan.thresholds import operations
from conformance.errors import Cause, Violation
from conformance.jax_setup.lazy import jax, jnp

Way = Callable[[Case], Built]
"""Makes the layer of a case in one way; the layer of the result has the convention of this way."""


class Row(NamedTuple):
    """One level of each factor: how the layer is made, x, the size, and how it is called."""

    made: str
    copied: bool
    dtype: str
    lead: tuple[int, ...]
    size: tuple[int, int]
    called: str

    def in_words(self, base: Row) -> list[str]:
        """Return the levels that differ from those of the base, in words."""
        words = {
            "made": self.made,
            "copied": "a copy of a layer that was called before",
            "dtype": f"x of dtype {self.dtype}",
            "lead": f"x of shape {(*self.lead, self.size[0])}",
            "size": f"in_features={self.size[0]} and out_features={self.size[1]}",
            "called": self.called,
        }
        return [words[name] for name in self._fields if getattr(self, name) != getattr(base, name)]


_DTYPES = ("float32", "bfloat16", "float16", "int32", "complex64")
_LEADS: tuple[tuple[int, ...], ...] = (BATCH, (), (300,), (2, 3), (2, 3, 2))
_CALLED = ("jax.vjp", "jax.vmap over x", "jax.vmap over layers", "jax.jvp")
_ON_NUMPY, _SHARDED = "a NumPy array, outside of jit", "x sharded by rows, outside of jit"
_MEMBERS = 3


def covering(factors: Sequence[Sequence[Any]], strength: int) -> Iterator[tuple[Any, ...]]:
    """Yield rows of one level of each factor that contain all combinations of so many levels.

    This is the greedy algorithm of AETG: a row starts with a combination that is missing, and takes
    for each other factor the level that adds the most of those that are missing.
    """
    places = [[(i, level) for level in range(len(levels))] for i, levels in enumerate(factors)]
    missing = {
        each
        for chosen in itertools.combinations(places, strength)
        for each in itertools.product(*chosen)
    }
    generator = random.Random(0)
    while missing:
        row = dict(min(missing))
        others = [i for i in range(len(factors)) if i not in row]
        for i in generator.sample(others, len(others)):
            beside = [*itertools.combinations(row.items(), strength - 1)]
            gained = [
                sum(tuple(sorted((*each, place))) in missing for each in beside)
                for place in places[i]
            ]
            row[i] = gained.index(max(gained))
        missing -= {*itertools.combinations(sorted(row.items()), strength)}
        yield tuple(factors[i][row[i]] for i in range(len(factors)))


def require_pairs(layer: Layer, case: Case) -> None:
    """Require values and derivatives in each pair of circumstances that are right alone."""
    ways = {way: _once(way, make) for way, make in _ways(layer).items()}
    # Small, of one output, and beyond 128: sizes whose construction is compiled anyway.
    sizes = [(3, 10), (5, 1), *(each.kernel_shape for each in larger(layer)[:1])]
    leads = [lead for lead in _LEADS if layer.accepts(lead)]
    factors: list[Sequence[Any]] = [
        [*ways],
        (False, True) if _is_copied_right(layer, case) else (False,),
        [dtype for dtype in _DTYPES if _takes(layer, case, dtype)],
        leads,
        sizes,
        _calls(layer, case),
    ]
    base = Row(*(levels[0] for levels in factors))
    known: set[Any] = set()
    for levels in covering(factors, 3 if profiles.active().name == "thorough" else 2):
        row = Row(*levels)
        try:
            _require(ways, row, case, known)
        except Violation:
            _report(ways, row, base, case)
            raise


def _takes(layer: Layer, case: Case, dtype: str) -> bool:
    if dtype != "complex64" or not input_dtypes.works_with(layer, dtype):
        return input_dtypes.works_with(layer, dtype)
    # See dtypes/complex-input and dtypes/cast-parameters.
    x = as_jax(np.ones((*layer.fewest, case.in_features)), dtype)
    return np.iscomplexobj(layer.of(case)(x))


def _calls(layer: Layer, case: Case) -> list[str]:
    from conformance.jax_setup.compat import inside_some_mesh

    found = [how for how in _CALLED if how != "jax.jvp" or programs.has_forward_mode(layer, case)]
    if input_dtypes.takes_numpy(layer):
        found.append(_ON_NUMPY)
    if jax.device_count() > 1 and not inside_some_mesh():
        found.append(_SHARDED)
    return found


def _report(ways: dict[str, Way], row: Row, base: Row, case: Case) -> None:
    """Raise the violation of a wrong row, with no level but the base's that is not needed."""

    def is_wrong(row: Row) -> bool:
        try:
            _require(ways, row, case, set())
        except Violation:
            return True
        return False

    before = base
    while row != before:  # a level that is needed beside others may not be needed without them
        before = row
        for name in Row._fields:
            simpler = row._replace(**{name: getattr(base, name)})
            row = simpler if simpler != row and is_wrong(simpler) else row
    levels = row.in_words(base)
    words = "only together: where one of them is missing, the result is right"
    cause = Cause("wrong-together", words) if len(levels) > 1 else ""
    try:
        _require(ways, row, case, set())
    except Violation as violation:
        violation.because(violation.cause or cause).located(" and ".join(levels))
        raise


def _require(ways: dict[str, Way], row: Row, case: Case, known: set[Any]) -> None:
    """Require the value and the derivatives in a row, unless its program is one of the known."""
    case = replace(case, in_features=row.size[0], out_features=row.size[1], lead=row.lead, values=1)
    if row.made == _CAST and row.dtype in ("float32", "float16"):
        # As such models are called: two half precisions are not mixed.
        row = row._replace(dtype="bfloat16")
    dense = ways[row.made](case)
    if row.dtype == "complex64" and dense.layer.convention.casts_input:
        return  # the imaginary part is lost: see dtypes/complex-input
    dense = _copied(dense, row.made) if row.copied else dense
    layer, parameters = dense.layer, dense.parameters
    x, g = _numbers(row, case)
    if row.called in (_ON_NUMPY, _SHARDED):
        dense.write(case.kernel(), case.bias())
        y = dense(_placed(row, x.astype(jnp.dtype(row.dtype))), as_given=True)
        _compare(layer, row, case, x, g, y, None)
        return
    given = (case.kernel(), case.bias(), as_jax(x, row.dtype), g)
    program = _program(layer, row)
    try:
        with require.during(f"{row.called} of the layer"):
            traced = jax.jit(program).trace(parameters, *given)
            key = _operations(traced.jaxpr)
            if key in known:
                return
            known.add(key)
            compiled = programs.compiled_to_run_once(traced)
            y, found = jax.device_get(compiled(parameters, *given))
    except Violation as violation:
        if row.called == "jax.jvp" and "custom_vjp" in violation.found:
            return  # a rule for some shapes or dtypes: see transforms/forward-mode-offered
        raise
    _compare(layer, row, case, x, g, y, found)


def _placed(row: Row, x: np.ndarray) -> Any:
    if row.called == _ON_NUMPY:
        return x
    devices = meshes.most(x.shape[0]) if x.ndim > 1 else 1
    axes = jax.sharding.PartitionSpec(meshes.AXIS if devices > 1 else None)
    return jax.device_put(x, jax.sharding.NamedSharding(meshes.mesh(devices), axes))


def _numbers(row: Row, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return x, as numbers of float32 or complex64 that its dtype has, and the cotangent."""
    members = (_MEMBERS,) * row.called.startswith("jax.vmap")
    shape = (*members, *case.x_shape)
    if row.dtype == "int32":
        x = case.integers("x", *shape)
    elif row.dtype == "complex64":
        x = case.normal("x", *shape) + np.complex64(1j) * case.normal("imaginary", *shape)
    else:
        x = rounded(case.normal("x", *shape), row.dtype)
    return x, case.normal("cotangent", *shape[:-1], case.out_features)


def _program(layer: Layer, row: Row) -> Callable[..., Any]:
    """Return ``(parameters, kernel, bias, x, g) -> (y, derivatives)`` of the row's call."""
    f = programs.affine(layer)

    def program(parameters: Any, kernel: Any, bias: Any, x: Any, g: Any) -> Any:
        def y(kernel: Any, bias: Any, x: Any) -> Any:
            if row.called == "jax.vmap over layers":
                return jax.vmap(f, (None, 0, 0, 0))(parameters, kernel, bias, x)
            if row.called == "jax.vmap over x":
                return jax.vmap(f, (None, None, None, 0))(parameters, kernel, bias, x)
            return f(parameters, kernel, bias, x)

        if row.called == "jax.vmap over layers":
            kernel, bias = (jnp.stack([each * (i + 1) for i in range(_MEMBERS)])
                            for each in (kernel, bias))  # fmt: skip
        if row.dtype == "complex64":  # dtypes/complex-input says what derivatives are right
            return y(kernel, bias, x), None
        # An integer has no derivative.
        values = (kernel, bias) if row.dtype == "int32" else (kernel, bias, x)

        def of(*given: Any) -> Any:
            return y(*given, *(kernel, bias, x)[len(given) :])

        if row.called == "jax.jvp":
            return jax.jvp(of, values, values)
        result, back = jax.vjp(of, *values)
        return result, back(g.astype(result.dtype))

    return program


def _operations(jaxpr: Any) -> Any:
    """Return the operations of a program with their dtypes and numbers, without its shapes."""
    counted: collections.Counter[Any] = collections.Counter()
    for equation, operation in operations(jaxpr):
        variables = (*equation.invars, *equation.outvars)
        numbers = [str(v.val) for v in variables if np.ndim(getattr(v, "val", [])) == 0]
        counted[*operation, *numbers] += 1
    return frozenset(counted.items())


def _compare(
    layer: Layer, row: Row, case: Case, x: np.ndarray, g: np.ndarray, y: Any, found: Any
) -> None:
    """Require the results of the row's program to be those of the formula, within its bounds."""
    kernel, bias = case.kernel(), case.bias() * layer.convention.use_bias
    if row.called != "jax.vmap over layers":
        _compare_one(layer, row, (kernel, bias), x, g, y, found)
        return
    for i in range(_MEMBERS):
        scaled = (np.float32(i + 1) * kernel, np.float32(i + 1) * bias)
        its = found and [each[i] for each in found]
        _compare_one(layer, row, scaled, x[i], g[i], y[i], its)


def _compare_one(
    layer: Layer, row: Row, values: tuple[np.ndarray, np.ndarray], x: np.ndarray, g: np.ndarray,
    y: Any, found: Any,
) -> None:  # fmt: skip
    kernel, bias = values
    arithmetic = layer.arithmetic(len(kernel), row.dtype)
    what = f"f(x) by {row.called}" if row.called in _CALLED else f"f of {row.called},"
    expected = layer.returned_for(row.dtype)
    require.that(str(y.dtype) == expected, f"{what} is {y.dtype}", accepted=expected)
    reference = arithmetic.affine(x, kernel, bias)
    require.near(_wide(y), reference, what)
    if found is None:
        return
    if row.called == "jax.jvp":
        tx = x * (row.dtype != "int32")
        reference = arithmetic.tangent(x, kernel, kernel, bias, tx)
        require.near(_wide(found), reference, "the tangent by jax.jvp")
        return
    its = tuple(map(_wide, found))
    point = Point(f"x of shape {x.shape}", kernel, bias, x, g)
    given: Any = (*its[:2], None)
    gradients.require_gradients(
        layer, given, point, row.called, inputs=False, arithmetic=arithmetic.in_parts()
    )
    if len(its) > 2:
        what = f"the gradient with respect to the input x by {row.called}"
        gradients.require_of_input(arithmetic, its[2], point, row.dtype, what)


def _wide(values: Any) -> np.ndarray:
    values = np.asarray(values)
    return values if np.iscomplexobj(values) else values.astype(np.float32)


_CAST = "a model cast to bfloat16"


def _ways(layer: Layer) -> dict[str, Way]:
    """Return the ways to make the layer, by their names: plain, with an option, and cast."""
    ways: dict[str, Way] = {"no options": layer.of}
    if layer.reparameterized:
        return ways
    half = jnp.dtype("bfloat16")
    given: dict[str, Any] = {"dtype": half, "param_dtype": half}
    if layer.convention.use_bias:
        given["use_bias"] = False
    for name, value in given.items():
        if options.takes(layer, name):
            ways[f"{name}={value}"] = layer.with_options(**{name: value}).of
    view = cast_models.in_half(layer, str(half))
    if view is not None:

        def cast(case: Case) -> Built:
            dense = layer.of(case).cast(str(half))
            dense.layer = view
            return dense

        ways[_CAST] = cast
    return ways


def _once(way: str, make: Way) -> Way:
    """Return the same way, by which each size is made once."""
    known: dict[tuple[int, int], Built] = {}

    def made(case: Case) -> Built:
        if case.kernel_shape not in known:
            with require.during(f"construction: {way}"):
                known[case.kernel_shape] = make(case)
        return known[case.kernel_shape]

    return made


def _is_copied_right(layer: Layer, case: Case) -> bool:
    with contextlib.suppress(Violation):  # state/pickles reports a layer that is not
        _copied(layer.of(case), "no options")
        return True
    return False


def _copied(dense: Built, way: str) -> Built:
    """Return a copy, by ``copy.deepcopy`` and pickle, of a layer that was called before.

    It has the same arrays, of the same dtypes.
    """
    with require.during(f"calling and copying: {way}"):
        width = dense.kernel.shape[0]
        for lead in filter(dense.layer.accepts, ((), (4,), (2, 2))):
            dense(np.ones((*lead, width), np.float32))
        if dense.module is None:
            return Built(dense.layer, parameters=copy.deepcopy(dense.parameters))
        module = copy.deepcopy(dense.module)
        with contextlib.suppress(Exception):  # state/pickles reports a layer that is not pickled
            module = pickle.loads(pickle.dumps(module))
        found = Built(dense.layer, module=module)
        mutation.require_same_arrays(found, dense, "a copy")
    return found
