"""Looks at a layer to find its arrays, its layout, its dtypes and what it accepts.

A layer that differs from its declaration fails the requirement on that point. All else is checked
against what was found, so that one difference is one failure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from conformance.errors import by_user, described
from conformance.jax_setup.lazy import jax
from conformance.layers import experiments
from conformance.layers.adapters.parameters import Leaf, leaves_in
from conformance.layers.implementation import Convention, Implementation, existing
from conformance.layers.storage import BiasRow, Storage

SIZES = ((3, 10), (5, 1))
"""Two sizes with four different sides, which checks compile anyway."""

_BATCH = 8
_TRAINED = ("Param", "params", "Array")
_NAMES = {"kernel": ("kernel", "weight", "w"), "bias": ("bias", "b")}


@dataclass(frozen=True)
class Seen:
    """The result of looking at a layer.

    Parameters
    ----------
    convention
        The declared convention, corrected by what was found.
    leaves
        Its arrays at the first size, in words.
    kernel, bias
        Their paths; empty if not found.
    extra_parameters, extra_state
        The paths of the other parameters, and of the other arrays.
    frozen
        The paths of those of kernel and bias that are not parameters: no optimizer moves them.
    arguments
        The argument of the constructor that leaves out an activation, or a dropout.
    storage
        How kernel and bias are read and written, if not as one array each.
    other
        What it computes besides an affine map; empty for a layer that can be checked.
    trouble
        Why it could not be looked at; usually empty.
    """

    convention: Convention
    leaves: tuple[str, ...] = ()
    kernel: str = ""
    bias: str = ""
    extra_parameters: tuple[str, ...] = ()
    extra_state: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    storage: Storage | None = None
    other: str = ""
    trouble: str = ""

    def of(self, registered: Implementation) -> Implementation:
        """Return the implementation, with kernel and bias read where they were found."""
        its = registered.given(self.arguments) if self.arguments else registered
        its = its if self.convention == its.convention else its.with_convention(self.convention)
        return self.storage.seen_through(its) if self.storage is not None else its


def look(implementation: Implementation) -> Seen:
    """Build the layer at two sizes, and call it; unknown properties stay as declared."""
    declared = implementation.convention
    if implementation.init is None or implementation.apply is None:
        return Seen(declared)
    seen = Seen(declared)
    try:
        seen = _look(implementation)
        return _tried(implementation, seen)
    except BaseException as error:
        if by_user(error):
            raise
        if seen.leaves:
            return seen  # an experiment failed; requirements are about what it calls
        return Seen(declared, trouble=described(error, 200))


def _look(implementation: Implementation) -> Seen:
    declared, apply = implementation.convention, existing(implementation.apply)
    parameters = [existing(implementation.init)(0, *size) for size in SIZES]
    leaves = [leaves_in(implementation, each) for each in parameters]
    first = {".".join(leaf.path): leaf for leaf in leaves[0]}
    second = {".".join(leaf.path): leaf for leaf in leaves[1]}
    if len(first) != len(leaves[0]) or first.keys() != second.keys():
        return Seen(declared, tuple(map(str, leaves[0])), trouble="its arrays depend on its sizes")
    shapes = {path: (np.shape(first[path].value), np.shape(second[path].value)) for path in first}
    kernel = _kernel(first, shapes, declared, lambda path: _has_effect(implementation, path))
    bias = _bias(first, shapes, declared, kernel)
    others = [path for path in first if path not in (kernel, bias)]
    trained = tuple(path for path in others if first[path].kind in _TRAINED)
    joined = "" if kernel or bias or not declared.use_bias else _joined(shapes, trained)
    found = _as_stored(declared, first, shapes, kernel or joined, bias)
    if implementation.under is None and found != declared:
        # Its own functions read its parameters.
        same = {"layout": declared.layout, "parameter_names": declared.parameter_names}
        found = replace(found, **same)  # type: ignore[arg-type]  # of both fields
    found = _as_called(found, apply, parameters[0])
    lead = found.lead(_BATCH)
    hides_none = kernel and not bias and not trained and declared.use_bias
    # A hidden bias shows at x = 0.
    if hides_none and not np.any(np.asarray(apply(parameters[0], _of(np.zeros, *lead)))):
        found = replace(found, use_bias=False)
    state = tuple(path for path in others if path not in trained)
    frozen = tuple(p for p in (kernel, bias) if p and first[p].kind not in _TRAINED)
    row = BiasRow(bias) if bias and len(shapes[bias][0]) > 1 else None
    if row is not None and 2 in found.ranks:
        # A vector becomes a row: that is the same difference.
        found = replace(found, ranks=tuple(rank for rank in found.ranks if rank > 1))
    several = [] if kernel else _of_kernels_shape(shapes)
    trouble = f"several arrays have the kernel's shape: {', '.join(several)}" if several else ""
    return Seen(
        found, tuple(map(str, leaves[0])), kernel, bias, trained, state, frozen, storage=row,
        trouble=trouble,
    )  # fmt: skip


def _tried(implementation: Implementation, seen: Seen) -> Seen:
    """Return what was found, with what results show beside the arrays."""
    its = seen.of(implementation)
    if its.under is None:
        return seen  # it is described by functions
    others = _shapes(its, seen.extra_parameters)
    storage: Storage | None
    if not seen.kernel and seen.convention.use_bias and _joined(others, seen.extra_parameters):
        (path,) = others
        storage = experiments.joined(its, path, SIZES[0])
        return seen if storage is None else replace(
            seen, kernel=path, bias=path, storage=storage, extra_parameters=()
        )  # fmt: skip
    if seen.convention.use_bias and not seen.bias:
        return seen  # it hides its bias
    if not seen.kernel:
        storage = experiments.blocks(its, others, seen.bias, SIZES)
        return seen if storage is None else replace(seen, storage=storage, extra_parameters=())
    try:
        error = experiments.error_of(its, SIZES[0])
    except Exception:  # a dropout without its keys raises
        error = np.inf
    if error > experiments.CLOSE:
        arguments = experiments.without_activation(its, SIZES[0])
        storage = seen.storage
        if not arguments:
            storage = experiments.factor(its, seen.kernel, others, SIZES) or storage
        if not arguments and storage is None:
            storage = experiments.scaled(its, seen.kernel, SIZES)
        beside = (*seen.extra_parameters, *seen.extra_state)
        other = experiments.other(its, seen.extra_parameters, SIZES[0]) if beside else ""
        return replace(
            seen, arguments=arguments, storage=storage, other="" if arguments or storage else other
        )
    half = implementation.convention.compute_dtype
    if half != its.convention.compute_dtype and experiments.rounds_operands(its, half, SIZES[0]):
        wider: dict[str, Any] = {"compute_dtype": half, "casts_input": True}
        wider["result_dtype"] = "float32"
        if experiments.rounds_product(its, half, SIZES[0]):
            wider["accumulate"] = half
        return replace(seen, convention=replace(seen.convention, **wider))
    plain = {its.convention.compute_dtype, its.convention.parameter_dtype} == {"float32"}
    if error and plain and not its.convention.product_error:
        found = experiments.quantization(its, SIZES[0])
        seen = replace(seen, convention=replace(seen.convention, product_error=found))
    return seen


def _shapes(its: Implementation, paths: Sequence[str]) -> dict[str, Any]:
    """Return the shapes of these arrays at both sizes."""
    found = [
        {".".join(leaf.path): np.shape(leaf.value) for leaf in leaves_in(its, each)}
        for each in (existing(its.init)(0, *size) for size in SIZES)
    ]
    return {path: (found[0][path], found[1][path]) for path in paths}


def _kernel(
    leaves: dict[str, Leaf], shapes: dict[str, Any], declared: Convention,
    has_effect: Callable[[str], bool],
) -> str:  # fmt: skip
    """Return the kernel's path, by shape, declared name, effect on the output, or usual name."""
    return _chosen(leaves, _of_kernels_shape(shapes), declared, "kernel", has_effect)


