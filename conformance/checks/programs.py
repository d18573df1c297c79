"""The layer as a pure function of kernel, bias and x, and compiled programs of it.

A program is made once for each layer and compiled once for each shape, so further examples cost
microseconds. The program itself writes the values that are differentiated or mapped into the layer,
so that derivatives are with respect to the values that the layer really uses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.checks import jaxprs
from conformance.checks.arrays import as_jax, stack
from conformance.checks.cases import BATCH, Case
from conformance.checks.layer import Built, Layer
from conformance.checks.once import once_per_layer
from conformance.checks.oracle import Bounded
from conformance.checks.require import on_the_way
from conformance.jax_setup.lazy import jax, jnp, nnx

# Few sizes, for faults that do not depend on the size, because each one is compiled: one output,
# and three different lengths of axes.
FEW_SIZES = ((5, 1), (3, 10))

HALF = ("bfloat16", "float16")


def call(layer: Layer, parameters: Any, x: Any) -> Any:
    """Return the output for ``x``, by vmap if the layer declares fewer leading dimensions.

    A layer that takes only vectors is called on a batch through ``jax.vmap``.
    """
    if layer.accepts(x.shape[:-1]):
        return layer.apply(parameters, x)
    if x.ndim < min(layer.convention.ranks):
        return call(layer, parameters, x[None])[0]
    return jax.vmap(lambda row: call(layer, parameters, row))(x)


def affine(layer: Layer) -> Callable[[Any, Any, Any, Any], Any]:
    """Return ``(parameters, kernel, bias, x) -> y``, with kernel and bias written in."""

    dtype = layer.convention.parameter_dtype

    def f(parameters: Any, kernel: Any, bias: Any, x: Any) -> Any:
        if dtype in HALF:
            # Derivatives pass through the cast, so they are rounded like those of the parameters.
            kernel, bias = kernel.astype(dtype), bias.astype(dtype)
        return call(layer, layer.write(parameters, kernel, bias), x)

    return f


def weighted(layer: Layer, parameters: Any, cotangent: Any) -> Callable[[Any, Any, Any], Any]:
    """Return ``(kernel, bias, x) -> sum(y * cotangent)``, a loss to differentiate."""
    f = affine(layer)
    return lambda kernel, bias, x: (_wide(f(parameters, kernel, bias, x)) * cotangent).sum()


def _wide(y: Any) -> Any:
    """Return a result of half precision in float32, so that no sum of it is rounded."""
    return y.astype(jnp.float32) if str(y.dtype) in HALF else y


def compiled(program: Callable[[Layer], Callable[..., Any]]) -> Callable[[Layer], Any]:
    """Return the program of a layer under ``jax.jit``, made once for the layer."""

    @once_per_layer()
    @functools.wraps(program)
    def made(layer: Layer) -> Any:
        return jax.jit(program(layer))

    return made


# Halves the compilation of a draw; not every version of XLA knows the option.
_OLD_EMITTERS: dict[str, str | bool] = {"xla_cpu_use_fusion_emitters": False}
_HARDLY: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}


def compiled_to_run_once(traced: Any) -> Any:
    """Compile a trace with few optimizations, which would cost more than they save.

    Use it only to draw numbers, because products may differ from those in a user's program.
    """
    lowered = traced.lower()
    try:
        return lowered.compile(compiler_options={**_HARDLY, **_OLD_EMITTERS})
    except Exception:
        program = lowered.compile(compiler_options=_HARDLY)
        _OLD_EMITTERS.clear()  # the option failed: do not try it again
        return program


_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"


def compilations() -> int:
    """Return how many programs this process has compiled, or taken from the compile cache."""
    return _counter()[0]


@functools.lru_cache(maxsize=1)
def _counter() -> list[int]:
    """Return the counter, which JAX updates from now on."""
    count = [0]

    def listen(event: str, duration_secs: float, **details: str | int) -> None:
        del duration_secs, details
        count[0] += event == _LOWERED

    jax.monitoring.register_event_duration_secs_listener(listen)
    return count


@compiled
def forward(layer: Layer) -> Any:
    """Return ``(parameters, x) -> y``."""
    return lambda p, x: call(layer, p, x)


def traced(layer: Layer, case: Case, parameters: Any = None, dtype: str = "float32") -> Any:
    """Return the jaxpr of the layer for an ``x`` of the case's shape; nothing is computed.

    Without parameters, a new layer is traced.
    """
    with on_the_way("tracing the layer"):
        if parameters is None:
            parameters = jax.eval_shape(lambda: layer.init(case.seed, *case.kernel_shape))
        x = jax.ShapeDtypeStruct(case.x_shape, dtype)
        return jax.make_jaxpr(lambda p, x: call(layer, p, x))(parameters, x)


# The primitives of programs whose derivatives are not JAX's own.
_OWN_DERIVATIVES = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "stop_gradient")


def has_own_derivatives(layer: Layer, parameters: Any, x: Any) -> bool:
    """Return whether the layer has a rule of differentiation of its own for such an ``x``."""
    with on_the_way("tracing the layer"):
        program = jax.make_jaxpr(lambda p, x: call(layer, p, x))(parameters, x)
    return any(each.primitive.name in _OWN_DERIVATIVES for each in jaxprs.equations(program))


@once_per_layer()
def module_forward(layer: Layer) -> Any:
    """Return ``(module, x) -> y`` under ``nnx.jit``."""
    return nnx.jit(layer.through)


@compiled
def pullback(layer: Layer) -> Any:
    """Return ``(parameters, kernel, bias, x, cotangent) -> (y, (dK, db, dx))``, by ``jax.vjp``."""
    f = affine(layer)

    def program(parameters: Any, kernel: Any, bias: Any, x: Any, cotangent: Any) -> Any:
        y, back = jax.vjp(lambda *values: f(parameters, *values), kernel, bias, x)
        return y, back(cotangent.astype(y.dtype))

    return program


def module_gradients(layer: Layer, dense: Built, x: Any, cotangent: Any) -> dict[str, Any]:
    """Return ``nnx.grad`` with respect to ``nnx.Param``, eager and compiled.

    The keys name the variant, the values are states of gradients.
    """

    def loss(module: Any, x: Any, cotangent: Any) -> Any:
        return (_wide(layer.through(module, x)) * cotangent).sum()

    x, cotangent = as_jax(x), as_jax(cotangent)
    compiled = layer.remember("nnx.value_and_grad", lambda: nnx.jit(nnx.value_and_grad(loss)))
    return {
        "nnx.grad": nnx.grad(loss)(dense.module, x, cotangent),
        "nnx.jit(nnx.value_and_grad)": compiled(dense.module, x, cotangent)[1],
    }


def is_plain(case: Case) -> bool:
    """Return whether to run the costly variants on this case as well.

    They run on the first case of one size and batch, and on an eighth of the others. Outside of jit
    every primitive of a derivative is compiled separately, at a multiple of the cost, and faults
    that occur only there do not depend on the size, and hardly on the values. The sides differ, so
    that axes cannot be confused.
    """
    return (case.kernel_shape, case.lead, case.values % 8) == (FEW_SIZES[-1], BATCH, 0)


@compiled
def forward_mode(layer: Layer) -> Any:
    """Return ``(parameters, values, tangents, cotangent) -> derivatives by name``.

    ``values`` and ``tangents`` are those of kernel, bias and x. The Hessian is that of the first
    row.
    """
    f = affine(layer)

    def program(parameters: Any, values: Any, tangents: Any, cotangent: Any) -> Any:
        def y(*values: Any) -> Any:
            return f(parameters, *values)

        kernel, bias, x = values
        _, linear = jax.linearize(y, *values)
        _, in_x = jax.linearize(lambda x: y(kernel, bias, x), x)
        row = x.reshape(-1, x.shape[-1])[0]

        def in_row(row: Any) -> Any:
            return (_wide(y(kernel, bias, row)) * weights).sum()

        weights = cotangent.reshape(-1, cotangent.shape[-1])[0]
        value, tangent = jax.jvp(y, values, tangents)
        return {
            "value": value,
            "jax.jvp": tangent,
            "jax.linearize": linear(*tangents),
            "transpose": jax.linear_transpose(in_x, x)(cotangent.astype(value.dtype))[0],
            "hessian": jax.hessian(in_row)(row),
        }

    return program


@once_per_layer()
def has_forward_mode(layer: Layer, case: Case) -> bool:
    """Return whether JAX can differentiate the layer in forward mode."""
    f, values = affine(layer), (case.kernel(), case.bias(), case.x())

    def derivative(parameters: Any, *values: Any) -> Any:
        return jax.jvp(lambda *values: f(parameters, *values), values, values)

    try:
        parameters = jax.eval_shape(lambda: layer.init(case.seed, *case.kernel_shape))
        # Tracing alone does not show a missing derivative; lowering to a program does.
        jax.jit(derivative).lower(parameters, *values)
    except TypeError as error:
        return "custom_vjp" not in str(error)
    except Exception:  # which the requirements on derivatives report
        return True
    return True


@compiled
def mapped(layer: Layer) -> Any:
    """Return ``(parameters, stacked parameters, x, cotangent) -> results of vmap by name``.

    ``x`` and the cotangent are batches with an even number of rows.
    """

    def one(parameters: Any, x: Any) -> Any:
        return call(layer, parameters, x)

    def row_gradient(parameters: Any, row: Any, cotangent: Any) -> Any:
        kernel, bias = _values(layer, parameters, cotangent)
        return jax.grad(weighted(layer, parameters, cotangent))(kernel, bias, row)

    def program(parameters: Any, stacked: Any, x: Any, cotangent: Any) -> Any:
        by_row = jax.vmap(one, (None, 0))
        nested = jax.vmap(by_row, (None, 0))(parameters, x.reshape(2, -1, x.shape[-1]))
        copies = jax.tree_util.tree_leaves(stacked)[0].shape[0]
        gradients = jax.vmap(row_gradient, (None, 0, 0))(parameters, x, cotangent)
        return {
            "over x": by_row(parameters, x),
            "over the last axis of x": jax.vmap(one, (None, 1), 1)(parameters, x.T).T,
            "nested over x": nested.reshape(-1, nested.shape[-1]),
            "over stacked parameters": jax.vmap(one, (0, None))(stacked, x),
            "over stacked parameters and x": jax.vmap(one)(stacked, x[:copies]),
            "around the gradient with respect to the kernel": gradients,
        }

    return program


def expected_of_maps(
    layer: Layer, case: Case, kernels: Any, biases: Any, cotangent: Any
) -> dict[str, Bounded]:
    """Return the expected results of :func:`mapped` for the case's x, kernel and bias, by name."""
    x, arithmetic = case.x(), layer.arithmetic(case.in_features)
    one = arithmetic.affine(x, case.kernel(), layer.bias_for(case))
    each = arithmetic.affine(x, kernels, biases[:, None])
    pairs = range(len(kernels))
    by_row = [
        arithmetic.kernel_gradient(row[None], g[None]) for row, g in zip(x, cotangent, strict=True)
    ]
    return {
        "over x": one,
        "over the last axis of x": one,
        "nested over x": one,
        "over stacked parameters": each,
        "over stacked parameters and x": Bounded(
            each.value[pairs, pairs], each.bound[pairs, pairs]
        ),
        "around the gradient with respect to the kernel": Bounded(
            np.stack([row.value for row in by_row]), np.stack([row.bound for row in by_row])
        ),
    }


