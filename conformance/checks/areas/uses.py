"""Ordinary uses of a few layers, each of them with a model of what it should hold.

The model of a layer is its kernel, its bias and their dtype. A use changes them, or computes f(x),
which must be x @ K + b for the present ones.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conformance.checks import jaxprs, oracle, programs, require
from conformance.checks.areas import gradients, input_dtypes
from conformance.checks.arithmetic import rounded
from conformance.checks.arrays import as_jax
from conformance.checks.cases import BATCH, Case
from conformance.checks.diagnosis.telling import require_value
from conformance.checks.diagnosis.wrong_gradients import Point
from conformance.checks.layer import Built, Layer
from conformance.jax_setup.lazy import jax, nnx

# Two layers of one size, and one of more inputs than usual thresholds of a fast path for tokens.
_SIZES = ((3, 10), (3, 10), (130, 4))
LEADS: tuple[tuple[int, ...], ...] = (BATCH, (), (2, 4), (2, 1, 3))
_HALF, _OWN_ROUNDINGS = "bfloat16", 2
# Integers of this scale need more than 16 bits, and float32 represents them.
_WHOLE = 1e5


@dataclass
class Held:
    """One layer, with the kernel and the bias that it should have, as float32, and their dtype."""

    dense: Built
    kernel: np.ndarray
    bias: np.ndarray
    dtype: str = ""


@dataclass(frozen=True)
class Step:
    """One use: its name, the number of the layer, and the seed of its numbers."""

    use: str
    of: int
    values: int

    def __str__(self) -> str:
        return f"{self.use} of layer {'ABC'[self.of]}"


class World:
    """Three layers in use: A and B of one size, and C of a larger one."""

    def __init__(self, layer: Layer, case: Case) -> None:
        its = layer.convention
        self.layer, self.case = layer, case
        plain = {its.parameter_dtype, its.compute_dtype, its.returned} == {"float32"}
        self.plain = plain and not (its.casts_input or its.product_error or layer.reparameterized)
        self.casts = input_dtypes.casts(layer)
        leads = tuple(lead for lead in LEADS if layer.accepts(lead))
        self.leads = leads or (layer.fewest,)
        self._held: dict[int, Held] = {}

    def __getitem__(self, which: int) -> Held:
        """Return a layer, which is built when it is first used."""
        if which not in self._held:
            self._held[which] = self.new(which, which)
        return self._held[which]

    def __setitem__(self, which: int, held: Held) -> None:
        """Put a layer in the place of another."""
        self._held[which] = held

    def new(self, which: int, seed: int) -> Held:
        """Return a new layer with values of its own written in."""
        n, m = _SIZES[which]
        case = replace(self.case, in_features=n, out_features=m, seed=seed, values=seed)
        held = Held(self.layer.of(case), case.kernel(), case.bias())
        self.write(held, held.kernel, held.bias)
        return held

    def write(self, held: Held, kernel: np.ndarray | None, bias: np.ndarray | None) -> None:
        """Write a kernel, a bias, or both; an array that is None stays the object that it is."""
        layer, old = self.layer, held.dense.parameters
        own = held.dtype or layer.convention.parameter_dtype
        use_bias = layer.convention.use_bias
        with require.during("writing values into the parameters"):
            arrays = (
                layer.kernel_of(old) if kernel is None else as_jax(kernel, own),
                (layer.bias_of(old) if bias is None else as_jax(bias, own)) if use_bias else None,
            )
            held.dense.put(layer.write(old, *arrays))
        if kernel is not None:
            held.kernel = held.dense.held(rounded(kernel, own))
        if bias is not None:
            held.bias = rounded(bias, own) * np.float32(use_bias)

    def x(self, held: Held, step: Step) -> np.ndarray:
        """Return float32 numbers for a step, of one of the ranks."""
        lead = self.leads[step.values % len(self.leads)]
        case = replace(self.case, values=step.values)
        return case.normal("x", *lead, len(held.kernel))

    def reference(self, held: Held, x: np.ndarray, dtype: str = "float32") -> oracle.Bounded:
        """Return f(x) for the present values, with its bound."""
        n = len(held.kernel)
        if not held.dtype:
            return self.layer.arithmetic(n, dtype).affine(x, held.kernel, held.bias)
        unit = oracle.unit_roundoff(_HALF)
        return oracle.each_rounded(x, held.kernel, held.bias, unit, _OWN_ROUNDINGS)


Use = Callable[[World, Held, Step], None]


def _require(world: World, held: Held, x: np.ndarray, y: Any, dtype: str = "float32") -> None:
    what = f"f(x) for x of shape {x.shape} and dtype {dtype}"

    def value(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> oracle.Bounded:
        return world.reference(replace(held, kernel=kernel, bias=bias), x, dtype)

    found = np.asarray(y).astype(np.float32)
    require_value(world.layer, found, x, held.kernel, held.bias, what, value)


def _call_on(dtype: str) -> Use:
    def use(world: World, held: Held, step: Step) -> None:
        x, its = world.x(held, step), dtype
        if not (world.plain and input_dtypes.takes(world.layer, dtype)):
            its = "float32"
        if its == "int32" and held.dtype:
            return  # such a sum may be rounded to half precision
        x = np.round(_WHOLE * x) if its == "int32" else rounded(x, its)
        _require(world, held, x, held.dense(as_jax(x, its)), its)

    return use


def _call_numpy(world: World, held: Held, step: Step) -> None:
    x = world.x(held, step)
    if input_dtypes.takes_numpy(held.dense.layer):
        # purity/input-untouched reports a layer that writes into it.
        _require(world, held, x, held.dense(x.copy(), as_given=True))


def _traced(world: World, held: Held, trace: Callable[[Callable[[Any], Any]], Any]) -> Any:
    """Return what a trace of the layer as a function of x gives.

    Flax lets no outer trace change a variable, as ``nnx.jit`` of a call does. The trace then makes
    the variables, and a new module replaces the one that raised, which may be incomplete.
    """
    from flax.errors import TraceContextError

    leaves, structure = jax.tree_util.tree_flatten(held.dense.parameters)

    def made_again() -> Any:
        return jax.tree_util.tree_unflatten(structure, leaves)

    try:
        return trace(held.dense.raw)
    except TraceContextError:
        new = made_again()
        held.dense = Built(world.layer, module=nnx.merge(new.static, new.tree))
        return trace(lambda x: world.layer.apply(made_again(), x))


def _closed_over(world: World, held: Held, step: Step) -> None:
    """Differentiate it in x while the parameters are not traced, as for saliency maps."""
    x, by = world.x(held, step), "jax.vjp of the layer in x"
    with require.during(by):
        y, back = _traced(world, held, lambda f: jax.vjp(f, as_jax(x)))
    _require(world, held, x, y)
    if held.dtype or not world.plain:
        return
    g = replace(world.case, values=step.values).normal("g", *np.shape(y))
    with require.during(by):
        (found,) = back(as_jax(g))
    reference = world.layer.arithmetic(len(held.kernel)).input_gradient(held.kernel, g)
    what = f"the gradient with respect to x by jax.vjp, for x of shape {x.shape},"
    require.near(found, reference, what)


def _jit(world: World, held: Held, step: Step) -> None:
    x = world.x(held, replace(step, values=0))
    parameters = held.dense.parameters
    if not held.dtype:
        with require.during("jax.jit of the layer"):
            y = programs.forward(world.layer)(parameters, x)
        _require(world, held, x, y)


def _without_jit(world: World, held: Held, step: Step) -> None:
    x = world.x(held, step)
    with jax.disable_jit(), require.during("the layer under jax.disable_jit"):
        y = held.dense(x)
    _require(world, held, x, y)


def _gradients(world: World, held: Held, step: Step) -> None:
    """Differentiate it outside of jit, an nnx module by ``nnx.grad``."""
    if not world.plain or held.dtype:
        return
    layer, dense = world.layer, held.dense
    x = world.x(held, replace(step, values=LEADS.index((2, 4))))
    g = replace(world.case, values=step.values).normal("g", *x.shape[:-1], held.kernel.shape[1])
    point = Point(f"x of shape {x.shape}", held.kernel, held.bias, x, g)
    if not gradients.has_states(dense):
        with require.during("jax.grad of the layer"):
            loss = programs.weighted(layer, dense.parameters, g)
            found = jax.grad(loss, (0, 1, 2))(*map(as_jax, point.values()))
        gradients.require_gradients(layer, found, point, "jax.grad")
        return
    static = dense.parameters.static
    with require.during("nnx.grad of the module"):
        state = nnx.grad(lambda module: (layer.through(module, as_jax(x)) * g).sum())(dense.module)
    found = (*gradients.of_state(layer, state, "nnx.grad"), None)
    gradients.require_gradients(layer, found, point, "nnx.grad", inputs=False)
    same = dense.parameters.static == static
    require.that(same, "nnx.grad changes a static attribute", accepted="the same graphdef")


def _within_a_precision(world: World, held: Held, step: Step) -> None:
    """Trace it under another precision of products, which the first call must not have fixed."""
    x = as_jax(world.x(held, step))

    def precisions(of: Held) -> set[Any]:
        with jax.default_matmul_precision("highest"), require.during("tracing the layer"):
            return jaxprs.precisions(_traced(world, of, lambda f: jax.make_jaxpr(f)(x)))

    found, expected = precisions(held), precisions(world.new(step.of, 0))
    what = "under jax.default_matmul_precision('highest'), the products have "
    require.that(found == expected, f"{what}{found}", accepted=f"{expected}, as in a new layer")


def _kernel_cast(world: World, held: Held, step: Step) -> None:
    """Call it with a kernel of half precision and a bias of float32, if it takes them."""
    if not world.plain or held.dtype or world.casts:
        return
    layer, dense = world.layer, held.dense
    kernel = layer.kernel_of(dense.parameters)
    bias = layer.bias_of(dense.parameters) if layer.convention.use_bias else None
    dense.put(layer.write(dense.parameters, kernel.astype(_HALF), bias))
    try:
        x, y = world.x(held, step), None
        with contextlib.suppress(Exception):  # a layer need not take parameters of two dtypes
            y = np.asarray(held.dense.raw(as_jax(x)), np.float32)
        if y is not None:
            mixed = replace(held, kernel=rounded(held.kernel, _HALF), dtype=_HALF)
            _require(world, mixed, x, y)
    finally:
        dense.put(layer.write(dense.parameters, kernel, bias))


def _by_other_means(world: World, held: Held, step: Step) -> None:
    """Call a Linen model that is bound to its variables, or with frozen ones."""
    x, dense = world.x(held, step), held.dense
    if world.layer.implementation.linen is None:
        _require(world, held, x, dense(x))
        return
    from flax.core import freeze

    model, variables = dense.parameters.static, dense.parameters.tree
    with require.during("the layer bound to its variables"):
        y = world.layer.through(model.bind(variables), as_jax(x))
    _require(world, held, x, y)
    with require.during("the layer with frozen variables"):
        y = world.layer.through(functools.partial(model.apply, freeze(variables)), as_jax(x))
    _require(world, held, x, y)


def _write(world: World, held: Held, step: Step) -> None:
    case = replace(world.case, values=step.values)
    kernel = case.normal("kernel", *held.kernel.shape)
    world.write(held, kernel, case.normal("bias", *held.bias.shape))


def _write_kernel(world: World, held: Held, step: Step) -> None:
    kernel = replace(world.case, values=step.values).normal("kernel", *held.kernel.shape)
    world.write(held, kernel, None)


def _write_bias(world: World, held: Held, step: Step) -> None:
    bias = replace(world.case, values=step.values).normal("bias", *held.bias.shape)
    world.write(held, None, bias)


def _small_step(world: World, held: Held, step: Step) -> None:
    """Change values by 0.4 %, as an optimizer does."""
    world.write(held, held.kernel * np.float32(1 + 2**-8), held.bias * np.float32(1 - 2**-8))


def _mode(name: str) -> Use:
    def use(world: World, held: Held, step: Step) -> None:
        if held.dense.module is not None and not world.layer.convention.streams:
            with require.during(f"{name}() of the module"):
                getattr(held.dense.module, name)()

    return use


def _another(world: World, held: Held, step: Step) -> None:
    """Build another layer of the size, and drop it."""
    n, m = held.kernel.shape
    world.layer.build(n, m, step.values % 1000)


def _copied(how: str) -> Use:
    """Return the use that puts a copy in the place of the other layer of the size."""

    def use(world: World, held: Held, step: Step) -> None:
        dense, other = held.dense, abs(1 - step.of)
        # A model is copied in half precision as well.
        is_cast = step.values % 2 and not held.dtype
        if is_cast:
            _cast(world, held, step)
        with require.during(f"{how} of the layer"):
            if dense.module is None:
                parameters = dense.parameters
                new = Built(world.layer, parameters=copy.deepcopy(parameters))
            elif how == "copy.deepcopy":
                new = Built(world.layer, module=copy.deepcopy(dense.module))
            elif how == "nnx.clone":
                new = Built(world.layer, module=nnx.clone(dense.module))
            else:
                new = Built(world.layer, module=_filled(world, held))
        dtypes = [str(leaf.value.dtype) for leaf in new.leaves]
        expected = [str(leaf.value.dtype) for leaf in dense.leaves]
        found = f"the parameters of a copy are of {' and '.join(dtypes)}"
        require.that(dtypes == expected, found, accepted=" and ".join(expected))
        world[other] = replace(held, dense=new)
        for each in (held, world[other]) if is_cast else ():
            _cast(world, each, step)

    return use


def _filled(world: World, held: Held) -> Any:
    """Return a module made under a trace, as a large model is, with the arrays of another."""
    abstract = jax.eval_shape(lambda: world.layer.init(0, *held.kernel.shape))
    # A merged module may share the Variables of a state, so these are new ones.
    state = jax.tree_util.tree_map(lambda value: value, nnx.split(held.dense.module)[1])
    return nnx.merge(abstract.static, state)


def _cast(world: World, held: Held, step: Step) -> None:
    """Cast a float32 model to half precision, or one of half precision to float32."""
    if not world.plain or world.casts:
        return
    held.dense.cast("float32" if held.dtype else _HALF)
    if not held.dtype:
        held.kernel, held.bias = rounded(held.kernel, _HALF), rounded(held.bias, _HALF)
    held.dtype = "" if held.dtype else _HALF


def _raise(world: World, held: Held, step: Step) -> None:
    """Call it on a width that raises, eagerly or in a trace."""
    x = np.ones((*world.leads[0], len(held.kernel) + 1), np.float32)
    with contextlib.suppress(Exception):  # what it raises is not of interest
        if step.values % 2:
            jax.eval_shape(held.dense.raw, x)
        else:
            held.dense.raw(x)


CALLS: dict[str, Use] = {
    "f(x)": _call_on("float32"),
    "f(x) of bfloat16": _call_on(_HALF),
    "f(x) of integers": _call_on("int32"),
    "f(x) for a NumPy array": _call_numpy,
    "jax.vjp in x": _closed_over,
    "jax.jit": _jit,
    "a call without jit": _without_jit,
    "a call by other means": _by_other_means,
}
# Outside of jit, each operation of a derivative takes its time, so these changes are few.
GRADIENTS = {"gradients": _gradients}
BEFORE_GRADIENTS = ("copy.deepcopy", "a new kernel", "eval()", "train()")

COPIES: dict[str, Use] = {
    "copy.deepcopy": _copied("copy.deepcopy"),
    "nnx.clone": _copied("nnx.clone"),
    "a model made by jax.eval_shape with the arrays": _copied("jax.eval_shape"),
}
CHANGES: dict[str, Use] = {
    "new values": _write,
    "a new kernel": _write_kernel,
    "a new bias": _write_bias,
    "a step of training": _small_step,
    "train()": _mode("train"),
    "eval()": _mode("eval"),
    "another layer of the size": _another,
    **COPIES,
    "a cast": _cast,
    "a call that raises": _raise,
    "a trace at another precision": _within_a_precision,
    "a call with a cast kernel": _kernel_cast,
}
USES = {**CALLS, **GRADIENTS, **CHANGES}
