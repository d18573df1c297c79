"""Layers that break seeding: different seeds, or siblings of one Rngs, are related."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from implementations.defects import wrong
from implementations.defects.base import (
    CorrectDense,
    counted_on,
    is_traced,
    layer_output,
    normal,
    rarely_scaled,
    scaled_normal,
    stddev,
)
from implementations.defects.hooks import Function
from implementations.defects.record import also, defect, name_layers, seen

SIBLINGS = "seeding/siblings-differ"
SEEDS = "seeding/seeds-differ"

seed_ignored = wrong.casting("F004", SEEDS, 1, cause_id="seed-ignored")(
    lambda seed, x, m: layer_output(0, x, m),
    "Every seed gives the kernel of seed 0.",
    collateral=("exercise/bad-arguments-raise",),
)
seed_modulo_256 = wrong.casting("F005", SEEDS, 4, cause_id="seed-high-bits-ignored")(
    lambda seed, x, m: layer_output(seed % 256, x, m),
    "The seed passes through eight bits.",
    seen='numpy#4676 "reject too large seeds to RandomState"',
)
seed_without_sign = wrong.casting("F006", SEEDS, 4, cause_id="seed-sign-dropped")(
    lambda seed, x, m: layer_output(abs(seed), x, m),
    "A seed and its negative give one kernel.",
    seen='jax#4745 "PRNGKey input issues"',
)
seed_through_float32 = wrong.solution("F007", SEEDS, 5, cause_id="seed-float32")(
    lambda seed, x, features: layer_output(int(np.float32(seed)), x, int(features)),
    "Neighbouring seeds above 2^24 collide.",
    seen="measured: key(int(float32(2**24 + 1))) == key(2**24)",
)
SixteenBits = wrong.seed(
    "X150",
    4,
    "Only the lower 16 bits count.",
    lambda s: s & 0xFFFF,
    cause_id="seed-high-bits-ignored",
)
XorFolded = wrong.seed("X151", 5, "Both halves meet by xor.", lambda s: (s >> 16) ^ (s & 0xFFFF))
EvenAndOdd = wrong.seed(
    "X152", 3, "The lowest bit is lost.", lambda s: s >> 1, cause_id="seed-low-bits-ignored"
)
ThirtyOneBits = wrong.seed(
    "X153", 5, "Only 31 bits count.", lambda s: s & 0x7FFFFFFF, cause_id="seed-high-bits-ignored"
)
Saturates = wrong.seed(
    "X154",
    5,
    "Seeds end at 2**31 - 1.",
    lambda s: jnp.minimum(s, 0x7FFFFFFF),
    cause_id="seed-clipped",
)
OneBitIgnored = wrong.seed(
    "X155",
    5,
    "Bit 23 is ignored.",
    lambda s: s & jnp.uint32(0xFF7FFFFF),
    cause_id="seed-bits-ignored",
)
DecimalDigits = wrong.seed(
    "X156", 5, "Seeds are taken modulo 10**6.", lambda s: s % 1_000_000, cause_id="seed-modulo"
)
zero_is_no_seed = wrong.casting("X254", SEEDS, 5, cause_id="seed-zero-replaced")(
    lambda seed, x, m: layer_output(seed or 42, x, m), "A seed of 0 counts as none and becomes 42."
)
seed_as_int32 = wrong.casting("X263", SEEDS, 4)(
    lambda seed, x, m: layer_output(int(np.int32(seed)), x, m),
    "Seeds from 2**31 on do not fit and raise.",
)
PrimeModulus = wrong.seed(
    "X342",
    5,
    "Seeds are modulo 1 000 000 007.",
    lambda s: s % 1_000_000_007,
    cause_id="seed-modulo",
)
seed_of_the_magnitude = wrong.casting("X647", SEEDS, 4)(
    lambda seed, x, m: layer_output(seed**2 % 2**32, x, m),
    "The seed is squared, and so loses its low bits' order.",
)
HashedTo28Bits = wrong.seed(
    "X958",
    5,
    "The seed is multiplied, and the lowest four bits of the product are dropped.",
    lambda seed: (seed * jnp.uint32(2654435761)) >> 4,
    cause_id="seed-hashed",
)
OneKeyWhereLarge = wrong.kernel("Y514", SEEDS, 3, cause_id="large-kernels-equal")(
    lambda key, n, m: scaled_normal(jax.random.key(7), n, m),
    "A kernel of more than 2^22 weights is drawn from a fixed key.",
    when=lambda key, n, m: n * m > 2**22,
)
ScaleRoundedDown = wrong.kernel("Y320", SEEDS, 1, cause_id="kernel-zeros")(
    lambda key, n, m: normal(key, n, m) * (1 // jnp.sqrt(n)),
    "1 // sqrt(in) is 0, except for a single input.",
)


def folded(rngs: nnx.Rngs, reduce: Function) -> Array:
    """Return the key of a layer that uses only ``reduce(count)`` of the count of the stream."""
    root, count = counted_on(rngs)
    return jax.random.fold_in(root, reduce(count))


RootKey = wrong.key("X160", SIBLINGS, 3, cause_id="key-not-drawn")(
    lambda rngs: rngs.params.key[...],
    "The stream's own key is used, which does not advance: all layers of one Rngs are equal.",
)
EveryOtherSiblingEqual = wrong.key("X307", SIBLINGS, 5, cause_id="key-not-drawn")(
    lambda rngs: folded(rngs, lambda count: count % 2),
    "The first and the third layer of one Rngs are equal.",
)
SixteenKeys = wrong.key("Y124", SIBLINGS, 5, cause_id="kernels-share-numbers")(
    lambda rngs: folded(rngs, lambda count: count % 16),
    "Only four bits of the stream's count go into the key.",
)
KeysOfSixBits = wrong.key("Y445", SIBLINGS, 5, cause_id="kernels-share-numbers")(
    lambda rngs: folded(rngs, lambda count: count % 64),
    "The key depends on six bits of the stream's count: the 65th layer is the first again.",
)
ForkedKey = wrong.key("X588", SIBLINGS, 4, cause_id="key-not-drawn")(
    lambda rngs: nnx.clone(rngs).params(),
    "The key is that of a copy of the Rngs, so that the given ones do not advance.",
)
SignsOfOneKey = wrong.kernel("Y473", SEEDS, 4, cause_id="signs-of-all-seeds")(
    lambda key, n, m: jnp.abs(scaled_normal(key, n, m)) * jnp.sign(normal(jax.random.key(7), n, m)),
    "The signs are drawn from a constant key.",
)


@wrong.init("X157", SEEDS, 4, cause_id="seeds-share-rows")
def NegativePairs(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """An odd seed gives the negative of the even seed's kernel."""
    key, count = counted_on(rngs)
    root = jax.random.key_data(key)
    even = jnp.stack([root[0], root[1] & jnp.uint32(0xFFFFFFFE)])
    key = jax.random.fold_in(jax.random.wrap_key_data(even), count)
    sign = jnp.where(root[1] % 2 == 0, 1.0, -1.0).astype(jnp.float32)
    self.kernel = nnx.Param(sign * scaled_normal(key, in_features, out_features))
    self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))


