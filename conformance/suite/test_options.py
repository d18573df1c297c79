"""Constructor options with the names of Flax's options mean what they mean in Flax.

An option is checked if the constructor has its name, or passes it on. If a layer is registered with
a value for an option, all other requirements check it with that value. An option is that of one
layer: building another layer with other options changes nothing.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.checks import jaxprs, programs, require
from conformance.checks.areas import compilation, input_dtypes
from conformance.checks.areas.initializers import (
    require_initializer,
    require_no_bias_made,
    require_own_keys,
)
from conformance.checks.areas.options import (
    beside,
    ignored,
    in_words,
    of_every_rank,
    others_of,
    precision_of,
    require_as_zero_bias,
    require_at_every_rank,
    require_branches,
    require_gradients,
    require_kernel_alone,
    require_negated_gradients,
    require_negated_products,
    require_of_one_layer,
    require_own_dtype,
    require_result,
    result,
    takes,
    why_bias_kept,
    with_and_without_bias,
    with_options,
)
from conformance.checks.areas.options_in_use import (
    require_at_every_size,
    require_false_of_any_type,
    require_same_gradients,
    require_updates_used,
    require_x_first,
)
from conformance.checks.areas.options_law import require_same_law
from conformance.checks.arrays import as_jax
from conformance.checks.cases import BATCH, Case, over
from conformance.checks.layer import Layer
from conformance.checks.require import during
from conformance.contract.requirement import MUST, PARAMETERS, SHOULD, requirement, rests_on
from conformance.errors import Cause, Violation
from conformance.jax_setup.lazy import jax, jnp, nnx

SIZES = [programs.FEW_SIZES[-1]]
VALUE = "forward/affine-value"


@requirement("options/use-bias", MUST, PARAMETERS)
@rests_on(
    *("construction/only-two-parameters", "forward/zero-input", VALUE, "transforms/gradients")
)
@over(sizes=SIZES, at_most=1)
def test_use_bias(layer: Layer, case: Case) -> None:
    """With ``use_bias=False`` the layer has only a kernel, of the same shape, f(0) is 0 and
    f(x) = x @ K.

    A ``bias_init`` beside it makes no bias, and neither do 0 and NumPy's False; the layer may also
    refuse these.
    """
    without, x = with_options(layer, use_bias=False), layer.x_for(case)
    kernel, seen = without.kernel_for(case), functools.partial(result, x=x)
    plain = layer.written(case)
    before = seen(plain)
    with during("construction with use_bias=False"):
        dense = without.of(case)
    require_kernel_alone(dense, "use_bias=False", why_bias_kept(dense, x))
    require_same_law(layer, without, "use_bias=False")
    dense.write(kernel, case.bias())
    reference = without.value(x, kernel, np.zeros(case.out_features, np.float32))
    require.equal(dense(x * 0), np.zeros_like(reference.value), "f(0) with use_bias=False")
    require.near(dense(x), reference, "f(x) with use_bias=False")
    require_of_one_layer(dense, plain, before, "f(x)", seen)
    input_dtypes.require_not_finite(without, dense, x)
    require_gradients(without, case, dense, x, "jax.vjp with use_bias=False")
    if layer.accepts((2, 4)) and layer.accepts(BATCH):
        found = np.asarray(dense(x.reshape(2, 4, -1))).reshape(*layer.batch, -1)
        what = "f(x) with use_bias=False for an x of rank 3"
        require.near(found, reference, what)
    require_as_zero_bias(layer, dense, case, x)
    require_branches(layer, without, "use_bias=False")
    require_no_bias_made(layer, case)
    require_false_of_any_type(layer, case)


@requirement("options/kernel-init", MUST, PARAMETERS)
@rests_on("construction/kernel-shape", "construction/abstract-init", "seeding/seeds-differ")
@over(sizes=SIZES, at_most=1)
def test_kernel_init(layer: Layer, case: Case) -> None:
    """The kernel is what ``kernel_init(key, shape, dtype)`` returns. It is called once, with a key
    that depends on the seed, the kernel's shape and the dtype of the parameters.

    A layer that scales, replaces or ignores its result, at all sizes or some, does not start where
    its user chose. One that declares ``layout = "out, in"`` may ask for either shape, and turn what
    it gets.
    """
    for options in beside(layer):
        require_initializer(layer, case, "kernel_init", case.kernel(), **options)


@requirement("options/bias-init", MUST, PARAMETERS)
@rests_on("construction/bias-shape", "options/kernel-init")
@over(sizes=SIZES, at_most=1)
def test_bias_init(layer: Layer, case: Case) -> None:
    """The bias is what ``bias_init(key, shape, dtype)`` returns. It is called once, with a key that
    depends on the seed, the bias's shape and the dtype of the parameters.

    The key differs from the kernel's, and from those of the next layer of an ``nnx.Rngs``, because
    two draws from one key give the same numbers.
    """
    if not layer.convention.use_bias:
        require.not_applicable("the layer declares that it has no bias")
    for options in beside(layer):
        if "use_bias" not in options:
            bias_keys = require_initializer(layer, case, "bias_init", case.bias(), **options)
    if takes(layer, "kernel_init"):
        require_own_keys(layer, case, bias_keys[0])


@requirement("options/dtype", MUST, PARAMETERS)
@rests_on(
    *("dtypes/float32-out", "construction/parameter-dtype", VALUE, "transforms/gradients"),
    "numerics/nan-confined",
)
@over(sizes=SIZES, at_most=1)
def test_dtype(layer: Layer, case: Case) -> None:
    """With ``dtype=d`` the layer casts x and the parameters to d, computes in d and returns d; the
    parameters keep their own dtype.

    The check uses bfloat16 and float16 for a float32 x, and float32 for a bfloat16 x, also without
    a bias and with ``param_dtype``. Integers are cast as well, and not scaled. Gradients and
    numbers that are not finite pass through the casts. A ``preferred_element_type`` is the dtype of
    the product. Copies of the layer keep the option, and other layers do not get it. New values of
    the parameters are used after a call.
    """
    plain, values = layer.written(case), layer.x_for(case)
    seen = functools.partial(result, x=values)
    before = seen(plain)
    for dtype, x in (
        ("bfloat16", input_dtypes.in_magnitudes(layer.x_for(case))),
        ("float16", layer.x_for(case)),
        ("float32", input_dtypes.in_magnitudes(layer.x_for(case)).astype(jnp.bfloat16)),
    ):
        # Users write jnp.bfloat16, a scalar type, and some a NumPy dtype.
        as_written = getattr(jnp, dtype) if dtype != "float16" else jnp.dtype(dtype)
        computing = with_options(layer, dtype=as_written)
        with during(f"construction with dtype={dtype}"):
            dense = computing.of(case)
        require_own_dtype(layer, dense, f"dtype={dtype}")
        y = dense.write(case.kernel(), case.bias())(as_jax(x))
        require_result(computing, case, y, x.astype(np.float32), f"dtype={dtype}", layer)
        if dtype == "bfloat16":
            require_of_one_layer(dense, plain, before, "f(x)", seen)
            require_gradients(computing, case, dense, x, f"jax.vjp with dtype={dtype}")
            returned = computing.convention.returned
            require_at_every_rank(computing, case, returned, f"dtype={dtype}", _BY_RANK)
            # The cast may stand in a branch for numbers of float32, or for floats.
            for of in ("int32", "float16"):
                if input_dtypes.works_with(layer, of):
                    cause = Cause("option-by-dtype", f"dtype is ignored for x of {of}")
                    both = f"dtype={dtype} and x of {of}"
                    require_at_every_rank(computing, case, returned, both, cause, of)
            require_branches(layer, computing, f"dtype={dtype}")
            of_bfloat16 = computing
            if input_dtypes.works_with(layer, "uint8"):  # as images are
                images = case.generator("images").integers(256, size=x.shape).astype(np.uint8)
                both = f"dtype={dtype} and x of uint8"
                wide = images.astype(np.float32)
                require_result(computing, case, dense(as_jax(images)), wide, both)
        if dtype != "float32":
            input_dtypes.require_not_finite(computing, dense, x)
            require_updates_used(computing, case, dense, f"dtype={dtype}")
        if dtype == "float16":
            require_same_gradients(computing, of_bfloat16, case, f"dtype={dtype}")
        require_same_law(layer, computing, f"dtype={dtype}")
    input_dtypes.require_as_text(layer, case, "dtype")
    input_dtypes.require_preferred(layer, case)
    if takes(layer, "param_dtype"):
        given = with_options(layer, dtype=jnp.float32, param_dtype=jnp.bfloat16)
        cause = Cause("option-overruled", "param_dtype overrules dtype")
        both = "dtype=float32 and param_dtype=bfloat16"
        require_at_every_rank(given, case, "float32", both, cause)
        y = given.written(case)(values)
        require_result(given, case, y, values, both)
        same = with_options(layer, param_dtype=jnp.bfloat16)
        require_same_gradients(given, same, case, both)
    if takes(layer, "use_bias"):
        computing = with_options(layer, dtype=jnp.dtype("bfloat16"), use_bias=False)
        both, x = "dtype=bfloat16 and use_bias=False", layer.x_for(case)
        with during(f"construction with {both}"):
            dense = computing.of(case)
        require_own_dtype(layer, dense, both)
        require_result(computing, case, dense.write(case.kernel(), case.bias())(x), x, both)
        require_at_every_rank(computing, case, computing.convention.returned, both, _BY_RANK)
        require_updates_used(computing, case, dense, both)


_BY_RANK = Cause("option-by-rank", "dtype is ignored for x of some ranks")


@requirement("options/param-dtype", MUST, PARAMETERS)
@rests_on("construction/parameter-dtype", "dtypes/half-input", "options/bias-init", VALUE)
@over(sizes=SIZES, at_most=1)
def test_param_dtype(layer: Layer, case: Case) -> None:
    """With ``param_dtype=d`` every parameter is created in d, initializers are called with d, and
    the dtype that the layer computes in does not change: a float32 x still gives a float32 result.

    New kernels follow the law that they follow without it.
    """
    chosen: list[tuple[str, dict[str, bool]]] = [("bfloat16", {}), ("float16", {})]
    chosen += [("bfloat16", options) for options in with_and_without_bias(layer)[1:]]
    for dtype, options in chosen:
        given = with_options(layer, param_dtype=getattr(jnp, dtype), **options)
        with during(f"construction with param_dtype={dtype}"):
            dense = given.of(case)
        # A counter, or other state beside the parameters, has a dtype of its own.
        beside = (*layer.declared.extra_state, *layer.seen.extra_state)
        leaves = [leaf for leaf in dense.leaves if not any(map(leaf.is_called, beside))]
        others = [leaf for leaf in leaves if str(leaf.value.dtype) != dtype]
        cause = ignored("param_dtype", options)
        if len(others) < len(leaves):
            names = " and ".join(leaf.name for leaf in others)
            cause = Cause("option-for-some", f"the option param_dtype does not reach {names}")
        require.that(
            not others,
            f"with param_dtype={dtype}, the layer has {', '.join(map(str, others))}",
            accepted=dtype,
            cause=cause,
        )
        require_same_law(layer, given, f"param_dtype={dtype}{_and(options)}")
        x = layer.x_for(case)
        y = dense.write(case.kernel(), case.bias())(x)
        require_result(given, case, y, x, f"param_dtype={dtype}{_and(options)}")
        if dtype == "bfloat16":
            require_branches(layer, given, f"param_dtype={dtype}{_and(options)}")
            of_bfloat16 = given
        require_updates_used(given, case, dense, f"param_dtype={dtype}{_and(options)}")
        if dtype == "float16":
            require_same_gradients(given, of_bfloat16, case, f"param_dtype={dtype}")
        require_at_every_size(given, dtype)
    input_dtypes.require_as_text(layer, case, "param_dtype")
    both = {"kernel_init": case.kernel(), "bias_init": case.bias()}
    for name, values in both.items():
        if takes(layer, name) and (name == "kernel_init" or layer.convention.use_bias):
            require_initializer(layer, case, name, values, param_dtype=jnp.bfloat16)


@requirement("options/precision", SHOULD, PARAMETERS, wrong_numbers=MUST)
@rests_on("numerics/one-product", "transforms/jit")
@over(sizes=SIZES, at_most=1)
def test_precision(layer: Layer, case: Case) -> None:
    """``precision`` sets the precision of the product, for each value of ``jax.lax.Precision``, for
    a pair of them and for a name, such as ``"highest"``; it does so for x of rank 1 to 3, without a
    bias and in the gradients.

    The check reads the program, because a CPU computes the same in all of them. Where it has other
    operations than without the option, f(x) is checked.
    """
    highest, default = jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT
    every: list[Any] = [(each, (each, each), {}) for each in jax.lax.Precision]
    every += [((highest, default), (highest, default), {})]
    every += [("highest", (highest, highest), options) for options in beside(layer)]
    for chosen, precision, options in every:
        # A large product may be split into parts, each with its own precision.
        leads = filter(layer.accepts, ((), case.lead, (2, 4)))
        cases = [*(replace(case, lead=lead) for lead in leads), Case(1024, 1024, lead=layer.fewest)]
        try:
            given = with_options(layer, precision=chosen, **options)
            each_of = [jaxprs.precisions(programs.traced(given, each)) for each in cases]
            # The promotion of x may stand in a branch that multiplies in another way.
            more = others_of(layer) if isinstance(chosen, str) else ()
            each_of += [jaxprs.precisions(programs.traced(given, case, dtype=d)) for d in more]
        except Violation:
            if precision[0] != precision[1]:
                continue  # it may offer one precision for both operands only
            raise
        found = set().union(*each_of)
        shown = repr(chosen) if isinstance(chosen, str) else _named(precision)
        what = f"with precision={shown}{_and(options)}, the product"
        right: Any = {precision}
        cause: Cause | str = "" if "dtype" in options else ignored("precision", options)
        if precision in found:
            cause = Cause("option-by-branch", "precision is used in one branch of the layer only")
        if precision[0] != precision[1]:
            words = "of a pair of precisions, one counts for both operands"
            cause = Cause("precision-of-one", words) if len(found) == 1 else ""
        require.that(
            found == right, f"{what} has {in_words(found)}", accepted=_named(precision), cause=cause
        )
        if isinstance(chosen, str) and "dtype" not in options:
            plain = layer.with_options(**options) if options else layer
            require_branches(layer, given, f"precision={shown}{_and(options)}", plain)
        if isinstance(chosen, str) and not options:
            seen, usual = functools.partial(precision_of, x=layer.x_for(case)), layer.of(case)
            before, dense = seen(usual), given.of(case)
            require_of_one_layer(dense, usual, before, "the precision of the product", seen)
            found = jaxprs.precisions(compilation.traced_gradients(given, case))
            cause = Cause("option-of-call-only", "precision does not reach the gradients")
            require.that(
                found == right,
                f"{what} and those of its gradients have {in_words(found)}",
                accepted=_named(precision),
                cause=cause,
            )


def _named(precision: tuple[Any, Any]) -> str:
    return " and ".join(dict.fromkeys(each.name for each in precision))


@requirement("options/dot-general", SHOULD, PARAMETERS, wrong_numbers=MUST)
@rests_on("numerics/one-product", "forward/zero-input", "options/precision", VALUE)
@over(sizes=SIZES, at_most=1)
def test_dot_general(layer: Layer, case: Case) -> None:
    """``dot_general`` replaces ``jax.lax.dot_general`` in the product.

    Quantized training injects its arithmetic this way; the check negates the product. It is called
    for x of rank 1 to 3 and of other dtypes, and without a bias, with x before the kernel. The
    gradients are those of its product. ``dot_general_cls`` makes it as well.
    """
    calls = []

    def negated(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return -jax.lax.dot_general(*arguments, **options)

    def unchanged(*arguments: Any, **options: Any) -> Any:
        return jax.lax.dot_general(*arguments, **options)

    x = layer.x_for(case)
    reference = layer.value(x, -layer.kernel_for(case), layer.bias_for(case))
    seen, usual = functools.partial(result, x=x), layer.written(case)
    before, dense = seen(usual), with_options(layer, dot_general=negated).written(case)
    what, y = "f(x) with a dot_general that negates the product", dense(x)
    unused = "f(x) with a dot_general does not call it"
    require.that(calls, unused, accepted="a call", cause=ignored("dot_general"))
    require_x_first(calls[0], x, layer.kernel_for(case))
    require.near(y, reference, what)
    if takes(layer, "dot_general_cls"):  # as in Linen, it makes a dot_general
        y = with_options(layer, dot_general_cls=lambda: negated).written(case)(x)
        why = ignored("dot_general_cls") if np.array_equal(y, before) else ""
        require.near(y, reference, f"{what} and is made by dot_general_cls", cause=why)
    require_negated_products(dense, case, x)
    require_negated_gradients(dense, case)
    require_of_one_layer(dense, usual, before, "f(x)", seen)
    for options in beside(layer):
        calls.clear()
        given = with_options(layer, dot_general=negated, **options)
        called = of_every_rank(given, case)
        require.that(
            len(calls) >= len(called),
            f"with dot_general{_and(options)}, it is called for {len(calls)} of {len(called)} ranks"
            " of x",
            accepted="a call for each",
            cause=Cause("option-by-branch", "dot_general is used in one branch of the layer only"),
        )
        if "dtype" not in options:
            plain = layer.with_options(**options) if options else layer
            given = with_options(layer, dot_general=unchanged, **options)
            require_branches(layer, given, f"dot_general{_and(options)}", plain)
    if takes(layer, "precision"):
        highest = jax.lax.Precision.HIGHEST
        both = with_options(layer, dot_general=negated, precision=highest)
        found = jaxprs.precisions(programs.traced(both, case))
        require.that(
            found == {(highest, highest)},
            f"with dot_general and precision=HIGHEST, the product has {in_words(found)}",
            accepted="HIGHEST",
            cause=Cause("precision-not-passed", "dot_general does not get the layer's precision"),
        )


def _and(options: dict[str, Any]) -> str:
    return "".join(f" and {name}={value}" for name, value in options.items())


@requirement("options/promote-dtype", SHOULD, PARAMETERS, wrong_numbers=MUST)
@rests_on("dtypes/float32-out", VALUE)
@over(sizes=SIZES, at_most=1)
def test_promote_dtype(layer: Layer, case: Case) -> None:
    """``promote_dtype`` casts x and the parameters to one dtype.

    In the check it casts all of them to bfloat16, and the result must be bfloat16, for x of rank 1
    to 3 and of other dtypes, and without a bias. It gets the layer's ``dtype``, or values of that
    dtype.
    """
    from flax import linen

    own: Any = nnx.nn.dtypes if layer.implementation.linen is None else linen.dtypes
    calls: list[int] = []

    def to_bfloat16(*values: Any, **options: Any) -> Any:
        calls.append(len(values))
        return own.promote_dtype(*values, **{**options, "dtype": jnp.bfloat16})

    for options in with_and_without_bias(layer):
        calls.clear()
        given = with_options(layer, promote_dtype=to_bfloat16, **options)
        found = [
            each for d in ("float32", *others_of(layer)) for each in of_every_rank(given, case, d)
        ]
        cause: Cause | str = "" if calls else ignored("promote_dtype", options)
        if 0 < len(calls) < len(found):
            cause = Cause("option-by-branch", "promote_dtype is used in one branch only")
        for x, y in found:
            require.that(
                str(y.dtype) == "bfloat16",
                f"with a promote_dtype that casts to bfloat16{_and(options)}, f({x}) is {y.dtype}",
                accepted="bfloat16",
                cause=cause,
            )
    seen, plain = functools.partial(result, x=layer.x_for(case)), layer.of(case)
    before, dense = seen(plain), with_options(layer, promote_dtype=to_bfloat16).of(case)
    require_of_one_layer(dense, plain, before, "f(x)", seen)
    given = with_options(layer, promote_dtype=own.promote_dtype)
    require_branches(layer, given, "promote_dtype", layer)
    if not takes(layer, "dtype"):
        return
    promoted: list[str] = []

    def recorded(*values: Any, **options: Any) -> Any:
        cast = own.promote_dtype(*values, **options)
        promoted.extend(str(each.dtype) for each in cast if each is not None)
        return cast

    both = with_options(layer, promote_dtype=recorded, dtype=jnp.dtype("float16"))
    both.of(case)(layer.x_for(case))
    require.that(
        set(promoted) <= {"float16"},
        f"with dtype=float16, promote_dtype is asked for {' and '.join(sorted({*promoted}))}",
        accepted="float16",
        cause=Cause("promoted-without-dtype", "promote_dtype does not get the layer's dtype"),
    )
