"""The layer under test, as the property tests see it.

An exception of the layer's code becomes a :class:`~conformance.checks.require.Violation`, because
it is the layer's fault and not an error of the suite.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from conformance.checks import oracle
from conformance.checks.arithmetic import Arithmetic, is_rounded, rounded
from conformance.checks.arrays import (
    as_jax,
    require_array,
    require_kept,
    require_same_shape,
)
from conformance.checks.cases import BATCH, Case
from conformance.checks.require import on_the_way
from conformance.contract.applicability import why_not_applicable
from conformance.contract.requirement import (
    ANY,
    EXERCISE,
    LINEN,
    NNX,
    PARAMETERS,
    Need,
    Requirement,
)
from conformance.jax_setup.lazy import jax, jnp, nnx
from conformance.layers import experiments
from conformance.layers.adapters.parameters import Leaf, leaves_in
from conformance.layers.implementation import FLAX, Convention, Implementation, existing
from conformance.layers.looking import Seen, look
from conformance.layers.registry import Entry
from conformance.layers.storage import Factored, Scaled

T = TypeVar("T")

# Beyond this many rows, calls in plain batches cost more than compiling for a batch of this length,
# which is usual; forward/tall-batch checks long ones.
_MANY_ROWS = 256


class Layer:
    """The runtime view of an implementation, with everything that checks need.

    Parameters
    ----------
    implementation
        The implementation under test.
    entry
        The entry by which another process can load it.
    """

    def __init__(self, implementation: Implementation, entry: Entry | None = None) -> None:
        self.registered = implementation
        self.entry = entry
        self.like: Layer | None = None
        self._memory: dict[Any, Any] = {}

    @property
    def name(self) -> str:
        """Return the name shown to users."""
        return self.registered.name

    @functools.cached_property
    def seen(self) -> Seen:
        """Return the convention and the arrays that inspection found."""
        with self.registered.surroundings():
            return look(self.registered)

    @functools.cached_property
    def implementation(self) -> Implementation:
        """Return the implementation, which reads kernel and bias where inspection found them."""
        return self.seen.of(self.registered)

    @property
    def declared(self) -> Convention:
        """Return the declared convention; a requirement checks each part of it."""
        return self.registered.convention

    @property
    def convention(self) -> Convention:
        """Return the convention for checks: the declared one, corrected by inspection."""
        return self.implementation.convention

    @functools.cached_property
    def kept(self) -> tuple[str, ...]:
        """Return the names of state besides the parameters, declared or found.

        State besides a correct kernel and bias is a difference to declare, not a fault. A frozen
        kernel or bias is declared as such state as well, but a call may not change it.
        """
        seen = self.seen
        names = {*seen.frozen, *(path.rpartition(".")[2] for path in seen.frozen)}
        declared = tuple(name for name in self.declared.extra_state if name not in names)
        whole = bool(seen.kernel) and bool(seen.bias or not seen.convention.use_bias)
        return (*declared, *seen.extra_state) if whole else declared

    @property
    def has_no_one_kernel(self) -> bool:
        """Return whether inspection found several arrays, but none of the kernel's shape."""
        found = self.seen.kernel or self.seen.storage or self.seen.trouble
        return len(self.seen.leaves) > 1 and not found

    @property
    def is_factored(self) -> bool:
        """Return whether inspection found a kernel that is computed from its parameters."""
        return isinstance(self.seen.storage, Factored | Scaled)

    @functools.cached_property
    def provides(self) -> frozenset[Need]:
        """Return the needs of requirements that the layer meets."""
        its = self.registered
        by = {PARAMETERS: its.init, NNX: its.module, LINEN: its.linen, EXERCISE: its.forward}
        return frozenset({ANY, *(need for need, function in by.items() if function is not None)})

    def why_not_applicable(self, row: Requirement) -> str | None:
        """Return why the requirement cannot be checked on this layer, or None if it can."""
        return why_not_applicable(row, self.provides, self.convention)

    def with_options(self, **options: Any) -> Layer:
        """Return the layer constructed with these options, and their convention in Flax.

        ``use_bias``, ``dtype`` and ``param_dtype`` change the convention; other options do not.
        """
        changed: dict[str, Any] = {}
        if "use_bias" in options:
            changed["use_bias"] = options["use_bias"]
        if "dtype" in options:
            changed |= {"compute_dtype": jnp.dtype(options["dtype"]).name, "casts_input": True}
        if "param_dtype" in options:
            changed["parameter_dtype"] = jnp.dtype(options["param_dtype"]).name
        made = existing(self.implementation.configured)(**options)
        found = Layer(made.with_convention(replace(self.convention, **changed)), self.entry)
        # Check the meaning of the options, not their observed effect.
        found.seen = Seen(found.declared, storage=self.seen.storage)
        return found

    def remember(self, key: Any, make: Callable[[], T]) -> T:
        """Return ``make()``, computed once for the key, so that checks share programs and draws."""
        if key not in self._memory:
            self._memory[key] = make()
        return self._memory[key]

    def init(self, seed: Any, in_features: int, out_features: int) -> Any:
        """Return new parameters; its exceptions are not caught, for use inside transforms."""
        return existing(self.implementation.init)(seed, in_features, out_features)

    def apply(self, parameters: Any, x: Any) -> Any:
        """Return the output for given parameters; exceptions are not caught."""
        apply = existing(self.implementation.apply)
        return self.through(lambda x: apply(parameters, x), x)

    def write(self, parameters: Any, kernel: Any, bias: Any) -> Any:
        """Return the parameters with this kernel and bias; exceptions are not caught."""
        bias = bias if self.convention.use_bias else None
        return existing(self.implementation.with_parameters)(parameters, kernel, bias)

    def kernel_of(self, parameters: Any) -> Any:
        """Return the kernel ``(in, out)`` of the parameters; exceptions are not caught."""
        return existing(self.implementation.kernel)(parameters)

    def bias_of(self, parameters: Any) -> Any:
        """Return the bias ``(out,)`` of the parameters; exceptions are not caught."""
        return existing(self.implementation.bias)(parameters)

    def build(self, in_features: Any, out_features: Any, seed: int = 0) -> Built:
        """Return a new layer of these sizes, built as a user builds it."""
        with on_the_way(
            f"construction with in_features={_typed(in_features)}, "
            f"out_features={_typed(out_features)}"
        ):
            if self.implementation.module is not None:
                module = self.implementation.module(in_features, out_features, nnx.Rngs(seed))
                return Built(self, module=module)
            return Built(self, parameters=self.init(seed, in_features, out_features))

    def of(self, case: Case) -> Built:
        """Return a new layer of the case's sizes and seed."""
        return self.build(case.in_features, case.out_features, case.seed)

    def written(self, case: Case, scale: float = 1.0) -> Built:
        """Return the case's layer with the case's kernel and bias written in."""
        return self.of(case).write(case.kernel(scale), case.bias(scale))

    def kernel_for(self, case: Case, scale: float = 1.0) -> np.ndarray:
        """Return the kernel that :meth:`written` writes, in the dtype of the parameters."""
        kernel = rounded(case.kernel(scale), self.convention.parameter_dtype)
        return self.written(case, scale).held(kernel) if self.reparameterized else kernel

    @functools.cached_property
    def reparameterized(self) -> bool:
        """Return whether the kernel is computed from parameters, which rounds a written one."""
        if self.is_factored:
            return True
        case = Case(3, 10)
        try:
            held = self.written(case).kernel
        except Exception:  # which requirements report
            return False
        kernel = rounded(case.kernel(), self.convention.parameter_dtype)
        return not np.array_equal(held, kernel) and is_rounded(held, kernel)

    def precision(self, in_features: int) -> oracle.Precision:
        """Return the error of the kernel, without the error of the product."""
        if not self.reparameterized:
            return oracle.HIGHEST
        storage = self.seen.storage
        over = storage.over if isinstance(storage, Factored) else (0,)
        return oracle.reparameterized(in_features, over)

    def bias_for(self, case: Case, scale: float = 1.0) -> np.ndarray:
        """Return the bias that :meth:`written` writes; zeros for a layer without one."""
        bias = rounded(case.bias(scale), self.convention.parameter_dtype)
        return bias if self.convention.use_bias else np.zeros_like(bias)

    def arithmetic(self, in_features: int, dtype: Any = "float32") -> Arithmetic:
        """Return the arithmetic for an x of this dtype, by the dtypes that the layer declares."""
        its, precision = self.convention, self.precision(in_features)
        if "float64" in (its.parameter_dtype, its.compute_dtype):
            return Arithmetic(precision=precision, product_error=its.product_error)
        computed = self.computed_in(dtype)
        results = computed if computed in oracle.UNIT_ROUNDOFF else "float32"
        sums = its.accumulate if results == its.compute_dtype else "float32"
        returned = its.returned if results == its.compute_dtype else results
        return Arithmetic(
            its.parameter_dtype, results, precision, sums, its.product_error, returned
        )

    def computed_in(self, dtype: Any) -> str:
        """Return the dtype of the product for an x of this dtype: promoted, or as declared."""
        its = self.convention
        if its.casts_input or str(dtype) == "float32":
            return its.compute_dtype
        return str(jnp.promote_types(dtype, its.parameter_dtype))

    def returned_for(self, dtype: Any) -> str:
        """Return the dtype of the result for an x of this dtype."""
        computed = self.computed_in(dtype)
        return self.convention.returned if self.convention.casts_input else computed

    def value(self, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> oracle.Bounded:
        """Return ``x @ kernel + bias`` in float64, with the bound of the layer's dtype."""
        return self.arithmetic(len(kernel)).affine(x, kernel, bias)

    def x_for(self, case: Case) -> np.ndarray:
        """Return a batch of normal numbers; a vector for a layer that takes no batch."""
        return case.normal("x", *self.batch, case.in_features)

    def value_for(self, case: Case, x: np.ndarray) -> oracle.Bounded:
        """Return what f(x) of :meth:`written` should be, with its bound."""
        return self.value(x, self.kernel_for(case), self.bias_for(case))

    def forward(self, seed: Any, x: Any, features: Any, *, as_given: bool = False) -> Any:
        """Construct a layer of any kind, and return its output for ``x``."""
        if self.implementation.forward is None:
            return self.build(np.shape(x)[-1], features, seed)(x, as_given=as_given)
        given = f"{'a NumPy ' * as_given}x of shape {self.shape_given(np.shape(x))}"
        with on_the_way(f"f(seed={seed!r}, {given}, features={features!r})"):
            return require_array(self.of_function(seed, x if as_given else as_jax(x), features))

    def of_function(self, seed: Any, x: Any, features: Any) -> Any:
        """Return f(seed, x, features) of a function; exceptions are not caught."""
        forward = existing(self.implementation.forward)
        return self.through(lambda x: forward(seed, x, features), x)

    def at(self, case: Case) -> Callable[..., Any]:
        """Return the case's new layer as a function of x; a function is built in each call."""
        if PARAMETERS in self.provides:
            return self.of(case)
        return lambda x, as_given=False: self.forward(
            case.seed, x, case.out_features, as_given=as_given
        )

    def affine(self, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """Return kernel ``(in, out)`` and bias ``(out,)`` of the case's new layer.

        They are read from its parameters, or found by probing a function: f(0) is the bias, and
        f(e_i) - f(0) is row i of the kernel, exactly so if the bias is 0.
        """
        if PARAMETERS in self.provides:
            dense = self.of(case)
            return dense.kernel, dense.bias
        m = case.out_features
        rows = experiments.of_basis(
            lambda row: self.of_function(case.seed, row, m),
            lambda row: self.forward(case.seed, row, m),
            case.in_features,
        )
        return rows[:-1] - rows[-1], rows[-1]

    @property
    def fewest(self) -> tuple[int, ...]:
        """Return the smallest number of leading dimensions that the layer declares to accept."""
        return self.convention.fewest

    @property
    def batch(self) -> tuple[int, ...]:
        """Return the usual leading axes; none for a layer that takes no batch."""
        return self.fewest[:-1] + BATCH if self.accepts(BATCH) else ()

    def accepts(self, lead: Sequence[int]) -> bool:
        """Return whether the layer accepts these leading axes, or more, which :meth:`through` adds.

        Rank 5 stands for 5 and more.
        """
        return min(len(self.shape_given((*lead, 1))), FLAX.ranks[-1]) in self.convention.ranks

    def shape_given(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape with the axes that a layer of sequences needs in front of it.

        Neither a vector nor a scalar is made a batch in this way.
        """
        fewest = len(self.fewest) + 1 if shape and len(self.fewest) > 1 else 0
        return (1,) * (fewest - len(shape)) + shape

    def through(self, f: Callable[[Any], Any], x: Any) -> Any:
        """Return f(x) for an x of :meth:`shape_given`, without the axes that were added."""
        if self.shape_given(np.shape(x)) == np.shape(x):
            return f(x)
        return self.through(f, x[None] if hasattr(x, "ndim") else [x])[0]


def _typed(size: Any) -> str:
    """Return a size as text, with its type if it is not a Python int."""
    return str(size) if type(size) is int else f"{type(size).__name__}({size})"


class Built:
    """One constructed layer.

    An nnx module or a plain object is kept and called directly, so that changes by a call persist.
    """

    def __init__(self, layer: Layer, *, module: Any = None, parameters: Any = None) -> None:
        self.layer, self.module, self._parameters = layer, module, parameters
        make = layer.implementation.in_use if module is None else None
        self._in_use = None if make is None else make(parameters)
        self.plain_object: Any = None if self._in_use is None else self._in_use.layer

    @property
    def parameters(self) -> Any:
        """Return its current parameters as a pytree."""
        if self.module is None:
            return self._parameters if self._in_use is None else self._in_use.parameters
        from conformance.layers.adapters.nnx import split

        with on_the_way("nnx.split of the layer"):
            return split(self.module)

    def __call__(self, x: Any, *, as_given: bool = False) -> Any:
        """Return f(x); a NumPy array becomes a JAX array first, unless ``as_given``."""
        given = f"{'a NumPy ' * as_given}x of shape {self.layer.shape_given(np.shape(x))}"
        with on_the_way(f"calling the layer on {given}"):
            return require_array(self.raw(x, as_given=as_given))

    def raw(self, x: Any, *, as_given: bool = False) -> Any:
        """Return f(x), letting exceptions of the layer pass."""
        value = x if as_given else as_jax(x)
        called = self._in_use if self.module is None else self.module
        if called is None:
            return self.layer.apply(self._parameters, value)
        return self.layer.through(called, value)

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Return f of the rows of ``x``, in plain batches, or one by one if it takes only vectors.

        All calls have one shape, which is compiled once; zeros pad the last batch.
        """
        if not self.layer.accepts(BATCH):
            return np.stack([np.asarray(self(row)) for row in x])
        size = BATCH[0] if len(x) <= _MANY_ROWS else _MANY_ROWS
        filled = np.zeros((-(-len(x) // size) * size, x.shape[1]), x.dtype)
        filled[: len(x)] = x
        found = [np.asarray(self(filled[i : i + size])) for i in range(0, len(filled), size)]
        return np.concatenate(found)[: len(x)]

    @property
    def kernel(self) -> np.ndarray:
        """Return its kernel ``(in, out)``."""
        with on_the_way("reading the kernel"):
            return np.asarray(self.layer.kernel_of(self.parameters))

    def held(self, kernel: np.ndarray) -> np.ndarray:
        """Return the layer's kernel after `kernel` was written, if they differ by rounding only.

        Otherwise return `kernel`.
        """
        if not self.layer.reparameterized:
            return kernel
        held = self.kernel
        return held if is_rounded(held, kernel) else kernel

    @property
    def bias(self) -> np.ndarray:
        """Return its bias ``(out,)``; zeros if the layer declares none."""
        if not self.layer.convention.use_bias:
            return np.zeros(self.kernel.shape[1], np.float32)
        with on_the_way("reading the bias"):
            return np.asarray(self.layer.bias_of(self.parameters))

    @property
    def leaves(self) -> list[Leaf]:
        """Return every array of its state, with path and kind."""
        return leaves_in(self.layer.implementation, self.parameters)

    def write(self, kernel: np.ndarray, bias: np.ndarray) -> Built:
        """Write these values into the parameters, and return the layer itself."""
        old = self.parameters
        dtype = self.layer.convention.parameter_dtype
        with on_the_way("writing values into the parameters"):
            require_same_shape(self.layer.kernel_of(old), kernel, "kernel")
            if self.layer.convention.use_bias:
                require_same_shape(self.layer.bias_of(old), bias, "bias")
            new = self.layer.write(old, as_jax(kernel, dtype), as_jax(bias, dtype))
            if self.module is None:
                require_kept(self.layer, old, new, {"kernel": kernel, "bias": bias})
            self.put(new)
        return self

    def put(self, parameters: Any) -> None:
        """Give the layer other parameters, as an optimizer or a checkpoint does."""
        if self.module is not None:
            nnx.update(self.module, parameters.tree)
        elif self._in_use is not None:
            self._in_use.put(parameters)
        else:
            self._parameters = parameters

    def cast(self, dtype: str) -> Built:
        """Cast all floating-point arrays to the dtype, and return the layer itself."""
        return self.replaced(
            lambda value: (
                value.astype(dtype) if jnp.issubdtype(value.dtype, jnp.floating) else value
            )
        )

    def replaced(self, function: Callable[[Any], Any]) -> Built:
        """Replace each array by a function of it, and return the layer itself."""
        with on_the_way("replacing the arrays of the layer"):
            self.put(jax.tree_util.tree_map(function, self.parameters))
        return self