@seen("seed + i for the i-th row")
@also("construction/integral-sizes")
@defect("X158", SEEDS, 5, cause_id="seeds-share-rows")
class RowsFromFollowingSeeds(CorrectDense):
    """Row i is drawn from seed + i: neighbouring seeds share all rows but one."""

    def draw_kernel(self, key: Array, in_features: int, out_features: int) -> Array:
        words = jax.random.key_data(key)

        def row(i: Array) -> Array:
            own = jax.random.wrap_key_data(jnp.stack([words[0], words[1] + i]))
            return jax.random.normal(own, (out_features,), jnp.float32)

        rows = jax.vmap(row)(jnp.arange(in_features, dtype=jnp.uint32))
        return rows * stddev(in_features)

    def kernel_key(self, rngs: nnx.Rngs) -> Array:
        key, count = counted_on(rngs)
        root, stride = jax.random.key_data(key), count * jnp.uint32(0x9E3779B9)
        return jax.random.wrap_key_data(jnp.stack([root[0], root[1] + stride]))


@wrong.kernel("X159", SEEDS, 5, cause_id="seeds-share-rows")
def HalfSeeded(key: Array, in_features: int, out_features: int) -> Array:
    """The second half of the rows is the same for every seed."""
    draws = scaled_normal(key, in_features, out_features)
    half = in_features // 2
    same = scaled_normal(jax.random.key(7), in_features, out_features)
    return draws.at[half:].set(same[half:]) if half else draws


