"""What scripts check of a layer's state; see :mod:`conformance.scripts.check_values`."""

# ruff: noqa: D103  # a check's text is the statement of its requirement

from __future__ import annotations

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, serialization

from conformance.scripts.given import IN, OUT, SEED
from conformance.scripts.numbers import bias, equal, kernel, normal, product, within
from conformance.scripts.of_nnx import arrays, build, call, parameters_of, pure, write, written
from conformance.scripts.register import shows

NNX = ("nnx",)


@shows("construction/ready-when-built", kinds=NNX)
def ready_when_built() -> None:
    layer = build()
    before = len(jax.tree.leaves(nnx.state(layer, nnx.Param)))
    call(layer, jnp.ones((1, IN)))
    after = len(jax.tree.leaves(nnx.state(layer, nnx.Param)))
    assert before == after, f"the layer has {before} Params when built, {after} after a call"


@shows("construction/only-two-parameters", kinds=NNX)
def only_two_params() -> None:
    shapes = [leaf.shape for leaf in jax.tree.leaves(nnx.state(build(), nnx.Param))]
    assert sorted(shapes, key=len) == [(OUT,), (IN, OUT)], f"the layer's Params: {shapes}"


@shows("construction/only-two-parameters", "serialization/stable-names", kinds=("linen",))
def only_two_variables() -> None:
    found = sorted(arrays(build()))
    wanted = ["['params']['bias']", "['params']['kernel']"]
    assert found == wanted, f"the layer's variables are {found}, not {wanted}"


@shows("state/exact-state", "serialization/stable-names", kinds=NNX)
def exact_state() -> None:
    layer = build()
    raw = [name for name, value in vars(layer).items() if isinstance(value, jax.Array | np.ndarray)]
    assert not raw, f"{raw} is a raw array: wrap it in nnx.Param"
    everything, params = nnx.state(layer), nnx.state(layer, nnx.Param)
    names = sorted(str(name) for name in everything)
    assert names == ["bias", "kernel"], f"the state holds {names}, not kernel and bias"
    found = sorted(str(name) for name in params)
    assert found == names, f"nnx.state(layer, nnx.Param) holds {found}, not {names}"


@shows("state/optimizer-sees-both", kinds=NNX)
def optimizer_sees_both() -> None:
    layer, x = build(), normal("x", 16, IN)
    y = jnp.asarray(x @ kernel() + bias())
    design = np.hstack([x, np.ones((16, 1))])
    curvature = np.linalg.eigvalsh(2 * design.T @ design / y.size)
    steps = int(np.ceil(curvature[-1] / curvature[0]))

    def loss(module: Any) -> jax.Array:
        return jnp.mean((module(jnp.asarray(x)) - y) ** 2)

    optimizer: Any = nnx.Optimizer(layer, optax.sgd(1 / curvature[-1]), wrt=nnx.Param)
    before, first = [np.asarray(value) for value in parameters_of(layer)], float(loss(layer))
    for step in range(min(steps, 30)):
        gradients = nnx.grad(loss)(layer)
        try:
            optimizer.update(layer, gradients)
        except TypeError:  # flax before 0.11
            optimizer.update(gradients)
        if step == 0:
            for name, old, new in zip(
                ("kernel", "bias"), before, parameters_of(layer), strict=True
            ):
                assert np.any(old != np.asarray(new)), f"a step leaves the {name} as it was"
    last = float(loss(layer))
    assert steps > 30 or last <= 0.5 * first, f"training takes the loss from {first} to {last}"


@shows("state/split-merge", kinds=NNX)
def split_merge() -> None:
    layer, x = written(kernel(), bias()), jnp.asarray(normal("x", 8, IN))
    plain = np.asarray(layer(x))
    equal(nnx.merge(*nnx.split(layer))(x), plain, "f(x) after split and merge")


@shows("state/updates-used")
def updates_used() -> None:
    x = normal("x", 8, IN)
    reference = product(x, kernel(), bias())
    layer = build()
    call(layer, jnp.asarray(x))
    layer = write(layer, kernel(), bias())
    within(call(layer, jnp.asarray(x)), reference, "f(x) of values written in after a call")
    replaced = pure(build())(jnp.asarray(kernel()), jnp.asarray(bias()), jnp.asarray(x))
    within(replaced, reference, "f(x) of replaced values")


