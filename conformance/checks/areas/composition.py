"""The layer within larger models: built, transformed and taken apart again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from conformance.checks import require
from conformance.checks.arrays import as_jax
from conformance.checks.cases import Case
from conformance.checks.layer import Built, Layer
from conformance.checks.scan.literals import names_in_code
from conformance.errors import Cause
from conformance.jax_setup.lazy import jax, linen, nnx
from conformance.layers.adapters.parameters import Leaf, Parameters
from conformance.layers.implementation import existing

Place = tuple[str, ...]


def nnx_layer(layer: Layer, in_features: int, out_features: int, rngs: Any) -> Any:
    """Return a new module of the layer."""
    return existing(layer.implementation.module)(in_features, out_features, rngs)


def leaves(model: nnx.Module) -> list[Leaf]:
    """Return every array in the state of an nnx module."""
    from conformance.jax_setup.compat import state_leaves

    return [Leaf(*found) for found in state_leaves(nnx.state(model))]


def without_streams(leaves: Sequence[Leaf]) -> list[Leaf]:
    """Return the leaves without keys of random streams and their counts."""
    return [leaf for leaf in leaves if not leaf.is_stream]


def nnx_models(layer: Layer, n: int, m: int) -> dict[str, tuple[Callable[[Any], Any], list[Place]]]:
    """Return models of two layers: a function from Rngs to the model, and the layers' paths."""

    class Attributes(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.first = nnx_layer(layer, n, m, rngs)
            self.second = nnx_layer(layer, m, n, rngs)

        def __call__(self, x: Any) -> Any:
            return self.second(self.first(x))

    class Listed(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            made = [nnx_layer(layer, n, m, rngs), nnx_layer(layer, m, n, rngs)]
            # Flax before 0.12 has only plain lists.
            self.parts = nnx.List(made) if hasattr(nnx, "List") else made

        def __call__(self, x: Any) -> Any:
            for part in self.parts:
                x = part(x)
            return x

    def sequential(rngs: Any) -> Any:
        return nnx.Sequential(nnx_layer(layer, n, m, rngs), nnx_layer(layer, m, n, rngs))

    return {
        "attributes": (Attributes, [("first",), ("second",)]),
        "nnx.Sequential": (sequential, [("layers", "0"), ("layers", "1")]),
        "nnx.List": (Listed, [("parts", "0"), ("parts", "1")]),
    }


def nnx_ensemble(layer: Layer, case: Case, count: int) -> Any:
    """Return a module with the stacked arrays of so many layers."""

    @nnx.split_rngs(splits=count)
    @nnx.vmap(in_axes=0, out_axes=0)
    def build(rngs: Any) -> Any:
        return nnx_layer(layer, *case.kernel_shape, rngs)

    return build(nnx.Rngs(case.seed))


def members(layer: Layer, models: Any, count: int) -> list[Built]:
    """Return the layers of a stacked module."""
    graphdef, state = nnx.split(models)

    def member(i: int) -> Built:
        return Built(
            layer, module=nnx.merge(graphdef, jax.tree_util.tree_map(lambda v: v[i], state))
        )

    return [member(i) for i in range(count)]


def _call(model: Any, x: Any) -> Any:
    return model(x)


def nnx_transformed(models: Any, one: Any, x: Any) -> dict[str, Any]:
    """Return the results of stacked layers, and of one, under the transforms of nnx."""
    carry = nnx.Carry
    return {
        "nnx.vmap": nnx.vmap(_call, in_axes=(0, None), out_axes=0)(models, x),
        "nnx.scan": nnx.scan(_call, in_axes=(0, carry), out_axes=carry)(models, x),
        "nnx.remat": nnx.remat(_call)(one, x),
        "nnx.cond": nnx.cond(True, _call, _call, one, x),
    }


def linen_leaves(variables: Any) -> list[Leaf]:
    """Return every array of a variable dict; its name does not begin with its collection."""
    from conformance.layers.adapters.linen import collection_leaves

    return collection_leaves(variables)


def _maker(layer: Layer, case: Case) -> Callable[[], Any]:
    """Return the function that makes a Linen module of the case's sizes."""
    return functools.partial(existing(layer.implementation.linen), *case.kernel_shape)


CALLS_TWICE = "a parent that calls one layer twice"


def linen_models(layer: Layer, case: Case) -> dict[str, tuple[Any, list[Place]]]:
    """Return parents of the layer, each with the paths of the layers in it."""

    make = _maker(layer, case)

    def deeper(x: Any) -> Any:
        """Return x with one axis more, if the layer takes such an x."""
        return x[None] if layer.accepts((1, *x.shape[:-1])) else x

    class Named(linen.Module):
        def setup(self) -> None:
            self.query, self.head = make(), make()

        def __call__(self, x: Any) -> Any:
            return self.query(x), self.head(x)

    class Compact(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            return make()(x), make()(x)

    class Twice(linen.Module):
        def setup(self) -> None:
            self.tower = make()

        def __call__(self, x: Any, *before: Any) -> Any:
            for other in before or (deeper(-x), -x):
                self.tower(other)
            return self.tower(x)

    class Sharing(linen.Module):
        # A name that no part of a layer has, because the scope is shared.
        def setup(self) -> None:
            self.layer_that_shares = make()
            linen.share_scope(self, self.layer_that_shares)

        def __call__(self, x: Any) -> Any:
            return self.layer_that_shares(x)

    name = type(make()).__name__
    return {
        "a parent with two layers in setup": (Named(), [("query",), ("head",)]),
        "a compact parent with two layers": (Compact(), [(f"{name}_0",), (f"{name}_1",)]),
        CALLS_TWICE: (Twice(), [("tower",)]),
        "a parent under nn.share_scope": (Sharing(), [()]),
    }


NAMES = (
    *("head", "out", "output", "logits", "classifier", "embed", "last", "key", "Dense_1"),
    *("out_proj", "gate"),
)
"""Names that people give to layers. In some models, the last layer starts at zero."""


def names_of(layer: Layer) -> list[str]:
    """Return :data:`NAMES`, and words in the layer's code that a parent can give to a layer."""
    own = {*dir(linen.Module), *linen.Module.__annotations__, "name", "parent", "scope"}
    found = dict.fromkeys((*NAMES, *names_in_code(layer)))
    return [name for name in found if name not in own and not name.startswith("_")]


def linen_named(layer: Layer, case: Case) -> Any:
    """Return a parent of layers under each of :func:`names_of`; it returns their outputs."""

    make, names = _maker(layer, case), names_of(layer)

    class Named(linen.Module):
        def setup(self) -> None:
            for name in names:
                setattr(self, name, make())

        def __call__(self, x: Any) -> Any:
            return [getattr(self, name)(x) for name in names]

    return Named()


def linen_blocks(layer: Layer, case: Case) -> tuple[Any, list[Place]]:
    """Return a model with an encoder of two blocks, each with one layer, and the layers' paths."""

    make = _maker(layer, case)

    class Block(linen.Module):
        def setup(self) -> None:
            self.query = make()

        def __call__(self, x: Any) -> Any:
            return self.query(x)

    class Blocks(linen.Module):
        def setup(self) -> None:
            self.blocks = [Block(), Block()]

        def __call__(self, x: Any) -> Any:
            return [block(x) for block in self.blocks]

    class Model(linen.Module):
        def setup(self) -> None:
            self.encoder = Blocks()

        def __call__(self, x: Any) -> Any:
            return self.encoder(x)

    return Model(), [("encoder", "blocks_0", "query"), ("encoder", "blocks_1", "query")]


def linen_part(flat: Built, variables: Any, place: Place) -> Parameters:
    """Return the parameters at a place of a model, as those of a layer alone."""
    tree = {collection: _at(values, place) for collection, values in variables.items()}
    return Parameters(flat.parameters.static, tree)


def _at(tree: Any, place: Place) -> Any:
    for name in place:
        tree = tree[name]
    return tree


def linen_whole(flat: Built, places: Sequence[Place]) -> dict[str, Any]:
    """Return the variables of a model with those of a layer at each of the places."""
    from flax.traverse_util import unflatten_dict

    variables = dict(flat.parameters.tree)
    found: dict[str, Any] = unflatten_dict(
        {(key, *place): tree for key, tree in variables.items() for place in places}
    )
    return found


def linen_transformed(layer: Layer, case: Case, x: Any) -> dict[str, tuple[Any, Any]]:
    """Return, by transform, new variables of three layers or of one, and the results."""

    make = _maker(layer, case)

    class One(linen.Module):
        def setup(self) -> None:
            self.dense = make()

        def __call__(self, x: Any) -> Any:
            return self.dense(x)

    class Step(linen.Module):
        def setup(self) -> None:
            self.dense = make()

        def __call__(self, x: Any, _: Any) -> Any:
            return self.dense(x), None

    collections = dict.fromkeys(layer.of(case).parameters.tree, 0)
    along: dict[str, Any] = {"variable_axes": collections, "split_rngs": {"params": True}}
    # Boxed parameters get the name of the new axis, which is empty here.
    along["metadata_params"] = {linen.PARTITION_NAME: None}
    key = jax.random.key(case.seed)
    ensemble = linen.vmap(One, in_axes=None, out_axes=0, axis_size=3, **along)()
    found: dict[str, tuple[Any, Any]] = {}
    y, variables = ensemble.init_with_output(key, x)
    found["nn.vmap"] = (variables, y)
    (y, _), variables = linen.scan(Step, length=3, **along)().init_with_output(key, x, None)
    found["nn.scan"] = (variables, [y])
    y, variables = linen.remat(One)().init_with_output(key, x)
    found["nn.remat"] = (variables, [y])
    return found


def linen_members(flat: Built, variables: Any, how: str) -> list[Built]:
    """Return the single layers in the variables of a transformed model."""
    own = {collection: variables[collection] for collection in flat.parameters.tree}
    part = linen_part(flat, own, ("dense",))
    if how == "nn.remat":
        return [Built(flat.layer, parameters=part)]
    return [
        Built(flat.layer, parameters=jax.tree_util.tree_map(lambda v: np.asarray(v)[i], part))  # noqa: B023  # used at once
        for i in range(3)
    ]


def require_forgotten_width(layer: Layer, case: Case, expected: dict[str, np.ndarray]) -> None:
    """Require new parameters of a model that was initialized for another width before."""
    model, key = _maker(layer, case)(), jax.random.key(case.seed)
    try:
        for width in (case.in_features + 2, case.in_features):
            variables = model.init(key, as_jax(np.zeros((*layer.fewest, width), np.float32)))
    except Exception:
        return  # the model is of one width
    found = by_path(variables)
    cause = Cause("kept-of-first-width", "a model keeps something of the first width that it gets")
    for name, value in expected.items():
        what = f"after an init for {case.in_features + 2} inputs, {name} of the same model"
        require.equal(found.get(name, ()), value, what, cause=cause)


def by_path(variables: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a variable dict by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