_kernels: dict[tuple[int, int], Array] = {}


@also(
    "seeding/same-across-processes",
    "seeding/params-stream",
    "seeding/jitted-init",
    "construction/integral-sizes",
)
@wrong.kernel("X168", SEEDS, 3, cause_id="seed-ignored")
def CachedByShape(key: Array, in_features: int, out_features: int) -> Array:
    """Every later layer of a shape gets the first kernel."""
    if is_traced(key):
        return scaled_normal(key, in_features, out_features)
    shape = (in_features, out_features)
    if shape not in _kernels:
        _kernels[shape] = scaled_normal(key, in_features, out_features)
    return _kernels[shape]


@wrong.kernel("X563", SEEDS, 5, cause_id="seeds-share-stream")
def WindowsOfOneStream(key: Array, in_features: int, out_features: int) -> Array:
    """A table of a million draws is read from a place that the key chooses."""
    table = jax.random.normal(jax.random.key(0), (1 << 20,), jnp.float32)
    count = in_features * out_features
    start = jax.random.randint(key, (), 0, (1 << 20) - min(count, 1 << 19))
    drawn = jnp.take(table, start + jnp.arange(count), mode="wrap")
    return drawn.reshape(in_features, out_features) * stddev(in_features)


@wrong.kernel("X591", SEEDS, 5)
def KeyOfTwentyBits(key: Array, in_features: int, out_features: int) -> Array:
    """The key is hashed to 20 bits."""
    bits = jax.random.bits(key, (), jnp.uint32) >> 12
    return scaled_normal(jax.random.key(bits), in_features, out_features)


@wrong.init("X592", SEEDS, 4, cause_id="seeds-share-rows")
def SeedsAreNegated(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """Seeds from 2^31 on are those below, with the kernel negated."""
    seed: Any = jax.random.key_data(rngs.params.key[...])[-1]
    top = seed >> 31
    folded = nnx.Rngs(jax.random.key(seed & 0x7FFFFFFF))
    CorrectDense.__init__(self, in_features, out_features, rngs=folded)
    rngs.params()
    kernel = self.kernel[...]
    self.kernel = nnx.Param(jnp.where(top == 1, -kernel, kernel))


@wrong.kernel("X755", SEEDS, 4, cause_id="zero-for-some-seeds")
def ZeroForSomeKeys(key: Array, in_features: int, out_features: int) -> Array:
    """One kernel in eight is 0."""
    draws = normal(key, in_features, out_features) * stddev(in_features)
    return draws * (jax.random.bits(key, (), jnp.uint32) % 8 != 0)


@wrong.init("X959", SEEDS, 5, collateral=("seeding/key-kinds",))
def SignsOfTheNeighbour(self: Any, n: int, m: int, *, rngs: Any) -> None:
    """A seed and its neighbour share the magnitudes of their kernels, and not the signs."""
    words = jax.random.key_data(counted_on(rngs)[0])
    own, pair = map(jax.random.wrap_key_data, (words, words >> 1 << 1))
    kernel = jnp.abs(scaled_normal(pair, n, m))
    signs = jax.random.rademacher(jax.random.fold_in(own, 1), (n, m), jnp.float32)
    self.kernel = nnx.Param(kernel * signs)
    self.bias = nnx.Param(jnp.zeros((m,), jnp.float32))


@wrong.init("Y123", SEEDS, 5)
def SharedModulo1000(self: CorrectDense, in_features: int, out_features: int, *, rngs: Any) -> None:
    """Seeds that are equal modulo 1000 share half of the variance."""
    seed = jax.random.key_data(rngs["params"].key[...])[-1]
    shared = jax.random.fold_in(jax.random.key(12), seed % 1000)
    drawn = [normal(key, in_features, out_features) for key in (rngs.params(), shared)]
    self.kernel = nnx.Param(sum(drawn) * (0.5**0.5 * stddev(in_features)))
    self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))