@shows("state/instances-independent", kinds=NNX)
def instances_independent() -> None:
    first, x = build(), jnp.asarray(normal("x", 8, IN))
    others = {"another instance": build(), "its clone": nnx.clone(first),
              "its deep copy": copy.deepcopy(first)}  # fmt: skip
    old, plain = [np.asarray(v).copy() for v in parameters_of(first)], np.asarray(first(x))
    new = {2: jnp.asarray(kernel() + 1), 1: jnp.asarray(bias() + 1)}
    for what, other in others.items():
        state = nnx.state(other, nnx.Param)
        nnx.update(other, jax.tree.map(lambda leaf: new[leaf.ndim], state))
        for name, was, now in zip(("kernel", "bias"), old, parameters_of(first), strict=True):
            equal(now, was, f"after writing into {what}, the {name}")
        equal(first(x), plain, f"after writing into {what}, f(x)")


@shows("state/graphdef-stable", kinds=NNX)
def graphdef_stable() -> None:
    graphdefs = [nnx.split(build(IN, OUT, seed))[0] for seed in (SEED, (SEED + 1) % 2**32, 7)]
    assert len({hash(graphdef) for graphdef in graphdefs}) == 1, "graphdefs hash differently"
    assert all(graphdef == graphdefs[0] for graphdef in graphdefs), "graphdefs differ by the seed"


@shows("state/call-changes-nothing", kinds=NNX)
def call_changes_nothing() -> None:
    layer, x = build(), jnp.asarray(normal("x", 8, IN))
    graphdef = nnx.split(layer)[0]
    before = {path: np.asarray(value).tobytes() for path, value in arrays(layer).items()}
    for _ in range(3):
        layer(x)
    after = {path: np.asarray(value).tobytes() for path, value in arrays(layer).items()}
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    assert not changed, f"a call changes {changed}"
    assert nnx.split(layer)[0] == graphdef, "a call changes a static attribute of the layer"


@shows("state/call-changes-nothing", kinds=("linen",))
def call_writes_nothing() -> None:
    model, variables = layer = build()
    _, updated = model.apply(variables, jnp.asarray(normal("x", 8, IN)), mutable=True)
    updated = {name: values for name, values in updated.items() if name != "intermediates"}
    before, after = arrays(layer), arrays((model, updated))
    assert sorted(before) == sorted(after), f"a call writes {sorted(set(after) - set(before))}"
    for path, value in before.items():
        equal(after[path], value, f"after a call, {path}")


@shows("state/pickles", kinds=NNX)
def pickles() -> None:
    layer, x = written(kernel(), bias()), jnp.asarray(normal("x", 8, IN))
    plain = np.asarray(layer(x))
    equal(pickle.loads(pickle.dumps(layer))(x), plain, "f(x) after pickling")
    equal(copy.deepcopy(layer)(x), plain, "f(x) after a deep copy")


@shows("serialization/round-trip", kinds=NNX)
def round_trip() -> None:
    layer, x = written(kernel(), bias()), jnp.asarray(normal("x", 8, IN))
    values = nnx.state(layer).to_pure_dict()
    saved = serialization.to_bytes(values)
    for by, loaded in (("a pure dict", values), ("bytes", serialization.msgpack_restore(saved))):
        other = build(IN, OUT, (SEED + 1) % 2**32)
        state = nnx.state(other)
        state.replace_by_pure_dict(loaded)
        nnx.update(other, state)
        equal(other(x), np.asarray(layer(x)), f"f(x) of another instance, loaded from {by},")


@shows("serialization/round-trip", kinds=("linen",))
def round_trip_of_variables() -> None:
    model, variables = layer = written(kernel(), bias())
    x = jnp.asarray(normal("x", 8, IN))
    _, template = build(IN, OUT, (SEED + 1) % 2**32)
    loaded = serialization.from_bytes(template, serialization.to_bytes(variables))
    equal(model.apply(loaded, x), np.asarray(call(layer, x)), "f(x) of variables from bytes")
