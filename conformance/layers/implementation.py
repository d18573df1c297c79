"""A layer as the suite sees it: pure functions, and a declared convention.

An :class:`Implementation` is a frozen value, not a base class. Most layers need not write one,
because :func:`conformance.layers.adapters.adapt` makes it of a class or a function.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from conformance.layers.law import Law

if TYPE_CHECKING:
    from conformance.layers.expected_failure import Expected

_DTYPES = ("float16", "bfloat16", "float32", "float64")

INPUTS = ("floating", "integer", "boolean", "complex")
"""The kinds of numbers in an ``x``."""


@dataclass(frozen=True)
class Convention:
    """The convention that an implementation declares, and is checked against.

    Parameters
    ----------
    name
        The name of the library or layer.
    kernel, bias
        The laws of the new parameters.
    layout
        The order of the axes of the kernel as the layer stores it: ``"in,out"`` or ``"out,in"``.
        The suite itself always sees ``(in, out)``.
    parameter_names
        The names of kernel and bias in the layer's state.
    ranks
        The ranks of ``x`` that the layer accepts: 1 is a vector ``(in,)``.
    use_bias
        False for a layer that has no bias.
    parameter_dtype, compute_dtype
        The dtypes of new parameters and of the product, as NumPy names.
    casts_input
        True if the layer computes in `compute_dtype` for every dtype of ``x``; else it computes in
        the wider of the dtypes of ``x`` and of the parameters.
    result_dtype
        ``"float32"`` for a layer that computes in half precision and returns float32, whose sums
        are not rounded again; empty if the result has the dtype of the computation.
    accumulate
        The dtype in which a layer of half precision sums a product: ``"float32"``, or its own.
    product_error
        The error bound of each operand of a product, relative to its largest entry, besides
        rounding, for example by quantization. 0 if products only round.
    inputs
        The kinds of :data:`INPUTS` that ``x`` may have. An ``x`` of another kind must raise.
    checks_width
        False if the layer documents that it does not reject an ``x`` of another width.
    extra_parameters, extra_state
        Names of further parameters, and of other variables, besides kernel and bias.
    streams
        The streams of random numbers that a call draws from.
    forward_mode
        False for a layer with a ``custom_vjp``, which has derivatives in reverse mode only.
    fixed_result
        True for a solution of the exercise, which must give the numbers of ``MyDense``.
    """

    name: str
    kernel: Law = field(default_factory=Law.lecun)
    bias: Law = field(default_factory=Law.zero)
    layout: str = "in,out"
    parameter_names: tuple[str, str] = ("kernel", "bias")
    ranks: tuple[int, ...] = (1, 2, 3, 4, 5)
    use_bias: bool = True
    parameter_dtype: str = "float32"
    compute_dtype: str = "float32"
    casts_input: bool = False
    result_dtype: str = ""
    accumulate: str = "float32"
    product_error: float = 0.0
    inputs: tuple[str, ...] = INPUTS
    checks_width: bool = True
    extra_parameters: tuple[str, ...] = ()
    extra_state: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    forward_mode: bool = True
    fixed_result: bool = False

    def differences(self, other: Convention | None = None) -> tuple[str, ...]:
        """Return how a layer of this convention differs from another one, by default Flax's."""
        other = FLAX if other is None else other
        laws = (("kernel", self.kernel, other.kernel), ("bias", self.bias, other.bias))
        found = [f"{which}: {own.description}" for which, own, its in laws if not own.within(its)]
        if not self.use_bias and other.use_bias:
            found = [text for text in found if not text.startswith("bias")] + ["no bias"]
        if self.layout != other.layout:
            found.append(f"kernel stored as ({self.layout.replace(',', ', ')})")
        names = self.parameter_names[: 1 + self.use_bias]
        if names != other.parameter_names[: len(names)]:
            found.append(f"name{'s' * self.use_bias} {' and '.join(names)}")
        if not set(other.ranks) <= set(self.ranks):
            found.append(f"x of rank {', '.join(map(str, self.ranks))} only")
        if self.parameter_dtype != other.parameter_dtype:
            found.append(f"parameters in {self.parameter_dtype}")
        if self.compute_dtype != other.compute_dtype or self.casts_input != other.casts_input:
            found.append(f"computes in {self.compute_dtype}")
        if self.result_dtype != other.result_dtype:
            found.append(f"returns {self.returned}")
        if self.accumulate != other.accumulate:
            found.append(f"accumulates in {self.accumulate}")
        if self.product_error:
            found.append(f"promises a product within {self.product_error:g} of its operands")
        if not set(other.inputs) <= set(self.inputs):
            found.append(f"takes {' and '.join(self.inputs)} x only")
        if other.checks_width and not self.checks_width:
            found.append("does not check the width of x")
        if self.extra_parameters:
            found.append(f"has the parameters {', '.join(self.extra_parameters)} as well")
        if self.extra_state:
            found.append(f"keeps {', '.join(self.extra_state)} in its state")
        if self.streams:
            found.append(f"draws from {', '.join(self.streams)} in its call")
        if other.forward_mode and not self.forward_mode:
            found.append("has no forward-mode derivatives")
        return tuple(found)

    @property
    def fewest(self) -> tuple[int, ...]:
        """Return the fewest leading axes of x that are accepted, each of length 1."""
        return (1,) * (min(self.ranks) - 1)

    def lead(self, batch: int) -> tuple[int, ...]:
        """Return the leading axes of a plain batch; the fewest where no x of rank 2 is accepted."""
        return (batch,) if 2 in self.ranks else self.fewest

    @property
    def returned(self) -> str:
        """Return the dtype of the result for a float32 x."""
        return self.result_dtype or self.compute_dtype

    def __post_init__(self) -> None:
        if self.layout not in ("in,out", "out,in"):
            raise ValueError(
                f"Convention {self.name!r}: layout must be 'in,out' or 'out,in', "
                f"found {self.layout!r}"
            )
        if not self.ranks:
            raise ValueError(f"Convention {self.name!r}: ranks is empty; a layer accepts some x")
        for field_name in ("parameter_dtype", "compute_dtype"):
            dtype = getattr(self, field_name)
            if dtype not in _DTYPES:
                raise ValueError(
                    f"Convention {self.name!r}: {field_name} must be one of "
                    f"{', '.join(_DTYPES)}, found {dtype!r}; the bounds on rounding errors are "
                    "those of real floating-point numbers"
                )
        if self.result_dtype not in ("", "float32", self.compute_dtype):
            raise ValueError(
                f"Convention {self.name!r}: result_dtype is float32 or the dtype that the layer "
                f"computes in, {self.compute_dtype}; found {self.result_dtype!r}"
            )
        if self.accumulate not in ("float32", self.compute_dtype):
            raise ValueError(
                f"Convention {self.name!r}: accumulate is float32 or the dtype that the layer "
                f"computes in, {self.compute_dtype}; found {self.accumulate!r}"
            )
        if not 0 <= self.product_error < 1:
            raise ValueError(
                f"Convention {self.name!r}: product_error is a relative error from 0 to 1, found "
                f"{self.product_error!r}"
            )
        if "floating" not in self.inputs or not set(self.inputs) <= set(INPUTS):
            raise ValueError(
                f"Convention {self.name!r}: inputs are of {', '.join(INPUTS)}, and floating among "
                f"them; found {self.inputs!r}"
            )