def _of_kernels_shape(shapes: Mapping[str, Any]) -> list[str]:
    """Return the paths of the arrays of shape (in, out) or (out, in)."""
    flipped = tuple(size[::-1] for size in SIZES)
    return [path for path, shape in shapes.items() if shape in (SIZES, flipped)]


def _bias(
    leaves: dict[str, Leaf], shapes: dict[str, Any], declared: Convention, kernel: str
) -> str:
    wanted = tuple((size[1],) for size in SIZES)
    rows = tuple((1, size[1]) for size in SIZES)
    found = [path for path, shape in shapes.items() if shape == wanted and path != kernel]
    found = found or [path for path, shape in shapes.items() if shape == rows]
    return _chosen(leaves, found, declared, "bias", lambda path: True)


def _joined(shapes: Mapping[str, Any], paths: Sequence[str]) -> str:
    """Return the path of the only array, if it has one row or column more than a kernel."""
    more = tuple((n + 1, m) for n, m in SIZES)
    flipped = tuple(shape[::-1] for shape in more)
    found = [path for path in paths if shapes[path] in (more, flipped)]
    return found[0] if len(found) == len(paths) == 1 else ""


def _chosen(
    leaves: dict[str, Leaf], found: Sequence[str], declared: Convention, which: str,
    has_effect: Callable[[str], bool],
) -> str:  # fmt: skip
    trained = [path for path in found if leaves[path].kind in _TRAINED]
    found = trained or list(found)
    name = declared.parameter_names[0 if which == "kernel" else 1]
    named = [path for path in found if leaves[path].is_called(name)]
    if len(named) == 1 or len(found) <= 1:
        return (named or list(found) or [""])[0]
    found = [path for path in found if has_effect(path)]
    usual = [path for path in found if leaves[path].name.lower() in _NAMES[which]]
    left = found if len(found) == 1 else usual
    return left[0] if len(left) == 1 else ""