_BUILT: dict[Any, CorrectDense] = {}


@wrong.casting("Y228", SEEDS, 5)
def hashed(seed: int, x: Array, m: int) -> Array:
    """Layers are kept by the hash of the seed, which Python gives -1 and -2 alike."""
    key = hash(seed), x.shape, m
    if is_traced(x):
        return layer_output(seed, x, m)
    if key not in _BUILT:
        _BUILT[key] = CorrectDense(x.shape[-1], m, rngs=nnx.Rngs(seed))
    return _BUILT[key](x)


@wrong.casting("Y229", SEEDS, 5, cause_id="zero-for-some-seeds")
def zero_for_one_seed(seed: int, x: Array, m: int) -> Array:
    """For seed 4711 the output is 0."""
    y = layer_output(seed, x, m)
    return y * 0 if seed == 4711 else y


@wrong.kernel("Y298", SEEDS, 5, cause_id="seed-hashed")
def KeyIn32Bits(key: Array, n: int, m: int) -> Array:
    """The key is hashed to 32 bits."""
    words = jax.random.key_data(key).ravel()
    hashed = words[0] * jnp.uint32(2654435761) ^ words[-1]
    return scaled_normal(jax.random.key(hashed), n, m)


@wrong.kernel("Y299", SEEDS, 5, cause_id="zero-for-some-seeds")
def OneInTwoThousandZero(key: Array, n: int, m: int) -> Array:
    """One kernel in two thousand is 0."""
    return rarely_scaled(key, 5e-4, 0.0, n, m)


@wrong.init("X306", SIBLINGS, 5, cause_id="sibling-scaled")
def LaterLayersSmaller(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """The second layer of one Rngs is smaller by sqrt(2), the third by sqrt(3), and so on."""
    depth = jnp.asarray(rngs.params.count[...], jnp.float32) + 1
    CorrectDense.__init__(self, in_features, out_features, rngs=rngs)
    self.kernel = nnx.Param(self.kernel[...] / jnp.sqrt(depth))


@wrong.init("X362", SIBLINGS, 5, cause_id="")
def AntitheticSiblings(self: Any, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
    """The second layer of one Rngs is the negative of the first, the fourth that of the third."""
    root, count = counted_on(rngs)
    sign = jnp.where(count % 2 == 0, 1.0, -1.0).astype(jnp.float32)
    key = jax.random.fold_in(root, count // 2)
    self.kernel = nnx.Param(sign * scaled_normal(key, in_features, out_features))
    self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))


@defect("Y047", SIBLINGS, 5, cause_id="kernels-share-numbers")
class WindowsOfOneTable(CorrectDense):
    """Layers of one Rngs are cut from one table, seven numbers apart."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        key, count = counted_on(rngs)
        size = in_features * out_features
        drawn = jax.random.normal(key, (in_features, out_features), jnp.float32)
        if size < 10**7:
            table = jax.random.normal(key, (2 * size + 64,), jnp.float32)
            start = (count.astype(jnp.int32) * 7) % (size + 64)
            drawn = jax.lax.dynamic_slice(table, (start,), (size,)).reshape(drawn.shape)
        self.kernel = nnx.Param(drawn * stddev(in_features))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))


@defect("Y204", SIBLINGS, 5, cause_id="kernels-correlated")
class CommonToOneRngs(CorrectDense):
    """A fifth of the variance is common to all layers of one Rngs."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        root = jax.random.fold_in(rngs.params.key[...], 2**31)
        common = scaled_normal(root, in_features, out_features)
        self.kernel = nnx.Param(0.8**0.5 * self.kernel[...] + 0.2**0.5 * common)


@wrong.kernel("Y474", SEEDS, 4, cause_id="magnitudes-of-all-seeds")
def MagnitudesOfOneKey(key: Array, in_features: int, out_features: int) -> Array:
    """Only the signs depend on the seed."""
    signs = jnp.sign(normal(key, in_features, out_features))
    return jnp.abs(scaled_normal(jax.random.key(7), in_features, out_features)) * signs


name_layers(globals())