def _values(layer: Layer, parameters: Any, cotangent: Any) -> tuple[Any, Any]:
    bias = layer.bias_of(parameters) if layer.convention.use_bias else jnp.zeros_like(cotangent)
    return layer.kernel_of(parameters), bias


def stacked(layer: Layer, parameters: Any, kernels: Any, biases: Any) -> Any:
    """Return stacked parameters with each of these kernels and biases written in."""
    pairs = zip(kernels, biases, strict=True)
    own = layer.convention.parameter_dtype
    dtype = own if own in HALF else None
    written = [layer.write(parameters, as_jax(k, dtype), as_jax(b, dtype)) for k, b in pairs]
    return jax.tree_util.tree_map(stack, *written)


@compiled
def scanned(layer: Layer) -> Any:
    """Return ``(stacked parameters, x) -> output of the layers in sequence``, by a scan."""

    def step(x: Any, parameters: Any) -> Any:
        return call(layer, parameters, x), None

    dtype = layer.convention.returned
    # The carry keeps its dtype.
    first = (lambda x: x.astype(dtype)) if dtype in HALF else (lambda x: x)
    return lambda stacked, x: jax.lax.scan(step, first(x), stacked)[0]


@compiled
def rematerialized(layer: Layer) -> Any:
    """Return the program of :func:`pullback`, with the layer under ``jax.checkpoint``."""
    f = jax.checkpoint(affine(layer))

    def program(parameters: Any, kernel: Any, bias: Any, x: Any, cotangent: Any) -> Any:
        def loss(*values: Any) -> Any:
            return (_wide(f(parameters, *values)) * cotangent).sum()

        return jax.grad(loss, (0, 1, 2))(kernel, bias, x)

    return program