def _has_effect(implementation: Implementation, path: str) -> bool:
    """Return whether the output of a new layer depends on this array."""
    its = implementation.with_convention(
        replace(implementation.convention, parameter_names=(path, ""), use_bias=False)
    )
    x, apply = _of(np.ones, _BATCH), existing(its.apply)
    parameters = existing(its.init)(0, *SIZES[0])
    moved = existing(its.kernel)(parameters) + 1
    other = existing(its.with_parameters)(parameters, moved, None)
    return not np.array_equal(apply(parameters, x), apply(other, x))


def _as_stored(
    declared: Convention, leaves: dict[str, Leaf], shapes: dict[str, Any], kernel: str, bias: str
) -> Convention:
    """Return the convention with the names, layout and dtypes of the stored arrays."""
    if not kernel:
        return declared
    names = [
        own
        if not path or [each for each in leaves if leaves[each].is_called(own)] == [path]
        else _name(leaves, path)
        for own, path in zip(declared.parameter_names, (kernel, bias), strict=True)
    ]
    dtypes = {str(leaves[path].value.dtype) for path in (kernel, bias) if path}
    dtype = dtypes.pop() if len(dtypes) == 1 else ""
    return replace(
        declared,
        parameter_names=(names[0], names[1]),
        layout="in,out" if shapes[kernel][0][1] == SIZES[0][1] else "out,in",
        parameter_dtype=dtype if dtype in ("bfloat16", "float16") else declared.parameter_dtype,
    )


def _name(leaves: dict[str, Leaf], path: str) -> str:
    """Return the last part of a path if it is unique, else the whole path."""
    name = leaves[path].name
    return name if sum(leaf.name == name for leaf in leaves.values()) == 1 else path


def _of(make: Callable[..., Any], *lead: int) -> Any:
    return jax.device_put(make((*lead, SIZES[0][0]), np.float32))


def _as_called(found: Convention, apply: Callable[[Any, Any], Any], parameters: Any) -> Convention:
    """Return the convention with the accepted ranks, and the dtype of the result."""
    results: dict[int, Any] = {}
    for rank in found.ranks:
        if rank > 2 and results.get(1) is not None and results.get(2) is None:
            break  # a layer that takes only vectors takes no batch of any rank
        lead = (_BATCH, 3, 2, 4)[: rank - 1]
        try:
            results[rank] = apply(parameters, _of(np.ones, *lead))
        except Exception:
            results[rank] = None
    taken = [rank for rank in found.ranks if results.get(rank) is not None]
    if taken:
        found = replace(found, ranks=tuple(taken))
    dtypes = {str(getattr(results[rank], "dtype", "")) for rank in taken if rank <= 2}
    dtype = dtypes.pop() if len(dtypes) == 1 else ""
    if dtype == found.returned:
        return found
    if dtype in ("bfloat16", "float16"):
        found = replace(found, result_dtype="", compute_dtype=dtype, casts_input=True)
    elif dtype == "float32" and found.compute_dtype in ("bfloat16", "float16"):
        found = replace(found, result_dtype="", compute_dtype=dtype, casts_input=False)
    return found