FLAX = Convention(name="Flax")


@dataclass(frozen=True)
class Implementation:
    """A layer as pure functions; requirements on a missing function are *not applicable*.

    Parameters
    ----------
    name
        The name shown to users.
    init
        ``init(seed, in_features, out_features) -> parameters``, any pytree. ``seed`` is an int
        in ``[0, 2**32)``; the suite also traces it, if the layer allows that.
    apply
        ``apply(parameters, x) -> y``, ``x`` of shape ``(..., in_features)``.
    kernel, bias
        ``kernel(parameters) -> (in_features, out_features)`` and ``bias(parameters) ->
        (out_features,)`` arrays.
    with_parameters
        ``with_parameters(parameters, kernel, bias) -> parameters`` with these values written in;
        ``bias`` is None for a layer without one.
    module
        ``module(in_features, out_features, rngs) -> flax.nnx.Module``.
    linen
        ``linen(in_features, out_features) -> flax.linen.Module``.
    forward
        ``forward(seed, x, features) -> y``: the whole layer as one function.
    in_use
        ``in_use(parameters)`` returns an object with these arrays that is called, and changed in
        place, again and again; None if it is not one that is changed in place.
    leaves
        ``leaves(parameters)`` returns every array with its path and kind; by default those of the
        pytree.
    context
        ``context()`` returns a context manager in which the layer is built and called; None if not
        needed.
    under
        ``under(convention) -> Implementation``; None if the functions fit one convention only.
    bound
        The call that constructs it, in words; empty if it is the usual one.
    convention
        What the layer declares about itself.
    library
        The distribution whose version the report shows.
    options
        The names of the constructor's arguments.
    chosen
        The names of those options that the implementation itself sets.
    configured
        ``configured(**options) -> Implementation``: the layer with these options added.
    activations
        The arguments of its constructor that may be activations or dropout, with their defaults.
    expected_failures
        The known failures, each with its reason.
    variants
        Other implementations that come with this one, by name: ``nnx.Linear[bf16]``.
    """

    name: str
    init: Callable[[Any, int, int], Any] | None = None
    apply: Callable[[Any, Any], Any] | None = None
    kernel: Callable[[Any], Any] | None = None
    bias: Callable[[Any], Any] | None = None
    with_parameters: Callable[[Any, Any, Any], Any] | None = None
    module: Callable[[int, int, Any], Any] | None = None
    linen: Callable[[int, int], Any] | None = None
    forward: Callable[[Any, Any, Any], Any] | None = None
    in_use: Callable[[Any], Any] | None = None
    leaves: Callable[[Any], list[Any]] | None = None
    context: Callable[[], AbstractContextManager[Any]] | None = None
    under: Callable[[Convention], Implementation] | None = None
    bound: str = ""
    convention: Convention = FLAX
    library: str = "flax"
    options: frozenset[str] = frozenset()
    chosen: frozenset[str] = frozenset()
    configured: Callable[..., Implementation] | None = None
    activations: Mapping[str, Any] = field(default_factory=dict)
    expected_failures: tuple[Expected, ...] = ()
    variants: Mapping[str, Implementation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        functional = ("init", "apply", "kernel", "bias", "with_parameters")
        given = [name for name in functional if getattr(self, name) is not None]
        missing = [name for name in functional if getattr(self, name) is None]
        if not self.convention.use_bias and missing == ["bias"]:
            missing = []
        if self.forward is None and missing:
            raise ValueError(
                f"Implementation {self.name!r} gives {given or 'nothing'}; "
                f"expected either forward, or all of {', '.join(functional)}; "
                f"missing: {', '.join(missing)}"
            )

    @classmethod
    def of_functions(
        cls,
        name: str,
        *,
        init: Callable[[Any, int, int], Any],
        apply: Callable[[Any, Any], Any],
        kernel: Callable[[Any], Any],
        bias: Callable[[Any], Any] | None,
        write: Callable[[Any, Any, Any], Any],
        convention: Convention = FLAX,
        library: str = "",
    ) -> Implementation:
        """Describe a layer by pure functions of its parameters, which may be any pytree.

        Parameters
        ----------
        name
            The name shown to users.
        init, apply, kernel
            As for :class:`Implementation`.
        bias
            The same, or None for a layer without a bias, whose convention has ``use_bias=False``.
        write
            ``write(parameters, kernel, bias) -> parameters``: see `with_parameters`.
        convention, library
            The declared convention, and the distribution whose version is shown.
        """
        return cls(
            name=name,
            init=init,
            apply=apply,
            kernel=kernel,
            bias=bias,
            with_parameters=write,
            convention=convention,
            library=library,
        )

    @classmethod
    def of_forward(
        cls,
        name: str,
        forward: Callable[[Any, Any, Any], Any],
        *,
        convention: Convention = FLAX,
        library: str = "",
    ) -> Implementation:
        """Describe a layer by one function ``forward(seed, x, features) -> y``."""
        return cls(name=name, forward=forward, convention=convention, library=library)

    def surroundings(self) -> AbstractContextManager[Any]:
        """Return the context in which the layer is built and called."""
        return contextlib.nullcontext() if self.context is None else self.context()

    def renamed(self, name: str) -> Implementation:
        """Return the same implementation under another name."""
        return replace(self, name=name)

    def given(self, arguments: Mapping[str, Any]) -> Implementation:
        """Return the same implementation with these further arguments of its constructor.

        Raises
        ------
        ValueError
            If its constructor is not known.
        """
        if self.configured is None:
            raise ValueError(f"{self.name} is not described by a constructor")
        return replace(
            self.configured(**arguments),
            name=self.name,
            context=self.context,
            options=self.options,
            chosen=self.chosen | set(arguments),
            configured=functools.partial(self.configured, **arguments),
        )

    def with_convention(self, convention: Convention) -> Implementation:
        """Return the same implementation, read by and checked against another convention.

        Raises
        ------
        ValueError
            If its functions read the parameters for one layout and one pair of names only.
        """
        if self.under is not None:
            found = self.under(convention)
            return replace(
                found,
                expected_failures=self.expected_failures,
                context=self.context,
                bound=self.bound,
                options=self.options,
                chosen=self.chosen,
                configured=self.configured,
                activations=self.activations,
            )
        its = self.convention
        if (its.layout, its.parameter_names) != (convention.layout, convention.parameter_names):
            raise ValueError(
                f"{self.name} reads its parameters itself, so neither their names nor their "
                "layout can be declared otherwise"
            )
        return replace(self, convention=convention)


def existing(function: Callable[..., Any] | None) -> Callable[..., Any]:
    """Return a function of an implementation, which must have it."""
    if function is None:
        raise TypeError("the property needs a function that this layer lacks: see its needs")
    return function