class Counted:
    """A compiled function that counts how often it is traced; ``places`` is for its user.

    Parameters
    ----------
    transform
        ``jax.jit`` or ``nnx.jit``.
    function
        The function to compile.
    """

    def __init__(self, transform: Callable[..., Any], function: Callable[..., Any]) -> None:
        self.traces = 0
        self.places: set[tuple[Any, ...]] = set()

        def traced(*arguments: Any) -> Any:
            self.traces += 1
            return function(*arguments)

        self._compiled = transform(traced)

    def __call__(self, *arguments: Any) -> Any:
        """Return the result of the compiled function."""
        return self._compiled(*arguments)


@once_per_layer(by=lambda case: (case.x_shape, case.out_features))
def counted(layer: Layer, case: Case) -> tuple[Counted, Counted]:
    """Return the layer under ``jax.jit`` and under ``nnx.jit``, with counters, for one shape."""
    by_jax = Counted(jax.jit, lambda parameters, x: call(layer, parameters, x))
    return by_jax, Counted(nnx.jit, layer.through)


@once_per_layer()
def donating(layer: Layer) -> Any:
    """Return ``(parameters, x) -> (doubled parameters, y)``, which donates the parameters."""

    def step(parameters: Any, x: Any) -> Any:
        y = call(layer, parameters, x)
        return jax.tree_util.tree_map(lambda value: 2 * value, parameters), y

    return jax.jit(step, donate_argnums=0)


@once_per_layer(by=lambda case, parameters: case.kernel_shape)
def exported(layer: Layer, case: Case, parameters: Any) -> Any:
    """Return ``jax.export`` of the layer for a batch ``b``, called with all leaves and x."""
    # The submodule becomes an attribute of jax when it is imported.
    from jax import export

    leaves, structure = jax.tree_util.tree_flatten(parameters)

    def flat(*arguments: Any) -> Any:
        *leaves, x = arguments
        return call(layer, jax.tree_util.tree_unflatten(structure, leaves), x)

    (b,) = export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((b, case.in_features), jnp.float32)
    return export.export(jax.jit(flat))(*leaves, x)
